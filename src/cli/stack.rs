//! Flags of commands that work on a stack in AWS.

use clap::Args;

use crate::aws::{clients::Access, stack::Stack};

/// Which stack.
#[derive(Debug, Clone, Args)]
pub struct StackArgs {
    /// The stack's name in CloudFormation
    #[arg(long, value_name = "NAME", env = "VITALS_STACK", default_value = "vitals", value_parser = stack_name)]
    pub stack: String,

    /// The region [default: what AWS_REGION or the profile say]
    #[arg(long, value_name = "REGION", env = "VITALS_REGION")]
    pub region: Option<String>,
}

impl StackArgs {
    /// Access to AWS in the region, and the stack, which need not be there.
    ///
    /// # Errors
    /// Where there is no region or there are no credentials.
    pub async fn open(&self) -> anyhow::Result<(Access, Stack)> {
        let access = Access::new(self.region.as_deref()).await?;
        let stack = Stack::new(&access, &self.stack);
        Ok((access, stack))
    }

    /// `vitals VERB` for this stack: to be copied.
    pub fn command(&self, verb: &str) -> String {
        let stack = if self.stack == "vitals" { String::new() } else { format!(" --stack {}", self.stack) };
        let region = self.region.as_ref().map_or_else(String::new, |region| format!(" --region {region}"));
        format!("vitals {verb}{stack}{region}")
    }
}

/// A word as a shell takes it.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=.,:/@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Names that CloudFormation takes, short enough for all that is named after the stack.
fn stack_name(text: &str) -> Result<String, String> {
    let fits = text.len() <= 32
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    let must = "a stack's name begins with a letter and has letters, digits and hyphens, 32 at most";
    if fits { Ok(text.to_owned()) } else { Err(must.to_owned()) }
}
