//! What happens in an execution, told by the steps that people know: the events are Step Functions', of which there are
//! many for each step.

use std::collections::{BTreeMap, BTreeSet};

use aws_sdk_sfn::types::{HistoryEvent, HistoryEventType as Kind};
use chrono::{DateTime, TimeDelta, Utc};
use serde_json::Value;

use super::{cause, moment};

/// The states that are steps to people, in their order, and what is done in them. The state machine uses the same words
/// where one has failed.
pub const STEPS: [(&str, &str); 7] = [
    ("Close days", "closing days"),
    ("Prepare", "preparing the sample"),
    ("Prepare by Spark", "preparing the sample by Spark"),
    ("Train", "training"),
    ("Evaluate", "comparing the models"),
    ("Score again", "scoring again"),
    ("Put in force", "putting the model in force"),
];

/// The state in which the model is trained, and the one after which that is tried once more.
const TRAIN: &str = "Train";
const ON_DEMAND: &str = "On demand";

/// One event of an execution.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// From 1 on, without a hole.
    pub id: i64,
    /// The event that led to this one.
    pub after: i64,
    pub at: Option<DateTime<Utc>>,
    pub what: What,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    Entered {
        state: String,
    },
    Left {
        state: String,
        /// Why a training job ended without a model, where it has not failed either.
        stopped: Option<String>,
    },
    /// A service was called; the name is that of a training job.
    Called {
        job: Option<String>,
    },
    /// A call, or what it had started, failed.
    Failed {
        error: String,
        cause: Option<String>,
    },
    /// A state that does the same for many begins.
    Shares(usize),
    /// One of them is done.
    Share,
    Other,
}

impl Event {
    /// From what Step Functions tells.
    pub fn of(event: HistoryEvent) -> Event {
        Event {
            id: event.id,
            after: event.previous_event_id,
            at: moment(event.timestamp),
            what: what(event).unwrap_or(What::Other),
        }
    }
}

fn what(event: HistoryEvent) -> Option<What> {
    let failed = |error: Option<String>, cause| What::Failed { error: error.unwrap_or_default(), cause };
    Some(match event.r#type {
        Kind::TaskStateEntered | Kind::MapStateEntered | Kind::PassStateEntered => {
            What::Entered { state: event.state_entered_event_details?.name }
        }
        Kind::TaskStateExited | Kind::MapStateExited => {
            let left = event.state_exited_event_details?;
            let stopped = (left.name == TRAIN).then(|| stopped(left.output.as_deref())).flatten();
            What::Left { state: left.name, stopped }
        }
        Kind::TaskScheduled => {
            let asked: Value =
                serde_json::from_str(&event.task_scheduled_event_details?.parameters).unwrap_or_default();
            What::Called { job: asked["TrainingJobName"].as_str().map(str::to_owned) }
        }
        Kind::TaskFailed => event.task_failed_event_details.map(|of| failed(of.error, of.cause))?,
        Kind::TaskTimedOut => event.task_timed_out_event_details.map(|of| failed(of.error, of.cause))?,
        Kind::TaskStartFailed => event.task_start_failed_event_details.map(|of| failed(of.error, of.cause))?,
        Kind::TaskSubmitFailed => event.task_submit_failed_event_details.map(|of| failed(of.error, of.cause))?,
        Kind::MapStateStarted => {
            What::Shares(usize::try_from(event.map_state_started_event_details?.length).unwrap_or_default())
        }
        Kind::MapIterationSucceeded => What::Share,
        _ => return None,
    })
}

/// Why the job that a step waited for was stopped, by what the step gave.
fn stopped(output: Option<&str>) -> Option<String> {
    let output: Value = serde_json::from_str(output?).ok()?;
    let last = &output["last"];
    if last["Status"].as_str()? == "Completed" {
        return None;
    }
    Some(last["Cause"].as_str().unwrap_or("it gives no reason").to_owned())
}

/// Something that is worth a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum News {
    /// A step has begun.
    Begun { step: &'static str },
    /// It is done, after so long.
    Done { step: &'static str, took: TimeDelta },
    /// An attempt at it failed. It may be made again.
    Failed { step: &'static str, why: String },
    /// It is tried again.
    Again { step: &'static str },
    /// Spot capacity gave no model.
    OnDemand,
    /// So many of its shares are done.
    Shares { step: &'static str, done: usize, of: usize },
}

/// Where the execution is, as far as its events were told.
#[derive(Debug, Default)]
pub struct Story {
    /// The step of each event: what happens within it is known by what led there.
    steps: BTreeMap<i64, Option<usize>>,
    /// The step that is under way, or was last, and since when.
    now: Option<(usize, Option<DateTime<Utc>>)>,
    /// Attempts at the step that failed and were not made again so far.
    failed: BTreeSet<i64>,
    shares: (usize, usize),
    /// The training job, as long as it runs.
    pub job: Option<String>,
}

impl Story {
    /// The step that is under way, or was last.
    pub fn step(&self) -> Option<&'static str> {
        self.now.map(|(step, _)| STEPS[step].1)
    }

    /// Takes the next event, and says what it means.
    pub fn tell(&mut self, event: &Event) -> Option<News> {
        let within = self.steps.get(&event.after).copied().flatten();
        let entered = match &event.what {
            What::Entered { state } => STEPS.iter().position(|(name, _)| name == state),
            _ => None,
        };
        let step = entered.or(within);
        let left = matches!(event.what, What::Left { .. }) && self.is_of(event, step);
        self.steps.insert(event.id, step.filter(|_| !left));
        match &event.what {
            What::Entered { state } if state == ON_DEMAND => {
                self.steps.insert(event.id, None);
                Some(News::OnDemand)
            }
            What::Entered { .. } => {
                let step = entered?;
                self.now = Some((step, event.at));
                self.failed.clear();
                self.shares = (0, 0);
                Some(News::Begun { step: STEPS[step].1 })
            }
            What::Left { stopped, .. } if left => {
                let (step, since) = (step?, self.now.and_then(|(_, since)| since));
                let took = event.at.zip(since).map_or(TimeDelta::zero(), |(at, since)| at - since);
                if STEPS[step].0 == TRAIN {
                    self.job = None;
                }
                match stopped {
                    Some(why) => Some(News::Failed { step: STEPS[step].1, why: cause::short(why, None) }),
                    // A step also ends where its failure was caught.
                    None => self.failed.is_empty().then_some(News::Done { step: STEPS[step].1, took }),
                }
            }
            What::Called { job } => {
                self.job = job.clone().or(self.job.take());
                // What is tried again follows its failure; of the shares of a step others may begin meanwhile.
                self.failed.remove(&event.after).then_some(News::Again { step: STEPS[step?].1 })
            }
            What::Failed { error, cause } => {
                self.failed.insert(event.id);
                self.job = None;
                Some(News::Failed { step: STEPS[step?].1, why: cause::short(error, cause.as_deref()) })
            }
            What::Shares(of) => {
                self.shares = (0, *of);
                None
            }
            What::Share => {
                self.shares.0 += 1;
                Some(News::Shares { step: STEPS[step?].1, done: self.shares.0, of: self.shares.1 })
            }
            What::Left { .. } | What::Other => None,
        }
    }

    /// Whether what was left is the step itself, and not a state within it.
    fn is_of(&self, event: &Event, step: Option<usize>) -> bool {
        matches!((&event.what, step), (What::Left { state, .. }, Some(step)) if STEPS[step].0 == state)
    }
}
