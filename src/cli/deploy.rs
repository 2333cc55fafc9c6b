//! `vitals deploy`: from an empty AWS account to the running pipeline.

use std::process::ExitCode;

use clap::Args;

use super::{Exit, image::SourceArgs, on_interrupt, plan, plan::Pass, plan::WantedArgs, say, stack::StackArgs, tell};
use crate::aws::{
    clients::Access,
    stack::{Described, Stack, Standing, Template, change::ChangeSet, new_token},
};

mod after;
pub mod ask;
mod before;
mod image;
mod spark;
pub mod watch;

use watch::Watched;

/// Make or update the whole stack in AWS
///
/// Examples:
///
///   # see what would be done, then do it
///   vitals plan
///   vitals deploy
///
///   # a larger one, without questions
///   vitals deploy --size production --region eu-central-1 --yes
///
///   # what someone else has looked at
///   vitals deploy --no-execute
///   vitals deploy --change-set ID
///
/// What is there already stays; running it again goes on where it ended, also after Ctrl-C, which leaves AWS at work.
/// Nothing with data is replaced or removed unless it is named by `--replace`.
///
/// Not yet run against a real AWS account.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DeployArgs {
    #[command(flatten)]
    stack: StackArgs,

    #[command(flatten)]
    wanted: WantedArgs,

    /// Answer every question with yes
    #[arg(long, short)]
    yes: bool,

    /// Let this resource be replaced or removed, though it has data
    #[arg(long, value_name = "RESOURCE")]
    replace: Vec<String>,

    /// Do what this change set says, and no more
    #[arg(long, value_name = "ID", conflicts_with_all = ["size", "set", "no_execute"])]
    change_set: Option<String>,

    /// Make the change set, and leave it to be looked at
    #[arg(long)]
    no_execute: bool,

    #[command(flatten)]
    source: SourceArgs,

    /// The digest of an image that is in the stack's repository already, instead of pushing this program
    #[arg(long, value_name = "DIGEST", conflicts_with_all = ["linux_binary", "base_image"])]
    image: Option<String>,

    /// Don't write the stack into vitals.toml
    #[arg(long)]
    no_config: bool,
}

impl DeployArgs {
    /// The command that goes on from wherever this one ends: the same flags, to be copied.
    fn again(&self) -> String {
        let image = self.image.as_ref().map_or_else(String::new, |digest| format!(" --image {digest}"));
        self.stack.command(&format!("deploy{}{}{image}", self.wanted.words(), self.source.words()))
    }
}

/// A deployment while it runs.
struct Deployment {
    args: DeployArgs,
    access: Access,
    stack: Stack,
    template: Template,
    interrupt: tokio::sync::watch::Receiver<bool>,
    /// Whether a person has agreed.
    agreed: bool,
}

/// Why a deployment ends before its end, without a failure.
enum Stop {
    /// Ctrl-C, while AWS goes on.
    Left,
    /// All that was asked for is done.
    Enough,
}

/// How far a step came.
type Step<T> = anyhow::Result<Result<T, Stop>>;

/// Goes on, or leaves with what stops.
macro_rules! go_on {
    ($step:expr) => {
        match $step? {
            Ok(done) => done,
            Err(stop) => return Ok(Err(stop)),
        }
    };
}

/// Runs the command.
pub async fn run(args: DeployArgs) -> anyhow::Result<ExitCode> {
    let interrupt = on_interrupt();
    let (access, stack) = args.stack.open().await?;
    let agreed = args.yes;
    let template = args.wanted.template()?;
    let mut deployment = Deployment { args, access, stack, template, interrupt, agreed };
    match deployment.run().await? {
        Ok(()) | Err(Stop::Enough) => Ok(ExitCode::SUCCESS),
        Err(Stop::Left) => {
            let args = &deployment.args;
            tell(&format!(
                "AWS goes on with the stack\nnext: `{}` shows how it goes, `{}` goes on from there",
                args.stack.command("status"),
                args.again()
            ));
            Ok(ExitCode::from(130))
        }
    }
}

impl Deployment {
    async fn run(&mut self) -> Step<()> {
        go_on!(self.settle().await);
        if let Some(id) = self.args.change_set.clone() {
            let set = self.stack.read_change_set(&id).await?;
            self.guard(&set)?;
            go_on!(self.execute(&set).await);
            return Ok(Ok(()));
        }
        let held = self.stack.describe().await?;
        before::preflight(&self.access, &self.stack, &self.template, held.as_ref()).await?;
        // Who only looks needs none yet.
        let image = if self.args.no_execute { None } else { image::built(&self.args).await? };
        let held = match Pass::of(held.as_ref()) {
            Pass::Second => held.filter(|held| held.output("RepositoryUri").is_some()),
            Pass::First => Some(go_on!(self.pass(&[]).await)),
        };
        let Some(held) = held else { anyhow::bail!("the stack has no outputs; `{}`", self.args.stack.command("why")) };
        let image = image::provide(&held, &self.args, image).await?;
        spark::provide(&held, &self.args).await?;
        let brokers = before::brokers(&self.access, &held).await?;
        let mut second = brokers;
        second.extend(image);
        let held = go_on!(self.pass(&second).await);
        self.stack.protect(&self.template).await?;
        after::finish(&self.access, &held, &self.args).await?;
        Ok(Ok(()))
    }

