//! Certificates.

use std::path::PathBuf;

use clap::Args;

/// Mutual TLS between the roles: all three files, or none for plain connections.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "TLS between the roles")]
pub(crate) struct TlsArgs {
    /// Certificates that sign every role's, in PEM. The three files are read again when they change.
    #[arg(long, value_name = "FILE", env = "TESSERA_TLS_CA", requires_all = ["tls_cert", "tls_key"])]
    pub(crate) tls_ca: Option<PathBuf>,
    /// This role's certificate; it must name the host or address that others call it by.
    #[arg(long, value_name = "FILE", env = "TESSERA_TLS_CERT", requires_all = ["tls_ca", "tls_key"])]
    pub(crate) tls_cert: Option<PathBuf>,
    /// This role's private key.
    #[arg(long, value_name = "FILE", env = "TESSERA_TLS_KEY", requires_all = ["tls_ca", "tls_cert"])]
    pub(crate) tls_key: Option<PathBuf>,
}

/// TLS of the front door: both files, or none for plain connections.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct FrontTlsArgs {
    /// The certificate that clients of gRPC and HTTP are shown, in PEM. Read again when it changes.
    #[arg(long, value_name = "FILE", env = "TESSERA_FRONT_TLS_CERT", requires = "front_tls_key")]
    pub(crate) front_tls_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", env = "TESSERA_FRONT_TLS_KEY", requires = "front_tls_cert")]
    pub(crate) front_tls_key: Option<PathBuf>,
}
