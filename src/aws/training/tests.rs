//! Trainings against replayed answers.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use chrono::TimeDelta;
use serde_json::json;

use super::{
    cause::Failure,
    history::{News, STEPS, Story, What},
    job::Watch,
    *,
};
use crate::aws::{replay::Replay, stack::WORKFLOW};

const MACHINE: &str = "arn:aws:states:eu-central-1:123456789012:stateMachine:vitals-training";
const EXECUTION: &str = "arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1";

fn access(replay: &Replay) -> Access {
    Access::with(replay.config(), "eu-central-1".to_owned())
}

fn arn() -> Arn {
    EXECUTION.parse().unwrap()
}

fn refused(code: &str, message: &str) -> (u16, Value) {
    (400, json!({ "__type": format!("com.amazonaws.states#{code}"), "message": message }))
}

/// An execution that ended.
fn ended(status: &str, error: &str, cause: &str) -> Value {
    json!({
        "executionArn": EXECUTION, "stateMachineArn": MACHINE, "name": "vitals-1", "status": status,
        "startDate": 1_767_571_200.0, "stopDate": 1_767_574_800.0, "input": "{\"promote\":\"no\"}", "error": error, "cause": cause
    })
}

/// Events of an execution: id, the one before, seconds since its start, kind, details.
fn event(id: i64, after: i64, at: f64, kind: &str, details: Value) -> Value {
    let mut event = json!({ "id": id, "previousEventId": after, "timestamp": 1_767_571_200.0 + at, "type": kind });
    if let (Some(event), Some(details)) = (event.as_object_mut(), details.as_object()) {
        event.extend(details.clone());
    }
    event
}

fn entered(id: i64, at: f64, kind: &str, state: &str) -> Value {
    event(id, id - 1, at, &format!("{kind}StateEntered"), json!({ "stateEnteredEventDetails": { "name": state } }))
}

fn left(id: i64, at: f64, kind: &str, state: &str, output: &Value) -> Value {
    let details = json!({ "stateExitedEventDetails": { "name": state, "output": output.to_string() } });
    event(id, id - 1, at, &format!("{kind}StateExited"), details)
}

fn scheduled(id: i64, at: f64, parameters: &Value) -> Value {
    let details = json!({ "taskScheduledEventDetails": {
        "resourceType": "any", "resource": "any.sync", "region": "eu-central-1", "parameters": parameters.to_string()
    } });
    event(id, id - 1, at, "TaskScheduled", details)
}

fn task_failed(id: i64, after: i64, at: f64, error: &str, cause: &Value) -> Value {
    let cause = cause.as_str().map_or_else(|| cause.to_string(), str::to_owned);
    let details = json!({ "taskFailedEventDetails": { "resourceType": "any", "resource": "any.sync", "error": error, "cause": cause } });
    event(id, after, at, "TaskFailed", details)
}

/// A server that has these events, newest first as it is asked, in pages of two.
async fn with_history(events: Vec<Value>) -> Replay {
    Replay::start(move |asked| {
        assert_eq!(asked.operation, "GetExecutionHistory");
        assert_eq!(asked.body["reverseOrder"], true);
        let begin = asked.body["nextToken"].as_str().map_or(0, |token| token.parse::<usize>().unwrap());
        let page: Vec<&Value> = events.iter().rev().skip(begin).take(2).collect();
        let more = (begin + 2 < events.len()).then(|| (begin + 2).to_string());
        (200, json!({ "events": page, "nextToken": more }))
    })
    .await
}

/// What is told of a history.
async fn told(events: Vec<Value>) -> (Vec<News>, Story) {
    let replay = with_history(events).await;
    let mut execution = Execution::new(&access(&replay), arn());
    let mut story = Story::default();
    let news = execution.news().await.unwrap();
    (news.iter().filter_map(|event| story.tell(event)).collect(), story)
}

