//! Reads an `Idempotency-Key` and digests what it stands for.

use actix_web::http::header::HeaderMap;
use serde_json::{Number, Value};
use sha2::{Digest, Sha256};
use types::limits::IDEMPOTENCY_KEY_BYTES_MAX;
use types::{IdempotencyKey, WarrenError};

use crate::fields::whole;
use crate::keys::Caller;

const HEADER: &str = "Idempotency-Key";

/// The key of a request, in the scope of who asks, how and where.
pub(crate) fn read(
    headers: &HeaderMap,
    caller: Caller,
    method: &str,
    path: &str,
    body: &Value,
) -> Result<Option<IdempotencyKey>, WarrenError> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.as_bytes();
    if key.is_empty() || key.len() > IDEMPOTENCY_KEY_BYTES_MAX || !key.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        let why = format_args!("must be 1 to {IDEMPOTENCY_KEY_BYTES_MAX} printable ASCII characters").to_string();
        return Err(WarrenError::field(HEADER, why));
    }
    let mut scope = Sha256::new();
    for part in [&caller.0[..], method.as_bytes(), path.as_bytes(), key] {
        feed(&mut scope, part);
    }
    let mut digest = Sha256::new();
    feed_value(&mut digest, body);
    Ok(Some(IdempotencyKey { scope: scope.finalize().into(), digest: digest.finalize().into() }))
}

/// Feeds a part with its length, so that no two lists of parts look alike.
fn feed(hash: &mut Sha256, part: &[u8]) {
    hash.update((part.len() as u64).to_be_bytes());
    hash.update(part);
}

/// Feeds a JSON value so that equal values, however written, are fed alike. The form is part of
/// what nodes of different versions must agree on: it can not change.
fn feed_value(hash: &mut Sha256, value: &Value) {
    match value {
        Value::Null => hash.update(b"0"),
        Value::Bool(false) => hash.update(b"f"),
        Value::Bool(true) => hash.update(b"t"),
        Value::Number(number) => feed_number(hash, number),
        Value::String(text) => {
            hash.update(b"s");
            feed(hash, text.as_bytes());
        }
        Value::Array(items) => {
            hash.update(b"a");
            hash.update((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| feed_value(hash, item));
        }
        Value::Object(fields) => {
            hash.update(b"o");
            hash.update((fields.len() as u64).to_be_bytes());
            // Sorted here: whether the map is depends on a feature that any crate could turn on.
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| *name);
            for (name, value) in fields {
                feed(hash, name.as_bytes());
                feed_value(hash, value);
            }
        }
    }
}

fn feed_number(hash: &mut Sha256, number: &Number) {
    match whole(number) {
        Some(value) => {
            hash.update(b"i");
            hash.update(value.to_be_bytes());
        }
        None => {
            hash.update(b"d");
            hash.update(number.as_f64().unwrap_or_default().to_bits().to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> [u8; 32] {
        let mut hash = Sha256::new();
        feed_value(&mut hash, &serde_json::from_str(text).unwrap());
        hash.finalize().into()
    }

    #[test]
    fn the_digest_is_of_the_value_not_of_its_spelling() {
        for (left, right) in [
            (r#"{"a":1,"b":[true,null]}"#, "{ \"b\" : [ true , null ],\n\"a\": 1.0 }"),
            (r#"{"n":1e18}"#, r#"{"n":1000000000000000000}"#),
            (r#"{"n":-0.0}"#, r#"{"n":0}"#),
            (r#"{"t":"\u0041"}"#, r#"{"t":"A"}"#),
        ] {
            assert_eq!(digest(left), digest(right), "{left} {right}");
        }
        for (left, right) in [
            (r#"{"a":1}"#, r#"{"a":2}"#),
            (r#"{"a":1}"#, r#"{"a":"1"}"#),
            (r#"{"a":null}"#, r#"{}"#),
            (r#"["ab","c"]"#, r#"["a","bc"]"#),
            (r#"[[1],2]"#, r#"[[1,2]]"#),
            (r#"{"n":0.1}"#, r#"{"n":0.2}"#),
        ] {
            assert_ne!(digest(left), digest(right), "{left} {right}");
        }
    }
}
