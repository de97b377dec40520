//! Ranks as processes: this test's own executable, started again for one test.

use std::{
    env,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tessera_collective::{CollectiveError, GroupConfig, Transport, join};
use tessera_types::{Epoch, Rank};

use crate::{
    groups::{KINDS, group, rank},
    suite,
};

const GROUP: &str = "TESSERA_TEST_GROUP";
const RANK: &str = "TESSERA_TEST_RANK";
const SIZE: &str = "TESSERA_TEST_SIZE";
const ADDRESSES: &str = "TESSERA_TEST_ADDRESSES";
const WORK: &str = "TESSERA_TEST_WORK";
const JOINED: &str = "the rank has joined";

/// What a child does; nothing when the tests are run as tests.
#[test]
fn as_a_child() {
    let Ok(group) = env::var(GROUP) else { return };
    let addresses: Vec<SocketAddr> = env::var(ADDRESSES).unwrap().split_terminator(',').map(|a| a.parse().unwrap()).collect();
    let config = GroupConfig {
        group,
        epoch: Epoch(1),
        rank: Rank(env::var(RANK).unwrap().parse().unwrap()),
        size: env::var(SIZE).unwrap().parse().unwrap(),
        transport: if addresses.is_empty() { Transport::Shm } else { Transport::Tcp { addresses } },
        deadline: Duration::from_secs(60),
    };
    let mut collective = join(&config).unwrap();
    println!("{JOINED}");
    match env::var(WORK).as_deref() {
        Ok("suite") => suite::all(collective.as_mut()),
        _ => std::thread::sleep(Duration::from_secs(60)),
    }
}

/// A child that is killed, at the latest when dropped, and only then reaped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(config: &GroupConfig, work: &str) -> Self {
        let addresses = match &config.transport {
            Transport::Shm => String::new(),
            Transport::Tcp { addresses } => addresses.iter().map(|a| format!("{a},")).collect(),
            Transport::Nccl { .. } => panic!("see the tests of nccl"),
        };
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "processes::as_a_child", "--nocapture"]);
        command.env(GROUP, &config.group).env(RANK, config.rank.to_string()).env(SIZE, config.size.to_string());
        command.env(ADDRESSES, addresses).env(WORK, work).stdout(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    fn wait_until_joined(&mut self) {
        let lines = BufReader::new(self.0.stdout.as_mut().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line.contains(JOINED)));
    }
}

#[test]
fn processes_do_the_whole_suite() {
    for kind in KINDS {
        for size in [2, 4] {
            let config = group(kind, size);
            let mut others: Vec<_> = (1..size).map(|r| Process::start(&rank(&config, r), "suite")).collect();
            suite::all(join(&config).unwrap().as_mut());
            for other in &mut others {
                assert!(other.0.wait().unwrap().success(), "{kind:?}");
            }
        }
    }
}

#[test]
fn a_killed_process_is_missed_though_no_one_has_reaped_it() {
    for kind in KINDS {
        let config = group(kind, 2);
        let mut other = Process::start(&rank(&config, 1), "sleep");
        let mut collective = join(&config).unwrap();
        other.wait_until_joined();
        other.0.kill().unwrap();
        assert_eq!(collective.all_reduce_sum(&mut [1.0]), Err(CollectiveError::PeerLost(Rank(1))), "{kind:?}");
    }
}

#[test]
fn a_process_killed_while_others_wait_is_missed_by_all() {
    for kind in KINDS {
        let config = group(kind, 4);
        let mut victim = Process::start(&rank(&config, 3), "sleep");
        std::thread::scope(|scope| {
            let wait = |config: GroupConfig| scope.spawn(move || join(&config).unwrap().all_reduce_sum(&mut [1.0]));
            let survivors: Vec<_> = (0..3).map(|r| wait(rank(&config, r))).collect();
            victim.wait_until_joined();
            std::thread::sleep(Duration::from_millis(50));
            victim.0.kill().unwrap();
            for survivor in survivors {
                let ended = survivor.join().unwrap();
                assert!(matches!(ended, Err(CollectiveError::PeerLost(_))), "{kind:?}: {ended:?}");
            }
        });
    }
}
