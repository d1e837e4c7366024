//! API keys: kept and compared as digests.

use actix_web::http::header::{AUTHORIZATION, HeaderMap, WWW_AUTHENTICATE};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};
use types::ErrorCode;

use crate::refusal::Refusal;

/// The header a key is looked for in first.
const KEY_HEADER: &str = "x-api-key";

/// Who asks: the digest of the key that was shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Caller(pub(crate) [u8; 32]);

/// The keys that are let in. Where none is configured everybody is: such a node listens on loopback
/// only, which its configuration holds.
pub(crate) struct Keys {
    open: bool,
    digests: Vec<[u8; 32]>,
}

/// Who asks where no keys are configured.
const ANYBODY: Caller = Caller([0; 32]);

impl Keys {
    pub(crate) fn new(keys: &[String]) -> Self {
        // An empty key in a configuration is a mistake, not an open door.
        let open = keys.is_empty();
        Self { open, digests: keys.iter().filter(|key| !key.is_empty()).map(|key| digest(key.as_bytes())).collect() }
    }

    /// The caller, or 401. All keys are compared, each in constant time, whichever matches.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        if self.open {
            return Ok(ANYBODY);
        }
        let shown = shown_key(headers).ok_or_else(|| unauthorised(ErrorCode::MissingApiKey, "missing API key"))?;
        let shown = digest(shown);
        let known = self.digests.iter().fold(Choice::from(0), |known, key| known | key.ct_eq(&shown));
        match u8::conditional_select(&0, &1, known) {
            1 => Ok(Caller(shown)),
            _ => Err(unauthorised(ErrorCode::InvalidApiKey, "invalid API key")),
        }
    }
}

fn digest(key: &[u8]) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn unauthorised(code: ErrorCode, message: &str) -> Refusal {
    Refusal::new(code, message).with_header(WWW_AUTHENTICATE, "Bearer")
}

fn shown_key(headers: &HeaderMap) -> Option<&[u8]> {
    let key = match headers.get(KEY_HEADER) {
        Some(value) => value.as_bytes(),
        None => {
            let (scheme, rest) = headers.get(AUTHORIZATION)?.as_bytes().split_at_checked("Bearer ".len())?;
            if !scheme.eq_ignore_ascii_case(b"Bearer ") {
                return None;
            }
            rest.trim_ascii()
        }
    };
    (!key.is_empty()).then_some(key)
}
