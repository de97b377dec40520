//! How long clients wait for their next token when something dies.

use std::time::Duration;

use anyhow::{Result, ensure};
use tessera_tests::{
    fleet::{Fleet, Plan, Status},
    load::{Load, Question, Silence, questions},
};
use tokio::time::{Instant, sleep, sleep_until};

/// Streams that are always open.
const STREAMS: usize = 8;
/// How long all of etcd is away.
const AWAY: Duration = Duration::from_secs(60);
/// After a fault, until the next: whatever it does to a stream has been done by then.
const CALM: Duration = Duration::from_secs(2);

/// Prints a table of all of them.
pub(crate) async fn measure() -> Result<()> {
    let questions = questions(1, 800).await?;
    println!("| what dies, with {STREAMS} streams open | runs | median stream | slowest stream of a run, median | worst |");
    println!("| --- | --- | --- | --- | --- |");
    ranks(&questions, "kill -9 of a rank, a spare stands by", 20, false).await?;
    ranks(&questions, "SIGSTOP of a rank, a spare stands by", 6, true).await?;
    coordinators(&questions).await?;
    leaders(&questions).await?;
    without_etcd(&questions).await
}

/// A stream's longest silence from the fault to a token.
fn row(what: &str, runs: &[Vec<Silence>], of: impl Fn(&Silence) -> Duration) {
    let mut slowest: Vec<_> = runs.iter().filter_map(|run| run.iter().map(&of).max()).collect();
    let mut all: Vec<_> = runs.iter().flatten().map(&of).collect();
    slowest.sort_unstable();
    all.sort_unstable();
    let median = |sorted: &[Duration]| sorted.get(sorted.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let worst = all.last().copied().unwrap_or_default().as_secs_f64();
    println!("| {what} | {} | {:.2} s | {:.2} s | {worst:.2} s |", runs.len(), median(&all), median(&slowest));
}

async fn ranks(questions: &[Question], what: &str, runs: usize, stop: bool) -> Result<()> {
    let mut fleet = Fleet::start(Plan::default()).await?;
    let load = Load::start(fleet.doors(), questions, STREAMS);
    let mut silences = Vec::new();
    for run in 0..runs {
        load.flows().await?;
        let status = fleet.status().await?;
        let worker = status.ranks("c0")[run % 2].to_owned();
        load.mark();
        if stop {
            fleet.pause(&worker)?
        } else {
            fleet.kill(&worker)?
        }
        let without = |status: &Status| status.ready() == 1 && !status.ranks("c0").contains(&worker.as_str());
        fleet.wait_for("group without it", without).await?;
        load.flows().await?;
        silences.push(load.silences());
        if stop {
            fleet.resume(&worker)?
        } else {
            fleet.restart(&worker).await?
        }
        fleet.wait_for("spare again", |status| status.spares() == [worker.as_str()]).await?;
        sleep(CALM).await;
    }
    row(what, &silences, |silence| silence.until);
    right(load).await
}

async fn coordinators(questions: &[Question]) -> Result<()> {
    let mut fleet = Fleet::start(Plan { workers: 4, coordinators: 2, ..Plan::default() }).await?;
    let load = Load::start(fleet.doors(), questions, STREAMS);
    let mut silences = Vec::new();
    for run in 0..20 {
        load.flows().await?;
        let name = format!("c{}", run % 2);
        load.mark();
        fleet.kill(&name)?;
        load.flows().await?;
        // Streams of the other replica are not struck, so that their longest silence is any: only how long it was counts.
        sleep(CALM).await;
        silences.push(load.silences());
        fleet.restart(&name).await?;
        fleet.wait_for("two replicas again", |status| status.ready() == 2).await?;
        sleep(CALM).await;
    }
    row("kill -9 of a coordinator, a second replica serves: the longest gap", &silences, |silence| silence.lasted);
    right(load).await
}

async fn leaders(questions: &[Question]) -> Result<()> {
    let mut fleet = Fleet::start(Plan { workers: 4, coordinators: 2, ..Plan::default() }).await?;
    let load = Load::start(fleet.doors(), questions, STREAMS);
    let (mut calm, mut silences) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        load.flows().await?;
        load.mark();
        sleep(2 * CALM).await;
        calm.push(load.silences());
        let leader = fleet.etcd.leader().await;
        load.mark();
        fleet.etcd.kill(leader);
        sleep(2 * CALM).await;
        silences.push(load.silences());
        fleet.etcd.restart(leader);
        fleet.etcd.ready().await;
    }
    row("nothing: the longest gap between two tokens", &calm, |silence| silence.lasted);
    row("kill -9 of etcd's leader: the longest gap", &silences, |silence| silence.lasted);
    right(load).await
}

async fn without_etcd(questions: &[Question]) -> Result<()> {
    let mut fleet = Fleet::start(Plan { workers: 5, coordinators: 2, ..Plan::default() }).await?;
    let load = Load::start(fleet.doors(), questions, STREAMS);
    load.flows().await?;
    let worker = fleet.status().await?.ranks("c0")[0].to_owned();
    let (away, nodes) = (Instant::now(), fleet.etcd.len());
    load.mark();
    (0..nodes).for_each(|node| fleet.etcd.kill(node));
    sleep(AWAY / 2).await;
    let calm = load.silences();
    load.mark();
    fleet.kill(&worker)?;
    sleep_until(away + AWAY).await;
    let lost = load.silences();
    let (code, told) = fleet.coordinator("c0")?.readiness().await?;
    load.mark();
    let back = Instant::now();
    (0..nodes).for_each(|node| fleet.etcd.restart(node));
    fleet.etcd.ready().await;
    let answers = back.elapsed();
    let whole = |status: &Status| status.ready() == 2 && status.ranks("c0").len() == 2;
    fleet.wait_for("group without it", whole).await?;
    let whole = back.elapsed();
    load.flows().await?;
    let after = load.silences();
    let second = AWAY.as_secs() / 2;
    row(
        &format!("kill -9 of all of etcd, for {} s: the longest gap of the first {second} s", AWAY.as_secs()),
        &[calm],
        |silence| silence.lasted,
    );
    row(&format!("kill -9 of a rank after {second} s of these, a second replica serves"), &[lost], |silence| silence.until);
    row("etcd comes back: the longest gap until the group is whole again", &[after], |silence| silence.lasted);
    println!(
        "etcd answers {:.1} s after its start, the group is whole after {:.1} s",
        answers.as_secs_f64(),
        whole.as_secs_f64()
    );
    println!("until then its coordinator's /readyz said {code}: {}", told.trim());
    right(load).await
}

async fn right(load: Load) -> Result<()> {
    let report = load.stop().await?;
    ensure!(report.failures.is_empty(), "{report}:\n{}", report.failures.join("\n"));
    Ok(())
}
