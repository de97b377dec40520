//! Where etcd is, and how to be let in.

use std::{fmt, path::PathBuf};

/// The port where etcd listens unless told otherwise.
const PORT: u16 = 2379;

/// PEM files for TLS to etcd; read again when they change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EtcdTls {
    /// Certificates that may sign etcd's own; the system's where absent.
    pub ca: Option<PathBuf>,
    /// The certificate shown to etcd, and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// Where etcd is, and how to be let in.
#[derive(Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    pub(super) endpoints: Vec<String>,
    pub(super) user: Option<(String, String)>,
    pub(super) tls: Option<EtcdTls>,
}

/// What is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EtcdConfigError {
    /// Not `etcd://` or `etcds://`.
    #[error("{0:?} is no registry: say etcd://HOST:PORT,HOST:PORT or, with TLS, etcds://HOST:PORT,HOST:PORT")]
    Scheme(String),
    /// A part between commas that is no host with a port.
    #[error("{0:?} is no HOST:PORT of etcd")]
    Endpoint(String),
    /// Credentials in the URL would be seen in process lists and logs.
    #[error("a user or password does not belong in the registry's URL: name the user and a password file apart")]
    Credentials,
    /// TLS files for a URL without TLS.
    #[error("TLS files are given, but the registry is etcd://: say etcds://")]
    NotTls,
    /// A certificate without its key, or a key without its certificate.
    #[error("a certificate and its key come together: {0} is missing")]
    HalfIdentity(&'static str),
    /// A user without a password, or a password without a user.
    #[error("a user and a password come together: {0} is missing")]
    HalfUser(&'static str),
}

impl EtcdConfig {
    /// Reads `etcd://H1:P,H2:P` or, for TLS with the system's certificates, `etcds://H1:P,H2:P`. The port may be left out
    /// where it is 2379.
    ///
    /// # Errors
    /// When the text is neither.
    pub fn parse(url: &str) -> Result<Self, EtcdConfigError> {
        let (tls, hosts) = match url.split_once("://") {
            Some(("etcd", hosts)) => (None, hosts),
            Some(("etcds", hosts)) => (Some(EtcdTls::default()), hosts),
            _ => return Err(EtcdConfigError::Scheme(url.to_owned())),
        };
        if hosts.contains('@') {
            return Err(EtcdConfigError::Credentials);
        }
        let scheme = if tls.is_some() { "https" } else { "http" };
        let hosts = hosts.trim_end_matches('/').split(',');
        let endpoints = hosts.map(|host| Ok(format!("{scheme}://{}", with_port(host)?))).collect::<Result<_, _>>()?;
        Ok(Self { endpoints, user: None, tls })
    }

    /// Logs in as a user of etcd's. The caller has read the password from its file; white space at its end is dropped.
    ///
    /// # Errors
    /// When one is there without the other.
    pub fn with_user(mut self, user: Option<String>, password: Option<String>) -> Result<Self, EtcdConfigError> {
        self.user = match (user, password) {
            (None, None) => None,
            (Some(user), Some(password)) => Some((user, password.trim_end().to_owned())),
            (None, Some(_)) => return Err(EtcdConfigError::HalfUser("the user")),
            (Some(_), None) => return Err(EtcdConfigError::HalfUser("the password")),
        };
        Ok(self)
    }

    /// Uses these files for TLS. They are read when a connection is made, and again when they have changed.
    ///
    /// # Errors
    /// When the URL was without TLS, or a certificate has no key or a key no certificate.
    pub fn with_tls(mut self, ca: Option<PathBuf>, cert: Option<PathBuf>, key: Option<PathBuf>) -> Result<Self, EtcdConfigError> {
        if self.tls.is_none() && (ca.is_some() || cert.is_some() || key.is_some()) {
            return Err(EtcdConfigError::NotTls);
        }
        let identity = match (cert, key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            (None, Some(_)) => return Err(EtcdConfigError::HalfIdentity("the certificate")),
            (Some(_), None) => return Err(EtcdConfigError::HalfIdentity("the key")),
        };
        self.tls = self.tls.map(|_| EtcdTls { ca, identity });
        Ok(self)
    }
}

impl fmt::Debug for EtcdConfig {
    /// Without the password.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let user = self.user.as_ref().map(|(user, _)| user);
        out.debug_struct("EtcdConfig").field("endpoints", &self.endpoints).field("user", &user).field("tls", &self.tls).finish()
    }
}