#[test]
fn arns_are_read_and_shown_in_the_console() {
    let arn = arn();
    assert_eq!(
        (arn.region.as_str(), arn.machine.as_str(), arn.name.as_str()),
        ("eu-central-1", "vitals-training", "vitals-1")
    );
    let console = "https://eu-central-1.console.aws.amazon.com/states/home?region=eu-central-1#/v2/executions/details/";
    assert_eq!(arn.console(), format!("{console}{EXECUTION}"));
    for wrong in
        ["", MACHINE, "arn:aws:states:eu-central-1:1:execution:vitals-training:", "arn:aws:states:::execution:m:n"]
    {
        assert!(wrong.parse::<Arn>().is_err(), "{wrong}");
    }
}

#[test]
fn names_are_new_each_time_and_short_enough() {
    let now = DateTime::from_timestamp(1_767_571_200, 0).unwrap();
    let (one, two) = (new_name(now), new_name(now));
    assert!(one.starts_with("vitals-20260105T000000Z-") && one != two && one.len() <= 80, "{one}");
}

#[test]
fn every_step_that_people_wait_for_has_words() {
    let machine: Value = serde_json::from_str(WORKFLOW).unwrap();
    let states = machine["States"].as_object().unwrap();
    // Looking at texts of the input, fetching an object of a few hundred bytes, sending a notice.
    let quick = ["Are texts", "Outcome", "Tell"];
    for (name, state) in states {
        let is_step = ["Task", "Map"].contains(&state["Type"].as_str().unwrap()) && !quick.contains(&name.as_str());
        assert_eq!(STEPS.iter().any(|(step, _)| step == name), is_step, "{name}");
    }
    assert_eq!(machine["TimeoutSeconds"], super::cause::LONGEST_S);
    assert_eq!(states["On demand"]["Next"], "Train");
    assert_eq!(states["Train"]["ResultSelector"]["Cause.$"], "$.SecondaryStatus");
}

#[tokio::test]
async fn a_start_whose_answer_was_lost_starts_nothing_more() {
    let started = json!({ "executionArn": EXECUTION, "startDate": 1.0 });
    let replay = Replay::start(move |asked| match asked.n {
        0 => (503, json!({ "__type": "ServiceUnavailable" })),
        _ => (200, started.clone()),
    })
    .await;
    let machine = Machine::new(&access(&replay), MACHINE);
    assert_eq!(machine.start("vitals-1", &json!({ "seed": 1 })).await.unwrap(), arn());
    let asked = replay.bodies("StartExecution");
    assert_eq!(asked.len(), 2);
    assert_eq!(asked[0], asked[1]);
    assert_eq!(asked[0], json!({ "stateMachineArn": MACHINE, "name": "vitals-1", "input": "{\"seed\":1}" }));
    // What the first request started is over already.
    let replay = Replay::start(|_| refused("ExecutionAlreadyExists", "Execution Already Exists")).await;
    assert_eq!(Machine::new(&access(&replay), MACHINE).start("vitals-1", &json!({})).await.unwrap(), arn());
}

#[tokio::test]
async fn what_is_refused_is_told_with_what_it_needs() {
    let replay = Replay::start(|_| refused("AccessDeniedException", "User: me is not authorized")).await;
    let access = access(&replay);
    let (machine, execution) = (Machine::new(&access, MACHINE), Execution::new(&access, arn()));
    let mut following = Execution::new(&access, arn());
    let said = [
        (machine.start("n", &json!({})).await.unwrap_err(), "states:StartExecution"),
        (machine.running().await.unwrap_err(), "states:ListExecutions"),
        (execution.standing().await.unwrap_err(), "states:DescribeExecution"),
        (following.news().await.unwrap_err(), "states:GetExecutionHistory"),
        (execution.stop("x").await.unwrap_err(), "states:StopExecution"),
    ];
    for (refused, action) in said {
        assert!(refused.is_denied() && refused.to_string().contains(&format!("`{action}`")), "{refused}");
        assert!(!refused.may_pass());
    }
    // Where the service says it, it is not said twice.
    let replay =
        Replay::start(|_| refused("AccessDeniedException", "not authorized to perform: states:StopExecution")).await;
    let said = Execution::new(&self::access(&replay), arn()).stop("x").await.unwrap_err().to_string();
    assert_eq!(said.matches("states:StopExecution").count(), 1, "{said}");
}

