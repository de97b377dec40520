//! Image URLs: fetched only where the operator allows it, and never from an address that is not public.
//!
//! Names are resolved by [`Guard`], the only resolver the client has, so that the address checked is the address
//! connected to and a name cannot point elsewhere a moment later. Redirects are followed here, each checked anew.

use std::{net::IpAddr, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{Response, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use tokio::time::timeout;
use url::Url;

use super::{
    address::{Network, refusal},
    guard::{Guard, find_refusal, root_cause},
};

/// What may be fetched.
#[derive(Clone, Debug)]
pub struct FetchPolicy {
    /// From which hosts.
    pub hosts: Hosts,
    /// Networks that may be reached though they are not public.
    pub networks: Vec<Network>,
    /// Bound on one image's fetch, redirects included.
    pub timeout: Duration,
    /// Redirects to follow.
    pub max_redirects: usize,
}

/// Hosts that images may be fetched from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// None: image URLs are refused.
    #[default]
    None,
    /// Those named; `.example.com` stands for every host below it.
    Listed(Vec<String>),
    /// Every one with a public address.
    Any,
}

impl Default for FetchPolicy {
    fn default() -> Self {
        Self { hosts: Hosts::None, networks: Vec::new(), timeout: Duration::from_secs(10), max_redirects: 3 }
    }
}

/// Why an image was not fetched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum FetchError {
    /// Fetching is off.
    #[error("image URLs are not fetched by this server; send the image itself, or as a data: URI")]
    Off,
    /// Not a URL that can be fetched.
    #[error("not an http or https URL: {0}")]
    Url(String),
    /// The host is not listed.
    #[error("images are not fetched from `{0}`")]
    Host(String),
    /// The host's address is not public.
    #[error("images are not fetched from `{host}`: it has {reason}")]
    Address {
        /// The host.
        host: String,
        /// What is not public about it.
        reason: &'static str,
    },
    /// The host answered with something else than the image.
    #[error("`{host}` answered with status {status}")]
    Status {
        /// The host.
        host: String,
        /// What it answered.
        status: u16,
    },
    /// Redirected too often, or without saying where to.
    #[error("more than {0} redirects, or one without a location")]
    Redirects(usize),
    /// The image is too large.
    #[error("has more than {0} bytes")]
    TooLarge(usize),
    /// It took too long.
    #[error("was not fetched within {0:?}")]
    Timeout(Duration),
    /// The connection failed.
    #[error("cannot be fetched from `{host}`: {problem}")]
    Transport {
        /// The host.
        host: String,
        /// What failed.
        problem: String,
    },
}

/// Fetches images.
pub(crate) struct Fetcher {
    policy: Arc<FetchPolicy>,
    client: Result<HttpClient, String>,
}

type HttpClient = Client<HttpsConnector<HttpConnector<Guard>>, Empty<Bytes>>;

impl Fetcher {
    pub(crate) fn new(policy: FetchPolicy) -> Self {
        let policy = Arc::new(policy);
        // A server that fetches nothing need not find root certificates.
        let client = if policy.hosts == Hosts::None { Err(String::new()) } else { client(&policy) };
        Self { policy, client }
    }

    /// Whether any URL can be fetched.
    pub(crate) fn enabled(&self) -> bool {
        self.policy.hosts != Hosts::None
    }

    /// The content behind `url`, at most `limit` bytes of it.
    pub(crate) async fn fetch(&self, url: &str, limit: usize) -> Result<Bytes, FetchError> {
        if !self.enabled() {
            return Err(FetchError::Off);
        }
        let bound = self.policy.timeout;
        timeout(bound, self.follow(url, limit)).await.unwrap_or(Err(FetchError::Timeout(bound)))
    }

