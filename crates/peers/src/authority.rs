//! The cluster's own certificate authority, made once at bootstrap and held by every member.

use std::fmt;

use prost::Message;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use sha2::{Digest, Sha256};
use types::{ClusterId, HostId};

use crate::certificate::CertifiedName;

/// Bytes of a node's public key.
pub const PUBLIC_KEY_BYTES: usize = 32;

/// First and last year of every certificate. Hosts' clocks may be far off while a cluster is set up, and a certificate
/// that runs out would take the cluster with it; who may no longer take part is decided by membership.
const VALID_FROM_YEAR: i32 = 2000;
const VALID_TO_YEAR: i32 = 2999;

/// SHA-256 of the authority's certificate. Whoever has it can not be shown another cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of a certificate in DER.
    #[must_use]
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why the authority could not be made or read, or could not sign.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// An id that can not stand in a certificate.
    #[error("{0:?} can not be named in a certificate: letters, digits, '-', '_' and '.', at most 64")]
    Name(String),
    /// The stored bytes are damaged, or certificate and key do not belong together.
    #[error("the authority's certificate and key are damaged: {0}")]
    Damaged(&'static str),
    /// A public key of another size.
    #[error("a node's public key has {PUBLIC_KEY_BYTES} bytes, not {0}")]
    PublicKey(usize),
    /// Keys could not be made or used.
    #[error("a key or certificate could not be made")]
    Crypto(#[from] rcgen::Error),
}

/// Signs the certificates of one cluster's nodes.
pub struct Authority {
    cluster: ClusterId,
    certificate: Vec<u8>,
    key: KeyPair,
}

impl Authority {
    /// Makes the authority of a new cluster.
    ///
    /// # Errors
    /// The cluster's id can not stand in a certificate, or the system gives no random bytes.
    pub fn create(cluster: &ClusterId) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate_for(&rcgen::PKCS_ED25519)?;
        let certificate = authority_params(cluster)?.self_signed(&key)?.der().to_vec();
        Ok(Self { cluster: cluster.clone(), certificate, key })
    }

    /// The authority from its certificate in DER and its key in PKCS #8.
    ///
    /// # Errors
    /// They are damaged or do not belong together.
    pub fn from_parts(certificate: &[u8], key: &[u8]) -> Result<Self, AuthorityError> {
        let name = CertifiedName::read(&CertificateDer::from(certificate));
        let Some(CertifiedName { cluster, host: None }) = name else {
            return Err(AuthorityError::Damaged("it is not the certificate of an authority"));
        };
        let key = KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(key), &rcgen::PKCS_ED25519)
            .map_err(|_| AuthorityError::Damaged("the key can not be read"))?;
        let public_key = key.subject_public_key_info();
        if !certificate.windows(public_key.len()).any(|window| window == public_key) {
            return Err(AuthorityError::Damaged("the key is another certificate's"));
        }
        Ok(Self { cluster, certificate: certificate.to_vec(), key })
    }

    /// The whole authority as bytes, secret, to be kept.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        proto::peer::AuthorityRecord {
            certificate: self.certificate.clone().into(),
            key: self.key.serialized_der().to_vec().into(),
        }
        .encode_to_vec()
    }

    /// The authority that was kept.
    ///
    /// # Errors
    /// The bytes are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        let record = proto::peer::AuthorityRecord::decode(bytes)
            .map_err(|_| AuthorityError::Damaged("it is not the record of an authority"))?;
        Self::from_parts(&record.certificate, &record.key)
    }

    /// The cluster whose nodes it signs.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Its certificate, in DER.
    #[must_use]
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// Its key in PKCS #8, secret.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// The fingerprint that join tokens carry.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(&self.certificate)
    }

    /// Signs a certificate for a node's public key, and gives it in DER.
    ///
    /// # Errors
    /// The host's id can not stand in a certificate, or the key is none.
    pub fn sign_node(&self, host: &HostId, public_key: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        let public_key: [u8; PUBLIC_KEY_BYTES] =
            public_key.try_into().map_err(|_| AuthorityError::PublicKey(public_key.len()))?;
        let mut params = params(&CertifiedName { cluster: self.cluster.clone(), host: Some(host.clone()) })?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let authority = authority_params(&self.cluster)?;
        let issuer = Issuer::from_params(&authority, &self.key);
        Ok(params.signed_by(&NodePublicKey(public_key), &issuer)?.der().to_vec())
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority")
            .field("cluster", &self.cluster)
            .field("fingerprint", &self.fingerprint())
            .finish_non_exhaustive()
    }
}

