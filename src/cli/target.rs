//! Where a command works: on this machine, or on a deployed stack.

use clap::{Args, ValueEnum};

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
    /// The stack's name, with `--target aws`
    #[arg(long, value_name = "STACK", env = "VITALS_STACK", default_value = "vitals")]
    pub stack: String,
    /// The stack's region, with `--target aws` [default: AWS_REGION, or that of the profile]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
}
