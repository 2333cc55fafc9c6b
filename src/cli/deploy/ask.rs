//! Questions to a person.

use std::io::{self, BufRead, IsTerminal, Write};

use super::nobody_to_ask;

/// Asks; anything but yes is an error that says that nothing was done.
pub fn agree(question: &str, flag: &str) -> anyhow::Result<()> {
    let answer = answer(&format!("{question} [y/N] "), flag)?;
    if ["y", "yes"].contains(&answer.to_lowercase().as_str()) { Ok(()) } else { anyhow::bail!("nothing was done") }
}

/// Asks for a name to be typed, as is.
pub fn typed(question: &str, name: &str, flag: &str) -> anyhow::Result<()> {
    let answer = answer(&format!("{question} "), flag)?;
    if answer == name { Ok(()) } else { anyhow::bail!("that is not `{name}`: nothing was done") }
}

fn answer(question: &str, flag: &str) -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return Err(nobody_to_ask(flag));
    }
    let mut err = io::stderr().lock();
    write!(err, "{question}")?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}
