use std::sync::Mutex;

use tokio::io::AsyncWriteExt;

use super::*;

#[test]
fn challenges_are_understood() {
    let parse = |text: &str| Challenge::parse(&HeaderValue::from_str(text).unwrap());
    assert_eq!(parse("Basic realm=\"x\""), Some(Challenge::Basic));
    let bearer = "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"a:b:pull,push\"";
    let expected =
        Challenge::Bearer { realm: "https://auth.docker.io/token".into(), service: "registry.docker.io".into() };
    assert_eq!(parse(bearer), Some(expected));
    assert_eq!(parse("Bearer service=\"x\""), None);
    assert_eq!(parse("Negotiate"), None);
}

#[test]
fn only_this_machine_is_spoken_to_in_clear() {
    let base = |host: &str| Registry::to_pull(host, "a", Auth::Anonymous).unwrap().base.to_string();
    assert_eq!(base("127.0.0.1:5000"), "http://127.0.0.1:5000/v2/a/");
    assert_eq!(base("registry.example.com:5000"), "https://registry.example.com:5000/v2/a/");
}

#[test]
fn what_a_registry_says_is_said() {
    assert_eq!(said(br#"{"errors":[{"code":"DENIED","message":"no"}]}"#), ": no (DENIED)");
    assert_eq!(said(b"<html>"), "");
}

/// Whether a request is there with its body.
fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

/// A server that gives these answers one after the other, whatever is asked; `HOST` in them is where it listens. Gives its
/// address, and the requests so far.
async fn answering(answers: &[&str]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let answers: Vec<String> = answers.iter().map(|answer| answer.replace("HOST", &host)).collect();
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let seen = Arc::clone(&asked);
    tokio::spawn(async move {
        for answer in answers {
            let (mut peer, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !is_whole(&request) {
                assert!(peer.read_buf(&mut request).await.unwrap() > 0);
            }
            seen.lock().unwrap().push(String::from_utf8_lossy(&request).into_owned());
            let (head, body) = answer.split_once('|').unwrap_or((&answer, ""));
            let length = body.len();
            let answer = format!("HTTP/1.1 {head}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}");
            peer.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (host, asked)
}

fn me() -> Auth {
    Auth::Password { user: "me".to_owned(), password: "s3cr3t".to_owned() }
}

const BEARER: &str = "401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://HOST/token\",service=\"s\"";

#[tokio::test]
async fn a_token_is_fetched_with_the_password_and_then_used() {
    let found = format!("200 OK\r\ndocker-content-digest: sha256:{}", "0".repeat(64));
    let (host, asked) = answering(&[BEARER, "200 OK|{\"token\": \"t0ken\"}", &found, "404 Not Found"]).await;
    let registry = Registry::to_push(&host, "a/b", me()).unwrap();
    assert!(registry.digest_under("v1").await.unwrap().is_some());
    assert_eq!(registry.digest_under("v2").await.unwrap(), None);
    let asked = asked.lock().unwrap();
    assert!(asked[0].starts_with("HEAD /v2/a/b/manifests/v1 ") && !asked[0].contains("authorization"), "{}", asked[0]);
    assert!(asked[1].starts_with("GET /token?service=s&scope=repository%3Aa%2Fb%3Apull%2Cpush "), "{}", asked[1]);
    assert!(asked[1].contains("authorization: Basic bWU6czNjcjN0"), "{}", asked[1]);
    for head in &asked[2..] {
        assert!(head.contains("authorization: Bearer t0ken"), "{head}");
    }
}

#[tokio::test]
async fn a_password_goes_nowhere_in_clear() {
    let elsewhere = "401 Unauthorized\r\nwww-authenticate: Bearer realm=\"http://tokens.example.com/\",service=\"s\"";
    let (host, asked) = answering(&[elsewhere]).await;
    let registry = Registry::to_push(&host, "a", me()).unwrap();
    let attempt = registry.ask("pushing", "", &registry.base, || registry.http.head(registry.base.clone())).await;
    assert!(matches!(attempt, Err(RegistryError::Content { .. })), "{attempt:?}");
    assert!(!asked.lock().unwrap()[0].contains("authorization"));
}

#[tokio::test]
async fn who_we_are_is_said_to_the_registry_only() {
    let (store, asked_of_store) = answering(&["202 Accepted\r\nlocation: /next", "201 Created"]).await;
    let opened = format!("202 Accepted\r\nlocation: http://{store}/upload?state=1");
    let (host, asked) = answering(&["401 Unauthorized\r\nwww-authenticate: Basic realm=\"r\"", &opened]).await;
    let folder = tempfile::tempdir().unwrap();
    let blob = Blob::of_bytes(folder.path(), manifest::LAYER, b"a layer").unwrap();
    let registry = Registry::to_push(&host, "a", me()).unwrap();
    let sent = Arc::<AtomicU64>::default();
    registry.send(&blob, &sent).await.unwrap();
    assert_eq!(sent.load(Relaxed), blob.size);
    assert!(asked.lock().unwrap()[1].contains("authorization: Basic bWU6czNjcjN0"));
    let asked = asked_of_store.lock().unwrap();
    assert!(asked[0].starts_with("PATCH /upload?state=1 ") && asked[0].contains("content-length: 7"), "{}", asked[0]);
    assert!(asked[1].starts_with(&format!("PUT /next?digest={} ", blob.digest.replace(':', "%3A"))), "{}", asked[1]);
    assert!(asked.iter().all(|head| !head.contains("authorization")), "{asked:?}");
}

#[tokio::test]
async fn other_content_than_was_asked_for_is_not_taken() {
    let answers = ["200 OK|something else"; 6];
    let (host, _) = answering(&answers).await;
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::to_pull(&host, "a", Auth::Anonymous).unwrap();
    let digest = digest_of(b"what was asked for");
    let fetched = registry.fetch(&digest, &folder.path().join("blob")).await;
    assert!(matches!(fetched, Err(RegistryError::Content { .. })), "{fetched:?}");
}
