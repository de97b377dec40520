//! Where the cluster meets.

use std::{path::PathBuf, time::Duration};

use clap::Args;

/// The registry that every role of a cluster is given alike.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct RegistryArgs {
    /// etcd, as etcd://HOST:PORT,HOST:PORT or with TLS etcds://HOST:PORT,HOST:PORT.
    #[arg(long, value_name = "URL", env = "TESSERA_REGISTRY")]
    pub(crate) registry: Option<String>,
    /// A user of etcd's.
    #[arg(long, value_name = "NAME", env = "TESSERA_REGISTRY_USER", requires_all = ["registry", "registry_password_file"])]
    pub(crate) registry_user: Option<String>,
    /// A file with the user's password.
    #[arg(long, value_name = "FILE", env = "TESSERA_REGISTRY_PASSWORD_FILE", requires = "registry_user")]
    pub(crate) registry_password_file: Option<PathBuf>,
    /// Certificates that sign etcd's, in PEM; the system's when unset. Read again when they change, like the two below.
    #[arg(long, value_name = "FILE", env = "TESSERA_REGISTRY_CA", requires = "registry")]
    pub(crate) registry_ca: Option<PathBuf>,
    /// A certificate to show to etcd.
    #[arg(long, value_name = "FILE", env = "TESSERA_REGISTRY_CERT", requires_all = ["registry", "registry_key"])]
    pub(crate) registry_cert: Option<PathBuf>,
    /// Its private key.
    #[arg(long, value_name = "FILE", env = "TESSERA_REGISTRY_KEY", requires_all = ["registry", "registry_cert"])]
    pub(crate) registry_key: Option<PathBuf>,
    /// Seconds after which the silent death of this process is noticed by its lease. etcd makes 2 of less.
    #[arg(long, value_name = "SECONDS", env = "TESSERA_REGISTRY_LEASE", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) registry_lease: Option<u64>,
}

impl RegistryArgs {
    /// How long the process's leases live.
    pub(crate) fn lease(&self) -> Duration {
        Duration::from_secs(self.registry_lease.unwrap_or(3))
    }
}

/// What others know a role by.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct IdentityArgs {
    /// Its name in the registry: unique, and the same after a restart. Host name and port when unset.
    #[arg(long, value_name = "NAME", env = "TESSERA_ID")]
    pub(crate) id: Option<String>,
    /// The address that others call it by; the one it listens on when unset, or this host's name where that is 0.0.0.0.
    #[arg(long, value_name = "HOST:PORT", env = "TESSERA_ADVERTISE")]
    pub(crate) advertise: Option<String>,
    /// When told to stop, what it does may take this many seconds to end, or to move elsewhere.
    #[arg(long, value_name = "SECONDS", default_value_t = 25, env = "TESSERA_DRAIN_TIMEOUT")]
    pub(crate) drain_timeout: u64,
}
