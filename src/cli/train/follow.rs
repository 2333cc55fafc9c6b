//! What people see while a training runs on AWS: on a terminal a line that says what is being done, which counts, below what
//! was done; elsewhere a line for each thing that happens, and one now and then that it still goes on.

use std::{
    io::IsTerminal,
    time::{Duration, Instant},
};

use chrono::{DateTime, TimeDelta, Utc};
use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use tokio::sync::watch::Receiver;

use crate::{
    aws::{
        clients::CallFailed,
        training::{
            Execution, Standing, Status,
            history::{News, Story},
            job::{self, Job, Watch},
        },
    },
    cli::{in_words, tell},
};

/// How long between two questions for news.
const PAUSE: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(3) };

/// How long after a question that got no answer, and how often in a row that is borne: each question is a minute of tries.
const AGAIN: Duration = if cfg!(test) { Duration::from_millis(1) } else { Duration::from_secs(15) };
const UNANSWERED: u32 = 20;

/// How often it is said, where there is no terminal, that it still goes on.
const HEARTBEAT: Duration = Duration::from_secs(60);

/// How following an execution ended.
pub enum Followed {
    /// It has ended, well or not; the step is the one that it was at.
    Ended(Box<Standing>, Option<&'static str>),
    /// Ctrl-C: it goes on without us.
    Left,
}

/// Follows an execution to its end and shows what happens.
///
/// # Errors
/// Where Step Functions can't be asked any more.
pub async fn follow(
    execution: &mut Execution,
    watch: &Watch,
    interrupt: &mut Receiver<bool>,
) -> Result<Followed, CallFailed> {
    let mut following =
        Following { watch, story: Story::default(), view: View::new(), job: None, asked: None, deaf: false };
    let mut unanswered = 0;
    loop {
        let round = tokio::select! {
            round = following.round(execution) => round,
            _ = interrupt.wait_for(|interrupted| *interrupted) => break Ok(Followed::Left),
        };
        let pause = match round {
            Ok(Some(standing)) => break Ok(Followed::Ended(Box::new(standing), following.story.step())),
            Ok(None) => {
                unanswered = 0;
                PAUSE
            }
            Err(refused) if refused.may_pass() && unanswered < UNANSWERED => {
                if unanswered == 0 {
                    following
                        .view
                        .line(None, &format!("AWS can't be asked at present, which is tried again: {refused}"));
                }
                unanswered += 1;
                AGAIN
            }
            Err(refused) => break Err(refused),
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = interrupt.wait_for(|interrupted| *interrupted) => break Ok(Followed::Left),
        }
    }
}

struct Following<'a> {
    watch: &'a Watch,
    story: Story,
    view: View,
    /// The training job of the step.
    job: Option<String>,
    /// When it was asked how the job stands.
    asked: Option<Instant>,
    /// Whether the job can't be asked about, which was said.
    deaf: bool,
}

