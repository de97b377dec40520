//! Signals, sent to a process of its own: this test program, run again.

use std::{
    env,
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tessera_service::on_signal;

const LISTENS: &str = "child listens";
const TOLD: &str = "child was told";

/// Not a fact but the process that the facts send signals to.
#[tokio::test]
#[ignore = "run by the facts below"]
async fn child() {
    let stop = on_signal();
    println!("{LISTENS}");
    stop.cancelled().await;
    println!("{TOLD}");
    tokio::time::sleep(Duration::from_millis(if env::var_os("TESSERA_TEST_STUCK").is_some() { 60_000 } else { 300 })).await;
}

fn start(stuck: bool) -> (Child, Lines<BufReader<ChildStdout>>) {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "signals::child", "--ignored", "--nocapture"]).stdout(Stdio::piped());
    if stuck {
        command.env("TESSERA_TEST_STUCK", "1");
    }
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    wait_for(&mut lines, LISTENS);
    (child, lines)
}

fn wait_for(lines: &mut Lines<BufReader<ChildStdout>>, text: &str) {
    assert!(lines.any(|line| line.unwrap().contains(text)), "the child ended without `{text}`");
}

fn send(child: &Child, signal: &str) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{signal} {}", child.id())]).stderr(Stdio::null()).status();
    // Failing is no harm: the child may have ended.
    sent.unwrap();
}

#[test]
fn either_signal_asks_for_the_end_and_one_sent_twice_is_one() {
    for signal in ["TERM", "INT"] {
        let (mut child, mut lines) = start(false);
        send(&child, signal);
        send(&child, signal);
        wait_for(&mut lines, TOLD);
        assert!(lines.all(|line| line.is_ok()));
        assert_eq!(child.wait().unwrap().code(), Some(0), "SIG{signal}");
    }
}

#[test]
fn a_later_signal_ends_a_process_that_does_not_stop() {
    let (mut child, mut lines) = start(true);
    send(&child, "TERM");
    wait_for(&mut lines, TOLD);
    let deadline = Instant::now() + Duration::from_secs(50);
    let status = loop {
        send(&child, "INT");
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the child goes on");
        thread::sleep(Duration::from_millis(100));
    };
    assert_eq!(status.code(), Some(130));
}
