//! Request ids: taken from the client where they are harmless, else made.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use actix_web::http::header::HeaderMap;

use crate::limits::REQUEST_ID_BYTES_MAX;

pub(crate) const HEADER: &str = "x-request-id";

/// The id of the request at hand, kept with it.
#[derive(Debug, Clone)]
pub(crate) struct RequestId(pub(crate) String);

/// Makes ids that no other process makes: random at the start, counted from there.
#[derive(Debug)]
pub(crate) struct RequestIds {
    prefix: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> io::Result<Self> {
        let mut entropy = [0; 8];
        getrandom::fill(&mut entropy).map_err(|error| io::Error::other(error.to_string()))?;
        Ok(Self { prefix: u64::from_ne_bytes(entropy), next: AtomicU64::new(1) })
    }

    pub(crate) fn of(&self, headers: &HeaderMap) -> RequestId {
        match headers.get(HEADER).and_then(|value| value.to_str().ok()).filter(|text| is_harmless(text)) {
            Some(text) => RequestId(text.to_owned()),
            None => RequestId(format!("{:016x}-{:x}", self.prefix, self.next.fetch_add(1, Ordering::Relaxed))),
        }
    }
}

/// It is written into logs and answers, so it can neither be long nor break out of a quote.
fn is_harmless(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= REQUEST_ID_BYTES_MAX
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@~".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::is_harmless;

    #[test]
    fn only_short_plain_ids_are_taken() {
        for text in ["a", "3f2c-9", "trace:1/2", &"x".repeat(128)] {
            assert!(is_harmless(text), "{text:?}");
        }
        for text in ["", "a b", "a\"b", "a\u{e9}", "<x>", &"x".repeat(129)] {
            assert!(!is_harmless(text), "{text:?}");
        }
    }
}
