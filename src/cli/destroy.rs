//! `vitals destroy`: takes the stack away again, and data only if that is meant.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    Exit,
    deploy::{ask, watch},
    on_interrupt,
    progress::Progress,
    stack::StackArgs,
    tell,
    why::no_stack,
};
use crate::aws::{
    clients::Access,
    ec2,
    stack::{Described, Held, Stack, Standing, Template, health, leftovers, new_token, undo},
};

/// How long between two looks whether interfaces have gone, and how long that may take: IoT needs half an hour.
const PAUSE: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_secs(45 * 60);

/// Take the stack away
///
/// Examples:
///
///   # all but the data: buckets, keys and logs stay
///   vitals destroy
///
///   # the data as well
///   vitals destroy --delete-data --confirm vitals
///
/// Shows what goes and what stays first, and asks for the stack's name. Jobs are stopped, and the topic rule and its way to
/// the brokers go before everything else, since the interfaces that IoT made for it hold the network for up to half an hour.
/// Running it again goes on where it ended.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DestroyArgs {
    #[command(flatten)]
    stack: StackArgs,

    /// Delete buckets with all they hold, log groups and keys too; needs --confirm
    #[arg(long, requires = "confirm")]
    delete_data: bool,

    /// The stack's name: instead of typing it when asked
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,

    /// Answer every question with yes; --delete-data needs --confirm all the same
    #[arg(long, short)]
    yes: bool,
}

/// Runs the command.
pub async fn run(args: DestroyArgs) -> anyhow::Result<ExitCode> {
    let mut interrupt = on_interrupt();
    if let Some(named) = args.confirm.as_ref().filter(|named| **named != args.stack.stack) {
        return Err(Exit::usage(format!(
            "`--confirm {named}` is not the stack's name, `{}`: nothing was done",
            args.stack.stack
        )));
    }
    let (access, stack) = args.stack.open().await?;
    let template = Template::embedded()?;
    // Without --confirm it asks for the name again.
    let data = if args.delete_data { format!(" --delete-data --confirm {}", args.stack.stack) } else { String::new() };
    let again = args.stack.command(&format!("destroy{data}"));
    let mut destroyer = Destroyer { args, access, stack, template, again: again.clone() };
    let left = tokio::select! {
        left = destroyer.run() => left?,
        _ = interrupt.wait_for(|interrupted| *interrupted) => {
            tell(&format!("AWS goes on with what was begun\nnext: `{}` goes on from there", again));
            return Ok(ExitCode::from(130));
        }
    };
    tell(&left);
    Ok(ExitCode::SUCCESS)
}

struct Destroyer {
    args: DestroyArgs,
    access: Access,
    stack: Stack,
    template: Template,
    /// The command to go on with.
    again: String,
}

impl Destroyer {
    /// Everything; gives the last words.
    async fn run(&mut self) -> anyhow::Result<String> {
        let Some(mut held) = self.stack.describe().await? else { return self.only_leftovers().await };
        let resources = self.stack.resources().await?;
        self.show(&held, &resources).await?;
        self.check_devices(&held).await?;
        if !self.args.yes && self.args.confirm.is_none() {
            ask::typed("Type the stack's name to take it away:", &self.stack.name, "--yes")?;
        }
        if held.standing() == Standing::Busy {
            tell(&format!("stack {} is {}: following it", self.stack.name, held.status.as_str()));
            // However that ends, what there is now is taken away.
            self.follow(&held.id, None).await.ok();
            match self.stack.describe().await? {
                Some(now) => held = now,
                None if self.args.delete_data => return self.only_leftovers().await,
                None => return Ok(self.farewell(&self.staying(&resources))),
            }
        }
        self.clear(&held, &resources).await?;
        let token = new_token();
        self.stack.delete(&[], &token).await?;
        self.follow(&held.id, Some(&token)).await?;
        let stays = self.staying(&resources);
        if self.args.delete_data { self.remove(&stays).await } else { Ok(self.farewell(&stays)) }
    }

    /// The stack is gone; what it left may still be there.
    async fn only_leftovers(&self) -> anyhow::Result<String> {
        let left = match self.stack.deleted().await? {
            Some(id) if self.args.delete_data => self.stack.resources_of(&id).await?,
            _ => return Err(no_stack(&self.args.stack)),
        };
        tell(&format!("stack {} is deleted already; removing what it left", self.stack.name));
        self.remove(&self.staying(&left)).await
    }

