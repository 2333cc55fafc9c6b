//! One collection at a time, shared by those who ask at about the same time.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures::future::BoxFuture;
use tokio::sync::Mutex;

/// How long what was collected is handed out again.
pub(super) const SHARED_FOR: Duration = Duration::from_secs(2);

/// How many answers are kept at most.
const MAX_KEPT: usize = 16;

/// An answer, or why there is none.
pub(super) type Outcome<T> = Result<T, String>;

/// Answers by name, each for [`SHARED_FOR`].
#[derive(Debug)]
pub(super) struct Shared<T> {
    kept: Arc<Mutex<Vec<Kept<T>>>>,
}

#[derive(Debug)]
struct Kept<T> {
    name: String,
    since: Instant,
    outcome: Outcome<T>,
}

impl<T> Default for Shared<T> {
    fn default() -> Shared<T> {
        Shared { kept: Arc::default() }
    }
}

impl<T: Clone + Send + 'static> Shared<T> {
    /// The answer of this name: a recent one, or what `collect` comes to. Who asks meanwhile waits for it.
    pub async fn get(&self, name: &str, collect: impl FnOnce() -> BoxFuture<'static, anyhow::Result<T>>) -> Outcome<T> {
        let mut kept = Arc::clone(&self.kept).lock_owned().await;
        kept.retain(|one| one.since.elapsed() < SHARED_FOR);
        if let Some(one) = kept.iter().find(|one| one.name == name) {
            return one.outcome.clone();
        }
        let (name, collecting) = (name.to_owned(), collect());
        // On a task of its own, which holds the lock: whoever asks and leaves does not make the next one begin anew while
        // the engine is still busy.
        let task = tokio::spawn(async move {
            let outcome = tokio::spawn(collecting).await;
            let outcome = match outcome {
                Ok(outcome) => outcome.map_err(|error| format!("{error:#}")),
                Err(ended) => Err(format!("collecting the data ended badly: {ended}")),
            };
            if kept.len() >= MAX_KEPT {
                kept.remove(0);
            }
            kept.push(Kept { name, since: Instant::now(), outcome: outcome.clone() });
            outcome
        });
        task.await.unwrap_or_else(|ended| Err(format!("collecting the data ended badly: {ended}")))
    }
}
