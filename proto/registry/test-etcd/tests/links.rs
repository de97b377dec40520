//! Links that are slow: late, in order, and never holding more than they may.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic and say why")]

use std::{io::ErrorKind, time::Duration};

use tessera_test_etcd::{Link, Pace};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

/// Nothing here takes so long unless it hangs.
const BOUND: Duration = Duration::from_secs(60);

/// Both ends of a connection through a link of this pace.
async fn connected(pace: Pace) -> (Link, TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let link = Link::between("127.0.0.1:0", &listener.local_addr().unwrap().to_string(), pace).await;
    let near = TcpStream::connect(link.address()).await.unwrap();
    let (far, _) = timeout(BOUND, listener.accept()).await.unwrap().unwrap();
    (link, near, far)
}

fn numbers(count: u32) -> Vec<u8> {
    (0..count).flat_map(u32::to_le_bytes).collect()
}

#[tokio::test]
async fn everything_arrives_late_whole_and_in_order_both_ways() {
    let pace = Pace { latency: Duration::from_millis(40), jitter: Duration::from_millis(30), seed: 3, bytes_per_second: 0 };
    let (_link, near, far) = connected(pace).await;
    let ((mut near_in, mut near_out), (mut far_in, mut far_out)) = (near.into_split(), far.into_split());
    let sent = numbers(200_000);
    let write = async {
        for piece in sent.chunks(10_007) {
            near_out.write_all(piece).await.unwrap();
            far_out.write_all(piece).await.unwrap();
        }
    };
    let began = Instant::now();
    let (mut there, mut back) = (vec![0; sent.len()], vec![0; sent.len()]);
    let read = async {
        let first = async {
            far_in.read_exact(&mut there[..1]).await.unwrap();
            let after = began.elapsed();
            far_in.read_exact(&mut there[1..]).await.unwrap();
            after
        };
        tokio::join!(first, async { near_in.read_exact(&mut back).await.unwrap() }).0
    };
    let (first, ()) = timeout(BOUND, async { tokio::join!(read, write) }).await.unwrap();
    assert!(there == sent && back == sent);
    // A slow machine makes it later, nothing makes it sooner.
    assert!(first >= pace.latency, "{first:?}");
}

#[tokio::test]
async fn what_was_said_before_the_end_arrives_and_then_the_end() {
    let pace = Pace { latency: Duration::from_millis(60), ..Pace::default() };
    let (_link, mut near, mut far) = connected(pace).await;
    near.write_all(b"the last words").await.unwrap();
    drop(near);
    let mut heard = Vec::new();
    timeout(BOUND, far.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard, b"the last words");
}

#[tokio::test]
async fn a_link_whose_end_takes_nothing_holds_a_bounded_number_of_bytes() {
    let (_link, near, far) = connected(Pace { latency: Duration::from_millis(1), ..Pace::default() }).await;
    let (block, mut taken, mut full) = (vec![7; 64 << 10], 0usize, 0);
    // A link without a bound would take all of it.
    while taken < 1 << 30 && full < 20 {
        match near.try_write(&block) {
            Ok(bytes) => (taken, full) = (taken + bytes, 0),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                full += 1;
                sleep(Duration::from_millis(10)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    // Its own mebibyte, and what the kernel holds on its two connections.
    assert!(taken < 64 << 20, "{taken} bytes");
    drop(far);
}
