//! Where a command works: on this machine, or on a stack in AWS.

use clap::{Args, ValueEnum};

use super::stack::StackArgs;

/// Where a command works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Target {
    /// On this machine, without an account
    Local,
    /// On the deployed stack
    Aws,
}

/// Which of them, and which stack.
#[derive(Debug, Clone, Args)]
pub struct TargetArgs {
    /// Where to do it: on this machine, or on the deployed stack
    #[arg(long, value_enum, value_name = "TARGET", env = "VITALS_TARGET", default_value = "local")]
    pub target: Target,

    #[command(flatten)]
    pub stack: StackArgs,
}
