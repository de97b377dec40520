//! What an administrator of etcd does, and what one looks at.

use std::time::Duration;

use etcd_client::{Client, GetOptions, Permission};
use tokio::time::sleep;

use crate::Etcd;

impl Etcd {
    /// The node that leads now.
    pub async fn leader(&self) -> usize {
        for _ in 0..200 {
            for node in 0..self.len() {
                if let Some(mut client) = self.client(node).await
                    && let Ok(status) = client.status().await
                    && status.header().is_some_and(|header| header.member_id() == status.leader())
                {
                    return node;
                }
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("no node leads");
    }

    /// Forgets the past up to the present; the present's revision.
    pub async fn compact(&self) -> i64 {
        let mut client = self.any().await;
        let revision = self.revision().await;
        client.compact(revision, None).await.expect("a compaction");
        revision
    }

    /// The newest revision: it grows with every write, and with nothing else.
    pub async fn revision(&self) -> i64 {
        let answer = self.any().await.get("/", None).await.expect("an answer");
        answer.header().expect("a header").revision()
    }

    /// How many keys begin with the prefix.
    pub async fn count(&self, prefix: &str) -> i64 {
        let options = GetOptions::new().with_prefix().with_count_only();
        self.any().await.get(prefix, Some(options)).await.expect("an answer").count()
    }

    /// How often the key was put since it came to be; 0 where it is not there.
    pub async fn version(&self, key: &str) -> i64 {
        let answer = self.any().await.get(key, None).await.expect("an answer");
        answer.kvs().first().map_or(0, etcd_client::KeyValue::version)
    }

    /// In which revision the key came to be; 0 where it is not there.
    pub async fn created(&self, key: &str) -> i64 {
        let answer = self.any().await.get(key, None).await.expect("an answer");
        answer.kvs().first().map_or(0, etcd_client::KeyValue::create_revision)
    }

    /// How many leases there are.
    pub async fn leases(&self) -> usize {
        self.any().await.leases().await.expect("an answer").leases().len()
    }

    /// From now on, etcd asks for a user and password. `user` may read and write what begins with `prefix`, `root`
    /// everything.
    pub async fn require_login(&self, user: &str, password: &str, prefix: &str) {
        let mut client = self.any().await;
        client.user_add("root", password, None).await.expect("a user");
        client.user_grant_role("root", "root").await.expect("a grant");
        client.user_add(user, password, None).await.expect("a user");
        client.role_add("role").await.expect("a role");
        let permission = Permission::read_write(prefix).with_prefix();
        client.role_grant_permission("role", permission).await.expect("a permission");
        client.user_grant_role(user, "role").await.expect("a grant");
        client.auth_enable().await.expect("logins");
    }

    /// A client to any node that answers.
    async fn any(&self) -> Client {
        for node in (0..self.len()).cycle().take(self.len() * 20) {
            if let Some(mut client) = self.client(node).await
                && client.get("/", None).await.is_ok()
            {
                return client;
            }
            sleep(Duration::from_millis(50)).await;
        }
        panic!("no node answers");
    }
}
