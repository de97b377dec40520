//! A communicator over functions that stand for NCCL's and go wrong on command.

use std::{
    cell::Cell,
    env,
    ffi::{c_char, c_int, c_void},
    hint,
    process::Command,
    ptr,
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
        mpsc,
    },
    thread,
};

use cudarc::nccl::sys::{cudaStream_t, ncclConfig_t, ncclUniqueId};
use tessera_types::{DeviceDtype, Epoch};

use super::{
    library::{Code, IN_PROGRESS, SUCCESS},
    *,
};
use crate::{LastResort, Transport};

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(50);
const REMOTE: Code = 6;
const SYSTEM: Code = 2;

/// What the functions do in one test; they find it by the communicator, which is its address.
#[derive(Default)]
struct Script {
    /// What the communicator says of itself, while there is anything here; then it says success.
    says: std::sync::Mutex<Vec<Code>>,
    /// It never says anything else than that it is at it.
    never_posts: AtomicBool,
    /// Aborting waits until it is set free.
    abort_hangs: AtomicBool,
    aborted: AtomicUsize,
    asked: AtomicUsize,
    reduced: AtomicUsize,
}

thread_local! {
    /// The script of the communicator made next on this thread.
    static NEXT: Cell<*const Script> = const { Cell::new(ptr::null()) };
}

fn script(communicator: ncclComm_t) -> &'static Script {
    // SAFETY: communicators are addresses of scripts that are never freed.
    unsafe { &*communicator.cast::<Script>() }
}

unsafe extern "C" fn new_id(_: *mut ncclUniqueId) -> Code {
    SYSTEM
}

unsafe extern "C" fn init(made: *mut ncclComm_t, _: c_int, _: ncclUniqueId, _: c_int, config: *mut ncclConfig_t) -> Code {
    // SAFETY: as NCCL's own function is called.
    unsafe {
        assert_eq!(((*config).blocking, (*config).size), (0, size_of::<ncclConfig_t>()));
        *made = NEXT.get().cast_mut().cast();
    }
    IN_PROGRESS
}

unsafe extern "C" fn async_error(communicator: ncclComm_t, state: *mut Code) -> Code {
    let script = script(communicator);
    script.asked.fetch_add(1, SeqCst);
    let said = if script.never_posts.load(SeqCst) { Some(IN_PROGRESS) } else { script.says.lock().unwrap().pop() };
    // SAFETY: as NCCL's own function is called.
    unsafe { *state = said.unwrap_or(SUCCESS) };
    SUCCESS
}

unsafe extern "C" fn abort(communicator: ncclComm_t) -> Code {
    let script = script(communicator);
    script.aborted.fetch_add(1, SeqCst);
    while script.abort_hangs.load(SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    SUCCESS
}

unsafe extern "C" fn reduce(
    _: *const c_void,
    _: *mut c_void,
    _: usize,
    _: c_int,
    _: c_int,
    communicator: ncclComm_t,
    _: cudaStream_t,
) -> Code {
    script(communicator).reduced.fetch_add(1, SeqCst);
    IN_PROGRESS
}

unsafe extern "C" fn gather(_: *const c_void, _: *mut c_void, _: usize, _: c_int, _: ncclComm_t, _: cudaStream_t) -> Code {
    SYSTEM
}

unsafe extern "C" fn error_string(_: Code) -> *const c_char {
    c"out of luck".as_ptr()
}

unsafe extern "C" fn last_error(_: ncclComm_t) -> *const c_char {
    c"the cable was pulled".as_ptr()
}

static LIBRARY: Library = Library {
    get_unique_id: new_id,
    init,
    async_error,
    abort,
    all_reduce: reduce,
    all_gather: gather,
    broadcast: reduce,
    error_string,
    last_error,
};

fn join(script: &'static Script, abort: AbortHandle, deadline: Duration) -> Result<Nccl, CollectiveError> {
    NEXT.set(script);
    let id = [0; NCCL_ID_BYTES];
    let transport = Transport::Nccl { id };
    let config = GroupConfig { group: "g".into(), epoch: Epoch(1), rank: Rank(0), size: 2, transport, deadline };
    Nccl::join_by(&LIBRARY, &config, &id, abort)
}

fn joined(script: &'static Script, abort: AbortHandle) -> Nccl {
    join(script, abort, LONG).unwrap()
}

fn new(script: Script) -> &'static Script {
    Box::leak(Box::new(script))
}