#[tokio::test]
async fn expired_credentials_are_told_at_once_and_throttling_is_borne() {
    let replay = Replay::start(|_| refused("ExpiredTokenException", "The security token is expired")).await;
    let said = Execution::new(&access(&replay), arn()).standing().await.unwrap_err();
    assert!(said.is_about_credentials() && !said.may_pass());
    assert_eq!(replay.asked().len(), 1);
    let replay = Replay::start(|asked| match asked.n {
        0..2 => refused("ThrottlingException", "Rate exceeded"),
        _ => (200, ended("RUNNING", "", "")),
    })
    .await;
    assert_eq!(Execution::new(&access(&replay), arn()).standing().await.unwrap().status, Status::Running);
    assert_eq!(replay.asked().len(), 3);
}

#[tokio::test]
async fn a_history_is_read_page_by_page_and_each_event_told_once() {
    let known = std::sync::Arc::new(AtomicUsize::new(5));
    let so_far = known.clone();
    let replay = Replay::start(move |asked| {
        let all = so_far.load(SeqCst) as i64;
        let begin: i64 = asked.body["nextToken"].as_str().map_or(0, |token| token.parse().unwrap());
        let ids: Vec<i64> = (1..=all).rev().skip(begin as usize).take(2).collect();
        let events: Vec<Value> = ids.iter().map(|id| event(*id, id - 1, 0.0, "ExecutionStarted", json!({}))).collect();
        (200, json!({ "events": events, "nextToken": (begin + 2 < all).then(|| (begin + 2).to_string()) }))
    })
    .await;
    let mut execution = Execution::new(&access(&replay), arn());
    let ids = |news: Vec<Event>| news.into_iter().map(|event| event.id).collect::<Vec<_>>();
    assert_eq!(ids(execution.news().await.unwrap()), [1, 2, 3, 4, 5]);
    assert_eq!(replay.asked().len(), 3);
    assert!(execution.news().await.unwrap().is_empty());
    known.store(8, SeqCst);
    assert_eq!(ids(execution.news().await.unwrap()), [6, 7, 8]);
    // No page is asked for that has nothing new.
    assert_eq!(replay.asked().len(), 3 + 1 + 2);
}

#[tokio::test]
async fn a_story_has_steps_retries_and_the_job() {
    let job = |name: &str| json!({ "TrainingJobName": name });
    let stopped = json!({ "last": { "Job": "vitals-a", "Status": "Stopped", "Cause": "MaxWaitTimeExceeded" } });
    let events = vec![
        event(1, 0, 0.0, "ExecutionStarted", json!({})),
        entered(2, 0.0, "Pass", "Defaults"),
        entered(3, 1.0, "Task", "Close days"),
        scheduled(4, 1.0, &json!({ "Cluster": "c" })),
        task_failed(5, 4, 10.0, "ECS.ServerException", &json!("busy")),
        scheduled(6, 20.0, &json!({ "Cluster": "c" })),
        left(7, 100.0, "Task", "Close days", &json!({})),
        entered(8, 100.0, "Task", "Train"),
        scheduled(9, 100.0, &job("vitals-a")),
        left(10, 1000.0, "Task", "Train", &stopped),
        entered(11, 1000.0, "Pass", "On demand"),
        entered(12, 1000.0, "Task", "Train"),
        scheduled(13, 1000.0, &job("vitals-b")),
    ];
    let (news, story) = told(events).await;
    let (closing, training) = ("closing days", "training");
    assert_eq!(
        news,
        [
            News::Begun { step: closing },
            News::Failed { step: closing, why: "busy (ECS.ServerException)".to_owned() },
            News::Again { step: closing },
            News::Done { step: closing, took: TimeDelta::seconds(99) },
            News::Begun { step: training },
            News::Failed { step: training, why: "spot capacity never came (MaxWaitTimeExceeded)".to_owned() },
            News::OnDemand,
            News::Begun { step: training },
        ]
    );
    assert_eq!((story.step(), story.job.as_deref()), (Some(training), Some("vitals-b")));
}

