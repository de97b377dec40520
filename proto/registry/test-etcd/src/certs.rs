//! A certificate authority for a test, and files signed by it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use etcd_client::{Certificate, Identity, TlsOptions};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

/// PEM files of an authority, a server on this host and a client, in a folder of the caller's.
pub struct Certs {
    folder: PathBuf,
}

impl Certs {
    /// Makes an authority, and all files. Where the folder has files already, others take their place.
    pub fn make(folder: &Path) -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let ca = authority.self_signed(&key).expect("a certificate");
        let certs = Self::of(folder);
        fs::write(certs.ca(), ca.pem()).expect("a file");
        let issuer = Issuer::new(authority, key);
        for (cert, key_file) in [(certs.path("server.pem"), certs.path("server-key.pem")), (certs.cert(), certs.key())] {
            let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
            let key = KeyPair::generate().expect("a key");
            let signed = CertificateParams::new(names).expect("parameters").signed_by(&key, &issuer).expect("a certificate");
            fs::write(cert, signed.pem()).expect("a file");
            fs::write(key_file, key.serialize_pem()).expect("a file");
        }
        certs
    }

    /// The files that lie in the folder.
    pub fn of(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The authority's certificate.
    pub fn ca(&self) -> PathBuf {
        self.path("ca.pem")
    }

    /// The client's certificate.
    pub fn cert(&self) -> PathBuf {
        self.path("client.pem")
    }

    /// The client's key.
    pub fn key(&self) -> PathBuf {
        self.path("client-key.pem")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn server_options(&self) -> Vec<String> {
        let file = |option: &str, path: PathBuf| [option.to_owned(), path.display().to_string()];
        let files = [
            file("--cert-file", self.path("server.pem")),
            file("--key-file", self.path("server-key.pem")),
            file("--trusted-ca-file", self.ca()),
        ];
        files.into_iter().flatten().chain(["--client-cert-auth".to_owned()]).collect()
    }

    pub(crate) fn client_options(&self) -> TlsOptions {
        let read = |path| fs::read(path).expect("a file");
        TlsOptions::new()
            .ca_certificate(Certificate::from_pem(read(self.ca())))
            .identity(Identity::from_pem(read(self.cert()), read(self.key())))
    }
}