fn slice(numbers: usize) -> DeviceSlice {
    DeviceSlice { address: 256, numbers, dtype: DeviceDtype::Bf16, stream: 0 }
}

/// A last resort that tells instead of ending this process.
fn last_resort(limit: Duration) -> (AbortHandle, mpsc::Receiver<String>) {
    let (tell, told) = mpsc::channel();
    let act = move |why: &str| tell.send(why.to_owned()).unwrap();
    (AbortHandle::with_last_resort(LastResort::new(limit, act)), told)
}

#[test]
fn calls_return_when_they_are_posted() {
    let script = new(Script { says: vec![IN_PROGRESS; 5].into(), ..Default::default() });
    let mut nccl = joined(script, AbortHandle::new());
    assert_eq!(script.asked.load(SeqCst), 6, "joined when it says so");
    script.says.lock().unwrap().extend([IN_PROGRESS; 3]);
    nccl.all_reduce_device(slice(8)).unwrap();
    assert_eq!((script.reduced.load(SeqCst), script.asked.load(SeqCst)), (1, 10));
}

#[test]
fn ranks_that_never_come_are_waited_for_until_the_deadline() {
    let script = new(Script { never_posts: true.into(), ..Default::default() });
    let error = join(script, AbortHandle::new(), SHORT).err();
    assert_eq!(error, Some(CollectiveError::Overdue { operation: "join", deadline_ms: 50 }));
    assert_eq!(script.aborted.load(SeqCst), 1, "what was begun is ended");
}

#[test]
fn joining_can_be_aborted() {
    let script = new(Script { never_posts: true.into(), ..Default::default() });
    let handle = AbortHandle::new();
    let aborting = thread::spawn({
        let handle = handle.clone();
        move || {
            while script.asked.load(SeqCst) == 0 {
                hint::spin_loop();
            }
            handle.abort();
        }
    });
    assert_eq!(join(script, handle, LONG).err(), Some(CollectiveError::Aborted));
    aborting.join().unwrap();
    assert_eq!(script.aborted.load(SeqCst), 1);
}

#[test]
fn a_lost_rank_and_a_library_that_failed_are_told_apart_and_end_the_communicator() {
    let problem = "out of luck (NCCL's result 6): the cable was pulled";
    let lost = CollectiveError::SomeoneLost(format!("the work on the device: {problem}"));
    let failed = CollectiveError::Library { operation: "the work on the device", problem: problem.replace('6', "2") };
    for (code, error) in [(REMOTE, lost), (SYSTEM, failed)] {
        let script = new(Script::default());
        let mut nccl = joined(script, AbortHandle::new());
        script.says.lock().unwrap().push(code);
        assert_eq!(nccl.watch(&mut || Ok(false)), Err(error));
        nccl.communicator.wait_for_end();
        assert_eq!(script.aborted.load(SeqCst), 1);
        let asked = script.asked.load(SeqCst);
        assert_eq!(nccl.all_reduce_device(slice(8)), Err(CollectiveError::Aborted), "the group is over");
        assert_eq!((script.asked.load(SeqCst), script.reduced.load(SeqCst)), (asked, 0), "nobody touches what was freed");
    }
}

#[test]
fn a_result_that_no_header_knew_is_an_error_like_any_other() {
    let script = new(Script::default());
    let mut nccl = joined(script, AbortHandle::new());
    script.says.lock().unwrap().push(99);
    let error = nccl.watch(&mut || Ok(true)).unwrap_err();
    assert!(matches!(&error, CollectiveError::Library { problem, .. } if problem.contains("99")), "{error}");
}

#[test]
fn a_device_that_fails_or_is_late_ends_the_group() {
    let failed = || Err("an illegal address".to_owned());
    let script = new(Script::default());
    let mut nccl = joined(script, AbortHandle::new());
    assert_eq!(nccl.watch(&mut || failed()), Err(CollectiveError::Device("an illegal address".into())));
    drop(nccl);
    assert_eq!(script.aborted.load(SeqCst), 1);

    let script = new(Script::default());
    let mut nccl = join(script, AbortHandle::new(), SHORT).unwrap();
    let overdue = CollectiveError::Overdue { operation: "the work on the device", deadline_ms: 50 };
    assert_eq!(nccl.watch(&mut || Ok(false)), Err(overdue));
    drop(nccl);
    assert_eq!(script.aborted.load(SeqCst), 1);
}

