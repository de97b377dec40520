//! Ranks as processes, as they see themselves.

use std::{env, process, thread, time::Duration};

use tessera_collective::{AbortHandle, Collective, GroupConfig, NcclId, Transport, join_with, nccl_id};
use tessera_types::{Epoch, Rank};

use crate::{failures, gpu::Gpu, libraries, ranks::LONG, suite};

pub(crate) const ID: &str = "TESSERA_TEST_ID";
pub(crate) const RANK: &str = "TESSERA_TEST_RANK";
pub(crate) const SIZE: &str = "TESSERA_TEST_SIZE";
pub(crate) const DEADLINE: &str = "TESSERA_TEST_DEADLINE";
pub(crate) const WORK: &str = "TESSERA_TEST_WORK";

/// What a child does; nothing when the tests are run as tests.
#[test]
fn as_a_child() {
    let Ok(work) = env::var(WORK) else { return };
    thread::spawn(|| {
        thread::sleep(2 * LONG);
        process::exit(1);
    });
    match work.as_str() {
        "suite" => suite::all(&Gpu::new(), joined().as_mut()),
        "captured" => suite::captured_sums_run_again(&Gpu::new(), joined().as_mut()),
        "sleep" => failures::sleep(&Gpu::new()),
        "abort" => failures::abort(&Gpu::new()),
        "wait" => failures::wait(&Gpu::new()),
        "wait, and abort" => failures::wait_and_abort(&Gpu::new()),
        "wait, and join again" => failures::wait_and_join_again(&Gpu::new()),
        "sum once" => failures::sum_once(&Gpu::new()),
        "join" => failures::only_join(&Gpu::new()),
        "part with a graph in time" => failures::abort_with_a_graph(&Gpu::new(), true),
        "keep a graph" => failures::abort_with_a_graph(&Gpu::new(), false),
        "ask for an id" => libraries::ask_for_an_id(),
        other => panic!("`{other}` is nothing to do"),
    }
}

/// Says something to the test.
pub(crate) fn say(title: &str, what: impl std::fmt::Display) {
    println!("{title}: {what}");
}

fn number(name: &str) -> usize {
    env::var(name).unwrap().parse().unwrap()
}

pub(crate) fn rank() -> usize {
    number(RANK)
}

/// The group that the environment tells of, under the id there or a new one, which is told.
pub(crate) fn config(id: Option<NcclId>) -> GroupConfig {
    let id = id.unwrap_or_else(|| {
        let id = nccl_id().unwrap();
        say("id", id.map(|byte| format!("{byte:02x}")).concat());
        id
    });
    GroupConfig {
        group: "test".into(),
        epoch: Epoch(1),
        rank: Rank(rank() as u16),
        size: number(SIZE),
        transport: Transport::Nccl { id },
        deadline: Duration::from_millis(number(DEADLINE) as u64),
    }
}

/// The id that the environment tells of.
pub(crate) fn id() -> Option<NcclId> {
    let text = env::var(ID).unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
    (!text.is_empty()).then(|| std::array::from_fn(byte))
}

/// A seat in the group; the thread has a device.
pub(crate) fn joined() -> Box<dyn Collective> {
    joined_with(AbortHandle::new())
}

pub(crate) fn joined_with(abort: AbortHandle) -> Box<dyn Collective> {
    let collective = join_with(&config(id()), abort).unwrap();
    say("joined", collective.rank());
    collective
}