fn with_port(host: &str) -> Result<String, EtcdConfigError> {
    let wrong = || EtcdConfigError::Endpoint(host.to_owned());
    // A colon inside brackets is part of an IPv6 address.
    let (name, port) = match host.rsplit_once(':') {
        Some((name, port)) if !port.ends_with(']') => (name, port.parse().map_err(|_| wrong())?),
        _ => (host, PORT),
    };
    let bracketed = name.starts_with('[') && name.ends_with(']');
    let strange = |letter: char| letter.is_whitespace() || "/?#".contains(letter) || (letter == ':' && !bracketed);
    if name.is_empty() || name.contains(strange) || port == 0 {
        return Err(wrong());
    }
    Ok(format!("{name}:{port}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_every_endpoint_and_whether_there_is_tls() {
        let plain = EtcdConfig::parse("etcd://a:1,b.c:2,[::1]:3,d").unwrap();
        assert_eq!(plain.endpoints, ["http://a:1", "http://b.c:2", "http://[::1]:3", "http://d:2379"]);
        assert_eq!(plain.tls, None);
        let secure = EtcdConfig::parse("etcds://a:1/").unwrap();
        assert_eq!((secure.endpoints, secure.tls), (vec!["https://a:1".to_owned()], Some(EtcdTls::default())));
    }

    #[test]
    fn what_is_no_registry_is_refused_with_its_name() {
        let parse = |url| EtcdConfig::parse(url).unwrap_err();
        assert_eq!(parse("http://a:1"), EtcdConfigError::Scheme("http://a:1".into()));
        assert_eq!(parse("a:1"), EtcdConfigError::Scheme("a:1".into()));
        assert_eq!(parse("etcd://"), EtcdConfigError::Endpoint(String::new()));
        assert_eq!(parse("etcd://a:1,,b:2"), EtcdConfigError::Endpoint(String::new()));
        assert_eq!(parse("etcd://a:port"), EtcdConfigError::Endpoint("a:port".into()));
        assert_eq!(parse("etcd://a:0"), EtcdConfigError::Endpoint("a:0".into()));
        assert_eq!(parse("etcd://::1:2"), EtcdConfigError::Endpoint("::1:2".into()));
        assert_eq!(parse("etcd://a:1/path"), EtcdConfigError::Endpoint("a:1/path".into()));
        assert_eq!(parse("etcd://me:secret@a:1"), EtcdConfigError::Credentials);
    }

    #[test]
    fn halves_are_refused_and_passwords_are_never_shown() {
        let config = || EtcdConfig::parse("etcds://a:1").unwrap();
        let path = || Some(PathBuf::from("x.pem"));
        assert_eq!(config().with_tls(None, path(), None), Err(EtcdConfigError::HalfIdentity("the key")));
        assert_eq!(config().with_tls(None, None, path()), Err(EtcdConfigError::HalfIdentity("the certificate")));
        assert_eq!(config().with_user(Some("me".into()), None), Err(EtcdConfigError::HalfUser("the password")));
        let plain = EtcdConfig::parse("etcd://a:1").unwrap();
        assert_eq!(plain.clone().with_tls(path(), None, None), Err(EtcdConfigError::NotTls));
        assert_eq!(plain.clone().with_tls(None, None, None), Ok(plain));
        let user = config().with_user(Some("me".into()), Some("secret\n".into())).unwrap();
        assert_eq!(user.user, Some(("me".into(), "secret".into())));
        let shown = format!("{user:?}");
        assert!(shown.contains("me") && !shown.contains("secret"), "{shown}");
    }
}