#[test]
fn work_that_an_abort_ended_is_not_done() {
    let script = new(Script::default());
    let handle = AbortHandle::new();
    let mut nccl = joined(script, handle.clone());
    let mut done = || {
        handle.abort();
        Ok(true)
    };
    assert_eq!(nccl.watch(&mut done), Err(CollectiveError::Aborted));
}

#[test]
fn a_communicator_is_aborted_once_however_often_and_whoever_asks() {
    let script = new(Script::default());
    let (handle, told) = last_resort(LONG);
    let nccl = joined(script, handle.clone());
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| handle.abort());
        }
    });
    drop(nccl);
    handle.abort();
    assert_eq!(script.aborted.load(SeqCst), 1);
    drop(handle);
    assert_eq!(told.recv_timeout(LONG), Err(mpsc::RecvTimeoutError::Disconnected), "and nothing worse followed");
}

#[test]
fn a_rank_that_leaves_or_is_dropped_is_gone_when_that_returns() {
    let script = new(Script::default());
    drop(joined(script, AbortHandle::new()));
    assert_eq!(script.aborted.load(SeqCst), 1);

    let script = new(Script::default());
    let mut nccl = joined(script, AbortHandle::new());
    nccl.leave(&mut || Ok(true));
    assert_eq!(script.aborted.load(SeqCst), 1);
    assert_eq!(nccl.all_reduce_device(slice(8)), Err(CollectiveError::Aborted));
}

#[test]
fn an_abort_that_hangs_is_followed_by_the_last_resort_and_holds_up_nobody_else() {
    let script = new(Script { abort_hangs: true.into(), ..Default::default() });
    let (handle, told) = last_resort(SHORT);
    let nccl = joined(script, handle.clone());
    handle.abort();
    let why = told.recv_timeout(LONG).unwrap();
    assert!(why.contains("was not aborted within 50ms"), "{why}");
    drop(nccl);
    script.abort_hangs.store(false, SeqCst);
}

/// Set for the process that is to end.
const DOOMED: &str = "TESSERA_TEST_DOOMED";

/// What the process does that is started for the test after this; nothing when the tests are run as tests.
#[test]
fn as_a_doomed_process() {
    if env::var(DOOMED).is_ok() {
        let script = new(Script { abort_hangs: true.into(), ..Default::default() });
        drop(joined(script, AbortHandle::with_last_resort(LastResort::exit_within(SHORT))));
        panic!("a communicator that hangs was survived");
    }
}

#[test]
fn where_nothing_else_is_said_a_hung_abort_ends_the_process_with_its_code_and_a_sentence() {
    let mut doomed = Command::new(env::current_exe().unwrap());
    doomed.args(["--exact", "nccl::tests::as_a_doomed_process", "--nocapture"]).env(DOOMED, "1");
    let ended = doomed.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(LastResort::EXIT_CODE), "{said}");
    assert!(
        said.contains("not aborted within 50ms: the device hangs, or a graph was kept; the process ends with code 75"),
        "{said}"
    );
    assert_eq!(LastResort::default().limit(), LastResort::LIMIT);
}

#[test]
fn a_call_that_blocks_in_the_library_keeps_its_communicator_until_the_last_resort() {
    let script = new(Script::default());
    let (handle, told) = last_resort(SHORT);
    let nccl = joined(script, handle.clone());
    let outcome = nccl.communicator.call("all-reduce", |_| {
        handle.abort();
        let why = told.recv_timeout(LONG).unwrap();
        assert!(why.contains("not aborted"), "{why}");
        assert_eq!(script.aborted.load(SeqCst), 0, "freed under the caller's feet");
        SUCCESS
    });
    assert_eq!(outcome, Ok(State::Posted));
}

#[test]
fn what_no_group_could_do_is_refused_before_anything_is_enqueued() {
    let script = new(Script::default());
    let mut nccl = joined(script, AbortHandle::new());
    let other = DeviceSlice { stream: 7, ..slice(8) };
    for error in [
        nccl.all_gather_device(slice(4), slice(7)).unwrap_err(),
        nccl.all_gather_device(slice(4), other).unwrap_err(),
        nccl.broadcast_device(Rank(2), slice(4)).unwrap_err(),
    ] {
        assert!(matches!(error, CollectiveError::Mismatch(_)), "{error}");
    }
    let error = nccl.all_reduce_sum(&mut [1.0]).unwrap_err();
    assert_eq!(error.to_string(), "all-reduce: this transport joins memory of the device alone");
    nccl.broadcast_device(Rank(1), slice(4)).unwrap();
    assert_eq!(script.aborted.load(SeqCst), 0, "the group goes on");
}
