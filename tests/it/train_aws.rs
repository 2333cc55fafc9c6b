//! `vitals train` and `vitals report` on a stack, as people meet them: what stands in for AWS answers with what is given. The
//! real state machine is followed in `tests/engines/test_train_aws.py`.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{Arc, Mutex},
};

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::program::{Ran, program, vitals};

const MACHINE: &str = "arn:aws:states:eu-central-1:123456789012:stateMachine:vitals-training";
const EXECUTION: &str = "arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1";
const BEGAN: f64 = 1_767_571_200.0;

/// What stands in for AWS: it answers by the operation, one answer after the other, and the last one again and again.
struct Cloud {
    endpoint: String,
    asked: Arc<Mutex<Vec<Asked>>>,
}

/// A request.
struct Asked {
    operation: String,
    head: String,
    body: String,
}

type Answers = BTreeMap<&'static str, Vec<(u16, String)>>;

impl Cloud {
    fn with(answers: Answers) -> Cloud {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (seen, answers) = (Arc::clone(&asked), Arc::new(answers));
        // Ends with the test's process.
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                let (seen, answers) = (Arc::clone(&seen), Arc::clone(&answers));
                std::thread::spawn(move || answer(connection.unwrap(), &seen, &answers));
            }
        });
        Cloud { endpoint, asked }
    }

    fn vitals(&self, folder: &Path, words: &[&str]) -> Ran {
        let mut command = program(folder);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        let settings = [
            ("AWS_ACCESS_KEY_ID", "AKIDHERE"),
            ("AWS_SECRET_ACCESS_KEY", "s3cr3t"),
            ("AWS_REGION", "eu-central-1"),
            ("AWS_EC2_METADATA_DISABLED", "true"),
            ("AWS_CONFIG_FILE", "/dev/null"),
            ("AWS_SHARED_CREDENTIALS_FILE", "/dev/null"),
            ("AWS_ENDPOINT_URL", self.endpoint.as_str()),
        ];
        command.envs(settings).args(words).output().unwrap().into()
    }

    fn asked(&self, operation: &str) -> Vec<Value> {
        let asked = self.asked.lock().unwrap();
        let asked = asked.iter().filter(|asked| asked.operation == operation);
        asked.map(|asked| serde_json::from_str(&asked.body).unwrap_or(Value::Null)).collect()
    }
}

