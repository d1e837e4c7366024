//! How a node shows who it is, and whom it believes.

use std::fmt;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, UnixTime};
use types::{ClusterId, HostId};

use crate::authority::{Authority, NodeKey};
use crate::certificate::{CertifiedName, is_plain};
use crate::token::JoinToken;
use crate::verify::{Expected, ServerVerifier};
use crate::wire::Kind;

/// Why certificate and key make no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The node's certificate names no host of a cluster.
    #[error("the node's certificate names no host")]
    Nameless,
    /// The authority's certificate is none, or another cluster's.
    #[error("the authority's certificate is not that of the node's cluster")]
    OtherCluster,
    /// The authority did not sign it, or key and certificate do not belong together.
    #[error("the node's certificate or key can not be used")]
    Tls(#[from] rustls::Error),
    /// No verifier can be made of the authority.
    #[error("the authority's certificate can not be used: {0}")]
    Authority(String),
    /// An id that can not stand in a certificate or a hello.
    #[error("{0:?} is no id of a host or cluster")]
    Name(String),
    /// A fresh identity could not be made.
    #[error("the node's certificate can not be made")]
    Fresh(#[from] crate::authority::AuthorityError),
}

/// What negotiates the kind of a connection.
pub(crate) fn alpn(kind: Kind) -> &'static [u8] {
    match kind {
        Kind::Stream => b"warren-stream/1",
        Kind::Call => b"warren-call/1",
        Kind::Join => b"warren-join/1",
        Kind::Unspecified => b"",
    }
}

/// The kind that was negotiated.
pub(crate) fn kind_of_alpn(protocol: Option<&[u8]>) -> Option<Kind> {
    let protocol = protocol?;
    [Kind::Stream, Kind::Call, Kind::Join].into_iter().find(|kind| alpn(*kind) == protocol)
}

/// A node's certificate and key under its cluster's authority. TLS 1.3 only, both sides authenticated, no resumption:
/// every connection is verified anew, and connections are few and long.
pub struct NodeTls {
    cluster: ClusterId,
    host: HostId,
    provider: Arc<CryptoProvider>,
    roots: Arc<RootCertStore>,
    shown: Arc<SingleCertAndKey>,
    server: Arc<ServerConfig>,
}

impl NodeTls {
    /// An identity from the authority's certificate, the node's own (both DER) and its key (PKCS #8).
    ///
    /// # Errors
    /// They do not belong together.
    pub fn new(authority: &[u8], certificate: &[u8], key: &[u8]) -> Result<Self, IdentityError> {
        let authority = CertificateDer::from(authority.to_vec());
        let certificate = CertificateDer::from(certificate.to_vec());
        let name = CertifiedName::read(&certificate).ok_or(IdentityError::Nameless)?;
        let host = name.host.ok_or(IdentityError::Nameless)?;
        let signer = CertifiedName::read(&authority);
        if signer != Some(CertifiedName { cluster: name.cluster.clone(), host: None }) {
            return Err(IdentityError::OtherCluster);
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone())?;
        let roots = Arc::new(roots);
        rustls::client::verify_server_cert_signed_by_trust_anchor(
            &rustls::server::ParsedCertificate::try_from(&certificate)?,
            &roots,
            &[],
            UnixTime::now(),
            provider.signature_verification_algorithms.all,
        )?;
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        // The authority's certificate goes along for newcomers, who know its fingerprint only.
        let certified = CertifiedKey::from_der(vec![certificate, authority], key, &provider)?;
        let shown = Arc::new(SingleCertAndKey::from(certified));
        let server = Arc::new(server_config(&provider, &roots, &shown)?);
        Ok(Self { cluster: name.cluster, host, provider, roots, shown, server })
    }

    /// A fresh key with a certificate from an authority at hand, and the bytes of both to keep: certificate, then key.
    ///
    /// # Errors
    /// The host's id can not stand in a certificate, or the system gives no random bytes.
    pub fn fresh(authority: &Authority, host: &HostId) -> Result<(Self, Vec<u8>, NodeKey), IdentityError> {
        let key = NodeKey::generate()?;
        let certificate = authority.sign_node(host, key.public_key())?;
        Ok((Self::new(authority.certificate(), &certificate, key.as_bytes())?, certificate, key))
    }

    /// The cluster it belongs to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// The host it names.
    #[must_use]
    pub fn host(&self) -> &HostId {
        &self.host
    }

    pub(crate) fn server_config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.server)
    }

    /// Shows this node's certificate and believes `host` alone.
    pub(crate) fn client_config(&self, host: &HostId, kind: Kind) -> ClientConfig {
        let expected =
            Expected::Host { roots: Arc::clone(&self.roots), cluster: self.cluster.clone(), host: host.clone() };
        let resolver = Arc::clone(&self.shown);
        finish_client(client_config(&self.provider, expected).with_client_cert_resolver(resolver), kind)
    }
}

