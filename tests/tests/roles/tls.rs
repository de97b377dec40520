//! Mutual TLS between the processes, and TLS at the front door.

use anyhow::Result;
use tessera_proto::internal::{
    GetInfoRequest, GetStatusRequest, coordinator_client::CoordinatorClient, shard_worker_client::ShardWorkerClient,
};
use tessera_service::{Tls, peer};

use crate::{
    certificates::Certificates,
    replica::{Replica, answer, golden},
};

/// The code and the text that a role's status server answers.
async fn status(role: &tessera_tests::Role, path: &str) -> Result<(u16, String)> {
    let response = reqwest::get(format!("{}{path}", role.address("status")?)).await?;
    Ok((response.status().as_u16(), response.text().await?))
}

#[tokio::test]
async fn roles_with_certificates_give_the_golden_tokens_and_answer_nobody_without() -> Result<()> {
    let certificates = Certificates::new()?;
    let front = certificates.of("front")?;
    let flags = |role: &str| {
        let mut flags = certificates.flags(role)?;
        if role == "router" {
            let (cert, key) = (front.cert.display().to_string(), front.key.display().to_string());
            flags.extend(["--front-tls-cert".into(), cert, "--front-tls-key".into(), key]);
        }
        Ok(flags)
    };
    let replica = Replica::start(flags, &[]).await?;
    let tls = Tls::read(certificates.of("test")?)?;
    let (case, front) = (golden()?, replica.router.address("grpc")?);
    assert!(front.starts_with("https://"), "{front}");
    assert_eq!(answer(peer(&front, Some(&tls))?, &case, None).await?, case.greedy);

    let plain = |uri: String| peer(&uri.replace("https://", "http://"), None);
    answer(plain(front)?, &case, None).await.unwrap_err();
    let coordinator = plain(replica.coordinator.address("listen")?)?;
    CoordinatorClient::new(coordinator).get_info(GetInfoRequest {}).await.unwrap_err();
    let worker = plain(replica.workers[0].address("listen")?)?;
    ShardWorkerClient::new(worker).get_status(GetStatusRequest {}).await.unwrap_err();

    for role in replica.workers.iter().chain([&replica.coordinator]) {
        assert_eq!(status(role, "/healthz").await?.0, 200);
        assert_eq!(status(role, "/readyz").await?, (200, "ready\n".into()));
    }
    let (_, metrics) = status(&replica.coordinator, "/metrics").await?;
    let labelled = |line: &&str| line.starts_with("tessera_kv_blocks{replica=\"");
    let blocks: f64 = metrics.lines().find(labelled).unwrap().rsplit(' ').next().unwrap().parse()?;
    assert!(blocks > 0.0, "{metrics}");
    assert!(metrics.lines().any(|line| line == "tessera_queue_seconds_count 1"), "{metrics}");
    for worker in &replica.workers {
        let (_, metrics) = status(worker, "/metrics").await?;
        assert!(metrics.contains("tessera_rank_stage_seconds"), "{metrics}");
        assert!(metrics.lines().any(|line| line.starts_with("tessera_rank_weight_bytes{worker=\"")), "{metrics}");
    }
    replica.stop().await
}
