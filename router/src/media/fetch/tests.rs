use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::*;

/// Answers every connection with `answer`; gives the port.
async fn host(address: &str, answer: String) -> u16 {
    let listener = TcpListener::bind((address, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 1024];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    port
}

fn found(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len())
}

fn redirect(to: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
}

fn fetcher(hosts: Hosts, networks: &[&str]) -> Fetcher {
    let networks = networks.iter().map(|network| network.parse().unwrap()).collect();
    Fetcher::new(FetchPolicy { hosts, networks, timeout: Duration::from_secs(5), ..FetchPolicy::default() })
}

#[tokio::test]
async fn nothing_is_fetched_unless_that_is_allowed() {
    let fetched = fetcher(Hosts::None, &[]).fetch("http://example.com/a.png", 100).await;
    assert_eq!(fetched, Err(FetchError::Off));
}

#[tokio::test]
async fn an_image_in_a_network_that_is_named_is_fetched() {
    let port = host("127.0.0.1", found("pixels")).await;
    let fetcher = fetcher(Hosts::Any, &["127.0.0.0/8", "::1/128"]);
    assert_eq!(fetcher.fetch(&format!("http://127.0.0.1:{port}/a.png"), 100).await.unwrap(), "pixels");
    assert_eq!(fetcher.fetch(&format!("http://localhost:{port}/a.png"), 100).await.unwrap(), "pixels");
}

#[tokio::test]
async fn addresses_that_are_not_public_are_refused_however_they_are_written() {
    let port = host("127.0.0.1", found("secret")).await;
    let fetcher = fetcher(Hosts::Any, &[]);
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0.0.0.0",
        "10.0.0.1",
        "169.254.169.254",
        "[fd00:ec2::254]",
    ] {
        let fetched = fetcher.fetch(&format!("http://{host}:{port}/latest/meta-data"), 100).await;
        assert!(matches!(fetched, Err(FetchError::Address { .. })), "{host}: {fetched:?}");
    }
}

#[tokio::test]
async fn a_redirect_is_checked_like_the_first_url() {
    for target in ["http://127.0.0.2:9/", "http://169.254.169.254/latest", "http://[::1]/", "http://localhost:9/"] {
        let port = host("127.0.0.1", redirect(target)).await;
        let fetched = fetcher(Hosts::Any, &["127.0.0.1/32"]).fetch(&format!("http://127.0.0.1:{port}/"), 100).await;
        // `localhost` may be 127.0.0.1, which is named, and ::1, which is not: one of them is enough to refuse it.
        let refused = matches!(fetched, Err(FetchError::Address { .. }));
        let unreachable = target.contains("localhost") && matches!(fetched, Err(FetchError::Transport { .. }));
        assert!(refused || unreachable, "{target}: {fetched:?}");
    }
    let port = host("127.0.0.1", redirect("file:///etc/passwd")).await;
    let fetched = fetcher(Hosts::Any, &["127.0.0.1/32"]).fetch(&format!("http://127.0.0.1:{port}/"), 100).await;
    assert!(matches!(fetched, Err(FetchError::Url(_))), "{fetched:?}");
}

#[tokio::test]
async fn redirects_are_followed_so_far_and_no_further() {
    let target = host("127.0.0.1", found("pixels")).await;
    let first = host("127.0.0.1", redirect(&format!("http://127.0.0.1:{target}/b.png"))).await;
    let fetcher = fetcher(Hosts::Any, &["127.0.0.1/32"]);
    assert_eq!(fetcher.fetch(&format!("http://127.0.0.1:{first}/a.png"), 100).await.unwrap(), "pixels");
    let circle = host("127.0.0.1", redirect("/again")).await;
    assert_eq!(fetcher.fetch(&format!("http://127.0.0.1:{circle}/"), 100).await, Err(FetchError::Redirects(3)));
}

#[tokio::test]
async fn only_listed_hosts_are_asked_when_there_is_a_list() {
    let port = host("127.0.0.1", found("pixels")).await;
    let listed = fetcher(Hosts::Listed(vec!["127.0.0.1".into(), ".example.com".into()]), &["127.0.0.1/32"]);
    assert!(listed.fetch(&format!("http://127.0.0.1:{port}/"), 100).await.is_ok());
    for other in ["http://localhost/", "http://example.com/", "http://evilexample.com/", "http://example.com.evil.org/"] {
        assert!(matches!(listed.fetch(other, 100).await, Err(FetchError::Host(_))), "{other}");
    }
}

#[tokio::test]
async fn what_is_too_large_or_not_there_or_no_url_is_refused() {
    let fetcher = fetcher(Hosts::Any, &["127.0.0.1/32"]);
    let large = host("127.0.0.1", found(&"x".repeat(101))).await;
    assert_eq!(fetcher.fetch(&format!("http://127.0.0.1:{large}/"), 100).await, Err(FetchError::TooLarge(100)));
    let missing = host("127.0.0.1", "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into()).await;
    let fetched = fetcher.fetch(&format!("http://127.0.0.1:{missing}/"), 100).await;
    assert!(matches!(fetched, Err(FetchError::Status { status: 404, .. })), "{fetched:?}");
    for wrong in ["", "a.png", "ftp://127.0.0.1/", "file:///etc/passwd", "http://user:secret@127.0.0.1/", "http://"] {
        let fetched = fetcher.fetch(wrong, 100).await;
        assert!(matches!(fetched, Err(FetchError::Url(_))), "{wrong}: {fetched:?}");
    }
}

#[tokio::test]
async fn a_host_that_does_not_answer_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let policy = FetchPolicy {
        hosts: Hosts::Any,
        networks: vec!["127.0.0.1/32".parse().unwrap()],
        timeout: Duration::from_millis(50),
        ..FetchPolicy::default()
    };
    assert_eq!(Fetcher::new(policy).fetch(&url, 100).await, Err(FetchError::Timeout(Duration::from_millis(50))));
}
