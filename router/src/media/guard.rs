//! The fetching client's resolver: it gives only addresses that may be connected to.

use std::{
    error::Error,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use hyper_util::client::legacy::connect::dns::Name;

use super::fetch::FetchPolicy;

/// Resolves names to addresses that may be connected to.
#[derive(Clone)]
pub(super) struct Guard {
    policy: Arc<FetchPolicy>,
}

/// A name whose addresses are all refused.
#[derive(Debug, thiserror::Error)]
#[error("the host has {0}")]
struct Refused(&'static str);

impl Guard {
    pub(super) fn new(policy: Arc<FetchPolicy>) -> Self {
        Self { policy }
    }

    async fn resolve(self, name: Name) -> Result<std::vec::IntoIter<SocketAddr>, Box<dyn Error + Send + Sync>> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in tokio::net::lookup_host((name.as_str(), 0)).await? {
            match self.policy.refusal(address.ip()) {
                Some(reason) => refused = Some(reason),
                None => allowed.push(address),
            }
        }
        match refused {
            // A name with both kinds of addresses is up to something.
            Some(reason) => Err(Refused(reason).into()),
            None => Ok(allowed.into_iter()),
        }
    }
}

impl tower::Service<Name> for Guard {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = Box<dyn Error + Send + Sync>;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        Box::pin(self.clone().resolve(name))
    }
}

fn chain<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |&error| error.source())
}

/// Why the guard refused the host, if it was the guard.
pub(super) fn find_refusal(error: &(dyn Error + 'static)) -> Option<&'static str> {
    chain(error).find_map(|error| error.downcast_ref::<Refused>()).map(|refused| refused.0)
}

/// The innermost error, which says most.
pub(super) fn root_cause(error: &(dyn Error + 'static)) -> String {
    chain(error).last().map_or_else(String::new, ToString::to_string)
}
