//! Ranks on GPUs that go wrong: the others learn it in bounded time, and live to join the next group.

use std::{thread, time::Duration};

use tessera_collective::{AbortHandle, Collective, CollectiveError, LastResort, join, join_with};
use tessera_types::DeviceDtype;

use crate::{
    child::{config, id, joined, joined_with, say},
    gpu::Gpu,
    ranks::{Group, LONG},
    suite::captured_sum,
};

/// Lets the other ranks reach their operation.
const MOMENT: Duration = Duration::from_millis(100);

fn sum(gpu: &Gpu, collective: &mut dyn Collective) -> Result<Vec<f32>, CollectiveError> {
    let buffer = gpu.numbers(&[1.0; 100], DeviceDtype::Bf16);
    collective.all_reduce_device(buffer.slice)?;
    say("enqueued", "");
    gpu.watch(collective)?;
    Ok(gpu.read_numbers(&buffer))
}

/// Sits in the group and does nothing.
pub(crate) fn sleep(_: &Gpu) {
    let _collective = joined();
    thread::sleep(2 * LONG);
}

/// Sits in the group, and soon no more, though the process lives.
pub(crate) fn abort(_: &Gpu) {
    let collective = joined();
    thread::sleep(MOMENT);
    collective.abort_handle().abort();
    thread::sleep(2 * LONG);
}

/// Waits for ranks that do not come to an operation, tells how that ended, and leaves with nothing running on the device.
pub(crate) fn wait(gpu: &Gpu) {
    wait_with(gpu, AbortHandle::new());
}

fn wait_with(gpu: &Gpu, abort: AbortHandle) {
    let mut collective = joined_with(abort);
    say("ended", format!("{:?}", sum(gpu, collective.as_mut()).unwrap_err()));
    drop(collective);
    // Would not return while a kernel hangs.
    gpu.stream.synchronize().unwrap();
}

pub(crate) fn wait_and_abort(gpu: &Gpu) {
    let abort = AbortHandle::new();
    let aborting = thread::spawn({
        let abort = abort.clone();
        move || {
            thread::sleep(3 * MOMENT);
            abort.abort();
            abort.abort();
        }
    });
    wait_with(gpu, abort);
    aborting.join().unwrap();
}

/// Loses its group, then makes another of the same ranks' number.
pub(crate) fn wait_and_join_again(gpu: &Gpu) {
    wait(gpu);
    let mut collective = join(&config(None)).unwrap();
    say("sum", format!("{:?}", sum(gpu, collective.as_mut()).unwrap()[0]));
}

pub(crate) fn sum_once(gpu: &Gpu) {
    sum(gpu, joined().as_mut()).unwrap();
}

/// Is aborted while a graph has one of its operations, as a rank between two steps does.
pub(crate) fn abort_with_a_graph(gpu: &Gpu, parts: bool) {
    let act = |why: &str| say("last resort", why);
    let abort = AbortHandle::with_last_resort(LastResort::new(Duration::from_millis(700), act));
    let mut collective = joined_with(abort.clone());
    let buffer = gpu.numbers(&[1.0], DeviceDtype::F32);
    let graph = captured_sum(gpu, collective.as_mut(), &buffer);
    abort.abort();
    thread::sleep(MOMENT);
    let kept = if parts {
        drop(graph);
        None
    } else {
        Some(graph)
    };
    drop(collective);
    say("ended", kept.is_some());
}

pub(crate) fn only_join(_: &Gpu) {
    let joined = join_with(&config(id()), AbortHandle::new());
    say("ended", format!("{:?}", joined.err()));
}

