//! `vitals train` in the container of a training job of SageMaker: [`Job`] says where everything lies.
//!
//! What it prints as `metric NAME=VALUE`, a line each, is for the job's metric definitions. SIGTERM, which SageMaker sends
//! two minutes before it takes a spot instance away, leaves the trees that are grown; the next start goes on from them, to
//! the same model.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, ErrorKind, Write},
    path::PathBuf,
    process::ExitCode,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use tokio::time::{Instant, interval_at};

use super::{ARTIFACT, parse_budget};
use crate::{
    cli::{
        in_words,
        moment::{Moment, parse_moment},
        on_interrupt, say, write_whole,
    },
    evaluate,
    lake::{Place, now_ms},
    model::{
        History, Model,
        forest::Tree,
        grown::{self, Fingerprint, Grown, Growth, Part},
        training::{self, TrainOptions},
    },
    train::{Span, container::Job, prepared},
};

/// How often the trees are kept while they grow, for a machine that goes without a word.
const KEPT_EVERY: Duration = Duration::from_secs(60);

/// The exit code of what was interrupted.
const INTERRUPTED: u8 = 130;

/// How many trees lie between two words on how far it is.
const TOLD_TREES: usize = 10;

/// Trains the job's model, and leaves word of why it could not.
pub async fn run(job: Job) -> anyhow::Result<ExitCode> {
    let done = train_or_stop(&job).await;
    if let Err(error) = &done {
        let left = job.fail(&in_words(error));
        left.unwrap_or_else(|e| eprintln!("warning: the reason of the failure can't be left: {e}"));
    }
    done
}

async fn train_or_stop(job: &Job) -> anyhow::Result<ExitCode> {
    let mut interrupted = on_interrupt();
    let keeper = Arc::new(Keeper::new(job.checkpoint()));
    let training = train(job, Arc::clone(&keeper));
    tokio::pin!(training);
    let mut due = interval_at(Instant::now() + KEPT_EVERY, KEPT_EVERY);
    loop {
        tokio::select! {
            trained = &mut training => return trained.map(|()| ExitCode::SUCCESS),
            _ = interrupted.wait_for(|stop| *stop) => {
                let last_words = keeper.last_words();
                // Without a panic where nobody listens any more: it would wait for the threads that still grow trees, which
                // otherwise end with the process.
                let _ = writeln!(io::stderr(), "interrupted: {last_words}");
                return Ok(ExitCode::from(INTERRUPTED));
            }
            _ = due.tick() => drop(keeper.keep().map_err(|e| eprintln!("warning: {}", in_words(&e)))),
        }
    }
}

async fn train(job: &Job, keeper: Arc<Keeper>) -> anyhow::Result<()> {
    let wanted = Wanted::of(&job.hyperparameters()?)?;
    let channel = job.channel()?;
    let reading = || format!("reading the readings to learn from in `{}`", channel.display());
    let store = prepared::open(&Place::Folder(channel.clone())).await.with_context(reading)?;
    // Moments like `30d` are meant from when the sample was taken: a job that is repeated learns from the same.
    let made_ms = prepared::manifest(&store).await.with_context(reading)?.map_or_else(now_ms, |m| m.made_ms);
    let histories = prepared::histories(&store, wanted.span(made_ms)).await.with_context(reading)?;
    let histories = Arc::new(histories);
    metric("devices", histories.len() as f64)?;
    metric("rows", histories.iter().map(|history| history.readings.len() as f64).sum())?;
    fs::create_dir_all(job.model()).with_context(|| format!("making the folder `{}`", job.model().display()))?;

    let (options, seed) = (wanted.options.clone(), wanted.options.seed);
    let taught = Arc::clone(&histories);
    let model = tokio::task::spawn_blocking(move || grow(&taught, &options, &keeper)).await.context("training")??;
    write_whole(&job.model().join(ARTIFACT), |file| Ok(file.write_all(&model.to_bytes())?))?;
    for warning in &model.card().warnings {
        eprintln!("warning: {warning}");
    }
    let name = model.id().to_owned();
    let figures = tokio::task::spawn_blocking(move || figures(&model, &histories, seed)).await.context("measuring")?;
    figures.into_iter().try_for_each(|(name, value)| metric(name, value))?;
    eprintln!("trained {name}");
    Ok(())
}

