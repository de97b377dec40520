//! 200 simulated workers: how soon they serve, what routers and etcd do for them, and what clients notice of a loss.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use tessera_proto::v1::{self, generate_request::Input};
use tessera_tests::{
    fleet::Fleet,
    load::{Answer, Lives, Load, Question, ask},
};
use tokio::time::{Instant, sleep};

/// Streams through two routers.
const STREAMS: usize = 2000;
/// An H100 two hundred times slower: what is looked at here is all but the accelerators.
const UP: &str = "up --model pixtral-12b --load-format dummy --tp 4 --device sim:h100*200 --grpc 127.0.0.1:0 --http 127.0.0.1:0";
const ROUTER: &str = "router --model pixtral-12b --load-format dummy";
/// How long the steady state is looked at.
const STEADY: Duration = Duration::from_secs(10);

/// Prints what was measured.
pub(crate) async fn measure() -> Result<()> {
    let mut fleet = Fleet::empty().await?;
    let began = Instant::now();
    for (name, replicas) in [("up-0", 22), ("up-1", 23), ("lost", 5)] {
        fleet.run(name, &format!("{UP} --replicas {replicas}"))?;
    }
    for router in ["r0", "r1"] {
        fleet.run_router(router, ROUTER)?;
    }
    fleet.wait_for("50 replicas", |status| status.ready() == 50).await?;
    println!("50 replicas of 4 simulated ranks serve after {:.1} s", began.elapsed().as_secs_f64());
    for router in ["r0", "r1"] {
        fleet.ready(router).await?;
    }
    let idle = steady(&fleet).await?;
    let questions = questions(&fleet.doors()[0].address).await?;
    let load = Load::start(fleet.doors(), &questions, STREAMS);
    load.flows().await?;
    let busy = steady(&fleet).await?;
    let lost = Instant::now();
    load.mark();
    fleet.kill("lost")?;
    load.flows().await?;
    let on = lost.elapsed();
    let mut silences: Vec<_> = load.silences().iter().map(|silence| silence.lasted).collect();
    silences.sort_unstable();
    let report = load.stop().await?;
    println!("| | etcd requests a second | etcd writes a second | a router's CPU |");
    println!("| --- | --- | --- | --- |");
    println!("| idle | {idle} |\n| {STREAMS} streams | {busy} |");
    let worst = silences.last().copied().unwrap_or_default();
    println!("5 of 50 replicas killed: every stream went on within {on:.1?}, longest gap {worst:.1?}; {report}");
    ensure!(report.failures.is_empty(), "{}", report.failures.join("\n"));
    Ok(())
}

async fn steady(fleet: &Fleet) -> Result<String> {
    let before = (requests(fleet).await?, fleet.etcd.revision().await, cpu(fleet)?);
    sleep(STEADY).await;
    let after = (requests(fleet).await?, fleet.etcd.revision().await, cpu(fleet)?);
    let rate = |difference: f64| difference / STEADY.as_secs_f64();
    let (asked, written) = (rate(after.0 - before.0), rate((after.1 - before.1) as f64));
    Ok(format!("{asked:.0} | {written:.1} | {:.0} %", 100.0 * rate(after.2 - before.2) / 2.0))
}

/// Calls and messages of streams that all nodes of etcd have had.
async fn requests(fleet: &Fleet) -> Result<f64> {
    let mut sum = 0.0;
    for node in 0..fleet.etcd.len() {
        let metrics = reqwest::get(format!("http://{}/metrics", fleet.etcd.address(node))).await?.text().await?;
        let counted = metrics.lines().filter(|line| line.starts_with("grpc_server_msg_received_total"));
        sum += counted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>();
    }
    Ok(sum)
}

/// Seconds of processor time of both routers.
fn cpu(fleet: &Fleet) -> Result<f64> {
    let mut sum = 0.0;
    for router in ["r0", "r1"] {
        let id = fleet.id(router).with_context(|| format!("{router} does not run"))?;
        let stat = fs::read_to_string(format!("/proc/{id}/stat"))?;
        let fields = stat.rsplit(')').next().context("an odd stat file")?;
        sum += fields.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<f64>().ok()).sum::<f64>() / 100.0;
    }
    Ok(sum)
}

/// A few requests, and what the cluster answers to them while nothing else happens.
async fn questions(address: &str) -> Result<Vec<Question>> {
    let mut questions = Vec::new();
    for seed in 0..4 {
        let sampling = v1::Sampling { seed: Some(seed), max_new_tokens: Some(20), ignore_eos: Some(true), ..Default::default() };
        let input = Some(Input::Text(format!("Tell me of the {seed} ways.")));
        let request = v1::GenerateRequest { input, sampling: Some(sampling), return_token_ids: true, ..Default::default() };
        questions.push(Question { name: format!("way {seed}"), request, answer: Answer::default() });
    }
    let lives = Lives::default();
    for question in &mut questions {
        question.answer = ask(address, &question.request, &lives).await?;
    }
    Ok(questions)
}