impl Following<'_> {
    /// Tells what is new; gives how the execution ended, where it has.
    async fn round(&mut self, execution: &mut Execution) -> Result<Option<Standing>, CallFailed> {
        // In this order: what happens between the two questions belongs to the next round.
        let standing = execution.standing().await?;
        self.view.began = standing.began;
        for event in execution.news().await? {
            let news = self.story.tell(&event);
            self.job = self.story.job.clone().or(self.job.take());
            let Some(news) = news else { continue };
            self.view.show(event.at, &news);
            if matches!(news, News::Done { .. }) && self.story.job.is_none() {
                self.figures(event.at).await;
            }
        }
        if standing.status != Status::Running {
            self.view.close();
            return Ok(Some(standing));
        }
        let due = self.asked.is_none_or(|asked| asked.elapsed() >= job::PAUSE);
        if let (Some(job), true) = (self.story.job.clone(), due) {
            self.asked = Some(Instant::now());
            let stands = self.stands(&job).await;
            let words = self.heard(stands).map(|(stands, trees)| match trees {
                Some(trees) => format!("{}, {} trees", stands.doing, HumanCount(trees as u64)),
                None => stands.doing,
            });
            self.view.doing = words.unwrap_or_default();
        }
        self.view.beat();
        Ok(None)
    }

    /// How the job stands, and how many trees it has.
    async fn stands(&self, job: &str) -> anyhow::Result<(Job, Option<f64>)> {
        let stands = self.watch.job(job).await?;
        let trees = match stands.figures.get("trees") {
            Some(trees) => Some(*trees),
            None => self.watch.trees(job, Utc::now()).await?,
        };
        Ok((stands, trees))
    }

    /// The figures of a job that is done.
    async fn figures(&mut self, at: Option<DateTime<Utc>>) {
        let Some(job) = self.job.take() else { return };
        let stands = self.watch.job(&job).await;
        let Some(Job { figures, .. }) = self.heard(stands) else { return };
        if !figures.is_empty() {
            let words: Vec<String> = figures.iter().map(|(name, value)| format!("{name} {}", figure(*value))).collect();
            self.view.line(at, &format!("training: {}", words.join(", ")));
        }
    }

    /// What was heard of a job. That nothing can be is said once: the training goes on all the same.
    fn heard<T>(&mut self, heard: anyhow::Result<T>) -> Option<T> {
        match heard {
            Ok(heard) => Some(heard),
            Err(error) => {
                if !self.deaf {
                    self.view.line(None, &format!("how the job stands is not known: {}", in_words(&error)));
                }
                self.deaf = true;
                None
            }
        }
    }
}

/// A figure, as precisely as people read it.
fn figure(value: f64) -> String {
    if value.fract() == 0.0 && (0.0..1e15).contains(&value) {
        HumanCount(value as u64).to_string()
    } else {
        format!("{value:.3}")
    }
}

/// What is shown.
struct View {
    began: Option<DateTime<Utc>>,
    /// On a terminal.
    bar: Option<ProgressBar>,
    step: String,
    /// What the step's job is doing.
    doing: String,
    told: Instant,
}

