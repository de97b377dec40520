//! Ranks in processes of their own whose GPUs reach each other's memory: this test's own executable, started again.

use std::env;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdout, Command, Stdio, exit};
use std::thread;
use std::time::Duration;

use tessera_collective::{AbortHandle, GroupConfig, NcclId, Transport, join_with, nccl_id};
use tessera_device::cuda::{CudaConfig, CudaDevice};
use tessera_model::Model;
use tessera_types::{Epoch, Rank, VisionParallel};

use super::{BF16, WORKSPACE, load};
use crate::cases;
use crate::driver::{Driver, greedy, start};
use crate::golden::{check_bf16, forced, run};

const WORK: &str = "TESSERA_TEST_PEERS_WORK";
const ID: &str = "TESSERA_TEST_PEERS_ID";
const RANK: &str = "TESSERA_TEST_PEERS_RANK";
const SIZE: &str = "TESSERA_TEST_PEERS_SIZE";
const DEADLINE: &str = "TESSERA_TEST_PEERS_DEADLINE";
const OFF: &str = "TESSERA_TEST_PEERS_OFF";

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(100);
/// Longer than ranks take to meet, and short enough to wait for.
const SHORT: Duration = Duration::from_secs(8);
/// Lets ranks begin to wait.
const MOMENT: Duration = Duration::from_millis(300);

/// What a child does; nothing when the tests are run as tests.
#[test]
fn a_peer_as_a_child() {
    let Ok(work) = env::var(WORK) else { return };
    thread::spawn(|| {
        thread::sleep(2 * LONG);
        exit(1);
    });
    let abort = AbortHandle::new();
    let device = CudaDevice::new(&config(), BF16).unwrap();
    let collective = join_with(&group(id()), abort.clone()).unwrap();
    let mut model = load("hf", device, collective, VisionParallel::Tensor);
    say("peers", model.has_peers());
    match work.as_str() {
        "answer" => answer(&mut model),
        "sleep" => thread::sleep(2 * LONG),
        "wait" => wait(&mut model),
        "wait, and abort" => {
            thread::spawn(move || {
                thread::sleep(MOMENT);
                abort.abort();
            });
            wait(&mut model);
        }
        "wait, and join again" => {
            wait(&mut model);
            model.join(join_with(&group(None), AbortHandle::new()).unwrap()).unwrap();
            say("peers", model.has_peers());
            answer(&mut model);
        }
        other => panic!("`{other}` is nothing to do"),
    }
}

#[expect(clippy::print_stdout, reason = "a child tells the test")]
fn say(title: &str, what: impl std::fmt::Display) {
    println!("{title}: {what}");
}

fn number(name: &str) -> usize {
    env::var(name).unwrap().parse().unwrap()
}

fn config() -> CudaConfig {
    let (kernels, workspace, peers) = (Some(tessera_test_gpu::kernels()), Some(WORKSPACE), env::var_os(OFF).is_none());
    CudaConfig { ordinal: number(RANK), kernels, workspace, records: true, overlaps: true, peers }
}

/// The group of the environment, under this id or a new one, which is told.
fn group(id: Option<NcclId>) -> GroupConfig {
    let id = id.unwrap_or_else(|| {
        let id = nccl_id().unwrap();
        say("id", id.map(|byte| format!("{byte:02x}")).concat());
        id
    });
    let (rank, deadline) = (Rank(number(RANK) as u16), Duration::from_millis(number(DEADLINE) as u64));
    GroupConfig { group: "peers".into(), epoch: Epoch(1), rank, size: number(SIZE), transport: Transport::Nccl { id }, deadline }
}

fn id() -> Option<NcclId> {
    let text = env::var(ID).unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    (!text.is_empty()).then(|| std::array::from_fn(byte))
}

/// Runs a case, whose passes were recorded by the second time.
fn answer(model: &mut Model<CudaDevice>) {
    let mut driver = Driver::new();
    let case = &cases::all()[0];
    check_bf16(case, &forced(&mut driver, model, case));
    let (first, second) = (run(&mut driver, model, case), run(&mut driver, model, case));
    let same = |a: &[f32], b: &[f32]| a.iter().map(|x| x.to_bits()).eq(b.iter().map(|x| x.to_bits()));
    assert!(first.0 == second.0 && same(&first.1, &second.1), "recorded passes have the bits of others");
    say("tokens", format!("{:?}", first.0));
    assert!(model.recorded_passes() > 0);
}

/// Begins a step to which not all come, tells how that ended, and leaves with nothing running on the device.
fn wait(model: &mut Model<CudaDevice>) {
    let mut driver = Driver::new();
    driver.start(start(1, &cases::all()[0], greedy()));
    driver.chunk(1, usize::MAX);
    say("waiting", "");
    say("ended", format!("{:?}", model.step(&driver.take()).unwrap_err()));
    model.leave().unwrap();
    say("left", "");
}

/// A group of processes, as the test sees it.
#[derive(Clone)]
struct Group {
    size: usize,
    work: &'static str,
    deadline: Duration,
    /// More of the environment.
    settings: Vec<(&'static str, &'static str)>,
}

impl Group {
    fn new(size: usize, work: &'static str) -> Self {
        Self { size, work, deadline: LONG, settings: Vec::new() }
    }

