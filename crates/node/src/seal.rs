//! Seals environments under the cluster's key, so that the log and its snapshots hold no secret.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use chacha20poly1305::aead::{Aead, KeyInit};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

/// First byte of what is sealed: which cipher and layout follow.
const FORMAT: u8 = 1;

/// A nonce of this size can be drawn at random without ever repeating.
const NONCE_BYTES: usize = 24;

/// The key that environments are sealed under.
#[derive(Clone)]
pub struct SecretsKey {
    cipher: XChaCha20Poly1305,
    bytes: [u8; SecretsKey::BYTES],
}

impl SecretsKey {
    /// Bytes of a key.
    pub const BYTES: usize = 32;

    /// A key from its bytes.
    ///
    /// # Errors
    /// There are more or fewer of them.
    pub fn from_bytes(bytes: &[u8]) -> anyhow::Result<Self> {
        let bytes: [u8; Self::BYTES] = bytes.try_into().ok().context("a secrets key has 32 bytes")?;
        Ok(Self { cipher: XChaCha20Poly1305::new(&bytes.into()), bytes })
    }

    /// The key itself, for a node that joins.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Seals an environment; an empty one is sealed as nothing.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn seal(&self, env: &BTreeMap<String, String>) -> anyhow::Result<Vec<u8>> {
        if env.is_empty() {
            return Ok(Vec::new());
        }
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(|error| anyhow::anyhow!("no random bytes: {error}"))?;
        let plain = serde_json::to_vec(env)?;
        let Ok(sealed) = self.cipher.encrypt(XNonce::from_slice(&nonce), plain.as_slice()) else {
            bail!("cannot seal the environment");
        };
        Ok([&[FORMAT][..], &nonce, &sealed].concat())
    }

    /// Opens what [`SecretsKey::seal`] made.
    ///
    /// # Errors
    /// It was sealed under another key, or is damaged.
    pub fn open(&self, sealed: &[u8]) -> anyhow::Result<BTreeMap<String, String>> {
        let Some((format, rest)) = sealed.split_first() else {
            return Ok(BTreeMap::new());
        };
        if *format != FORMAT || rest.len() < NONCE_BYTES {
            bail!("the sealed environment has an unknown form");
        }
        let (nonce, cipher) = rest.split_at(NONCE_BYTES);
        let Ok(plain) = self.cipher.decrypt(XNonce::from_slice(nonce), cipher) else {
            bail!("the environment was sealed under another key");
        };
        Ok(serde_json::from_slice(&plain)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_seals_and_nothing_else() {
        let key = SecretsKey::from_bytes(&[7; 32]).unwrap();
        let env = BTreeMap::from([("TOKEN".to_owned(), "hunter2".to_owned())]);
        let sealed = key.seal(&env).unwrap();
        assert!(!sealed.windows(7).any(|window| window == b"hunter2"));
        assert_eq!(key.open(&sealed).unwrap(), env);
        assert_eq!(key.open(&key.seal(&BTreeMap::new()).unwrap()).unwrap(), BTreeMap::new());
        assert!(SecretsKey::from_bytes(&[8; 32]).unwrap().open(&sealed).is_err());
        let mut damaged = sealed;
        *damaged.last_mut().unwrap() ^= 1;
        assert!(key.open(&damaged).is_err());
    }
}
