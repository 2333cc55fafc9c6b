//! One line that says how a command stands that goes on and on.

use std::{
    convert::Infallible,
    io::{self, IsTerminal},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::tell;

/// How often the line is drawn on a terminal, and said elsewhere where it has changed.
const DRAW: Duration = Duration::from_millis(500);
const HEARTBEAT: Duration = Duration::from_secs(60);

/// Shows a line, without end.
pub async fn show(line: impl Fn() -> String) -> Infallible {
    let bar = io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
        bar.set_style(ProgressStyle::with_template("{wide_msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar
    });
    let mut told = line();
    loop {
        tokio::time::sleep(if bar.is_some() { DRAW } else { HEARTBEAT }).await;
        let now = line();
        match &bar {
            Some(bar) => bar.set_message(now),
            // At rest there is nothing to say.
            None if now != told => {
                tell(&now);
                told = now;
            }
            None => {}
        }
    }
}