    /// What goes and what stays, and what that goes on costing.
    async fn show(&self, held: &Described, resources: &[Held]) -> anyhow::Result<()> {
        let stays = self.staying(resources);
        let (access, name) = (&self.access, &self.stack.name);
        tell(&format!("stack {name} in {}: {} resources go", access.region(), resources.len() - stays.len()));
        if let Some(waiting) = health::waiting(access, held).await.filter(|waiting| *waiting > 0.0) {
            tell(&format!("{waiting:.0} records in the topic are not in the lake yet; they go with the brokers"));
        }
        let verb = if self.args.delete_data { "goes too" } else { "stays" };
        for resource in &stays {
            let cost = match resource.kind.as_str() {
                "AWS::S3::Bucket" => match health::bucket_cost(access, &resource.physical).await {
                    Some((gb, dollars)) => format!(", {gb:.1} GB, about ${dollars:.2} a month"),
                    None => ", its size is not known (S3 measures once a day)".to_owned(),
                },
                "AWS::KMS::Key" => ", $1 a month".to_owned(),
                "AWS::Logs::LogGroup" => ", $0.03 a GB and month".to_owned(),
                _ => String::new(),
            };
            tell(&format!("  {verb}: {} {}{cost}", resource.id, resource.physical));
        }
        Ok(())
    }

    /// Devices hold the stack's policy: it can't be deleted before theirs are.
    async fn check_devices(&self, held: &Described) -> anyhow::Result<()> {
        let Some(policy) = held.output("ThingPolicyName") else { return Ok(()) };
        if undo::policy_is_attached(&self.access, policy).await? {
            anyhow::bail!(
                "devices still have certificates with the stack's policy\nhint: `{}` revokes them; then `{}`",
                self.args.stack.command("devices rm --all"),
                self.again
            );
        }
        Ok(())
    }

    /// What keeps the stack from being deleted, in the order in which it lets go.
    async fn clear(&mut self, held: &Described, resources: &[Held]) -> anyhow::Result<()> {
        if let Some(machine) = held.output("StateMachineArn") {
            let stopped = undo::stop_executions(&self.access, machine).await?;
            if stopped > 0 {
                tell(&format!("{stopped} trainings stopped"));
            }
        }
        if let Some(application) = held.output("EmrApplicationId") {
            undo::stop_spark(&self.access, application).await?;
        }
        let has_second = held.parameters.get("BootstrapBrokersScram").is_some_and(|brokers| !brokers.is_empty());
        if has_second && held.standing() == Standing::Ready {
            tell("taking away the rule, its way to the brokers, and the services");
            let token = new_token();
            let emptied = ["BootstrapBrokersScram", "BootstrapBrokersIam", "ImageDigest"];
            if self.stack.back(held, &emptied, &token).await? {
                self.follow(&held.id, Some(&token)).await?;
            }
        }
        let groups = resources.iter().filter(|resource| resource.kind == "AWS::EC2::SecurityGroup");
        for group in groups.filter(|group| group.id.contains("Rule")) {
            self.wait_for_interfaces(&group.physical).await?;
        }
        Ok(())
    }

    async fn wait_for_interfaces(&self, group: &str) -> anyhow::Result<()> {
        let mut progress = Progress::spinner("destroy");
        let begun = std::time::Instant::now();
        loop {
            let left = ec2::interfaces_in(&self.access, group).await?;
            if left.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                anyhow::bail!(
                    "{} interfaces of IoT are still in {group}\nhint: `{}` in an hour",
                    left.len(),
                    self.again
                );
            }
            let minutes = begun.elapsed().as_secs() / 60;
            progress.at(minutes, || {
                format!("waiting for {} interfaces of IoT to vanish, which takes up to 30 min", left.len())
            });
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn follow(&mut self, id: &str, token: Option<&str>) -> anyhow::Result<()> {
        // Ctrl-C is waited for above.
        let (_never, mut interrupt) = tokio::sync::watch::channel(false);
        watch::watch(&self.stack, id, token, &self.again, &mut interrupt).await.map(drop)
    }

    fn staying(&self, resources: &[Held]) -> Vec<Held> {
        let declared = self.template.resources();
        let stays = |held: &&Held| declared.get(&held.id).is_some_and(|resource| resource.stays);
        let mut stays: Vec<Held> =
            resources.iter().filter(stays).filter(|held| !held.physical.is_empty()).cloned().collect();
        // Keys last: they are needed for as long as there is something to read.
        stays.sort_by_key(|held| held.kind == "AWS::KMS::Key");
        stays
    }

    async fn remove(&self, stays: &[Held]) -> anyhow::Result<String> {
        for held in stays {
            let mut progress = Progress::spinner("delete");
            let done = leftovers::remove(&self.access, held, |objects| {
                progress.at(objects, || format!("{}: {objects} objects", held.physical));
            });
            if let Some(done) = done.await? {
                progress.done(&done);
            }
        }
        Ok(format!("stack {} and its data are gone", self.stack.name))
    }

    fn farewell(&self, stays: &[Held]) -> String {
        let name = &self.stack.name;
        if stays.is_empty() {
            return format!("stack {name} is gone");
        }
        let delete = self.args.stack.command(&format!("destroy --delete-data --confirm {name}"));
        format!("stack {name} is gone; {} resources with data stay\nnext: `{delete}` deletes them too", stays.len())
    }
}
