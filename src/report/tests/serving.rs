use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinHandle,
};

use super::super::{server::Limits, *};

const TOKEN: &str = "a-token-of-the-ward";

/// How long a test waits for what must happen.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a test shows, and how often it was asked.
#[derive(Clone)]
struct Shown {
    asked: Arc<AtomicUsize>,
    at_once: Arc<AtomicUsize>,
    most_at_once: Arc<AtomicUsize>,
    /// A collection needs one of these.
    open: Arc<Semaphore>,
    fails: Option<&'static str>,
}

impl Default for Shown {
    fn default() -> Shown {
        Shown {
            asked: Arc::default(),
            at_once: Arc::default(),
            most_at_once: Arc::default(),
            open: Arc::new(Semaphore::new(1_000)),
            fails: None,
        }
    }
}

impl Source for Shown {
    fn data(&self) -> BoxFuture<'_, anyhow::Result<Data>> {
        async move {
            self.asked.fetch_add(1, SeqCst);
            self.most_at_once.fetch_max(self.at_once.fetch_add(1, SeqCst) + 1, SeqCst);
            self.open.acquire().await.unwrap().forget();
            self.at_once.fetch_sub(1, SeqCst);
            match self.fails {
                Some("panic") => panic!("as the test wants"),
                Some(why) => anyhow::bail!(why),
                None => Ok(Data { live: true, lake: "</script>".to_owned(), ..Data::default() }),
            }
        }
        .boxed()
    }

    fn series<'a>(&'a self, device: &'a str) -> BoxFuture<'a, anyhow::Result<Option<Series>>> {
        async move { Ok((device == "device_1").then(|| Series { gap_ms: 77, ..Series::default() })) }.boxed()
    }
}

struct Running {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

async fn serve(shown: Shown, access: Access, limits: Limits) -> Running {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server::new(listener, access, shown).unwrap().limits(limits);
    let (stop, stopped) = watch::channel(false);
    Running { address: server.address(), stop, task: tokio::spawn(server.run(stopped)) }
}

async fn plain(shown: Shown) -> Running {
    serve(shown, Access::default(), Limits::default()).await
}

async fn with_token() -> Running {
    serve(Shown::default(), Access { token: Some(TOKEN.to_owned()), names: vec![] }, Limits::default()).await
}

/// Everything that comes back for these bytes.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // A server that refuses may close before all is written.
    let _ = stream.write_all(bytes).await;
    let mut all = Vec::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.expect("the connection does not end");
    if all.is_empty() {
        let _ = read;
    }
    String::from_utf8(all).unwrap()
}