    /// Brings the stack to where it can be changed: waits for what is under way, takes away what never came to be.
    async fn settle(&mut self) -> Step<()> {
        loop {
            let Some(held) = self.stack.describe().await? else { return Ok(Ok(())) };
            let again = self.args.again();
            match held.standing() {
                Standing::New | Standing::Ready => return Ok(Ok(())),
                Standing::Busy => {
                    tell(&format!("stack {} is {}: following it", self.stack.name, held.status.as_str()));
                    go_on!(self.watch(&held.id, None).await);
                }
                Standing::Failed => {
                    let what = format!(
                        "Stack {} never came to be ({}). It must be deleted before it can be made; nothing is lost by that.",
                        self.stack.name,
                        held.status.as_str()
                    );
                    self.agree(&what, "Delete it?")?;
                    let token = new_token();
                    self.stack.delete(&[], &token).await?;
                    go_on!(self.watch(&held.id, Some(&token)).await);
                }
                Standing::Stuck => {
                    let what =
                        format!("Taking back an update of {} had failed ({}).", self.stack.name, held.status.as_str());
                    self.agree(&what, "Go on with taking it back?")?;
                    let token = new_token();
                    self.stack.continue_rollback(&token).await?;
                    // A rollback that ends well leaves a stack that can be changed, though its update has failed.
                    match watch::watch(&self.stack, &held.id, Some(&token), &again, &mut self.interrupt).await {
                        Ok(Watched::Left) => return Ok(Err(Stop::Left)),
                        Ok(Watched::Done(_)) => {}
                        Err(error) => match self.stack.describe().await?.map(|held| held.standing()) {
                            Some(Standing::Ready) => {}
                            _ => return Err(error),
                        },
                    }
                }
                Standing::HalfDeleted => anyhow::bail!(
                    "stack {} is being taken away ({})\nhint: `{}` goes on with that; then it can be made anew",
                    self.stack.name,
                    held.status.as_str(),
                    self.args.stack.command("destroy")
                ),
            }
        }
    }

    /// One pass: change set, question, execution. `values` are those that only AWS knows.
    async fn pass(&mut self, values: &[(String, String)]) -> Step<Described> {
        let held = self.stack.describe().await?;
        let mut wanted = self.args.wanted.resolve(&self.access, &self.template, held.as_ref()).await?;
        let declared = |(name, _): &&(String, String)| wanted.declared.contains(name);
        let values: Vec<_> = values.iter().filter(declared).cloned().collect();
        wanted.parameters.extend(values);
        let set = self.stack.propose(&wanted).await?;
        if set.rows.is_empty() {
            tell(&format!("stack {}: no changes", self.stack.name));
        } else {
            eprintln!("{}", plan::text(&set.rows));
            tell(&plan::counts(&set.rows));
            self.guard(&set)?;
            if self.args.no_execute {
                say(&set.id)?;
                tell(&format!("next: {} --change-set {}", self.args.stack.command("deploy"), set.name));
                return Ok(Err(Stop::Enough));
            }
            if Pass::of(held.as_ref()) == Pass::First {
                tell(&plan::second_pass(&self.template));
                tell(&before::estimate(&self.template, &wanted, held.as_ref()));
            }
            self.agree_or_drop(&set).await?;
            go_on!(self.execute(&set).await);
        }
        match self.stack.describe().await? {
            Some(held) => Ok(Ok(held)),
            None => anyhow::bail!("stack {} is gone: somebody deleted it meanwhile", self.stack.name),
        }
    }

    /// Refuses what would take data away, unless it was named.
    fn guard(&self, set: &ChangeSet) -> anyhow::Result<()> {
        let named = |id: &str| self.args.replace.iter().any(|named| named == id);
        let endangered: Vec<_> = plan::endangered(&set.rows, &self.template)
            .iter()
            .map(|row| row.resource.clone())
            .filter(|id| !named(id))
            .collect();
        if endangered.is_empty() {
            return Ok(());
        }
        let flags: Vec<_> = endangered.iter().map(|id| format!("--replace {id}")).collect();
        anyhow::bail!(
            "this would replace or remove what holds data: {}\nhint: if that is meant: `{} {}`",
            endangered.join(", "),
            self.args.again(),
            flags.join(" ")
        )
    }

    async fn execute(&mut self, set: &ChangeSet) -> Step<Described> {
        let token = new_token();
        self.stack.allow(&self.template, &self.args.replace).await?;
        self.stack.execute(set, &token).await?;
        let ended = self.watch(&set.stack_id, Some(&token)).await;
        // Also where it failed: what was named is named for this once. While AWS is at work the policy must not change.
        if !self.args.replace.is_empty() && !matches!(ended, Ok(Err(Stop::Left))) {
            self.stack.protect(&self.template).await?;
        }
        ended
    }

    async fn watch(&mut self, id: &str, token: Option<&str>) -> Step<Described> {
        let again = self.args.again();
        Ok(match watch::watch(&self.stack, id, token, &again, &mut self.interrupt).await? {
            Watched::Done(held) => Ok(*held),
            Watched::Left => Err(Stop::Left),
        })
    }

    /// Asks a person, once; a change set that nobody agrees to is deleted.
    async fn agree_or_drop(&mut self, set: &ChangeSet) -> anyhow::Result<()> {
        let agreed = self.agree("", "Do this?");
        if agreed.is_err() {
            self.stack.drop_change_set(set).await?;
        }
        agreed
    }

    fn agree(&mut self, what: &str, question: &str) -> anyhow::Result<()> {
        if !what.is_empty() {
            tell(what);
        }
        if !self.agreed {
            ask::agree(question, "--yes")?;
            self.agreed = true;
        }
        Ok(())
    }
}

/// A word of the person's is needed, and there is nobody to give it.
pub(super) fn nobody_to_ask(flag: &str) -> anyhow::Error {
    Exit::usage(format!("this needs a word of yours, and standard input is no terminal\nhint: `{flag}` gives it"))
}
