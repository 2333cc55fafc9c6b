//! `vitals completions`: what a shell completes.

use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Write what a shell needs to complete commands and flags
///
/// Examples:
///
///   # bash; zsh, fish, elvish and powershell likewise
///   mkdir -p ~/.local/share/bash-completion/completions
///   vitals completions bash > ~/.local/share/bash-completion/completions/vitals
///
///   # only in this shell
///   source <(vitals completions bash)
///
///   vitals completions fish > ~/.config/fish/completions/vitals.fish
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

/// Runs the command.
pub fn run(args: CompletionsArgs) -> anyhow::Result<ExitCode> {
    super::say(script(args.shell)?.trim_end())?;
    Ok(ExitCode::SUCCESS)
}

/// The script of a shell.
fn script(shell: Shell) -> anyhow::Result<String> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "vitals", &mut script);
    Ok(String::from_utf8(script)?)
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    #[test]
    fn every_shell_gets_every_command_and_flag() {
        for shell in Shell::value_variants() {
            let script = script(*shell).unwrap();
            for word in Cli::command().get_subcommands().map(|command| command.get_name().to_owned()) {
                assert!(script.contains(&word), "{shell} lacks {word}");
            }
            assert!(script.contains("episodes-per-device-day"), "{shell} lacks a flag");
        }
    }
}