#[tokio::test]
async fn shares_are_counted_and_only_the_failed_one_is_tried_again() {
    let share = |id, after, at, kind: &str, details| event(id, after, at, kind, details);
    let within = |name: &str| json!({ "stateEnteredEventDetails": { "name": name } });
    let parameters = json!({ "taskScheduledEventDetails": { "resourceType": "ecs", "resource": "runTask.sync", "region": "x", "parameters": "{}" } });
    let events = vec![
        entered(1, 0.0, "Map", "Score again"),
        share(2, 1, 0.0, "MapStateStarted", json!({ "mapStateStartedEventDetails": { "length": 2 } })),
        share(3, 2, 0.0, "MapIterationStarted", json!({})),
        share(4, 3, 0.0, "TaskStateEntered", within("Score a shard")),
        share(5, 4, 0.0, "TaskScheduled", parameters.clone()),
        task_failed(6, 5, 5.0, "States.TaskFailed", &json!({ "StoppedReason": "Your Spot Task was interrupted." })),
        share(7, 2, 6.0, "MapIterationStarted", json!({})),
        share(8, 7, 6.0, "TaskStateEntered", within("Score a shard")),
        share(9, 8, 6.0, "TaskScheduled", parameters.clone()),
        share(10, 6, 65.0, "TaskScheduled", parameters),
        share(11, 9, 70.0, "MapIterationSucceeded", json!({})),
        share(12, 10, 80.0, "MapIterationSucceeded", json!({})),
        left(13, 80.0, "Map", "Score again", &json!({})),
    ];
    let (news, _) = told(events).await;
    let step = "scoring again";
    assert_eq!(
        news,
        [
            News::Begun { step },
            News::Failed { step, why: "Your Spot Task was interrupted.".to_owned() },
            News::Again { step },
            News::Shares { step, done: 1, of: 2 },
            News::Shares { step, done: 2, of: 2 },
            News::Done { step, took: TimeDelta::seconds(80) },
        ]
    );
}

#[tokio::test]
async fn a_step_whose_failure_was_caught_is_not_told_to_be_done() {
    let events = vec![
        entered(1, 0.0, "Task", "Prepare"),
        scheduled(2, 0.0, &json!({})),
        event(
            3,
            2,
            9.0,
            "TaskTimedOut",
            json!({ "taskTimedOutEventDetails": { "resourceType": "x", "resource": "x", "error": "States.Timeout" } }),
        ),
        left(4, 9.0, "Task", "Prepare", &json!({})),
        entered(5, 9.0, "Pass", "Not prepared"),
    ];
    let (news, story) = told(events).await;
    let step = "preparing the sample";
    assert_eq!(news, [News::Begun { step }, News::Failed { step, why: "it took longer than it may".to_owned() }]);
    assert_eq!(story.step(), Some(step));
}

async fn failure(status: &str, error: &str, cause: &str, step: Option<&str>) -> (Failure, Standing) {
    let standing = ended(status, error, cause);
    let replay = Replay::start(move |_| (200, standing.clone())).await;
    let standing = Execution::new(&access(&replay), arn()).standing().await.unwrap();
    (Failure::of(&standing, "vitals-1", step), standing)
}