    async fn follow(&self, url: &str, limit: usize) -> Result<Bytes, FetchError> {
        let mut url = Url::parse(url).map_err(|error| FetchError::Url(error.to_string()))?;
        for _ in 0..=self.policy.max_redirects {
            let host = self.policy.check(&url)?;
            let response = self.get(&url, &host).await?;
            if !response.status().is_redirection() {
                return read(response, host, limit).await;
            }
            let location = response.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let location = location.ok_or(FetchError::Redirects(self.policy.max_redirects))?;
            url = url.join(location).map_err(|error| FetchError::Url(error.to_string()))?;
        }
        Err(FetchError::Redirects(self.policy.max_redirects))
    }

    async fn get(&self, url: &Url, host: &str) -> Result<Response<Incoming>, FetchError> {
        let failed = |problem: String| FetchError::Transport { host: host.to_owned(), problem };
        let client = self.client.as_ref().map_err(|problem| failed(problem.clone()))?;
        let request = http::Request::get(url.as_str())
            .header(header::USER_AGENT, concat!("tessera/", env!("CARGO_PKG_VERSION")))
            .header(header::ACCEPT, "image/*")
            .body(Empty::new())
            .map_err(|error| FetchError::Url(error.to_string()))?;
        client.request(request).await.map_err(|error| match find_refusal(&error) {
            Some(reason) => FetchError::Address { host: host.to_owned(), reason },
            None => failed(root_cause(&error)),
        })
    }
}

impl FetchPolicy {
    /// The host of a URL that may be fetched. Names are checked again, as addresses, when they are resolved.
    fn check(&self, url: &Url) -> Result<String, FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Url(format!("its scheme is `{}`", url.scheme())));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Url("it has a user or a password in it".into()));
        }
        let host = url.host_str().unwrap_or_default().trim_end_matches('.').to_ascii_lowercase();
        if !self.hosts.allow(&host) {
            return Err(FetchError::Host(host));
        }
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
        match address.and_then(|address| self.refusal(address)) {
            Some(reason) => Err(FetchError::Address { host, reason }),
            None => Ok(host),
        }
    }

    /// Why an address is not connected to; `None` when it may be.
    pub(super) fn refusal(&self, address: IpAddr) -> Option<&'static str> {
        let named = self.networks.iter().any(|network| network.contains(address));
        if named { None } else { refusal(address) }
    }
}

impl Hosts {
    fn allow(&self, host: &str) -> bool {
        match self {
            Self::None => false,
            Self::Any => !host.is_empty(),
            Self::Listed(hosts) => hosts.iter().any(|listed| match listed.starts_with('.') {
                true => host.ends_with(&listed.to_ascii_lowercase()),
                false => host.eq_ignore_ascii_case(listed),
            }),
        }
    }
}

fn client(policy: &Arc<FetchPolicy>) -> Result<HttpClient, String> {
    let mut connector = HttpConnector::new_with_resolver(Guard::new(policy.clone()));
    connector.enforce_http(false);
    connector.set_connect_timeout(Some(policy.timeout));
    let roots = HttpsConnectorBuilder::new().with_native_roots();
    let roots = roots.map_err(|error| format!("no root certificates were found on this machine ({error})"))?;
    let connector = roots.https_or_http().enable_http1().wrap_connector(connector);
    Ok(Client::builder(TokioExecutor::new()).pool_timer(TokioTimer::new()).pool_max_idle_per_host(4).build(connector))
}

async fn read(response: Response<Incoming>, host: String, limit: usize) -> Result<Bytes, FetchError> {
    if response.status() != StatusCode::OK {
        return Err(FetchError::Status { host, status: response.status().as_u16() });
    }
    let mut content = BytesMut::new();
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| FetchError::Transport { host: host.clone(), problem: root_cause(&error) })?;
        let data = frame.into_data().unwrap_or_default();
        if content.len() + data.len() > limit {
            return Err(FetchError::TooLarge(limit));
        }
        content.extend_from_slice(&data);
    }
    Ok(content.freeze())
}

#[cfg(test)]
mod tests;
