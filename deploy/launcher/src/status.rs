//! `tessera status`: what the registry and the roles themselves say.

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{Context, Result};
use futures::future::join_all;
use serde_json::{Value, json};
use tessera_proto::internal::{self as wire, coordinator_client::CoordinatorClient, shard_worker_client::ShardWorkerClient};
use tessera_registry::{Membership, ReplicaRecord, WorkerRecord, WorkerState};
use tessera_service::{Tls, peer};
use tokio::time::{sleep, timeout};

use crate::{cli::StatusArgs, settings};

/// A role that does not answer within this is shown as silent.
const CALL: Duration = Duration::from_secs(2);
/// Between two pictures.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the cluster, once or again and again.
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let registry = settings::named_registry(&args.registry)?;
    let tls = settings::tls(&args.tls).map(Tls::read).transpose()?;
    loop {
        let (_, members) = registry.members().await.context("cannot read the registry")?;
        let cluster = Cluster::ask(members, tls.as_ref()).await;
        let text = if args.json { format!("{:#}\n", cluster.json()) } else { cluster.table() };
        let mut out = stdout().lock();
        let clear = if args.watch && !args.json { "\x1b[2J\x1b[H" } else { "" };
        write!(out, "{clear}{text}").and_then(|()| out.flush()).context("cannot write to standard output")?;
        drop(out);
        if !args.watch {
            return Ok(());
        }
        sleep(AGAIN).await;
    }
}

/// Everyone who is there, with what they say.
struct Cluster {
    replicas: Vec<(ReplicaRecord, Option<wire::GetInfoResponse>)>,
    workers: Vec<(WorkerRecord, Option<String>, Option<wire::GetStatusResponse>)>,
}

impl Cluster {
    async fn ask(members: Membership, tls: Option<&Tls>) -> Self {
        let replicas = join_all(members.replicas.into_values().map(|record| async {
            let info = replica_info(&record, tls).await;
            (record, info)
        }));
        let claims = &members.claims;
        let workers = join_all(members.workers.into_values().map(|record| async {
            let status = worker_status(&record, tls).await;
            let holder = claims.get(&record.id).map(|claim| claim.replica.clone());
            (record, holder, status)
        }));
        let (replicas, workers) = tokio::join!(replicas, workers);
        Self { replicas, workers }
    }

    fn json(&self) -> Value {
        let replicas = self.replicas.iter().map(|(record, info)| {
            let mut value = json!({
                "id": record.id, "address": record.address, "model": record.model, "epoch": record.epoch,
                "ready": record.ready, "draining": record.draining, "answers": info.is_some(),
            });
            if let Some(info) = info {
                value["tp"] = info.tp.into();
                value["workers"] = info.workers.clone().into();
                value["running"] = info.running.into();
                value["waiting"] = info.waiting.into();
                value["queued_tokens"] = info.queued_tokens.into();
                value["kv_blocks"] = info.kv_blocks.into();
                value["kv_blocks_used"] = info.kv_blocks_used.into();
                value["groups_formed"] = info.groups.into();
                value["last_loss"] = info.last_loss.clone().into();
                value["group_age_ms"] = info.group_age_ms.into();
            }
            value
        });
        let workers = self.workers.iter().map(|(record, holder, status)| {
            json!({
                "id": record.id, "address": record.address, "host": record.host, "device": record.device,
                "state": state(record), "claimed_by": holder, "holds": record.fingerprint, "answers": status.is_some(),
                "rank": status.as_ref().and_then(|status| status.rank),
                "epoch": status.as_ref().map(|status| status.epoch),
                "steps": status.as_ref().map(|status| status.steps),
            })
        });
        json!({ "replicas": replicas.collect::<Vec<_>>(), "workers": workers.collect::<Vec<_>>() })
    }

    fn table(&self) -> String {
        let mut rows =
            vec![row(["REPLICA", "STATE", "TP", "EPOCH", "RUNNING", "WAITING", "QUEUED", "KV", "GROUPS", "LAST LOSS"])];
        for (record, info) in &self.replicas {
            let condition = match info {
                None => "silent",
                Some(_) if record.draining => "draining",
                Some(info) if info.ready => "ready",
                Some(info) if info.groups == 0 => "standing by",
                Some(_) => "forming",
            };
            let told = info.clone().unwrap_or_default();
            let share = 100 * told.kv_blocks_used / told.kv_blocks.max(1);
            rows.push(row([
                record.id.as_str(),
                condition,
                &told.tp.to_string(),
                &record.epoch.to_string(),
                &told.running.to_string(),
                &told.waiting.to_string(),
                &told.queued_tokens.to_string(),
                &format!("{share} %"),
                &told.groups.to_string(),
                if told.last_loss.is_empty() { "-" } else { &told.last_loss },
            ]));
        }
        let mut text = aligned(&rows);
        let mut rows = vec![row(["WORKER", "STATE", "REPLICA", "RANK", "EPOCH", "HOST", "DEVICE", "STEPS", "ADDRESS"])];
        for (record, holder, status) in &self.workers {
            let told = status.clone().unwrap_or_default();
            rows.push(row([
                record.id.as_str(),
                if status.is_some() { state(record) } else { "silent" },
                holder.as_deref().unwrap_or("-"),
                &told.rank.map_or("-".into(), |rank| rank.to_string()),
                &told.epoch.to_string(),
                &record.host,
                &record.device,
                &told.steps.to_string(),
                &record.address,
            ]));
        }
        text.push('\n');
        text.push_str(&aligned(&rows));
        text
    }
}

fn state(record: &WorkerRecord) -> &'static str {
    match record.state {
        WorkerState::Ready => "ready",
        WorkerState::Draining => "draining",
    }
}

async fn replica_info(record: &ReplicaRecord, tls: Option<&Tls>) -> Option<wire::GetInfoResponse> {
    let mut client = CoordinatorClient::new(peer(&record.address, tls).ok()?);
    let info = timeout(CALL, client.get_info(wire::GetInfoRequest {})).await.ok()?.ok()?;
    Some(info.into_inner())
}

async fn worker_status(record: &WorkerRecord, tls: Option<&Tls>) -> Option<wire::GetStatusResponse> {
    let mut client = ShardWorkerClient::new(peer(&record.address, tls).ok()?);
    let status = timeout(CALL, client.get_status(wire::GetStatusRequest {})).await.ok()?.ok()?;
    Some(status.into_inner())
}

fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// Columns as wide as their widest cell, two spaces apart.
fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<String> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [row(["A", "LONG NAME", "C"]), row(["aaaa", "b", "c"])];
        assert_eq!(aligned(&rows), "A     LONG NAME  C\naaaa  b          c\n");
    }
}
