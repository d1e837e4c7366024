//! Certificates for the references, so that what goes between their processes is encrypted as ours is: mutual TLS
//! under an authority of their own.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
};

/// Characters in a line of PEM.
const PEM_LINE: usize = 64;

/// An authority's certificate, and one certificate with its key that it has signed for loopback.
pub struct Papers {
    /// Of the authority.
    pub authority: PathBuf,
    /// Of every process.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

impl Papers {
    /// Makes them.
    pub fn make(directory: &Path) -> Result<Self> {
        fs::create_dir_all(directory)?;
        // The key of an authority signs nothing after this.
        let authority_key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("authority of a measurement");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = params.self_signed(&authority_key)?;
        let issuer = Issuer::new(params, authority_key);
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()])?;
        params.distinguished_name = named("process of a measurement");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &issuer)?;
        let write = |name: &str, label: &str, der: &[u8]| -> Result<PathBuf> {
            let path = directory.join(name);
            fs::write(&path, pem(label, der)).with_context(|| format!("cannot write {}", path.display()))?;
            Ok(path)
        };
        Ok(Self {
            authority: write("authority.pem", "CERTIFICATE", authority.der())?,
            certificate: write("certificate.pem", "CERTIFICATE", certificate.der())?,
            key: write("key.pem", "PRIVATE KEY", key.serialized_der())?,
        })
    }
}

/// Names of their own: a certificate with its issuer's name is taken for one that signed itself.
fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = BASE64.encode(der);
    let mut pem = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(PEM_LINE));
        pem.push_str(line);
        pem.push('\n');
        rest = more;
    }
    pem.push_str(&format!("-----END {label}-----\n"));
    pem
}