/// Trains, from the trees that are kept on.
fn grow(histories: &[History], options: &TrainOptions, keeper: &Keeper) -> anyhow::Result<Model> {
    let from = keeper.resume(grown::fingerprint(histories, options));
    let mut told = |part, tree: &Tree| keeper.push(part, tree);
    Ok(training::train_on(histories, options, &mut Growth { from, told: &mut told })?)
}

/// What there is to say of a model, by the names that metric definitions look for. Events are put into devices that were
/// held back, as when two models are compared.
fn figures(model: &Model, histories: &[History], seed: u64) -> [(&'static str, f64); 7] {
    let held_back = training::held_back(histories, seed);
    let found = evaluate::figures_of(model, &held_back, seed);
    let card = model.card();
    [
        ("threshold", card.threshold),
        ("alarms_per_device_day", card.held_back.alarms_per_device_day),
        ("charged_per_device_day", card.held_back.charged_per_device_day),
        ("pr_auc", found.auprc),
        ("auroc", found.auroc),
        // Of events, within 0.25 false alarms per device and day.
        ("recall", found.recall[1]),
        ("top1", found.top1),
    ]
}

/// Says one figure; one of which nothing is known is not said.
fn metric(name: &str, value: f64) -> anyhow::Result<()> {
    if value.is_finite() { say(&format!("metric {name}={value}")) } else { Ok(()) }
}

/// What the hyperparameters ask for.
#[derive(Debug, Default, PartialEq)]
struct Wanted {
    since: Option<Moment>,
    until: Option<Moment>,
    options: TrainOptions,
}

impl Wanted {
    /// The names there are: those of the command's flags.
    const KNOWN: &str = "`alarms_per_device_day`, `seed`, `since`, `until`";

    /// From names and texts; an empty text is as good as none, as state machines can't leave a name out.
    ///
    /// # Errors
    /// A name is unknown, or its text can't be read: everything that is wrong, and the names that there are.
    fn of(given: &BTreeMap<String, String>) -> anyhow::Result<Wanted> {
        let mut wanted = Wanted::default();
        let refused = given.iter().filter(|(_, text)| !text.is_empty()).filter_map(|(name, text)| {
            let taken = wanted.take(name, text);
            taken.err().map(|why| format!("hyperparameter `{name}`: {why}"))
        });
        let refused: Vec<String> = refused.collect();
        let hint = format!("hint: there are {}", Wanted::KNOWN);
        anyhow::ensure!(refused.is_empty(), "{}\n{hint}", refused.join("\n"));
        Ok(wanted)
    }

    fn take(&mut self, name: &str, text: &str) -> Result<(), String> {
        match name {
            "since" => self.since = Some(parse_moment(text)?),
            "until" => self.until = Some(parse_moment(text)?),
            "alarms_per_device_day" => self.options.alarms_per_device_day = parse_budget(text)?,
            "seed" => self.options.seed = text.parse().map_err(|_| format!("`{text}` is not a whole number"))?,
            _ => return Err("it is unknown".to_owned()),
        }
        Ok(())
    }

    fn span(&self, now_ms: i64) -> Span {
        Span {
            since_ms: self.since.map_or(Span::ALL.since_ms, |at| at.ms(now_ms)),
            until_ms: self.until.map_or(Span::ALL.until_ms, |at| at.ms(now_ms)),
        }
    }
}

/// The trees of the training under way, and the file that outlasts it.
struct Keeper {
    file: Option<PathBuf>,
    trees: Mutex<Trees>,
}

#[derive(Default)]
struct Trees {
    grown: Grown,
    /// Of which training; `None` until that is known.
    fingerprint: Option<Fingerprint>,
    /// How many of them the file has.
    kept: usize,
}

impl Keeper {
    fn new(file: Option<PathBuf>) -> Keeper {
        if file.is_none() {
            eprintln!("this job has no folder for checkpoints: after an interruption it begins anew");
        }
        Keeper { file, trees: Mutex::default() }
    }

    fn trees(&self) -> MutexGuard<'_, Trees> {
        // Nothing that holds it can be half done.
        self.trees.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The trees of this training that the file has; none where it is of another, and that is said.
    fn resume(&self, fingerprint: Fingerprint) -> Grown {
        let grown = self.read(&fingerprint);
        let mut trees = self.trees();
        trees.fingerprint = Some(fingerprint);
        trees.kept = grown.trees();
        grown
    }

    fn read(&self, fingerprint: &Fingerprint) -> Grown {
        let Some(file) = &self.file else { return Grown::default() };
        let read = match fs::read(file) {
            Ok(bytes) => Grown::from_bytes(&bytes, fingerprint).map_err(|e| e.to_string()),
            Err(e) if e.kind() == ErrorKind::NotFound => return Grown::default(),
            Err(e) => Err(e.to_string()),
        };
        match read {
            Ok(grown) => {
                eprintln!("going on from the {} trees of `{}`", grown.trees(), file.display());
                grown
            }
            Err(why) => {
                eprintln!("warning: the checkpoint `{}` is not gone on from: {why}", file.display());
                Grown::default()
            }
        }
    }

    /// Takes the next tree, and says now and then how many there are.
    fn push(&self, part: Part, tree: &Tree) {
        let mut trees = self.trees();
        trees.grown.push(part, tree);
        let grown = trees.grown.trees();
        drop(trees);
        if grown.is_multiple_of(TOLD_TREES) {
            // Whoever read it may have gone; the model is what counts.
            let _ = metric("trees", grown as f64);
        }
    }

    /// Keeps the trees, where there are more than the file has; gives how many it has.
    fn keep(&self) -> anyhow::Result<usize> {
        let trees = self.trees();
        let (grown, kept) = (trees.grown.trees(), trees.kept);
        let (Some(file), Some(fingerprint)) = (&self.file, &trees.fingerprint) else { return Ok(0) };
        if grown <= kept {
            return Ok(kept);
        }
        let bytes = trees.grown.to_bytes(fingerprint);
        drop(trees);
        write_whole(file, |out| Ok(out.write_all(&bytes)?))?;
        self.trees().kept = grown;
        Ok(grown)
    }

    /// Keeps the trees, and says what the next start finds.
    fn last_words(&self) -> String {
        match self.keep() {
            Ok(0) => "there is nothing yet that the next start could go on from".to_owned(),
            Ok(kept) => format!("the next start goes on from {kept} of at most {} trees", grown::TREES),
            Err(e) => format!("the next start begins anew, as what is done can't be kept: {}", in_words(&e)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(given: &[(&str, &str)]) -> Result<Wanted, String> {
        let given = given.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Wanted::of(&given).map_err(|e| e.to_string())
    }

    #[test]
    fn hyperparameters_are_the_flags_of_the_command() {
        let all = [("since", "30d"), ("until", "2024-03-01"), ("alarms_per_device_day", "0.5"), ("seed", "7")];
        let all = wanted(&all).unwrap();
        let (now, day) = (1_700_000_000_000, 86_400_000);
        assert_eq!(all.span(now), Span { since_ms: now - 30 * day, until_ms: 1_709_251_200_000 });
        assert_eq!((all.options.seed, all.options.alarms_per_device_day), (7, 0.5));
        assert_eq!(wanted(&[]), Ok(Wanted::default()));
        assert_eq!(wanted(&[("since", ""), ("seed", "")]), Ok(Wanted::default()));
        assert_eq!(Wanted::default().span(now), Span::ALL);
    }

    #[test]
    fn all_that_is_wrong_with_them_is_said_at_once() {
        let said = wanted(&[("seed", "x"), ("sed", "1"), ("since", "yesterday"), ("alarms_per_device_day", "0")]);
        let said = said.unwrap_err();
        for part in ["`seed`: `x` is not", "`sed`: it is unknown", "`since`: `yesterday`", "day`: must be", "hint: "] {
            assert!(said.contains(part), "{said} lacks {part}");
        }
        assert!(said.ends_with(Wanted::KNOWN), "{said}");
    }

    #[test]
    fn a_keeper_never_replaces_what_goes_further() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trees.bin");
        let keeper = || Keeper::new(Some(file.clone()));
        let tree = Model::builtin().forests()[0].trees[0].clone();
        let (mine, other) = ([1; 32], [2; 32]);

        let first = keeper();
        assert_eq!(first.keep().unwrap(), 0);
        assert_eq!(first.resume(mine), Grown::default());
        (0..3).for_each(|_| first.push(Part::Head, &tree));
        assert_eq!(first.keep().unwrap(), 3);

        let second = keeper();
        assert_eq!(second.resume(mine).trees(), 3);
        second.push(Part::Head, &tree);
        // Interrupted before it has come as far again.
        assert_eq!(second.keep().unwrap(), 3);
        assert_eq!(keeper().resume(mine).trees(), 3);
        assert_eq!(keeper().resume(other), Grown::default());
        fs::write(&file, b"damaged").unwrap();
        assert_eq!(keeper().resume(mine), Grown::default());
    }
}
