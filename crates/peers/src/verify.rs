//! What a dialler demands of the certificate it is shown: signed by the cluster's authority, and for the host it means.

use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{AlertDescription, CertificateError, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use subtle::ConstantTimeEq;
use types::{ClusterId, HostId};

use crate::authority::Fingerprint;
use crate::certificate::CertifiedName;

/// A certificate that is in order and is not the one that is meant.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Mismatch {
    #[error("the authority that is shown is not the one of the join token")]
    Authority,
    #[error("the certificate names nobody")]
    Nameless,
    #[error("the certificate is of cluster {0}")]
    Cluster(ClusterId),
    #[error("the certificate is of host {0}")]
    Host(HostId),
}

/// Whom a dialler is ready to believe.
#[derive(Debug)]
pub(crate) enum Expected {
    /// One host, under an authority that is known.
    Host { roots: Arc<RootCertStore>, cluster: ClusterId, host: HostId },
    /// Any node of a cluster of which only the authority's fingerprint is known.
    Pinned { fingerprint: Fingerprint, cluster: ClusterId },
}

#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) expected: Expected,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ServerVerifier {
    fn roots(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<RootCertStore>, rustls::Error> {
        let fingerprint = match &self.expected {
            Expected::Host { roots, .. } => return Ok(Arc::clone(roots)),
            Expected::Pinned { fingerprint, .. } => fingerprint,
        };
        let pinned = chain
            .iter()
            .find(|certificate| bool::from(Fingerprint::of(certificate).0.ct_eq(&fingerprint.0)))
            .ok_or_else(|| refuse(Mismatch::Authority))?;
        let mut roots = RootCertStore::empty();
        roots.add(pinned.clone().into_owned())?;
        Ok(Arc::new(roots))
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let roots = self.roots(intermediates)?;
        let parsed = ParsedCertificate::try_from(end_entity)?;
        // Nodes are signed by the authority itself, so nothing may stand between.
        verify_server_cert_signed_by_trust_anchor(&parsed, &roots, &[], now, self.algorithms.all)?;
        let name = CertifiedName::read(end_entity).ok_or_else(|| refuse(Mismatch::Nameless))?;
        let shown = name.host.ok_or_else(|| refuse(Mismatch::Nameless))?;
        let (Expected::Host { cluster, .. } | Expected::Pinned { cluster, .. }) = &self.expected;
        if name.cluster != *cluster {
            return Err(refuse(Mismatch::Cluster(name.cluster)));
        }
        match &self.expected {
            Expected::Host { host, .. } if shown != *host => Err(refuse(Mismatch::Host(shown))),
            Expected::Host { .. } | Expected::Pinned { .. } => Ok(ServerCertVerified::assertion()),
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken between nodes".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn refuse(mismatch: Mismatch) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch))))
}

/// Why a certificate was refused here, where that is why a handshake failed.
pub(crate) fn refusal(error: &std::io::Error) -> Option<Refusal> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Mismatch>().cloned().map(Refusal::Mismatch)
        }
        rustls::Error::InvalidCertificate(why) => Some(Refusal::Untrusted(format!("{why:?}"))),
        // What the other side says of ours.
        rustls::Error::AlertReceived(
            alert @ (AlertDescription::UnknownCA
            | AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateRequired
            | AlertDescription::AccessDenied
            | AlertDescription::DecryptError),
        ) => Some(Refusal::Untrusted(format!("the node does not trust ours, {alert:?}"))),
        _ => None,
    }
}

/// Why a handshake failed for a certificate's sake.
pub(crate) enum Refusal {
    Mismatch(Mismatch),
    Untrusted(String),
}