impl View {
    fn new() -> View {
        let bar = std::io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{spinner} {elapsed:>7}  {wide_msg}");
            let bar = ProgressBar::new_spinner();
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_secs(1));
            bar
        });
        View { began: None, bar, step: "starting".to_owned(), doing: String::new(), told: Instant::now() }
    }

    fn show(&mut self, at: Option<DateTime<Utc>>, news: &News) {
        match news {
            News::Begun { step } => {
                self.step = (*step).to_owned();
                self.doing.clear();
                match &self.bar {
                    Some(bar) => {
                        // Who comes later sees how long it has gone on already.
                        let since = at.and_then(|at| (Utc::now() - at).to_std().ok()).unwrap_or_default();
                        drop(bar.clone().with_elapsed(since));
                        bar.set_message(self.step.clone());
                    }
                    None => self.line(at, step),
                }
            }
            News::Done { step, took } => self.line(at, &format!("{step}: done in {}", clock(*took))),
            News::Failed { step, why } => self.line(at, &format!("{step}: failed: {why}")),
            News::Again { step } => self.line(at, &format!("{step}: again")),
            News::OnDemand => self.line(at, "no model from spot capacity: once more, on demand"),
            News::Shares { step, done, of } => {
                self.doing = format!("{done} of {of} shares");
                if self.bar.is_none() {
                    self.line(at, &format!("{step}: {}", self.doing));
                }
            }
        }
    }

    /// A line that stays.
    fn line(&mut self, at: Option<DateTime<Utc>>, words: &str) {
        let since = at.or_else(|| Some(Utc::now())).zip(self.began).map_or(TimeDelta::zero(), |(at, began)| at - began);
        let line = format!("{:>8}  {words}", clock(since));
        match &self.bar {
            Some(bar) => bar.println(line),
            None => tell(&line),
        }
        self.told = Instant::now();
    }

    /// That it still goes on.
    fn beat(&mut self) {
        let words = if self.doing.is_empty() { self.step.clone() } else { format!("{}: {}", self.step, self.doing) };
        match &self.bar {
            Some(bar) => bar.set_message(words),
            None if self.told.elapsed() >= HEARTBEAT => self.line(None, &words),
            None => {}
        }
    }

    fn close(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for View {
    fn drop(&mut self) {
        self.close();
    }
}

/// Hours, minutes and seconds.
pub fn clock(time: TimeDelta) -> String {
    let seconds = time.num_seconds().max(0);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::aws::{clients::Access, replay::Replay};

    const EXECUTION: &str = "arn:aws:states:eu-central-1:123456789012:execution:vitals-training:vitals-1";

    fn standing(status: &str) -> (u16, Value) {
        (200, json!({ "executionArn": EXECUTION, "stateMachineArn": "m", "status": status, "startDate": 1.0 }))
    }

    fn busy() -> (u16, Value) {
        (400, json!({ "__type": "InternalFailure", "message": "busy" }))
    }

    /// Follows an execution of which this is said; gives how that ended, and how often it was asked how it stands.
    async fn followed(
        said: impl Fn(usize) -> (u16, Value) + Send + Sync + 'static,
        interrupted: bool,
    ) -> (Result<Followed, CallFailed>, usize) {
        let replay = Replay::start(move |asked| match asked.operation.as_str() {
            "DescribeExecution" => said(asked.n),
            _ => (200, json!({ "events": [] })),
        })
        .await;
        let access = Access::with(replay.config(), "eu-central-1".to_owned());
        let mut execution = Execution::new(&access, EXECUTION.parse().unwrap());
        let (_sender, mut interrupt) = tokio::sync::watch::channel(interrupted);
        let ended = follow(&mut execution, &Watch::of_test(&replay.endpoint), &mut interrupt).await;
        (ended, replay.bodies("DescribeExecution").len())
    }

    #[tokio::test]
    async fn questions_without_an_answer_are_borne_for_a_while() {
        let (ended, asked) = followed(
            |n| match n {
                0 | 1 | 3 => busy(),
                2 => standing("RUNNING"),
                _ => standing("SUCCEEDED"),
            },
            false,
        )
        .await;
        assert!(matches!(ended, Ok(Followed::Ended(ended, None)) if ended.status == Status::Succeeded));
        assert_eq!(asked, 5);
        // Once it was told, the count begins anew.
        let limit = UNANSWERED as usize;
        let (ended, asked) = followed(move |n| if n == limit { standing("RUNNING") } else { busy() }, false).await;
        assert_eq!((ended.map(|_| ()).unwrap_err().code.as_deref(), asked), (Some("InternalFailure"), 2 * limit + 2));
    }

    #[tokio::test]
    async fn what_does_not_pass_is_told_at_once() {
        let gone = || (400, json!({ "__type": "ExecutionDoesNotExist", "message": "no" }));
        let (ended, asked) = followed(move |_| gone(), false).await;
        assert!(ended.map(|_| ()).unwrap_err().is("ExecutionDoesNotExist"));
        assert_eq!(asked, 1);
    }

    #[tokio::test]
    async fn ctrl_c_leaves_it() {
        let (ended, _) = followed(|_| standing("RUNNING"), true).await;
        assert!(matches!(ended, Ok(Followed::Left)));
    }

    #[test]
    fn times_and_figures_are_read_by_people() {
        assert_eq!(clock(TimeDelta::seconds(59)), "0:59");
        assert_eq!(clock(TimeDelta::seconds(3_661)), "1:01:01");
        assert_eq!(clock(TimeDelta::seconds(-5)), "0:00");
        assert_eq!([3_999_871.0, 0.53412, -2.0].map(figure), ["3,999,871", "0.534", "-2.000"]);
    }
}
