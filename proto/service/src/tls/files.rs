//! Certificates and keys as files hold them, and what may be wrong with them.

use std::{
    fmt::Display,
    fs, io,
    path::{Path, PathBuf},
};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};

/// Files of mutual TLS, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that sign those of every peer. While a CA is replaced by another, both.
    pub ca: PathBuf,
    /// This process's certificate, and behind it any between it and the CA.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A server's certificate and key, in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertFiles {
    /// The certificate, and behind it any between it and what clients trust.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Files that no TLS can be made from.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("{}: {error}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{}: {problem}", file.display())]
    Content {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

/// What a file held when it was read.
#[derive(PartialEq, Eq)]
pub(super) struct Source {
    file: PathBuf,
    text: Vec<u8>,
}

impl Source {
    pub(super) fn read(file: &Path) -> Result<Self, TlsError> {
        let text = fs::read(file).map_err(|error| TlsError::Read { file: file.to_owned(), error })?;
        Ok(Self { file: file.to_owned(), text })
    }

    pub(super) fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, TlsError> {
        let certificates = CertificateDer::pem_slice_iter(&self.text).collect::<Result<Vec<_>, _>>();
        let certificates = certificates.map_err(|error| self.wrong(error))?;
        if certificates.is_empty() { Err(self.wrong("holds no certificate")) } else { Ok(certificates) }
    }

    pub(super) fn roots(&self) -> Result<RootCertStore, TlsError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots.add(certificate).map_err(|error| self.wrong(error))?;
        }
        Ok(roots)
    }

    pub(super) fn key(&self) -> Result<PrivateKeyDer<'static>, TlsError> {
        PrivateKeyDer::from_pem_slice(&self.text).map_err(|error| self.wrong(format!("holds no private key: {error}")))
    }

    pub(super) fn wrong(&self, problem: impl Display) -> TlsError {
        TlsError::Content { file: self.file.clone(), problem: problem.to_string() }
    }
}