impl fmt::Debug for NodeTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeTls").field("cluster", &self.cluster).field("host", &self.host).finish_non_exhaustive()
    }
}

/// Shows nothing and believes any node of the token's cluster.
pub(crate) fn join_client_config(token: &JoinToken) -> ClientConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let expected = Expected::Pinned { fingerprint: token.fingerprint(), cluster: token.cluster().clone() };
    finish_client(client_config(&provider, expected).with_no_client_auth(), Kind::Join)
}

fn client_config(
    provider: &Arc<CryptoProvider>,
    expected: Expected,
) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let algorithms = provider.signature_verification_algorithms;
    ClientConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("ring has suites of TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier { expected, algorithms }))
}

fn finish_client(mut config: ClientConfig, kind: Kind) -> ClientConfig {
    config.alpn_protocols = vec![alpn(kind).to_vec()];
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config
}

fn server_config(
    provider: &Arc<CryptoProvider>,
    roots: &Arc<RootCertStore>,
    shown: &Arc<SingleCertAndKey>,
) -> Result<ServerConfig, IdentityError> {
    // Newcomers have no certificate. Whoever shows none may do nothing but join: the listener sees to that once the
    // kind is known.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider))
        .allow_unauthenticated()
        .build()
        .map_err(|error| IdentityError::Authority(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::clone(shown) as Arc<dyn rustls::server::ResolvesServerCert>);
    config.alpn_protocols = [Kind::Stream, Kind::Call, Kind::Join].map(|kind| alpn(kind).to_vec()).to_vec();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// How a node's connections are protected.
#[derive(Clone, Debug)]
pub struct Security(pub(crate) Arc<Protection>);

#[derive(Debug)]
pub(crate) enum Protection {
    Tls(Box<NodeTls>),
    Plaintext { cluster: ClusterId, host: HostId },
}

impl Security {
    /// Mutual TLS.
    #[must_use]
    pub fn tls(identity: NodeTls) -> Self {
        Self(Arc::new(Protection::Tls(Box::new(identity))))
    }

    /// No protection at all: everybody is believed. For tests and measurements; no address but loopback is listened on
    /// or dialled.
    ///
    /// # Errors
    /// An id of another form.
    pub fn plaintext_on_loopback(cluster: ClusterId, host: HostId) -> Result<Self, IdentityError> {
        for id in [cluster.as_str(), host.as_str()] {
            if !is_plain(id) {
                return Err(IdentityError::Name(id.to_owned()));
            }
        }
        Ok(Self(Arc::new(Protection::Plaintext { cluster, host })))
    }

    /// The cluster that this node belongs to.
    #[must_use]
    pub fn cluster(&self) -> &ClusterId {
        match &*self.0 {
            Protection::Tls(identity) => identity.cluster(),
            Protection::Plaintext { cluster, .. } => cluster,
        }
    }

    /// This node.
    #[must_use]
    pub fn host(&self) -> &HostId {
        match &*self.0 {
            Protection::Tls(identity) => identity.host(),
            Protection::Plaintext { host, .. } => host,
        }
    }

    /// Whether connections are encrypted and both sides authenticated.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(&*self.0, Protection::Tls(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_what_its_certificate_says() {
        let authority = Authority::create(&ClusterId::new("c1")).unwrap();
        let (tls, certificate, key) = NodeTls::fresh(&authority, &HostId::new("h1")).unwrap();
        assert_eq!((tls.cluster().as_str(), tls.host().as_str()), ("c1", "h1"));
        assert!(NodeTls::new(authority.certificate(), &certificate, key.as_bytes()).is_ok());
    }

    #[test]
    fn parts_of_different_origin_are_refused() {
        let authority = Authority::create(&ClusterId::new("c1")).unwrap();
        let namesake = Authority::create(&ClusterId::new("c1")).unwrap();
        let other = Authority::create(&ClusterId::new("c2")).unwrap();
        let host = HostId::new("h1");
        let (_, certificate, key) = NodeTls::fresh(&authority, &host).unwrap();
        let strange_key = NodeKey::generate().unwrap();
        let refused = |authority: &Authority, certificate: &[u8], key: &NodeKey| {
            NodeTls::new(authority.certificate(), certificate, key.as_bytes()).unwrap_err()
        };
        assert!(matches!(refused(&namesake, &certificate, &key), IdentityError::Tls(_)));
        assert!(matches!(refused(&other, &certificate, &key), IdentityError::OtherCluster));
        assert!(matches!(refused(&authority, &certificate, &strange_key), IdentityError::Tls(_)));
        assert!(matches!(refused(&authority, authority.certificate(), &key), IdentityError::Nameless));
        assert!(matches!(refused(&authority, b"garbage", &key), IdentityError::Nameless));
    }
}
