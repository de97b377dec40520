//! Certificates for roles on the loopback address, all of one authority.

use std::fs;

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::{TempDir, tempdir};
use tessera_service::TlsFiles;

pub(crate) struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Certificates {
    pub(crate) fn new() -> Result<Self> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
        let folder = tempdir()?;
        fs::write(folder.path().join("ca.pem"), authority.pem())?;
        Ok(Self { authority, folder })
    }

    /// A role's three files.
    pub(crate) fn of(&self, role: &str) -> Result<TlsFiles> {
        let path = |file: String| self.folder.path().join(file);
        let files = TlsFiles { ca: path("ca.pem".into()), cert: path(format!("{role}.pem")), key: path(format!("{role}.key")) };
        let key = KeyPair::generate()?;
        let cert = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.signed_by(&key, &self.authority)?;
        fs::write(&files.cert, cert.pem())?;
        fs::write(&files.key, key.serialize_pem())?;
        Ok(files)
    }

    /// A role's flags.
    pub(crate) fn flags(&self, role: &str) -> Result<Vec<String>> {
        let TlsFiles { ca, cert, key } = self.of(role)?;
        let flags = [("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)];
        Ok(flags.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()]).collect())
    }
}