/// Answers one request, and closes.
fn answer(mut connection: TcpStream, seen: &Mutex<Vec<Asked>>, answers: &Answers) {
    let mut text = Vec::new();
    let mut part = [0; 16_384];
    let (target, head, body) = loop {
        let count = connection.read(&mut part).unwrap_or(0);
        text.extend_from_slice(&part[..count]);
        let whole = String::from_utf8_lossy(&text).into_owned();
        let header = |head: &str, name: &str| {
            let line = head.lines().find(|line| line.to_lowercase().starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        if let Some((head, body)) = whole.split_once("\r\n\r\n") {
            let length = header(head, "content-length:").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length || count == 0 {
                break (header(head, "x-amz-target:").ok_or_else(|| head.to_owned()), head.to_owned(), body.to_owned());
            }
        }
        if count == 0 {
            return;
        }
    };
    let operation = match target {
        Ok(target) => target.rsplit('.').next().unwrap().to_owned(),
        Err(head) => match body.strip_prefix("Action=") {
            Some(form) => form.split('&').next().unwrap().to_owned(),
            None => head.split_whitespace().next().unwrap().to_owned(),
        },
    };
    let n = {
        let mut seen = seen.lock().unwrap();
        seen.push(Asked { operation: operation.clone(), head, body });
        seen.iter().filter(|asked| asked.operation == operation).count() - 1
    };
    let given = answers.get(operation.as_str());
    let (status, body) = given.map_or((501, operation), |given| given[n.min(given.len() - 1)].clone());
    let kind = if body.starts_with('<') { "text/xml" } else { "application/x-amz-json-1.0" };
    let head =
        format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close", body.len());
    let _ = connection.write_all(format!("{head}\r\n\r\n{body}").as_bytes());
}

/// A stack whose lake is a folder, which is enough for a model's card.
fn stack(outputs: &[(&str, &str)]) -> (u16, String) {
    let member = |(key, value): &(&str, &str)| {
        format!("<member><OutputKey>{key}</OutputKey><OutputValue>{value}</OutputValue></member>")
    };
    let outputs: String = outputs.iter().map(member).collect();
    let parameters = "<member><ParameterKey>AlarmBudget</ParameterKey><ParameterValue>0.1</ParameterValue></member>";
    let stack = format!(
        "<member><StackId>s</StackId><StackName>vitals</StackName><CreationTime>2026-01-05T00:00:00Z</CreationTime>\
         <StackStatus>UPDATE_COMPLETE</StackStatus><Parameters>{parameters}</Parameters><Outputs>{outputs}</Outputs></member>"
    );
    let result = format!("<DescribeStacksResult><Stacks>{stack}</Stacks></DescribeStacksResult>");
    (200, format!("<DescribeStacksResponse>{result}</DescribeStacksResponse>"))
}

fn said(value: &Value) -> (u16, String) {
    (200, value.to_string())
}

fn refused(code: &str, message: &str) -> (u16, String) {
    (400, json!({ "__type": code, "message": message }).to_string())
}

fn standing(status: &str, more: &Value) -> (u16, String) {
    let mut standing = json!({
        "executionArn": EXECUTION, "stateMachineArn": MACHINE, "name": "vitals-1", "status": status,
        "startDate": BEGAN, "stopDate": BEGAN + 5400.0, "input": "{}"
    });
    standing.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    said(&standing)
}

/// A history of states that are entered and left at these seconds after the start, newest first.
fn history(states: &[(&str, &str, i64)]) -> (u16, String) {
    let event = |(n, (kind, state, at)): (usize, &(&str, &str, i64))| {
        let details = if kind.ends_with("Exited") { "stateExitedEventDetails" } else { "stateEnteredEventDetails" };
        json!({ "id": n + 1, "previousEventId": n, "type": kind, "timestamp": BEGAN + *at as f64, details: { "name": state } })
    };
    let mut events: Vec<Value> = states.iter().enumerate().map(event).collect();
    events.reverse();
    said(&json!({ "events": events }))
}

/// A stack in which nothing runs and a training can be started.
fn ready(lake: &str) -> Answers {
    let outputs = [("StateMachineArn", MACHINE), ("LakeUri", lake), ("LogGroupName", "/vitals")];
    BTreeMap::from([
        ("DescribeStacks", vec![stack(&outputs)]),
        ("ListExecutions", vec![said(&json!({ "executions": [] }))]),
        ("StartExecution", vec![said(&json!({ "executionArn": EXECUTION, "startDate": BEGAN }))]),
        (
            "GetExecutionHistory",
            vec![history(&[
                ("TaskStateEntered", "Close days", 1),
                ("TaskStateExited", "Close days", 252),
                ("TaskStateEntered", "Prepare", 252),
            ])],
        ),
    ])
}

/// What a command shows in a folder of its own, with AWS answering so.
fn shown(answers: Answers, words: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let Ran { code, out, err } = Cloud::with(answers).vitals(folder.path(), words);
    assert!(!err.contains("s3cr3t"), "{err}");
    format!("exit {}\n{out}---\n{err}", code.unwrap_or(-1))
}

#[test]
fn a_training_is_shown_step_by_step_and_then_the_model() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("lake")).unwrap();
    let mut answers = ready(folder.path().join("lake").to_str().unwrap());
    let output = json!({ "output": "{\"model\":\"builtin\",\"in_force\":true}" });
    answers.insert("DescribeExecution", vec![standing("RUNNING", &json!({})), standing("SUCCEEDED", &output)]);
    let all = [("Close days", 1, 252), ("Prepare", 252, 600), ("Evaluate", 600, 700)];
    let all = all.map(|(state, from, to)| [("TaskStateEntered", state, from), ("TaskStateExited", state, to)]);
    let mut pages = answers["GetExecutionHistory"].clone();
    pages.push(history(&all.concat()));
    answers.insert("GetExecutionHistory", pages);

    let cloud = Cloud::with(answers);
    let ran = cloud.vitals(folder.path(), &["train", "--target", "aws", "--since", "2026-01-01", "--seed", "7"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let card: Value = serde_json::from_str(&ran.out).unwrap();
    assert!(card["threshold"].as_f64().is_some() && card["profile"].is_null(), "{card}");
    assert_snapshot!(ran.err, @"
    started arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    Ctrl-C leaves it running
        0:01  closing days
        4:12  closing days: done in 4:11
        4:12  preparing the sample
       10:00  preparing the sample: done in 5:48
       10:00  comparing the models
       11:40  comparing the models: done in 1:40
    builtin is in force, and the closed days are scored with it
    hint: `vitals query outliers --target aws` shows what it finds
    ");
    let asked = &cloud.asked("StartExecution")[0];
    // What nobody asked for is the stack's, or the state machine's own.
    let input = json!({ "since": "2026-01-01T00:00:00.000Z", "seed": 7, "alarm_budget": 0.1 });
    assert_eq!(serde_json::from_str::<Value>(asked["input"].as_str().unwrap()).unwrap(), input);
    assert_eq!(asked["stateMachineArn"], MACHINE);
}

#[test]
fn a_training_that_ended_badly_says_why_last() {
    let ended = |status: &str, error: &str, cause: &str| {
        let mut answers = ready("lake");
        answers.insert("DescribeExecution", vec![standing(status, &json!({ "error": error, "cause": cause }))]);
        shown(answers, &["train", "--target", "aws"])
    };
    let capacity = "vitals-1 failed at training: States.TaskFailed: CapacityError: Unable to provision requested ML compute capacity.";
    assert_snapshot!(ended("FAILED", "States.TaskFailed", capacity), @"
    exit 1
    ---
    started arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    Ctrl-C leaves it running
        0:01  closing days
        4:12  closing days: done in 4:11
        4:12  preparing the sample
    error: the training failed at training after 1:30:00: CapacityError: Unable to provision requested ML compute capacity.
    hint: AWS had no machine to spare, at spot prices or on demand: `vitals train --target aws` starts another later; `vitals deploy --set TrainingInstanceType=ml.m5.2xlarge` takes another kind
    ");
    assert_snapshot!(ended("ABORTED", "Stopped", "by `vitals train --stop`"), @"
    exit 1
    ---
    started arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    Ctrl-C leaves it running
        0:01  closing days
        4:12  closing days: done in 4:11
        4:12  preparing the sample
    error: the training was stopped at preparing the sample after 1:30:00: by `vitals train --stop`
    hint: `vitals train --target aws` starts another
    ");
    assert_snapshot!(ended("TIMED_OUT", "", ""), @"
    exit 1
    ---
    started arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    Ctrl-C leaves it running
        0:01  closing days
        4:12  closing days: done in 4:11
        4:12  preparing the sample
    error: the training took too long at preparing the sample after 1:30:00: all of it may take 4 days
    hint: `vitals deploy --set JobCpu=4096 --set JobMemory=16384` gives tasks a larger machine; then `vitals train --target aws` starts another
    ");
}

#[test]
fn what_keeps_a_training_from_being_started_or_followed_is_told() {
    let with = |operation: &'static str, answer: (u16, String)| {
        let mut answers = ready("lake");
        answers.insert(operation, vec![answer]);
        shown(answers, &["train", "--target", "aws"])
    };
    let run = json!({ "executions": [{
        "executionArn": EXECUTION, "stateMachineArn": MACHINE, "name": "vitals-1", "status": "RUNNING", "startDate": BEGAN
    }] });
    assert_snapshot!(with("ListExecutions", said(&run)), @"
    exit 1
    ---
    error: a training runs already since 2026-01-05 00:00 UTC
    hint: `vitals train --follow arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1` shows it; `vitals train --target aws --force` starts another beside it: neither disturbs the other, and of two models that are put in force the last one stays
    ");
    assert_snapshot!(with("StartExecution", refused("AccessDeniedException", "User: me is not authorized")), @"
    exit 1
    ---
    error: starting the training: User: me is not authorized (AccessDeniedException); it needs the permission `states:StartExecution`
    hint: `vitals doctor` shows who you are to AWS and what is missing
    ");
    assert_snapshot!(with("DescribeExecution", refused("ExpiredTokenException", "The security token is expired")), @"
    exit 5
    ---
    started arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    Ctrl-C leaves it running
    the training goes on, but can't be followed; `vitals train --follow arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1` shows how it goes, `vitals train --stop arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1` stops it
    error: asking for the training: The security token is expired (ExpiredTokenException)
    hint: `aws sso login`, or new AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN; signatures also fail where the clock is wrong
    ");
    assert_snapshot!(with("DescribeStacks", stack(&[])), @"
    exit 1
    ---
    error: the stack `vitals` has no output `StateMachineArn` yet
    hint: `vitals deploy` goes on where it ended
    ");
    let none = "<ErrorResponse><Error><Code>ValidationError</Code><Message>Stack with id vitals does not exist</Message></Error></ErrorResponse>";
    assert_snapshot!(with("DescribeStacks", (400, none.to_owned())), @"
    exit 3
    ---
    error: there is no stack `vitals` in this region
    hint: `vitals deploy` makes it; `--stack` and `--region` name another
    ");
}

#[test]
fn a_training_is_left_to_itself_where_nobody_waits() {
    assert_snapshot!(shown(ready("lake"), &["train", "--target", "aws", "--detach"]), @"
    exit 0
    arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    ---
    started; `vitals train --follow arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1` shows how it goes, `vitals train --stop arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1` stops it
    console: https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1
    ");
}

#[test]
fn what_would_be_started_is_said_first() {
    assert_snapshot!(shown(ready("s3://ward"), &["train", "--target", "aws", "--dry-run", "--promote", "never"]), @r#"
    exit 0
    aws       in the stack `vitals` in eu-central-1, by arn:aws:states:eu-central-1:123456789012:stateMachine:vitals-training
    input     {"alarm_budget":0.1,"promote":"no"}
    reads     s3://ward, once the days that are over are closed, by tasks of ECS
    learns    from at most 4,000,000 readings, of whole devices, by a job of SageMaker
              on one machine, spot capacity where there is any, else on demand
    compares  what it has learnt with the model in force
    then      nothing more: it is not put in force
    ---
    "#);
}

#[test]
fn flags_that_are_for_the_other_place_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("vitals.toml"), "target = \"aws\"\nlake = \"ward\"\n").unwrap();
    let said = |words: &[&str]| {
        let ran = vitals(folder.path(), &[&["train"], words].concat());
        assert_eq!((ran.code, ran.out.as_str()), (Some(2), ""), "{words:?}: {}", ran.err);
        ran.err
    };
    let here = ["--target", "local"];
    assert_snapshot!(said(&["--data", "a.csv", "--out", "m"]), @"
    error: `--data` is for a training on this machine; on AWS the stack's own lake is learnt from
    hint: `--target local` trains here, or leave `--data` out
    ");
    assert_snapshot!(said(&["--lake", "ward"]), @"
    error: `--lake` is for a training on this machine; on AWS the stack's own lake is learnt from
    hint: `--target local` trains here, or leave `--lake` out
    ");
    assert_snapshot!(said(&[&here[..], &["--detach"]].concat()), @"
    error: `--detach` is for the trainings of a stack
    hint: add `--target aws`, or leave it out
    ");
    assert_snapshot!(said(&[&here[..], &["--every", "off"]].concat()), @"
    error: `--every off` switches off the schedule of a stack; on this machine nothing is scheduled: a `vitals train --every` ends with Ctrl-C, `vitals up --train-every never` does not train
    hint: add `--target aws`
    ");
    assert_snapshot!(said(&[&here[..], &["--every", "7d", "--dry-run"]].concat()), @"
    error: `--dry-run` does not go with `--every` on this machine
    hint: leave one of them out
    ");
    let refused = said(&["--follow", "arn:aws:s3:::bucket"]);
    assert!(refused.contains("it is no execution's ARN"), "{refused}");
}

#[test]
fn the_lake_of_a_stack_is_in_the_region_of_the_stack() {
    let folder = tempfile::tempdir().unwrap();
    let outputs = [("LakeUri", "s3://ward"), ("WorkGroupName", "vitals"), ("GlueDatabase", "vitals")];
    let empty =
        "<ListBucketResult><Name>ward</Name><KeyCount>0</KeyCount><IsTruncated>false</IsTruncated></ListBucketResult>";
    let cloud = Cloud::with(BTreeMap::from([
        ("DescribeStacks", vec![stack(&outputs)]),
        ("GET", vec![(200, empty.to_owned())]),
    ]));
    let ran = cloud.vitals(folder.path(), &["report", "--target", "aws", "--region", "eu-west-1"]);
    assert_eq!(ran.code, Some(3), "{}", ran.err);
    assert!(ran.err.contains("there is no lake in `s3://ward`"), "{}", ran.err);
    let asked = cloud.asked.lock().unwrap();
    let listed: Vec<&Asked> = asked.iter().filter(|asked| asked.operation == "GET").collect();
    assert!(!listed.is_empty() && listed.iter().all(|asked| asked.head.contains("/eu-west-1/s3/aws4_request")));
}
