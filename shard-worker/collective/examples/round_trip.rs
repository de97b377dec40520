//! How long ranks of one host take to sum, and what a foreign process that keeps one core busy does to them.
//!
//! `cargo run --release -p tessera-collective --example round_trip`

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement prints, and may end by panicking")]

use std::{
    hint::black_box,
    net::TcpListener,
    process::{Child, Command},
    thread,
    time::{Duration, Instant},
};

use tessera_collective::{Collective, GroupConfig, Transport, join};
use tessera_types::{Epoch, Rank};

fn main() {
    if std::env::args().any(|argument| argument == "busy") {
        loop {
            black_box(0);
        }
    }
    for (name, numbers, rounds) in [("8 KB", 2048, 20_000), ("20 KB", 5120, 10_000), ("5 MB", 1_310_720, 100)] {
        for transport in ["shm", "tcp"] {
            println!("{transport} all-reduce of {name} between two threads: {}", round_trip(transport, numbers, rounds));
        }
    }
    let one = decode(1);
    let two = decode(2);
    println!("64 layers of 200 µs: one rank {one:.0}/s; two ranks with half the work each {two:.0}/s");
    let busy = Busy::start();
    let one_busy = decode(1);
    let two_busy = decode(2);
    drop(busy);
    println!(
        "with a foreign busy process: one rank {one_busy:.0}/s; two ranks {two_busy:.0}/s, {:.2} of one",
        two_busy / one_busy
    );
}

/// A process that keeps a core busy until dropped.
struct Busy(Child);

impl Busy {
    fn start() -> Self {
        Self(Command::new(std::env::current_exe().unwrap()).arg("busy").spawn().unwrap())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn run<T: Send>(transport: &str, size: usize, body: impl Fn(&mut dyn Collective) -> T + Sync) -> Vec<T> {
    let listeners: Vec<_> = (0..size).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    let addresses = listeners.iter().map(|listener| listener.local_addr().unwrap()).collect();
    drop(listeners);
    let config = GroupConfig {
        group: format!("round-trip-{}", std::process::id()),
        epoch: Epoch(1),
        rank: Rank(0),
        size,
        transport: if transport == "shm" { Transport::Shm } else { Transport::Tcp { addresses } },
        deadline: Duration::from_secs(30),
    };
    thread::scope(|scope| {
        let spawn = |rank: usize| {
            let (config, body) = (GroupConfig { rank: Rank(rank as u16), ..config.clone() }, &body);
            scope.spawn(move || body(join(&config).unwrap().as_mut()))
        };
        let ranks: Vec<_> = (0..size).map(spawn).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn round_trip(transport: &str, numbers: usize, rounds: usize) -> String {
    let mut times = run(transport, 2, |collective| {
        let mut values = vec![1.0; numbers];
        let time = |_| {
            let start = Instant::now();
            collective.all_reduce_sum(&mut values).unwrap();
            values.fill(1.0);
            start.elapsed()
        };
        (0..rounds).map(time).collect::<Vec<_>>()
    })
    .remove(0);
    times.sort_unstable();
    format!("p50 {:.2?}, p99 {:.2?}", times[rounds / 2], times[rounds * 99 / 100])
}

/// Steps a second of something like a decoder: 200 µs of arithmetic a layer, shared by the ranks, then two sums.
fn decode(ranks: usize) -> f64 {
    let work = calibrate() / ranks as u64;
    let steps = 60;
    let start = Instant::now();
    run("shm", ranks, |collective| {
        let mut values = vec![0.0; 5120];
        for _ in 0..steps * 64 * 2 {
            compute(work / 2);
            collective.all_reduce_sum(&mut values).unwrap();
        }
    });
    f64::from(steps) / start.elapsed().as_secs_f64()
}

fn compute(turns: u64) {
    let mut state = 1_u64;
    for _ in 0..turns {
        state = black_box(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    }
}

/// Turns that take 200 µs of an undisturbed core.
fn calibrate() -> u64 {
    let turns = 200_000;
    let best = (0..20).map(|_| {
        let start = Instant::now();
        compute(turns);
        start.elapsed()
    });
    let best = best.min().unwrap_or(Duration::from_micros(200));
    (turns as f64 * 200e-6 / best.as_secs_f64()) as u64
}
