//! One client an endpoint, and an order among them of our own: the client's own balancing keeps asking an endpoint that
//! accepts and never answers.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use etcd_client::{Client, ConnectOptions, Error};
use futures::{StreamExt, stream::FuturesUnordered};
use parking_lot::Mutex;
use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    config::{EtcdConfig, EtcdTls},
    failure::{self, Failure},
    tls::Stamp,
};

/// How long a call may take over all endpoints; below the bound of [`crate::Registry`], whose word would say less.
pub(super) const CALL: Duration = Duration::from_secs(4);
/// How long one endpoint may take; a cluster that elects its leader answers later.
const ATTEMPT: Duration = Duration::from_millis(1500);
/// How long one endpoint is waited for before the next is asked as well.
const HEDGE: Duration = Duration::from_millis(250);
/// After all endpoints failed at once.
const PAUSE: Duration = Duration::from_millis(100);
/// An endpoint that was silent for so long is asked over a new connection: TCP would repeat itself ever more slowly on
/// the old one, and need as long again once a cut link is back.
const SILENT: Duration = Duration::from_secs(2);
/// HTTP/2 pings, while something is asked; etcd hangs up on those that ping more often than every 5 seconds.
const PING: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(2));

#[derive(Default)]
struct Link {
    client: Option<Client>,
    /// Of the TLS files that the client was made with.
    stamps: Vec<Stamp>,
    /// Since when nothing that was asked has been answered.
    asked: Option<Instant>,
}

struct Endpoint {
    url: String,
    link: Mutex<Link>,
}

/// All endpoints.
pub(super) struct Pool {
    config: EtcdConfig,
    endpoints: Vec<Endpoint>,
    /// Which endpoint answered last.
    preferred: AtomicUsize,
}

impl Pool {
    pub(super) fn new(config: EtcdConfig) -> Self {
        let endpoints = config.endpoints.iter().map(|url| Endpoint { url: url.clone(), link: Mutex::default() }).collect();
        Self { config, endpoints, preferred: AtomicUsize::new(0) }
    }

    /// The endpoint that answered last.
    pub(super) fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The endpoint to try after this one.
    pub(super) fn after(&self, endpoint: usize) -> usize {
        (endpoint + 1) % self.endpoints.len().max(1)
    }

    /// Asks one endpoint after the other until one answers; each further one as soon as those before it are slow. What is
    /// asked may so be done more than once. Also says which endpoint answered.
    pub(super) async fn ask<T, F>(&self, question: impl Fn(Client) -> F) -> Result<(usize, T), Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let until = Instant::now() + CALL;
        let mut last = Failure::Unknown(format!("no endpoint answered within {CALL:?}"));
        loop {
            match timeout_at(until, self.round(&question)).await {
                Ok(Err(failure)) if !failure.is_final() => last = failure,
                Ok(answer) => return answer,
                Err(_) => return Err(last),
            }
            sleep(PAUSE).await;
            if Instant::now() >= until {
                return Err(last);
            }
        }
    }

    async fn round<T, F>(&self, question: &impl Fn(Client) -> F) -> Result<(usize, T), Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = self.preferred();
        let mut order = (0..self.endpoints.len()).map(|n| (first + n) % self.endpoints.len());
        let mut next = || order.next().map(|n| async move { (n, self.attempt(n, question).await) });
        let mut asked = FuturesUnordered::new();
        asked.extend(next());
        let mut others = true;
        let mut last = Failure::Unknown("no endpoints".into());
        loop {
            tokio::select! {
                answer = asked.next() => match answer {
                    Some((n, Ok(answer))) => return Ok((n, answer)),
                    Some((_, Err(failure))) if failure.is_final() => return Err(failure),
                    Some((_, Err(failure))) => {
                        last = failure;
                        asked.extend(next());
                    }
                    None => return Err(last),
                },
                () = sleep(HEDGE), if others => match next() {
                    Some(another) => asked.push(another),
                    None => others = false,
                },
            }
        }
    }

    /// Asks this endpoint, once.
    pub(super) async fn attempt<T, F>(&self, n: usize, question: impl FnOnce(Client) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let endpoint = &self.endpoints[n];
        let answer = async { question(self.client(n).await?).await.map_err(|error| self.failure(&error)) };
        let answer = match timeout(ATTEMPT, answer).await {
            Ok(answer) => answer,
            Err(_) => return Err(Failure::Unknown(format!("{}: no answer within {ATTEMPT:?}", endpoint.url))),
        };
        endpoint.link.lock().asked = None;
        match &answer {
            Ok(_) => self.preferred.store(n, Ordering::Relaxed),
            Err(Failure::Stale(_)) => self.forget(n),
            Err(_) => {}
        }
        answer.map_err(|failure| match failure {
            Failure::Unknown(problem) => Failure::Unknown(format!("{}: {problem}", endpoint.url)),
            failure => failure,
        })
    }

    /// The endpoint's next question goes over a new connection.
    pub(super) fn forget(&self, n: usize) {
        *self.endpoints[n].link.lock() = Link::default();
    }

    /// Reads an error of the client's.
    pub(super) fn failure(&self, error: &Error) -> Failure {
        failure::read(error, self.config.user.as_ref().map(|(user, _)| user.as_str()))
    }

    /// The endpoint's client. It connects when something is asked; only a login happens here.
    async fn client(&self, n: usize) -> Result<Client, Failure> {
        let endpoint = &self.endpoints[n];
        let stamps = self.config.tls.as_ref().map(EtcdTls::stamps).unwrap_or_default();
        {
            let mut link = endpoint.link.lock();
            if link.asked.is_some_and(|asked| asked.elapsed() > SILENT) {
                *link = Link::default();
            }
            link.asked.get_or_insert_with(Instant::now);
            if let Some(client) = &link.client
                && link.stamps == stamps
            {
                return Ok(client.clone());
            }
        }
        let client = Client::connect([&endpoint.url], Some(self.options()?)).await.map_err(|error| self.failure(&error))?;
        let mut link = endpoint.link.lock();
        (link.client, link.stamps) = (Some(client.clone()), stamps);
        Ok(client)
    }

    fn options(&self) -> Result<ConnectOptions, Failure> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(ATTEMPT)
            .with_keep_alive(PING.0, PING.1)
            // etcd takes pings without a question for an attack.
            .with_keep_alive_while_idle(false)
            .with_auto_token_refresh(true)
            .with_require_leader(true);
        if let Some((user, password)) = &self.config.user {
            options = options.with_user(user, password);
        }
        if let Some(tls) = &self.config.tls {
            options = options.with_tls(tls.read().map_err(Failure::Unknown)?);
        }
        Ok(options)
    }
}