async fn ask(address: SocketAddr, method: &str, path: &str, headers: &str) -> String {
    let port = address.port();
    raw(address, format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{headers}\r\n").as_bytes()).await
}

async fn get(address: SocketAddr, path: &str) -> String {
    ask(address, "GET", path, "").await
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {answer:?}")).parse().unwrap()
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let head = answer.split("\r\n\r\n").next().unwrap();
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}

fn body(answer: &str) -> &str {
    answer.split_once("\r\n\r\n").unwrap().1
}

#[tokio::test]
async fn the_page_its_data_and_devices_are_served() {
    let server = plain(Shown::default()).await;
    let page = get(server.address, "/").await;
    assert_eq!((status(&page), header(&page, "content-type")), (200, Some("text/html; charset=utf-8")));
    assert!(body(&page).starts_with("<!doctype html>") && body(&page).contains("\\u003c/script\\u003e"));
    assert_eq!(header(&page, "content-length").unwrap(), body(&page).len().to_string());
    let data = get(server.address, "/data.json").await;
    let json: serde_json::Value = serde_json::from_str(body(&data)).unwrap();
    assert_eq!((json["live"].as_bool(), json["lake"].as_str()), (Some(true), Some("</script>")));
    assert_eq!(header(&data, "content-type"), Some("application/json"));
    let device = get(server.address, "/device/device_1.json").await;
    assert_eq!(serde_json::from_str::<serde_json::Value>(body(&device)).unwrap()["gap_ms"], 77);
    assert_eq!(body(&get(server.address, "/healthz").await), "ok\n");
    assert_eq!(status(&get(server.address, "/favicon.ico").await), 204);
    for path in ["/device/device_2.json", "/device/..%2f.json", "/device/a/b.json", "/device/.json", "/x", "//"] {
        assert_eq!(status(&get(server.address, path).await), 404, "{path}");
    }
}

#[tokio::test]
async fn every_answer_says_what_browsers_must_not_do_with_it() {
    let server = plain(Shown::default()).await;
    for path in ["/", "/data.json", "/none", "/healthz"] {
        let answer = get(server.address, path).await;
        assert_eq!(header(&answer, "x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(header(&answer, "referrer-policy"), Some("no-referrer"), "{path}");
        assert_eq!(header(&answer, "cache-control"), Some("no-store"), "{path}");
        assert_eq!(header(&answer, "cross-origin-resource-policy"), Some("same-origin"), "{path}");
        assert_eq!(header(&answer, "x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(header(&answer, "content-security-policy"), Some(Page::served_csp()), "{path}");
        assert_eq!(header(&answer, "access-control-allow-origin"), None, "{path}");
    }
}

#[tokio::test]
async fn nothing_but_get_and_head_is_known() {
    let server = plain(Shown::default()).await;
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "NONSENSE"] {
        let answer = ask(server.address, method, "/", "").await;
        assert_eq!((status(&answer), header(&answer, "allow")), (405, Some("GET, HEAD")), "{method}");
    }
    let head = ask(server.address, "HEAD", "/data.json", "").await;
    assert_eq!((status(&head), body(&head)), (200, ""));
    assert!(header(&head, "content-length").unwrap().parse::<usize>().unwrap() > 100);
}

#[tokio::test]
async fn a_request_that_names_another_host_is_refused() {
    let server = plain(Shown::default()).await;
    let port = server.address.port();
    let of = async |line: &str, hosts: &str| raw(server.address, format!("{line}\r\n{hosts}\r\n").as_bytes()).await;
    let get = "GET /data.json HTTP/1.1";
    for host in [format!("localhost:{port}"), format!("127.0.0.1:{port}"), format!("[::1]:{port}")] {
        assert_eq!(status(&of(get, &format!("Host: {host}\r\n")).await), 200, "{host}");
    }
    let evil =
        [format!("evil.example:{port}"), "127.0.0.1".to_owned(), format!("127.0.0.1:{}", port ^ 1), String::new()];
    for host in evil {
        assert_eq!(status(&of(get, &format!("Host: {host}\r\n")).await), 421, "{host}");
    }
    let good = format!("Host: localhost:{port}\r\n");
    for (line, hosts) in [
        (get.to_owned(), String::new()),
        ("GET /data.json HTTP/1.0".to_owned(), String::new()),
        (get.to_owned(), format!("{good}{good}")),
        (format!("GET http://evil.example:{port}/data.json HTTP/1.1"), good.clone()),
    ] {
        assert_eq!(status(&of(&line, &hosts).await), 421, "{line} {hosts}");
    }
}

#[tokio::test]
async fn who_does_not_know_the_token_sees_nothing() {
    let server = with_token().await;
    let bearer = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let name = format!("vitals_{}", server.address.port());
    let cookie = |token: &str| format!("Cookie: other=1; {name}={token}\r\n");
    for headers in
        ["", &bearer("wrong-token-of-the"), &bearer(""), &cookie(&TOKEN[1..]), "Authorization: Basic eDp5\r\n"]
    {
        for path in ["/", "/data.json", "/device/device_1.json", "/none"] {
            let answer = ask(server.address, "GET", path, headers).await;
            assert_eq!(status(&answer), 401, "{path} {headers}");
            assert!(!answer.contains(TOKEN) && header(&answer, "set-cookie").is_none());
        }
    }
    for headers in [bearer(TOKEN), cookie(TOKEN)] {
        assert_eq!(status(&ask(server.address, "GET", "/data.json", &headers).await), 200, "{headers}");
    }
    assert_eq!(status(&get(server.address, "/healthz").await), 200);
}

#[tokio::test]
async fn a_token_in_the_address_becomes_a_cookie_and_leaves_the_address() {
    let server = with_token().await;
    let answer = get(server.address, &format!("/?token={TOKEN}")).await;
    assert_eq!((status(&answer), header(&answer, "location")), (303, Some("/")));
    let cookie = header(&answer, "set-cookie").unwrap();
    assert!(cookie.contains("; HttpOnly") && cookie.contains("; SameSite=Strict"), "{cookie}");
    let pair = cookie.split(';').next().unwrap();
    assert_eq!(status(&ask(server.address, "GET", "/", &format!("Cookie: {pair}\r\n")).await), 200);
    for path in ["/?token=wrong-token-of-the", "/?token=", &format!("/data.json?token={TOKEN}")] {
        assert_eq!(status(&get(server.address, path).await), 401, "{path}");
    }
}

#[tokio::test]
async fn a_listener_that_others_reach_is_refused_without_a_token() {
    let open = || async { TcpListener::bind("0.0.0.0:0").await.unwrap() };
    assert!(Server::new(open().await, Access::default(), Shown::default()).is_err());
    let access = Access { token: Some(TOKEN.to_owned()), names: vec![] };
    assert!(Server::new(open().await, access, Shown::default()).is_ok());
}

#[tokio::test]
async fn large_heads_and_bodies_are_refused() {
    let server = plain(Shown::default()).await;
    let long = format!("X-Long: {}\r\n", "x".repeat(9_000));
    assert_eq!(status(&ask(server.address, "GET", "/", &long).await), 431);
    let many = "X-Many: 1\r\n".repeat(300);
    assert_eq!(status(&ask(server.address, "GET", "/", &many).await), 431);
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n0\r\n"] {
        assert_eq!(status(&ask(server.address, "GET", "/", body).await), 413, "{body}");
    }
    assert_eq!(status(&raw(server.address, b"\x16\x03\x01 nonsense\r\n\r\n").await), 400);
    assert_eq!(status(&get(server.address, "/healthz").await), 200);
}

#[tokio::test]
async fn who_sends_no_whole_request_is_let_go() {
    let limits = Limits { request: Duration::from_millis(50), ..Limits::default() };
    let server = serve(Shown::default(), Access::default(), limits).await;
    for begun in ["", "GET / HTTP/1.1\r\nHost: 127"] {
        let answer = raw(server.address, begun.as_bytes()).await;
        assert!(answer.is_empty() || status(&answer) == 408, "{answer}");
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed_are_served_at_once() {
    let limits = Limits { connections: 2, ..Limits::default() };
    let server = serve(Shown::default(), Access::default(), limits).await;
    let silent = [TcpStream::connect(server.address).await.unwrap(), TcpStream::connect(server.address).await.unwrap()];
    let third = tokio::spawn(async move { get(server.address, "/healthz").await });
    let mut waiting = third;
    let early = tokio::time::timeout(Duration::from_millis(300), &mut waiting).await;
    assert!(early.is_err(), "a third connection was served");
    drop(silent);
    assert_eq!(status(&tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap()), 200);
}

#[tokio::test]
async fn many_who_ask_share_one_collection() {
    let shown = Shown { open: Arc::new(Semaphore::new(0)), ..Shown::default() };
    let server = plain(shown.clone()).await;
    let paths = ["/", "/data.json", "/", "/data.json"];
    let asking: Vec<_> = paths.iter().map(|path| tokio::spawn(get(server.address, path))).collect();
    // One more asks and leaves at once; its collection, if it is the one, goes on for the others.
    drop(TcpStream::connect(server.address).await.unwrap());
    while shown.asked.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    shown.open.add_permits(1);
    for one in asking {
        assert_eq!(status(&tokio::time::timeout(PATIENCE, one).await.unwrap().unwrap()), 200);
    }
    assert_eq!(shown.asked.load(SeqCst), 1);
}

#[tokio::test]
async fn who_leaves_does_not_let_a_second_collection_begin_beside_the_first() {
    let shown = Shown { open: Arc::new(Semaphore::new(0)), ..Shown::default() };
    let server = plain(shown.clone()).await;
    let request = format!("GET / HTTP/1.1\r\nHost: 127.0.0.1:{}\r\n\r\n", server.address.port());
    let mut leaves = TcpStream::connect(server.address).await.unwrap();
    leaves.write_all(request.as_bytes()).await.unwrap();
    while shown.asked.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    drop(leaves);
    let stays = tokio::spawn(get(server.address, "/"));
    tokio::time::sleep(Duration::from_millis(100)).await;
    shown.open.add_permits(10);
    assert_eq!(status(&tokio::time::timeout(PATIENCE, stays).await.unwrap().unwrap()), 200);
    assert_eq!(shown.most_at_once.load(SeqCst), 1);
}

#[tokio::test]
async fn a_lake_that_fails_is_a_503_and_the_server_goes_on() {
    for why in ["the disk is gone", "panic"] {
        let server = plain(Shown { fails: Some(why), ..Shown::default() }).await;
        for path in ["/", "/data.json"] {
            let answer = get(server.address, path).await;
            assert_eq!((status(&answer), header(&answer, "content-type")), (503, Some("text/plain; charset=utf-8")));
            assert!(why == "panic" || body(&answer).contains(why), "{answer}");
        }
        assert_eq!(status(&get(server.address, "/healthz").await), 200);
    }
}

#[tokio::test]
async fn a_stop_ends_the_server_even_when_somebody_keeps_it_waiting() {
    let shown = Shown { open: Arc::new(Semaphore::new(0)), ..Shown::default() };
    let server = plain(shown.clone()).await;
    let waiting = tokio::spawn(get(server.address, "/"));
    while shown.asked.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop.send(true).unwrap();
    tokio::time::timeout(PATIENCE, server.task).await.expect("the server goes on").unwrap();
    assert!(TcpStream::connect(server.address).await.is_err());
    waiting.abort();
}

#[tokio::test]
async fn an_answer_under_way_is_finished_before_the_end() {
    let shown = Shown { open: Arc::new(Semaphore::new(0)), ..Shown::default() };
    let server = plain(shown.clone()).await;
    let waiting = tokio::spawn(get(server.address, "/data.json"));
    while shown.asked.load(SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    server.stop.send(true).unwrap();
    shown.open.add_permits(1);
    assert_eq!(status(&tokio::time::timeout(PATIENCE, waiting).await.unwrap().unwrap()), 200);
    server.task.await.unwrap();
}
