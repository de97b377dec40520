//! TLS, certificates that change, users and passwords.

use tessera_registry::{EtcdConfig, EtcdStore, Registry, RegistryError, Revision};
use tessera_test_etcd::{Certs, Etcd};
use tokio::time::{Duration, sleep};

use crate::{TTL, again, next, soon, worker};

fn config(etcd: &Etcd, certs: &Certs) -> EtcdConfig {
    let config = EtcdConfig::parse(&etcd.url()).unwrap();
    config.with_tls(Some(certs.ca()), Some(certs.cert()), Some(certs.key())).unwrap()
}

fn login(config: EtcdConfig, user: &str, password: &str) -> Registry {
    Registry::new(EtcdStore::new(config.with_user(Some(user.into()), Some(password.into())).unwrap()))
}

fn denied<T: std::fmt::Debug>(answer: Result<T, RegistryError>) -> String {
    match answer {
        Err(RegistryError::Denied(problem)) => problem,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_logs_in_over_tls_and_stays_logged_in() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::make(folder.path());
    let etcd = Etcd::start_with(3, Some(Certs::of(folder.path())), &["--auth-token-ttl", "2"]).await;
    etcd.require_login("tessera", "right", "/tessera/v1/").await;
    let registry = login(config(&etcd, &certs), "tessera", "right");
    let lease = registry.lease(TTL).await.unwrap();
    registry.put_worker(lease.id(), &worker("a", 1)).await.unwrap();
    let mut watch = registry.store().watch("/tessera/v1/", Revision(0)).await.unwrap();
    assert_eq!(next(&mut watch).await.key(), "/tessera/v1/workers/a");
    let idle = login(config(&etcd, &certs), "tessera", "right");
    idle.members().await.unwrap();
    // Longer than the token of a login lives.
    sleep(Duration::from_secs(6)).await;
    assert_eq!(idle.members().await.unwrap().1.workers.len(), 1);
    registry.put_worker(lease.id(), &worker("a", 2)).await.unwrap();
    assert_eq!(next(&mut watch).await.key(), "/tessera/v1/workers/a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_is_denied_by_name() {
    let etcd = Etcd::start(1).await;
    etcd.require_login("tessera", "right", "/tessera/v1/").await;
    let config = || EtcdConfig::parse(&etcd.url()).unwrap();
    let wrong = login(config(), "tessera", "wrong");
    let problem = denied(wrong.members().await);
    assert!(problem.contains("\"tessera\"") && problem.contains("password"), "{problem}");
    let problem = denied(wrong.lease(TTL).await.map(|lease| lease.id()));
    assert!(problem.contains("\"tessera\"") && problem.contains("password"), "{problem}");
    let mut watch = wrong.store().watch("/tessera/v1/", Revision(0)).await.unwrap();
    denied(soon(watch.recv()).await.expect("a reason"));
    let problem = denied(Registry::new(EtcdStore::new(config())).members().await);
    assert!(problem.contains("without a user"), "{problem}");
    let right = login(config(), "tessera", "right");
    denied(right.store().list("/elsewhere/").await);
    let mut watch = right.store().watch("/elsewhere/", Revision(0)).await.unwrap();
    denied(soon(watch.recv()).await.expect("a reason"));
    assert!(right.members().await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_change_without_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::make(folder.path());
    let mut etcd = Etcd::start_with(1, Some(Certs::of(folder.path())), &[]).await;
    let registry = Registry::new(EtcdStore::new(config(&etcd, &certs)));
    registry.members().await.unwrap();
    let mut watch = registry.store().watch("/", Revision(0)).await.unwrap();
    // Another authority, and nothing that the old one signed.
    Certs::make(folder.path());
    etcd.kill(0);
    etcd.restart(0);
    etcd.ready().await;
    let lease = again(|| registry.lease(TTL)).await.unwrap();
    let record = worker("a", 1);
    again(|| registry.put_worker(lease.id(), &record)).await.unwrap();
    assert_eq!(next(&mut watch).await.key(), "/tessera/v1/workers/a");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let certs = Certs::make(folder.path());
    let etcd = Etcd::start_with(1, Some(Certs::of(folder.path())), &[]).await;
    std::fs::remove_file(certs.cert()).unwrap();
    let error = Registry::new(EtcdStore::new(config(&etcd, &certs))).members().await.unwrap_err();
    assert!(error.to_string().contains("client.pem"), "{error}");
}
