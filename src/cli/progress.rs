//! Progress on standard error: a bar on a terminal, a plain line now and then elsewhere.

use std::{
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a line is written where there is no terminal.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// The progress of one piece of work.
pub struct Progress {
    name: String,
    bar: Option<ProgressBar>,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Work without a known end.
    pub fn spinner(name: &str) -> Progress {
        Progress::new(name, None)
    }

    /// Work of `total` units.
    pub fn bar(name: &str, total: u64) -> Progress {
        Progress::new(name, Some(total))
    }

    fn new(name: &str, total: Option<u64>) -> Progress {
        let bar = io::stderr().is_terminal().then(|| {
            let template = match total {
                Some(_) => "{prefix:>10} [{bar:30}] {percent:>3}% {msg}",
                None => "{prefix:>10} {spinner} {msg}",
            };
            // A template that can't be read would be our mistake; the default one still shows the progress.
            let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
            let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr());
            bar.set_style(style);
            bar.set_prefix(name.to_owned());
            bar
        });
        let now = Instant::now();
        Progress { name: name.to_owned(), bar, begun: now, told: now }
    }

    /// Where the work is, in units and words.
    pub fn at(&mut self, done: u64, words: impl FnOnce() -> String) {
        match &self.bar {
            // Words cost more than the bar can show; ten times a second is enough.
            Some(bar) if self.told.elapsed() >= Duration::from_millis(100) => {
                self.told = Instant::now();
                bar.set_position(done);
                bar.set_message(words());
            }
            None if self.told.elapsed() >= HEARTBEAT => {
                self.told = Instant::now();
                eprintln!("{:>10} {}", self.name, words());
            }
            _ => {}
        }
    }

    /// Ends it without a word.
    pub fn clear(self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Ends it with what came of it.
    pub fn done(self, words: &str) {
        let seconds = self.begun.elapsed().as_secs_f64();
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        eprintln!("{:>10} {words} ({seconds:.1} s)", self.name);
    }
}
