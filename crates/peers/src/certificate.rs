//! The name in a certificate: which host of which cluster it is.

use rustls_pki_types::CertificateDer;
use types::{ClusterId, HostId};

use crate::limits::ID_BYTES_MAX;

/// Begins the URI that a certificate carries as its name.
const SCHEME: &str = "warren://";

/// Who a certificate says its bearer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertifiedName {
    pub(crate) cluster: ClusterId,
    /// None: the authority itself.
    pub(crate) host: Option<HostId>,
}

impl CertifiedName {
    /// As the URI that stands in the certificate, or none where an id can not stand in one.
    pub(crate) fn to_uri(&self) -> Option<String> {
        let cluster = self.cluster.as_str();
        match &self.host {
            None => is_plain(cluster).then(|| format!("{SCHEME}{cluster}")),
            Some(host) => (is_plain(cluster) && is_plain(host.as_str())).then(|| format!("{SCHEME}{cluster}/{host}")),
        }
    }

    fn from_uri(uri: &str) -> Option<Self> {
        let rest = uri.strip_prefix(SCHEME)?;
        let (cluster, host) = match rest.split_once('/') {
            None => (rest, None),
            Some((cluster, host)) => (cluster, Some(host)),
        };
        if !is_plain(cluster) || host.is_some_and(|host| !is_plain(host)) {
            return None;
        }
        Some(Self { cluster: ClusterId::new(cluster), host: host.map(HostId::new) })
    }

    /// Reads the one name of ours in a certificate. It says nothing about who signed it.
    pub(crate) fn read(certificate: &CertificateDer<'_>) -> Option<Self> {
        let certificate = webpki::EndEntityCert::try_from(certificate).ok()?;
        let mut names = certificate.valid_uri_names().filter(|uri| uri.starts_with(SCHEME));
        // Two names would leave it open which one is meant.
        match (names.next(), names.next()) {
            (Some(uri), None) => Self::from_uri(uri),
            _ => None,
        }
    }
}

/// Whether an id needs no escapes anywhere that it is written.
pub(crate) fn is_plain(id: &str) -> bool {
    !id.is_empty()
        && id.len() <= ID_BYTES_MAX
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back_and_others_are_none() {
        let host = CertifiedName { cluster: ClusterId::new("c-1"), host: Some(HostId::new("h.2")) };
        assert_eq!(CertifiedName::from_uri(&host.to_uri().unwrap()), Some(host));
        let authority = CertifiedName { cluster: ClusterId::new("c-1"), host: None };
        assert_eq!(CertifiedName::from_uri(&authority.to_uri().unwrap()), Some(authority));
        for uri in ["", "warren://", "warren:///h", "warren://c/", "warren://c/h/i", "warren://c%20/h", "http://c/h"] {
            assert_eq!(CertifiedName::from_uri(uri), None, "{uri}");
        }
        let slash = CertifiedName { cluster: ClusterId::new("c"), host: Some(HostId::new("a/b")) };
        assert_eq!(slash.to_uri(), None);
    }
}
