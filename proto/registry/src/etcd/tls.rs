//! TLS files, and whether they have changed.

use std::{fs, path::Path, time::SystemTime};

use etcd_client::{Certificate, Identity, TlsOptions};

use super::config::EtcdTls;

/// What shows that a file has changed: its time and its size.
pub(super) type Stamp = (Option<SystemTime>, u64);

impl EtcdTls {
    /// The stamps of all files; another value means that they are to be read again.
    pub(super) fn stamps(&self) -> Vec<Stamp> {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        self.ca.iter().chain(identity).map(|path| stamp(path)).collect()
    }

    /// Reads the files; the error names the one that cannot be read.
    pub(super) fn read(&self) -> Result<TlsOptions, String> {
        let mut options = TlsOptions::new();
        options = match &self.ca {
            Some(ca) => options.ca_certificate(Certificate::from_pem(read(ca)?)),
            None => options.with_enabled_roots(),
        };
        if let Some((cert, key)) = &self.identity {
            options = options.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        Ok(options)
    }
}

/// A file that is not there has the stamp of nothing: it changes when it comes.
fn stamp(path: &Path) -> Stamp {
    fs::metadata(path).map_or((None, 0), |file| (file.modified().ok(), file.len()))
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{}: {error}", path.display()))
}
