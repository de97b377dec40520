//! Forming a group, and everyone who must not get in.

use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener, TcpStream},
    thread,
    time::Duration,
};

use tessera_collective::{AbortHandle, CollectiveError, GroupConfig, Transport, join, join_with};
use tessera_types::{Epoch, Rank};

use crate::groups::{KINDS, Kind, group, rank, run};

const SHORT: Duration = Duration::from_millis(200);

fn error(config: &GroupConfig) -> CollectiveError {
    join(config).err().expect("no group")
}

#[test]
fn a_rank_that_never_comes_is_waited_for_until_the_deadline() {
    for kind in KINDS {
        let config = GroupConfig { deadline: SHORT, ..group(kind, 2) };
        for (own, missing) in [(0, Rank(1)), (1, Rank(0))] {
            let expected = CollectiveError::Deadline { rank: missing, operation: "join", deadline_ms: 200 };
            assert_eq!(error(&rank(&config, own)), expected, "{kind:?}");
        }
    }
}

#[test]
fn joining_can_be_aborted() {
    for kind in KINDS {
        for own in 0..2 {
            let config = rank(&group(kind, 2), own);
            let abort = AbortHandle::new();
            let joining = thread::spawn({
                let abort = abort.clone();
                move || join_with(&config, abort).err()
            });
            thread::sleep(SHORT);
            abort.abort();
            assert_eq!(joining.join().unwrap(), Some(CollectiveError::Aborted), "{kind:?} rank {own}");
        }
    }
}

#[test]
fn a_rank_of_an_old_epoch_does_not_get_in() {
    for kind in KINDS {
        let config = group(kind, 2);
        let stale = GroupConfig { epoch: Epoch(0), deadline: Duration::from_secs(2), ..rank(&config, 1) };
        let stale = thread::spawn(move || join(&stale).err());
        thread::sleep(SHORT);
        run(&config, |collective| collective.all_reduce_sum(&mut [1.0]).unwrap());
        assert!(matches!(stale.join().unwrap(), Some(CollectiveError::Deadline { .. })), "{kind:?}");
    }
}

#[test]
fn a_group_that_lost_a_rank_forms_again_at_once_under_a_new_epoch() {
    for kind in KINDS {
        let config = group(kind, 2);
        for epoch in 1..6 {
            let config = GroupConfig { epoch: Epoch(epoch), ..config.clone() };
            run(&config, |collective| {
                let mut values = [1.0];
                collective.all_reduce_sum(&mut values).unwrap();
                assert_eq!(values, [2.0]);
            });
        }
    }
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let config = group(Kind::Shm, 2);
    let tcp = Transport::Tcp { addresses: Vec::new() };
    for wrong in [
        GroupConfig { size: 3, ..config.clone() },
        GroupConfig { rank: Rank(2), ..config.clone() },
        GroupConfig { transport: tcp, ..config.clone() },
    ] {
        assert!(matches!(error(&wrong), CollectiveError::Mismatch(_)), "{wrong:?}");
    }
}

#[test]
fn a_place_is_taken_once() {
    let config = group(Kind::Shm, 4);
    let first = thread::spawn({
        let config = GroupConfig { deadline: Duration::from_secs(2), ..config.clone() };
        move || join(&config).err()
    });
    wait_for_file(&config);
    let second = error(&config);
    assert!(second.to_string().contains("rank 0") && second.to_string().contains("taken"), "{second}");
    assert!(matches!(first.join().unwrap(), Some(CollectiveError::Deadline { .. })), "the first was not disturbed");
}

/// What the group's file is called until all have joined.
fn path(config: &GroupConfig) -> String {
    format!("/dev/shm/tessera-{}-{}", config.group, config.epoch)
}

fn wait_for_file(config: &GroupConfig) {
    while !fs::exists(path(config)).unwrap() {
        thread::sleep(Duration::from_millis(1));
    }
}

fn leftovers(config: &GroupConfig) -> Vec<String> {
    let names = fs::read_dir("/dev/shm").unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| name.contains(&config.group)).collect()
}

#[test]
fn nothing_is_left_in_shared_memory() {
    let config = group(Kind::Shm, 2);
    run(&config, |collective| {
        collective.all_reduce_sum(&mut [1.0]).unwrap();
        assert_eq!(leftovers(&config), [""; 0], "once all have joined");
    });
    let alone = GroupConfig { deadline: SHORT, ..group(Kind::Shm, 2) };
    error(&alone);
    assert_eq!(leftovers(&alone), [""; 0], "after joining failed");
}

#[test]
fn what_a_maker_that_died_has_left_is_neither_joined_nor_kept() {
    let config = group(Kind::Shm, 2);
    let stale = path(&config);
    fs::write(&stale, vec![0; 1 << 23]).unwrap();
    run(&config, |collective| collective.all_reduce_sum(&mut [1.0]).unwrap());
    assert!(!fs::exists(stale).unwrap());
}

#[test]
fn shared_memory_is_the_owners_alone() {
    use std::os::unix::fs::PermissionsExt;
    let config = group(Kind::Shm, 2);
    let alone = GroupConfig { deadline: Duration::from_secs(2), ..config.clone() };
    let maker = thread::spawn(move || join(&alone).err());
    wait_for_file(&config);
    assert_eq!(fs::metadata(path(&config)).unwrap().permissions().mode() & 0o777, 0o600);
    maker.join().unwrap();
}

#[test]
fn strangers_on_the_port_do_not_keep_the_group_from_forming() {
    let config = group(Kind::Tcp, 2);
    let Transport::Tcp { addresses } = &config.transport else { panic!("tcp") };
    let zero = thread::spawn({
        let config = config.clone();
        move || join(&config).unwrap().all_reduce_sum(&mut [1.0])
    });
    let stranger = |says: &[u8]| {
        let mut stream = loop {
            match TcpStream::connect(addresses[0]) {
                Ok(stream) => break stream,
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        };
        stream.write_all(says).unwrap();
        stream
    };
    let _silent = stranger(b"");
    let _loud = stranger(b"GET / HTTP/1.1\r\nHost: a.very.long.name.example\r\n\r\n");
    drop(stranger(b"gone"));
    join(&rank(&config, 1)).unwrap().all_reduce_sum(&mut [1.0]).unwrap();
    zero.join().unwrap().unwrap();
}

#[test]
fn an_address_that_cannot_be_listened_on_is_named() {
    let other = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let taken = TcpListener::bind("0.0.0.0:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let mine = SocketAddr::from(([127, 0, 0, 1], port));
    let transport = Transport::Tcp { addresses: vec![mine, other] };
    let config = GroupConfig { transport, deadline: Duration::from_millis(300), ..group(Kind::Tcp, 2) };
    let error = error(&config).to_string();
    assert!(error.contains(&format!("cannot listen on 0.0.0.0:{port}")), "{error}");
}

#[test]
fn a_rank_need_not_have_the_address_that_others_call_it_by() {
    let config = group(Kind::Tcp, 2);
    let Transport::Tcp { addresses } = &config.transport else { panic!("not a TCP group") };
    // As behind a service's address: of the ones for documentation, which no host has.
    let mut translated = addresses.clone();
    translated[0].set_ip([192, 0, 2, 1].into());
    let first = GroupConfig { transport: Transport::Tcp { addresses: translated }, ..config.clone() };
    let first = thread::spawn(move || join(&first).map(|collective| collective.size()));
    assert_eq!(join(&rank(&config, 1)).unwrap().size(), 2);
    assert_eq!(first.join().unwrap(), Ok(2));
}