/// Starts ranks of which the last sleeps, and returns them once all others wait for it.
fn group_with_a_sleeper(group: &Group) -> Vec<crate::ranks::Rank> {
    let mut first = group.rank(0, "");
    let id = first.says("id");
    let mut ranks = vec![first];
    ranks.extend((1..group.size - 1).map(|rank| group.rank(rank, &id)));
    ranks.push(Group { work: "sleep", ..group.clone() }.rank(group.size - 1, &id));
    let waiting = group.size - 1;
    ranks[..waiting].iter_mut().for_each(|rank| drop(rank.says("enqueued")));
    ranks
}

#[test]
fn a_killed_rank_is_missed_by_all_others_and_nothing_of_them_hangs() {
    for size in [2, 4] {
        let mut ranks = group_with_a_sleeper(&Group::new(size, "wait"));
        ranks.pop().unwrap().kill();
        for mut rank in ranks {
            // The first to give up is missed by the others as well.
            let ended = rank.says("ended");
            assert!(ended.starts_with("SomeoneLost"), "{ended}");
            rank.ends_well();
        }
    }
}

#[test]
fn a_killed_rank_that_nobody_is_told_of_is_missed_by_the_deadline() {
    let settings = vec![("FAKE_NCCL_HANG", "1")];
    let group = Group { deadline: Duration::from_millis(1500), settings, ..Group::new(2, "wait") };
    let mut ranks = group_with_a_sleeper(&group);
    ranks.pop().unwrap().kill();
    let mut rank = ranks.pop().unwrap();
    assert_eq!(rank.says("ended"), r#"Overdue { operation: "the work on the device", deadline_ms: 1500 }"#);
    rank.ends_well();
}

#[test]
fn a_silent_rank_is_waited_for_until_the_deadline() {
    let group = Group { deadline: Duration::from_millis(1500), ..Group::new(2, "wait") };
    let mut ranks = group_with_a_sleeper(&group);
    assert_eq!(ranks[0].says("ended"), r#"Overdue { operation: "the work on the device", deadline_ms: 1500 }"#);
    ranks.remove(0).ends_well();
}

#[test]
fn an_abort_from_another_thread_ends_the_waiting() {
    let mut ranks = group_with_a_sleeper(&Group::new(2, "wait, and abort"));
    assert_eq!(ranks[0].says("ended"), "Aborted");
    ranks.remove(0).ends_well();
}

#[test]
fn a_rank_that_aborts_while_it_computes_is_missed() {
    let group = Group::new(2, "wait");
    let mut first = group.rank(0, "");
    let id = first.says("id");
    let _aborting = Group { work: "abort", ..group }.rank(1, &id);
    let ended = first.says("ended");
    assert!(ended.starts_with("SomeoneLost"), "{ended}");
    first.ends_well();
}

#[test]
fn an_abort_waits_for_graphs_and_the_last_resort_for_who_parts_with_none() {
    for mut rank in Group::new(2, "part with a graph in time").start() {
        assert_eq!(rank.next_line_of(&["last resort", "ended"]), "ended: false");
        rank.ends_well();
    }
    for mut rank in Group::new(2, "keep a graph").start() {
        let told = rank.next_line_of(&["last resort", "ended"]);
        assert!(told.starts_with("last resort") && told.contains("or a graph was kept"), "{told}");
    }
}

#[test]
fn who_lost_a_rank_joins_the_next_group_at_once() {
    let group = Group::new(2, "wait, and join again");
    let mut ranks = group_with_a_sleeper(&group);
    ranks.pop().unwrap().kill();
    let mut survivor = ranks.pop().unwrap();
    let id = survivor.says("id");
    let _other = Group { work: "sum once", ..group }.rank(1, &id);
    assert_eq!(survivor.says("sum"), "2.0");
    survivor.ends_well();
}

#[test]
fn a_rank_that_never_comes_is_waited_for_until_the_deadline() {
    let group = Group { deadline: Duration::from_millis(300), ..Group::new(2, "join") };
    let mut rank = group.rank(0, "");
    assert_eq!(rank.says("ended"), r#"Some(Overdue { operation: "join", deadline_ms: 300 })"#);
    rank.ends_well();
}
