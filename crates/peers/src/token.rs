//! Join tokens: one line of text that lets a newcomer in for a while, and tells it which cluster is the right one.
//!
//! A token carries the authority's fingerprint, the cluster, when it ends, and a MAC under a key that every member can
//! derive. Any node can check any token, none needs to be remembered.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use types::{ClusterId, Timestamp};

use crate::authority::Fingerprint;
use crate::certificate::is_plain;

/// Begins every token, so that one in a log or a repository is recognised.
const PREFIX: &str = "warren-join-";

/// First byte inside: which layout follows.
const FORMAT: u8 = 1;

/// What the key is derived for, so that the cluster's secret itself authenticates nothing.
const KEY_LABEL: &[u8] = b"warren join token v1";

/// Bytes of the MAC.
const MAC_BYTES: usize = 32;

/// Format, expiry, fingerprint; the cluster's id and the MAC follow.
const FIXED_BYTES: usize = 1 + 8 + 32;

/// Why a token is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is no token.
    #[error("this is not a join token")]
    Malformed,
    /// It is of another cluster.
    #[error("the join token is of cluster {0}")]
    OtherCluster(ClusterId),
    /// It was not made by a member of this cluster.
    #[error("the join token is forged or was made under another secret")]
    Forged,
    /// Its time is over.
    #[error("the join token expired at {0}")]
    Expired(Timestamp),
}

/// A join token that was read. Only [`JoinToken::verify`] says whether it is good.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    cluster: ClusterId,
    fingerprint: Fingerprint,
    expires_at: Timestamp,
    mac: [u8; MAC_BYTES],
}

impl JoinToken {
    /// Makes a token under the cluster's secret.
    #[must_use]
    pub fn issue(secret: &[u8], cluster: &ClusterId, fingerprint: Fingerprint, expires_at: Timestamp) -> Self {
        let mut token = Self { cluster: cluster.clone(), fingerprint, expires_at, mac: [0; MAC_BYTES] };
        token.mac = token.authenticator(secret).finalize().into_bytes().into();
        token
    }

    /// Whether a member of `cluster` made this token under `secret`, and it is not over at `now`.
    ///
    /// # Errors
    /// Why it is not good. An expiry is believed only of a token that is genuine.
    pub fn verify(&self, secret: &[u8], cluster: &ClusterId, now: Timestamp) -> Result<(), TokenError> {
        if self.cluster != *cluster {
            return Err(TokenError::OtherCluster(self.cluster.clone()));
        }
        // Compares in constant time.
        self.authenticator(secret).verify_slice(&self.mac).map_err(|_| TokenError::Forged)?;
        if self.expires_at <= now {
            return Err(TokenError::Expired(self.expires_at));
        }
        Ok(())
    }

    /// The cluster it says it is of.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Fingerprint of the authority that the cluster's nodes must show.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// When it ends.
    #[must_use]
    pub fn expires_at(&self) -> Timestamp {
        self.expires_at
    }

    fn payload(&self) -> Vec<u8> {
        let mut payload = Vec::with_capacity(FIXED_BYTES + self.cluster.as_str().len() + MAC_BYTES);
        payload.push(FORMAT);
        payload.extend_from_slice(&self.expires_at.0.to_be_bytes());
        payload.extend_from_slice(&self.fingerprint.0);
        payload.extend_from_slice(self.cluster.as_str().as_bytes());
        payload
    }

    fn authenticator(&self, secret: &[u8]) -> Hmac<Sha256> {
        let mut derive = keyed(secret);
        derive.update(KEY_LABEL);
        let mut mac = keyed(&derive.finalize().into_bytes());
        mac.update(&self.payload());
        mac
    }
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length")
}

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let body = text.trim().strip_prefix(PREFIX).ok_or(TokenError::Malformed)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| TokenError::Malformed)?;
        let (payload, mac) = bytes.split_last_chunk::<MAC_BYTES>().ok_or(TokenError::Malformed)?;
        let (format, payload) = payload.split_first().ok_or(TokenError::Malformed)?;
        let (expires, payload) = payload.split_first_chunk::<8>().ok_or(TokenError::Malformed)?;
        let (fingerprint, cluster) = payload.split_first_chunk::<32>().ok_or(TokenError::Malformed)?;
        let cluster = std::str::from_utf8(cluster).map_err(|_| TokenError::Malformed)?;
        if *format != FORMAT || !is_plain(cluster) {
            return Err(TokenError::Malformed);
        }
        Ok(Self {
            cluster: ClusterId::new(cluster),
            fingerprint: Fingerprint(*fingerprint),
            expires_at: Timestamp(u64::from_be_bytes(*expires)),
            mac: *mac,
        })
    }
}

/// The token itself: whoever reads it can join.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.payload();
        bytes.extend_from_slice(&self.mac);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("fingerprint", &self.fingerprint)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"the cluster's secret";
    const END: Timestamp = Timestamp(1_000_000);

    fn cluster() -> ClusterId {
        ClusterId::new("c1")
    }

    fn token() -> JoinToken {
        JoinToken::issue(SECRET, &cluster(), Fingerprint([7; 32]), END)
    }

    #[test]
    fn any_node_with_the_secret_accepts_it_until_it_ends() {
        let read: JoinToken = token().to_string().parse().unwrap();
        assert_eq!(read, token());
        assert_eq!(read.verify(SECRET, &cluster(), Timestamp(999_999)), Ok(()));
        assert_eq!(read.verify(SECRET, &cluster(), END), Err(TokenError::Expired(END)));
        assert_eq!(format!("\n {} ", token()).parse(), Ok(token()));
    }

    #[test]
    fn another_cluster_and_another_secret_are_told_apart() {
        let now = Timestamp(0);
        assert_eq!(token().verify(SECRET, &ClusterId::new("c2"), now), Err(TokenError::OtherCluster(cluster())));
        assert_eq!(token().verify(b"another", &cluster(), now), Err(TokenError::Forged));
        assert_eq!(token().verify(b"another", &cluster(), END), Err(TokenError::Forged));
    }

    #[test]
    fn every_changed_bit_is_noticed() {
        let text = token().to_string();
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX).unwrap()).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut changed = bytes.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            let text = format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(changed));
            let verdict = text.parse::<JoinToken>().and_then(|token| token.verify(SECRET, &cluster(), Timestamp(0)));
            assert!(verdict.is_err(), "bit {bit} was changed and the token passed");
        }
    }

    #[test]
    fn other_texts_are_malformed() {
        for text in ["", "warren-join-", "warren-join-AAAA", "warren-join-%%%", "hello", &token().to_string()[12..]] {
            assert_eq!(text.parse::<JoinToken>(), Err(TokenError::Malformed), "{text:?}");
        }
        let long = JoinToken::issue(SECRET, &ClusterId::new("c".repeat(65)), Fingerprint([0; 32]), END).to_string();
        assert_eq!(long.parse::<JoinToken>(), Err(TokenError::Malformed));
    }

    #[test]
    fn neither_debug_nor_errors_show_it() {
        let shown = format!("{:?}", token());
        assert!(!shown.contains(&token().to_string()) && !shown.contains("mac"));
    }
}
