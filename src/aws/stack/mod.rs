//! The stack, as far as it is described.

use std::collections::BTreeMap;

use aws_sdk_cloudformation::{Client, types::StackStatus};

use super::clients::{Access, CallFailed, failed};

/// One stack by its name; it need not be there.
#[derive(Debug, Clone)]
pub struct Stack {
    pub name: String,
    client: Client,
}

/// A stack as it is.
#[derive(Debug, Clone)]
pub struct Described {
    pub status: StackStatus,
    pub parameters: BTreeMap<String, String>,
    pub outputs: BTreeMap<String, String>,
}

impl Described {
    /// Whether the last operation did what it was to do.
    pub fn succeeded(&self) -> bool {
        matches!(self.status.as_str(), "CREATE_COMPLETE" | "UPDATE_COMPLETE" | "IMPORT_COMPLETE" | "DELETE_COMPLETE")
    }

    /// An output, where the stack has it.
    pub fn output(&self, name: &str) -> Option<&str> {
        self.outputs.get(name).map(String::as_str)
    }
}

impl Stack {
    pub fn new(access: &Access, name: &str) -> Stack {
        Stack { name: name.to_owned(), client: Client::new(access.config()) }
    }

    /// The stack as it is; `None` where there is none of this name.
    ///
    /// # Errors
    /// Where it can't be asked for.
    pub async fn describe(&self) -> Result<Option<Described>, CallFailed> {
        let asked = self.client.describe_stacks().stack_name(&self.name).send().await;
        let answer = match asked.map_err(failed("asking for the stack")) {
            Ok(answer) => answer,
            Err(refused) if refused.is_absent() => return Ok(None),
            Err(refused) => return Err(refused),
        };
        let Some(stack) = answer.stacks().first() else { return Ok(None) };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        Ok(Some(Described {
            status: stack.stack_status().cloned().unwrap_or_else(|| StackStatus::from("UNKNOWN")),
            parameters: stack
                .parameters()
                .iter()
                .map(|p| (text(p.parameter_key()), text(p.parameter_value())))
                .collect(),
            outputs: stack.outputs().iter().map(|o| (text(o.output_key()), text(o.output_value()))).collect(),
        }))
    }
}
