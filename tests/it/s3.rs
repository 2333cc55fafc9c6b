//! A lake on S3 as people meet it when something is wrong. That it works is shown with a server: `store.rs`
//! (`VITALS_TEST_S3`), `tests/engines/test_s3.py`.

use std::{
    io::{Read, Write},
    net::TcpListener,
};

use crate::program::{Ran, program, vitals};

const LAKE: &str = "s3://ward/lake";

/// Runs `vitals` with AWS's variables set to these, and nothing else known of AWS.
fn with(settings: &[(&str, &str)], words: &[&str]) -> Ran {
    let folder = tempfile::tempdir().unwrap();
    let mut command = program(folder.path());
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    let nothing = folder.path().join("none");
    command.env("AWS_EC2_METADATA_DISABLED", "true");
    command.env("AWS_CONFIG_FILE", &nothing).env("AWS_SHARED_CREDENTIALS_FILE", &nothing);
    command.envs(settings.iter().copied()).args(words).output().unwrap().into()
}

const KNOWN: [(&str, &str); 3] =
    [("AWS_ACCESS_KEY_ID", "AKIDHERE"), ("AWS_SECRET_ACCESS_KEY", "s3cr3t"), ("AWS_MAX_ATTEMPTS", "1")];

/// The same, with credentials and an endpoint that answers everything with this.
fn answered(status: &str, body: &str, words: &[&str]) -> Ran {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len());
    // Ends with the test's process.
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 16_384]);
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    with(&[&KNOWN[..], &[("AWS_ENDPOINT_URL_S3", &endpoint)]].concat(), words)
}

fn refused(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{}", ran.err);
    assert!(parts.iter().all(|part| ran.err.contains(part)), "{}", ran.err);
    assert!(!ran.err.contains("s3cr3t"), "{}", ran.err);
}

#[test]
fn what_keeps_more_than_the_lake_wants_a_folder_and_begins_nothing() {
    let folder = tempfile::tempdir().unwrap();
    for words in [&["up"][..], &["ingest"], &["ingest", "--from", "mqtt://127.0.0.1:1"]] {
        let ran = vitals(folder.path(), &[words, &["--lake", LAKE]].concat());
        refused(&ran, 2, &["`--lake s3://ward/lake`: the lake must be a folder of this machine", "spool"]);
    }
    refused(&vitals(folder.path(), &["demo", "--keep", LAKE]), 2, &["the demo needs a folder"]);
    assert_eq!(folder.path().read_dir().unwrap().count(), 0);
}

#[test]
fn a_place_that_is_none_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    refused(&vitals(folder.path(), &["info", "--lake", "s3://Ward"]), 2, &["`Ward` is no name of a bucket"]);
    refused(&vitals(folder.path(), &["info", "--lake", "gs://ward"]), 2, &["can't hold a lake"]);
}

#[test]
fn without_credentials_or_region_it_is_said_what_to_set() {
    let words = ["query", "outliers", "--lake", LAKE];
    refused(&with(&[], &words), 5, &["`s3://ward/lake`", "no AWS region", "AWS_REGION"]);
    refused(
        &with(&[("AWS_REGION", "eu-central-1")], &words),
        5,
        &["s3://ward/lake", "no AWS credentials", "AWS_PROFILE"],
    );
}

#[test]
fn an_endpoint_that_does_not_answer_is_named() {
    let settings = [&KNOWN[..], &[("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1")]].concat();
    let parts = ["can't list `s3://ward/lake`", "http://127.0.0.1:1", "refused", "AWS_ENDPOINT_URL_S3"];
    refused(&with(&settings, &["models", "list", "--lake", LAKE]), 1, &parts);
    let settings = [&KNOWN[..], &[("AWS_ENDPOINT_URL_S3", "127.0.0.1:1")]].concat();
    refused(&with(&settings, &["models", "list", "--lake", LAKE]), 1, &["`127.0.0.1:1` is no endpoint"]);
}

#[test]
fn what_s3_answers_is_told_with_an_exit_code_of_its_own() {
    let words = ["verify", "--lake", LAKE];
    let error = |code: &str| format!("<Error><Code>{code}</Code><Message>As it is.</Message></Error>");
    for (status, code, exit, part) in [
        ("404 Not Found", "NoSuchBucket", 3, "there is no bucket `ward`"),
        ("403 Forbidden", "AccessDenied", 1, "`s3:ListBucket` on `arn:aws:s3:::ward` is needed"),
        ("403 Forbidden", "InvalidAccessKeyId", 5, "not valid"),
        ("301 Moved Permanently", "PermanentRedirect", 1, "AWS_REGION"),
        ("503 Slow Down", "SlowDown", 1, "too busy"),
    ] {
        refused(&answered(status, &error(code), &words), exit, &["can't list `s3://ward/lake`", part]);
    }
}

#[test]
fn a_bucket_without_a_lake_is_told_apart() {
    let nothing = "<ListBucketResult><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
    let ran = answered("200 OK", nothing, &["score", "--lake", LAKE]);
    refused(&ran, 3, &["there is no lake in `s3://ward/lake`", "vitals import FILE --lake s3://ward/lake"]);
    let info = answered("200 OK", nothing, &["info", "--lake", LAKE]);
    assert_eq!(info.code, Some(0), "{}", info.err);
    assert!(
        info.out.contains("lake       s3://ward/lake (flag)") && info.out.contains("no lake there"),
        "{}",
        info.out
    );
}