fn authority_params(cluster: &ClusterId) -> Result<CertificateParams, AuthorityError> {
    let mut params = params(&CertifiedName { cluster: cluster.clone(), host: None })?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    Ok(params)
}

fn params(name: &CertifiedName) -> Result<CertificateParams, AuthorityError> {
    let refused = || AuthorityError::Name(name.host.as_ref().map_or(name.cluster.as_str(), HostId::as_str).to_owned());
    let uri = name.to_uri().ok_or_else(refused)?;
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(VALID_FROM_YEAR, 1, 1);
    params.not_after = date_time_ymd(VALID_TO_YEAR, 12, 31);
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, format!("Warren cluster {}", name.cluster));
    let common_name = name.host.as_ref().map_or("authority", HostId::as_str);
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    Ok(params)
}

struct NodePublicKey([u8; PUBLIC_KEY_BYTES]);

impl PublicKeyData for NodePublicKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

/// A node's own key. It never leaves the node; the authority sees its public half.
pub struct NodeKey(KeyPair);

impl NodeKey {
    /// Draws a key.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn generate() -> Result<Self, AuthorityError> {
        Ok(Self(KeyPair::generate_for(&rcgen::PKCS_ED25519)?))
    }

    /// The key from its PKCS #8 bytes.
    ///
    /// # Errors
    /// They are damaged.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, AuthorityError> {
        KeyPair::from_pkcs8_der_and_sign_algo(&PrivatePkcs8KeyDer::from(bytes), &rcgen::PKCS_ED25519)
            .map(Self)
            .map_err(|_| AuthorityError::Damaged("the node's key can not be read"))
    }

    /// The key in PKCS #8, secret, to be kept.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.serialized_der()
    }

    /// The half that a certificate is made for.
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        self.0.public_key_raw()
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_the_same_authority() {
        let authority = Authority::create(&ClusterId::new("c1")).unwrap();
        let kept = Authority::from_bytes(&authority.to_bytes()).unwrap();
        assert_eq!(kept.fingerprint(), authority.fingerprint());
        assert_eq!(kept.cluster(), authority.cluster());
        assert_eq!(kept.key(), authority.key());
    }

    #[test]
    fn damaged_bytes_and_strange_keys_are_refused() {
        let one = Authority::create(&ClusterId::new("c1")).unwrap();
        let other = Authority::create(&ClusterId::new("c1")).unwrap();
        assert_ne!(one.fingerprint(), other.fingerprint());
        assert!(matches!(Authority::from_bytes(b"\xff"), Err(AuthorityError::Damaged(_))));
        assert!(matches!(Authority::from_bytes(b""), Err(AuthorityError::Damaged(_))));
        assert!(matches!(Authority::from_parts(one.certificate(), other.key()), Err(AuthorityError::Damaged(_))));
        let node = one.sign_node(&HostId::new("h1"), NodeKey::generate().unwrap().public_key()).unwrap();
        assert!(matches!(Authority::from_parts(&node, one.key()), Err(AuthorityError::Damaged(_))));
    }

    #[test]
    fn only_plain_names_and_whole_keys_are_signed() {
        let authority = Authority::create(&ClusterId::new("c1")).unwrap();
        let key = NodeKey::generate().unwrap();
        assert!(matches!(authority.sign_node(&HostId::new("a/b"), key.public_key()), Err(AuthorityError::Name(_))));
        assert!(matches!(authority.sign_node(&HostId::new("h1"), b"short"), Err(AuthorityError::PublicKey(5))));
        assert!(matches!(Authority::create(&ClusterId::new("")), Err(AuthorityError::Name(_))));
        let certificate = authority.sign_node(&HostId::new("h1"), key.public_key()).unwrap();
        let name = CertifiedName::read(&CertificateDer::from(certificate)).unwrap();
        assert_eq!(name, CertifiedName { cluster: ClusterId::new("c1"), host: Some(HostId::new("h1")) });
    }

    #[test]
    fn a_kept_node_key_has_the_same_public_half() {
        let key = NodeKey::generate().unwrap();
        assert_eq!(NodeKey::from_bytes(key.as_bytes()).unwrap().public_key(), key.public_key());
        assert_eq!(key.public_key().len(), PUBLIC_KEY_BYTES);
    }
}