/// What people are told of a failure: why, and what to do about it.
async fn said(status: &str, error: &str, cause: &str) -> String {
    let (failure, standing) = failure(status, error, cause, Some("training")).await;
    let hint = failure.hint(standing.status, "vitals train --target aws", "vitals deploy");
    format!("{}: {}\nhint: {}", failure.step.as_deref().unwrap_or("-"), failure.why, hint.as_deref().unwrap_or("none"))
}

#[tokio::test]
async fn a_failure_is_told_with_its_step_and_reason_and_what_helps() {
    let failed = |step: &str, error: &str, cause: &str| format!("vitals-1 failed at {step}: {error}: {cause}");
    let mut all = String::new();
    for (error, cause) in [
        (
            "States.TaskFailed",
            failed(
                "training",
                "States.TaskFailed",
                "AlgorithmError: there are no readings with vitals to learn from, exit code: 1",
            ),
        ),
        (
            "States.TaskFailed",
            failed(
                "training",
                "States.TaskFailed",
                "CapacityError: Unable to provision requested ML compute capacity.",
            ),
        ),
        ("TrainingStopped", failed("training", "TrainingStopped", "MaxWaitTimeExceeded")),
        ("TrainingStopped", failed("training", "TrainingStopped", "MaxRuntimeExceeded")),
        (
            "SageMaker.ResourceLimitExceededException",
            failed(
                "training",
                "SageMaker.ResourceLimitExceededException",
                "The account-level service limit 'ml.m5.xlarge for training job usage' is 0 Instances.",
            ),
        ),
        ("ECS.ThrottlingException", failed("closing days", "ECS.ThrottlingException", "Rate exceeded")),
        ("BadInput", failed("reading the input", "BadInput", "it is an object of since, until")),
        (
            "States.TaskFailed",
            failed(
                "preparing the sample",
                "States.TaskFailed",
                "CannotPullContainerError: pull image manifest has been retried 5 time(s)",
            ),
        ),
        ("States.Timeout", failed("scoring again", "States.Timeout", "States.Timeout")),
        (
            "ECS.AccessDeniedException",
            failed("closing days", "ECS.AccessDeniedException", "not authorized to perform: ecs:RunTask"),
        ),
        ("NotTold", failed("training", "Surprise", "of some kind")),
        ("NotTold", "vitals-1: the model m-0123456789ab is in force, and the days are scored with it.".to_owned()),
        ("States.Runtime", "An error occurred while executing the state 'Merge'".to_owned()),
        (
            "States.TaskFailed",
            failed("scoring again", "States.TaskFailed", "OutOfMemoryError: Container killed due to memory usage"),
        ),
    ] {
        all.push_str(&said("FAILED", error, &cause).await);
        all.push_str("\n\n");
    }
    all.push_str(&said("TIMED_OUT", "", "").await);
    all.push_str("\n\n");
    all.push_str(&said("ABORTED", "Stopped", "by `vitals train --stop`").await);
    all.push_str("\n\n");
    all.push_str(&said("ABORTED", "", "").await);
    insta::assert_snapshot!(all, @r#"
    training: AlgorithmError: there are no readings with vitals to learn from, exit code: 1
    hint: `vitals status` says whether readings arrive; `--since` with an earlier day, or none, takes more of them

    training: CapacityError: Unable to provision requested ML compute capacity.
    hint: AWS had no machine to spare, at spot prices or on demand: `vitals train --target aws` starts another later; `vitals deploy --set TrainingInstanceType=ml.m5.2xlarge` takes another kind

    training: spot capacity never came (MaxWaitTimeExceeded)
    hint: AWS had no machine to spare, at spot prices or on demand: `vitals train --target aws` starts another later; `vitals deploy --set TrainingInstanceType=ml.m5.2xlarge` takes another kind

    training: it ran longer than it may (MaxRuntimeExceeded)
    hint: a larger machine is faster: `vitals deploy --set TrainingInstanceType=ml.m5.4xlarge`; `--since 30d` learns from less

    training: The account-level service limit 'ml.m5.xlarge for training job usage' is 0 Instances. (SageMaker.ResourceLimitExceededException)
    hint: the account's quota for this machine is too small: Service Quotas, SageMaker, "… for training job usage", for spot and on demand; or another machine: `vitals deploy --set TrainingInstanceType=ml.m5.large`

    closing days: Rate exceeded (ECS.ThrottlingException)
    hint: too much was asked of AWS at once, again and again: `vitals train --target aws` starts another later

    reading the input: it is an object of since, until
    hint: another version of this program may have made the state machine: `vitals deploy` brings it up to date

    preparing the sample: CannotPullContainerError: pull image manifest has been retried 5 time(s)
    hint: the container image can't be had: `vitals deploy` pushes it again

    scoring again: it took longer than it may
    hint: `vitals deploy --set JobCpu=4096 --set JobMemory=16384` gives tasks a larger machine; then `vitals train --target aws` starts another

    closing days: not authorized to perform: ecs:RunTask (ECS.AccessDeniedException)
    hint: a role of the stack lacks that permission: `vitals deploy` brings roles up to date; a permission boundary or the organisation's policies may deny it as well

    training: of some kind (Surprise)
    hint: none

    telling it: all else is done: the model m-0123456789ab is in force, and the days are scored with it
    hint: the topic for notices could not be written to: does it exist, and may the state machine's role publish to it?

    training: An error occurred while executing the state 'Merge' (States.Runtime)
    hint: none

    scoring again: OutOfMemoryError: Container killed due to memory usage
    hint: it needs more memory: `vitals deploy --set JobMemory=16384`

    training: all of it may take 4 days
    hint: a larger machine is faster: `vitals deploy --set TrainingInstanceType=ml.m5.4xlarge`; `--since 30d` learns from less

    training: by `vitals train --stop`
    hint: `vitals train --target aws` starts another

    training: nobody said why
    hint: `vitals train --target aws` starts another
    "#);
}

#[tokio::test]
async fn the_log_of_a_task_says_why_it_failed() {
    let task = "arn:aws:ecs:eu-central-1:123456789012:task/vitals/0f3a";
    let cause = format!(
        "vitals-1 failed at preparing the sample: States.TaskFailed: Essential container in task exited; more is in the log of {task}"
    );
    let (mut failure, standing) = failure("FAILED", "States.TaskFailed", &cause, None).await;
    assert_eq!(failure.task(), Some(task));
    let line = |level: &str, message: &str| json!({ "level": level, "fields": { "message": message } }).to_string();
    let events = [line("ERROR", "no bucket\nhint: make one"), line("INFO", "bye"), "not JSON".to_owned()];
    let events: Vec<Value> = events.iter().map(|message| json!({ "message": message })).collect();
    let replay = Replay::start(move |_| (200, json!({ "events": events }))).await;
    let said = Watch::of_test(&replay.endpoint)
        .last_error("/vitals/tasks", "compact", failure.task().unwrap())
        .await
        .unwrap()
        .unwrap();
    let asked = &replay.bodies("GetLogEvents")[0];
    assert_eq!(
        (&asked["logGroupName"], &asked["logStreamName"]),
        (&json!("/vitals/tasks"), &json!("compact/vitals/0f3a"))
    );
    failure.said_in_log(&said);
    assert_eq!(failure.why, "no bucket\nhint: make one");
    // The program's own hint is the better one.
    assert_eq!(failure.hint(standing.status, "train", "deploy"), None);
    // A log that can't be read is told, with the permission.
    let replay = Replay::start(|_| refused("AccessDeniedException", "no")).await;
    let error = Watch::of_test(&replay.endpoint).last_error("g", "compact", task).await.unwrap_err();
    assert!(format!("{error:#}").contains("logs:GetLogEvents"), "{error:#}");
}

#[test]
fn what_happened_without_details_is_nothing() {
    assert_eq!(Story::default().tell(&Event { id: 1, after: 0, at: None, what: What::Other }), None);
}
