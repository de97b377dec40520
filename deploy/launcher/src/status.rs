//! `tessera status`: what the registry and the roles themselves say.

mod cluster;

use std::{
    io::{Write, stdout},
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tessera_registry::{WorkerRecord, WorkerState};
use tessera_service::Tls;
use tokio::time::sleep;

use self::cluster::Cluster;
use crate::{
    cli::StatusArgs,
    settings,
    table::{aligned, row},
};

/// Between two pictures.
const AGAIN: Duration = Duration::from_secs(1);

/// Prints the cluster, once or again and again.
pub(crate) async fn run(args: StatusArgs) -> Result<()> {
    let tls = settings::tls(&args.tls).map(Tls::read).transpose()?;
    // Whoever is named is asked, whatever registry the environment names.
    let registry = if args.at.is_empty() { Some(settings::named_registry(&args.registry)?) } else { None };
    loop {
        let cluster = match &registry {
            Some(registry) => {
                let members = registry.members().await;
                let (_, members) = members.context("cannot read the registry; --at HOST:PORT asks processes themselves")?;
                Cluster::ask(members, tls.as_ref()).await
            }
            None => Cluster::at(&args.at, tls.as_ref()).await,
        };
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

impl Cluster {
    fn json(&self) -> Value {
        let replicas = self.replicas.iter().map(|(record, info)| {
            let mut value = json!({
                "id": record.id, "address": record.address, "model": record.model, "epoch": record.epoch,
                "ready": record.ready, "draining": record.draining, "answers": info.is_some(),
            });
            if let Some(info) = info {
                // The record may be of a time before the registry was away.
                value["ready"] = (record.ready && info.ready).into();
                value["epoch"] = info.epoch.into();
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
                value["lost_ranks"] = info.lost_ranks.clone().into();
                value["problem"] = info.problem.clone().into();
                value["registry_away_ms"] = info.registry_away_ms.into();
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
        let mut rows = vec![row([
            "REPLICA",
            "STATE",
            "TP",
            "EPOCH",
            "RUNNING",
            "WAITING",
            "QUEUED",
            "KV",
            "GROUPS",
            "LAST LOSS",
            "PROBLEM",
        ])];
        for (record, info) in &self.replicas {
            let condition = match info {
                None => "silent",
                Some(_) if record.draining => "draining",
                Some(info) if info.ready => "ready",
                Some(info) if !info.lost_ranks.is_empty() => "degraded",
                Some(info) if info.groups == 0 => "standing by",
                Some(_) => "forming",
            };
            // The record may be of a time before the registry was away.
            let epoch = info.as_ref().map_or(record.epoch, |info| info.epoch);
            let told = info.clone().unwrap_or_default();
            let share = 100 * told.kv_blocks_used / told.kv_blocks.max(1);
            rows.push(row([
                record.id.as_str(),
                condition,
                &told.tp.to_string(),
                &epoch.to_string(),
                &told.running.to_string(),
                &told.waiting.to_string(),
                &told.queued_tokens.to_string(),
                &format!("{share} %"),
                &told.groups.to_string(),
                or_dash(&told.last_loss),
                or_dash(&told.problem),
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

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}
