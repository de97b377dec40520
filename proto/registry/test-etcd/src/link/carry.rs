//! One way of a connection.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

use super::{LinkState, pace::Line};

/// The largest piece that is carried at a time, in bytes.
const PIECE: usize = 16 << 10;
/// Pieces that may be under way; while there are as many, nothing more is read.
const PIECES: usize = 64;

/// Bytes that are under way, and when they arrive.
type Piece = (Instant, Vec<u8>);

/// Carries bytes one way, in order; ends with the connection, or once bytes are due after some were lost.
pub(super) async fn carry(
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    state: watch::Receiver<LinkState>,
    loses: &[LinkState],
    line: Line,
) {
    let (pieces, arriving) = mpsc::channel(PIECES);
    let deliver = deliver(arriving, to);
    tokio::pin!(deliver);
    tokio::select! {
        () = &mut deliver => {}
        whole = take(from, pieces, state, loses, line) => if whole {
            // What was said before the end still arrives.
            deliver.await;
        },
    }
}

/// Reads until the end; false when bytes came after some were lost.
async fn take(
    mut from: OwnedReadHalf,
    pieces: mpsc::Sender<Piece>,
    mut state: watch::Receiver<LinkState>,
    loses: &[LinkState],
    mut line: Line,
) -> bool {
    let (mut buffer, mut lost) = (vec![0; PIECE], false);
    loop {
        tokio::select! {
            read = from.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { return !lost };
                let losing = loses.contains(&state.borrow_and_update());
                if lost && !losing {
                    return false;
                }
                lost |= losing;
                let piece = (line.arrival(Instant::now(), length), buffer[..length].to_vec());
                if !losing && pieces.send(piece).await.is_err() {
                    return false;
                }
            }
            changed = state.changed() => {
                if changed.is_err() || (lost && !loses.contains(&state.borrow_and_update())) {
                    return false;
                }
            }
        }
    }
}

async fn deliver(mut arriving: mpsc::Receiver<Piece>, mut to: OwnedWriteHalf) {
    while let Some((arrival, piece)) = arriving.recv().await {
        sleep_until(arrival).await;
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
}