    fn rank(&self, rank: usize, id: &str) -> Peer {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "cuda::peers::a_peer_as_a_child", "--nocapture"]).env(WORK, self.work).env(ID, id);
        command.env(RANK, rank.to_string()).env(SIZE, self.size.to_string());
        command.env(DEADLINE, self.deadline.as_millis().to_string()).env("FAKE_CUDA_ASYNC", "1");
        command.envs(tessera_test_gpu::environment(self.size)).envs(self.settings.iter().copied());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Peer { child, lines }
    }

    /// All ranks, of which the last does something else.
    fn start_with(&self, last: &Self) -> Vec<Peer> {
        let mut first = self.rank(0, "");
        let id = first.says("id");
        let others = (1..self.size).map(|rank| if rank + 1 == self.size { last.rank(rank, &id) } else { self.rank(rank, &id) });
        let others: Vec<_> = others.collect();
        std::iter::once(first).chain(others).collect()
    }

    /// Ranks that wait for the last, which sleeps.
    fn waiting_for_the_last(&self) -> Vec<Peer> {
        let mut peers = self.start_with(&Self { work: "sleep", ..self.clone() });
        for peer in &mut peers {
            assert_eq!(peer.says("peers"), "true");
        }
        let waiting = self.size - 1;
        peers[..waiting].iter_mut().for_each(|peer| drop(peer.says("waiting")));
        peers
    }
}

/// A rank, killed at the latest when dropped.
struct Peer {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// What the rank says next under this title. A child that never says it ends by its own watchdog.
    fn says(&mut self, title: &str) -> String {
        let wanted = format!("{title}: ");
        let said = self.lines.by_ref().map(Result::unwrap).find_map(|line| line.strip_prefix(&wanted).map(str::to_owned));
        said.unwrap_or_else(|| panic!("the rank ended without `{title}`"))
    }

    fn ends_well(mut self) {
        let rest: Vec<_> = self.lines.by_ref().map_while(Result::ok).collect();
        let status = self.child.wait().unwrap();
        assert!(status.success(), "{status}: {rest:?}");
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each rank has a GPU of its own.
fn skips(size: usize) -> bool {
    let skips = !tessera_test_gpu::has(size);
    if skips {
        // Past the harness, which shows nothing of a test that passes.
        let _ = writeln!(std::io::stderr(), "skipped: there are no {size} GPUs here");
    }
    skips
}

/// All ranks run a case, and choose alike; whether their GPUs are peers.
fn answers(peers: Vec<Peer>) -> Vec<String> {
    let (mut connected, mut chosen) = (Vec::new(), Vec::new());
    for mut peer in peers {
        connected.push(peer.says("peers"));
        chosen.push(peer.says("tokens"));
        peer.ends_well();
    }
    assert!(chosen.iter().all(|tokens| *tokens == chosen[0]), "{chosen:?}");
    connected
}

#[test]
fn processes_sum_through_their_gpus_memory_and_stay_near_the_reference() {
    for size in [2, 4] {
        if skips(size) {
            return;
        }
        let group = Group::new(size, "answer");
        assert_eq!(answers(group.start_with(&group)), vec!["true"; size]);
    }
}

#[test]
fn where_one_gpu_does_not_reach_the_others_all_leave_sums_to_nccl() {
    if skips(2) {
        return;
    }
    let group = Group::new(2, "answer");
    for reason in [OFF, "FAKE_CUDA_PEERS"].into_iter().take(if tessera_test_gpu::is_real() { 1 } else { 2 }) {
        let last = Group { settings: vec![(reason, "0")], ..group.clone() };
        assert_eq!(answers(group.start_with(&last)), ["false", "false"], "{reason}");
    }
}

#[test]
fn a_killed_rank_is_waited_for_until_the_deadline_and_the_next_group_begins_anew() {
    if skips(2) {
        return;
    }
    let group = Group { deadline: SHORT, ..Group::new(2, "wait, and join again") };
    let mut peers = group.waiting_for_the_last();
    drop(peers.pop());
    let mut survivor = peers.pop().unwrap();
    let ended = survivor.says("ended");
    assert!(ended.starts_with("Collective(Overdue"), "{ended}");
    survivor.says("left");
    let id = survivor.says("id");
    let other = Group { work: "answer", ..group }.rank(1, &id);
    assert_eq!(answers(vec![survivor, other]), ["true", "true"]);
}

#[test]
fn an_abort_ends_the_wait_and_the_others_learn_of_it() {
    if skips(4) {
        return;
    }
    let group = Group::new(4, "wait");
    let mut first = group.rank(0, "");
    let id = first.says("id");
    let aborting = Group { work: "wait, and abort", ..group.clone() }.rank(1, &id);
    let third = group.rank(2, &id);
    let _sleeping = Group { work: "sleep", ..group }.rank(3, &id);
    for (mut peer, error) in
        [(first, "Collective(SomeoneLost"), (aborting, "Collective(Aborted)"), (third, "Collective(SomeoneLost")]
    {
        assert_eq!(peer.says("peers"), "true");
        let ended = peer.says("ended");
        assert!(ended.starts_with(error), "{ended}");
        peer.says("left");
        peer.ends_well();
    }
}
