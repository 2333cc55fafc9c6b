//! What people see while CloudFormation works: on a terminal one line for each part of the stack, which counts; elsewhere a
//! line for each thing that happens.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal,
    time::{Duration, Instant},
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::{
    aws::stack::{
        Described, Stack,
        cause::fix,
        events::{Event, Follower, News, first_cause},
    },
    cli::tell,
};

/// How an operation ended for who watched it.
pub enum Watched {
    Done(Box<Described>),
    /// Ctrl-C: it goes on without us.
    Left,
}

/// Follows an operation to its end and shows what happens. `token` is that of the operation; `None` means the stack's last.
///
/// # Errors
/// Where it failed, which says of what first and what to do about it; where CloudFormation can't be asked any more.
pub async fn watch(
    stack: &Stack,
    id: &str,
    token: Option<&str>,
    again: &str,
    interrupt: &mut tokio::sync::watch::Receiver<bool>,
) -> anyhow::Result<Watched> {
    let mut follower = Follower::new(stack, id, token);
    let mut view = View::new();
    let held = loop {
        tokio::select! {
            news = follower.next() => match news? {
                News::Events(events) => events.iter().for_each(|event| view.show(event)),
                News::Ended(held) => break held,
            },
            _ = interrupt.wait_for(|interrupted| *interrupted) => {
                view.close();
                return Ok(Watched::Left);
            }
        }
    };
    view.close();
    if held.succeeded() {
        return Ok(Watched::Done(held));
    }
    Err(failure(stack, &held, follower.events(), again))
}

/// What went wrong, for the last lines of a command; `again` is the command to go on with.
pub fn failure(stack: &Stack, held: &Described, events: &[Event], again: &str) -> anyhow::Error {
    anyhow::anyhow!("stack {} ended as {}\n{}\nnext: {again}", stack.name, held.status.as_str(), why(held, events))
}

/// The first cause and its fix, in words.
pub fn why(held: &Described, events: &[Event]) -> String {
    let Some(event) = first_cause(events) else {
        let reason = held.reason.as_deref().unwrap_or("CloudFormation gives no reason");
        return format!("cause: {reason}");
    };
    let reason = event.reason.as_deref().unwrap_or("no reason is given");
    let what = format!("cause: {} ({}) {}: {reason}", event.resource, event.kind, event.status);
    match fix(event) {
        Some(fix) => format!("{what}\nfix: {fix}"),
        None => what,
    }
}

/// Parts of the stack, in the order of the pipeline. The name of each resource in the template begins with its part.
const PARTS: [(&str, &str); 9] = [
    ("Network", "network"),
    ("Device", "devices"),
    ("Kafka", "log"),
    ("Lake", "lake"),
    ("Compute", "compute"),
    ("Train", "training"),
    ("Query", "queries"),
    ("Watch", "watch"),
    ("Look", "look"),
];

/// The place and the name of the part that a resource belongs to.
pub fn part_of(resource: &str) -> (usize, &'static str) {
    let place = PARTS.iter().position(|(start, _)| resource.starts_with(start));
    place.map_or((PARTS.len(), "others"), |place| (place, PARTS[place].1))
}

/// What is shown.
struct View {
    since: Instant,
    /// On a terminal.
    bars: Option<MultiProgress>,
    parts: BTreeMap<&'static str, Part>,
    begun: BTreeMap<String, Instant>,
}

/// One part of the stack.
#[derive(Default)]
struct Part {
    bar: Option<ProgressBar>,
    working: BTreeSet<String>,
    done: usize,
    failed: usize,
}

impl View {
    fn new() -> View {
        let bars = std::io::stderr().is_terminal().then(MultiProgress::new);
        View { since: Instant::now(), bars, parts: BTreeMap::new(), begun: BTreeMap::new() }
    }

    fn show(&mut self, event: &Event) {
        if event.is_of_stack() {
            if self.bars.is_none() {
                tell(&self.line("stack", event, None));
            }
            return;
        }
        let (_, part) = part_of(&event.resource);
        let took = if event.is_settled() {
            self.begun.remove(&event.resource).map(|begun| begun.elapsed())
        } else {
            self.begun.entry(event.resource.clone()).or_insert_with(Instant::now);
            None
        };
        match &self.bars {
            // What is done is news; that it was begun is not, and comes twice.
            None if event.is_settled() => tell(&self.line(part, event, took)),
            None => {}
            Some(bars) => {
                let shown = self.parts.entry(part).or_default();
                let bar = shown.bar.get_or_insert_with(|| {
                    let style = ProgressStyle::with_template("  {prefix:<15} {elapsed:>5}  {wide_msg}");
                    let bar = bars.add(ProgressBar::new_spinner());
                    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
                    bar.set_prefix(part);
                    bar.enable_steady_tick(Duration::from_secs(1));
                    bar
                });
                let bar = bar.clone();
                if event.is_settled() {
                    shown.working.remove(&event.resource);
                    if event.has_failed() { shown.failed += 1 } else { shown.done += 1 }
                } else {
                    shown.working.insert(event.resource.clone());
                }
                bar.set_message(message(shown));
                if event.has_failed() {
                    let _ = bars.println(format!(
                        "  {} {}: {}",
                        event.resource,
                        event.status,
                        event.reason.as_deref().unwrap_or("")
                    ));
                }
            }
        }
    }

    fn line(&self, part: &str, event: &Event, took: Option<Duration>) -> String {
        let at = clock(self.since.elapsed());
        let took = took.map_or_else(String::new, |took| format!(" after {}", clock(took)));
        let reason =
            event.reason.as_deref().filter(|_| event.has_failed()).map_or_else(String::new, |why| format!(": {why}"));
        format!("{at:>6}  {part:<15} {} {}{took}{reason}", event.resource, event.status)
    }

    fn close(&mut self) {
        for part in self.parts.values() {
            if let Some(bar) = &part.bar {
                bar.finish();
            }
        }
    }
}

fn message(part: &Part) -> String {
    let failed = if part.failed > 0 { format!(", {} failed", part.failed) } else { String::new() };
    let done = format!("{} done{failed}", part.done);
    let mut working: Vec<&str> = part.working.iter().map(String::as_str).take(3).collect();
    if part.working.len() > 3 {
        working.push("…");
    }
    if working.is_empty() { done } else { format!("{done}; at work: {}", working.join(", ")) }
}

/// Minutes and seconds.
fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}
