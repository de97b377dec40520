use std::{
    fs,
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    panic::{AssertUnwindSafe, catch_unwind},
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Nothing here takes so long unless it hangs.
const BOUND: Duration = Duration::from_secs(30);

/// Says what was not tested where it is seen: what tests print is shown only of those that fail.
fn skipped(why: &str) {
    writeln!(io::stderr(), "skipped: {why}").unwrap();
}

/// A network, or a word that there can be none.
fn network(hosts: &[&str]) -> Option<Network> {
    match Network::allowed() {
        Ok(()) => Some(Network::of(hosts).unwrap()),
        Err(reason) => {
            skipped(&format!("this process may not make network namespaces: {reason:#}"));
            None
        }
    }
}

/// Namespaces whose names begin so.
fn namespaces(prefix: &str) -> Vec<String> {
    let all = fs::read_dir(NAMESPACES).into_iter().flatten().flatten().map(|entry| entry.file_name());
    all.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with(prefix)).collect()
}

#[tokio::test]
async fn nothing_of_a_network_is_left_after_a_panic() {
    let outside = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let Some(made) = network(&["a", "b"]) else { return };
    let prefix = made.prefix.clone();
    assert_eq!(namespaces(&prefix).len(), 3);
    assert_ne!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
    let panicked = catch_unwind(AssertUnwindSafe(move || {
        let _made = made;
        panic!("in the middle of a test");
    }));
    assert!(panicked.is_err());
    assert_eq!(namespaces(&prefix), Vec::<String>::new());
    assert_eq!(fs::read_link("/proc/thread-self/ns/net").unwrap(), outside);
}

#[tokio::test]
async fn two_networks_of_one_process_do_not_meet() {
    let Some(first) = network(&["a"]) else { return };
    let listener = TcpListener::bind((SWITCH, 7000)).unwrap();
    // The same address and port again: on another switch.
    let second = thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let made = Network::of(&["a"]).unwrap();
            TcpListener::bind((SWITCH, 7000)).map(|_| made.prefix.clone()).unwrap()
        })
    });
    assert_ne!(second.join().unwrap(), first.prefix);
    drop(listener);
}

/// Sockets of a host, opened by a thread that visits it.
fn on_host<T: Send>(network: &Network, host: &str, open: impl FnOnce() -> T + Send) -> T {
    let namespace = file(&network.namespace(host));
    thread::scope(|scope| {
        let visit = scope.spawn(move || {
            enter(&namespace).unwrap();
            open()
        });
        visit.join().unwrap()
    })
}

/// Whether a datagram arrives that is sent again and again; where none is expected, within a second.
fn arrives(from: &UdpSocket, to: &UdpSocket, expected: bool) -> bool {
    let (address, mut heard) = (to.local_addr().unwrap(), [0; 64]);
    to.set_nonblocking(true).unwrap();
    // Of an earlier time.
    while to.recv(&mut heard).is_ok() {}
    let until = Instant::now() + if expected { BOUND } else { Duration::from_secs(1) };
    while Instant::now() < until {
        // An interface without a carrier may say so to who sends.
        let _ = from.send_to(b"x", address);
        thread::sleep(Duration::from_millis(20));
        match to.recv(&mut heard) {
            Ok(_) => return true,
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
    }
    false
}

#[tokio::test]
async fn a_cable_fails_as_it_is_told_and_heals() {
    let Some(made) = network(&["a", "b"]) else { return };
    let socket = |host: &str| {
        let address: SocketAddr = format!("{}:9000", made.address(host).unwrap()).parse().unwrap();
        on_host(&made, host, move || UdpSocket::bind(address).unwrap())
    };
    let (a, b, switch) = (socket("a"), socket("b"), UdpSocket::bind((SWITCH, 9000)).unwrap());
    let cables = [(Cable::Pulled, [false, false]), (Cable::Deaf, [false, true]), (Cable::Mute, [true, false])];
    for (cable, [to, from]) in cables {
        if cable != Cable::Pulled && !made.can_filter() {
            skipped("nft cannot filter on a bridge here, so no cable fails one way");
            break;
        }
        for (failing, to, from) in [(cable, to, from), (Cable::Whole, true, true)] {
            made.set("a", failing).unwrap();
            for other in [&b, &switch] {
                let seen = [arrives(other, &a, to), arrives(&a, other, from)];
                assert_eq!(seen, [to, from], "{failing:?}, after {cable:?}, with {:?}", other.local_addr());
            }
        }
    }
}

#[tokio::test]
async fn a_connection_over_a_pulled_cable_is_silent_and_goes_on_once_it_is_back() {
    let Some(made) = network(&["a"]) else { return };
    let listener = TcpListener::bind((SWITCH, 9000)).unwrap();
    let mut near = on_host(&made, "a", || TcpStream::connect((SWITCH, 9000)).unwrap());
    let (mut far, _) = listener.accept().unwrap();
    let mut heard = [0];
    for stream in [&near, &far] {
        stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    }
    made.set("a", Cable::Pulled).unwrap();
    near.write_all(b"x").unwrap();
    far.write_all(b"y").unwrap();
    for stream in [&mut near, &mut far] {
        let kind = stream.read(&mut heard).unwrap_err().kind();
        assert!(matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut), "neither bytes nor an end: {kind}");
    }
    made.set("a", Cable::Whole).unwrap();
    for (stream, byte) in [(&mut near, b"y"), (&mut far, b"x")] {
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, byte);
    }
}
