//! `vitals man`: manual pages.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Command, CommandFactory};
use clap_mangen::Man;

use super::{Cli, Exit};
use crate::query::nearest;

/// Write manual pages
///
/// Examples:
///
///   vitals man query outliers | man -l -
///
///   # a page of each command, where `man` finds them
///   vitals man --out ~/.local/share/man/man1
///   man vitals-query-outliers
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ManArgs {
    /// Write the pages of all commands into this folder
    #[arg(long, value_name = "DIR", conflicts_with = "words")]
    out: Option<PathBuf>,

    /// The command whose page is written to standard output [default: vitals itself]
    #[arg(value_name = "COMMAND")]
    words: Vec<String>,
}

/// Runs the command.
pub fn run(args: ManArgs) -> anyhow::Result<ExitCode> {
    let program = built();
    let Some(folder) = args.out else {
        let page = page(find(&program, &args.words)?)?;
        io::stdout().write_all(&page).context("writing to standard output")?;
        return Ok(ExitCode::SUCCESS);
    };
    std::fs::create_dir_all(&folder).with_context(|| format!("making the folder `{}`", folder.display()))?;
    let written = write_all(&program, &folder)?;
    eprintln!("{written} pages in {}", folder.display());
    Ok(ExitCode::SUCCESS)
}

/// The commands as they are parsed, with what holds for all in each.
fn built() -> Command {
    let mut program = Cli::command();
    program.build();
    program
}

fn find<'c>(program: &'c Command, words: &[String]) -> anyhow::Result<&'c Command> {
    words.iter().try_fold(program, |command, word| {
        command.find_subcommand(word).ok_or_else(|| {
            let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
            let near = nearest(word, names.iter().copied(), 1);
            let hint = match near.first() {
                Some(near) => format!("\nhint: did you mean `{near}`?"),
                None if names.is_empty() => String::new(),
                None => format!("\nhint: the commands are {}", names.join(", ")),
            };
            let whose = command.get_bin_name().unwrap_or("vitals");
            Exit::usage(format!("`{whose}` has no command `{word}`{hint}"))
        })
    })
}

/// The name of a command's page: `vitals-query-outliers`.
fn name(command: &Command) -> String {
    command.get_bin_name().unwrap_or(command.get_name()).replace(' ', "-")
}

fn page(command: &Command) -> anyhow::Result<Vec<u8>> {
    let mut page = Vec::new();
    Man::new(command.clone()).title(name(command)).render(&mut page).context("writing a manual page")?;
    Ok(page)
}

/// Writes a command's page and those of the commands below it; gives how many.
fn write_all(command: &Command, folder: &Path) -> anyhow::Result<usize> {
    let page = page(command)?;
    super::write_whole(&folder.join(format!("{}.1", name(command))), |file| Ok(file.write_all(&page)?))?;
    let below = command.get_subcommands().filter(|command| !command.is_hide_set());
    below.map(|command| write_all(command, folder)).try_fold(1, |written, below| Ok(written + below?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_command_has_a_page_of_its_own_with_its_flags() {
        let folder = tempfile::tempdir().unwrap();
        let written = write_all(&built(), folder.path()).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), written);
        let page = std::fs::read_to_string(folder.path().join("vitals-query-outliers.1")).unwrap();
        assert!(page.contains("vitals\\-query\\-outliers") || page.contains("vitals-query-outliers"), "{page}");
        assert!(page.contains("min\\-score") && page.contains("log\\-format"), "{page}");
    }

    #[test]
    fn an_unknown_command_is_refused_with_the_nearest() {
        let error = find(&built(), &["query".into(), "outlier".into()]).unwrap_err().to_string();
        assert!(error.contains("`vitals query` has no command `outlier`") && error.contains("`outliers`"), "{error}");
    }
}
