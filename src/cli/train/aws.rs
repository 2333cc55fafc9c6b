//! `vitals train --target aws`: the stack's state machine is started, followed, or put on a schedule.

use std::process::ExitCode;

use chrono::{TimeDelta, Utc};
use indicatif::HumanCount;
use serde_json::{Map, Value, json};

use super::{
    Every, Promote, TrainArgs,
    follow::{Followed, clock, follow},
};
use crate::{
    aws::{
        clients::Access,
        stack::Described,
        training::{
            Arn, Execution, Machine, Run, Standing, Status,
            cause::Failure,
            job::Watch,
            new_name,
            schedule::{Schedule, rate},
        },
    },
    cli::{
        Exit, config::Origins, in_words, models::card, moment::Moment, on_interrupt, say, stack::StackArgs, tell,
        why::no_stack,
    },
    lake::{Place, Store, now_ms},
    score::load_model,
    train::sample::DEFAULT_READINGS,
};

/// The largest whole number that survives every reader of JSON on the way.
const LARGEST_SEED: u64 = 1 << 53;

/// The stack in which trainings run.
struct Here {
    args: StackArgs,
    access: Access,
    held: Described,
}

impl Here {
    async fn open(args: StackArgs) -> anyhow::Result<Here> {
        let (access, stack) = args.open().await?;
        crate::aws::stay_in(access.region());
        let held = stack.describe().await?.ok_or_else(|| no_stack(&args))?;
        Ok(Here { args, access, held })
    }

    /// An output that the stack has when it was deployed to the end.
    fn output(&self, name: &str) -> anyhow::Result<&str> {
        self.held.output(name).ok_or_else(|| {
            let stack = &self.args.stack;
            let deploy = self.args.command("deploy");
            anyhow::anyhow!("the stack `{stack}` has no output `{name}` yet\nhint: `{deploy}` goes on where it ended")
        })
    }

    fn parameter(&self, name: &str) -> Option<&str> {
        self.held.parameters.get(name).map(String::as_str)
    }

    fn machine(&self) -> anyhow::Result<Machine> {
        Ok(Machine::new(&self.access, self.output("StateMachineArn")?))
    }

    /// `vitals train --target aws` with more flags, to be copied.
    fn train(&self, more: &str) -> String {
        format!("{}{more}", self.args.command("train --target aws"))
    }
}

/// Runs the command.
pub async fn run(args: &TrainArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    refuse(args, origins)?;
    let interrupt = on_interrupt();
    if let Some(arn) = args.follow.as_ref().or(args.stop.as_ref()) {
        let stack = stack_of(arn, &args.target.stack);
        if args.stop.is_some() {
            return stop(arn, &stack).await;
        }
        return attend(&Here::open(stack).await?, arn.clone(), interrupt).await;
    }
    let here = Here::open(args.target.stack.clone()).await?;
    if let Some(every) = args.every {
        return schedule(&here, every, args, origins).await;
    }
    let machine = here.machine()?;
    let input = input(&here, args, origins)?;
    let running = machine.running().await?;
    if args.dry_run {
        return plan(&here, &machine, args, &input, &running).await;
    }
    if let (Some(run), false) = (running.first(), args.force) {
        return Err(runs_already(&here, run));
    }
    let arn = machine.start(&new_name(Utc::now()), &Value::Object(input)).await?;
    if args.detach {
        say(&arn.to_string())?;
        tell(&format!("started; {}", how_to_go_on(&arn)));
        tell(&format!("console: {}", arn.console()));
        return Ok(ExitCode::SUCCESS);
    }
    tell(&format!("started {arn}\nconsole: {}\nCtrl-C leaves it running", arn.console()));
    attend(&here, arn, interrupt).await
}

/// Refuses flags that mean nothing on AWS.
fn refuse(args: &TrainArgs, origins: &Origins) -> anyhow::Result<()> {
    let given = [
        ("--data", args.data.is_some()),
        ("--out", args.out.is_some()),
        ("--prepare", args.prepare.is_some()),
        ("--lake", origins.is_flag("lake")),
    ];
    if let Some((flag, _)) = given.iter().find(|(_, given)| *given) {
        return Err(Exit::usage(format!(
            "`{flag}` is for a training on this machine; on AWS the stack's own lake is learnt from\nhint: `--target local` \
             trains here, or leave `{flag}` out"
        )));
    }
    if args.seed > LARGEST_SEED {
        return Err(Exit::usage(format!("`--seed`: on AWS it is at most {LARGEST_SEED}")));
    }
    Ok(())
}

/// The stack that an execution belongs to: its state machine is named after it.
fn stack_of(arn: &Arn, named: &StackArgs) -> StackArgs {
    let stack = arn.machine.strip_suffix("-training").map_or_else(|| named.stack.clone(), str::to_owned);
    StackArgs { stack, region: Some(arn.region.clone()) }
}

/// What the state machine is given: what was asked for; for the rest it has defaults.
fn input(here: &Here, args: &TrainArgs, origins: &Origins) -> anyhow::Result<Map<String, Value>> {
    let now = now_ms();
    // Here and now, not when a task comes to read it.
    let mut input = asked(args, origins, |moment| Moment::At(moment.ms(now)).to_string());
    if !input.contains_key("alarm_budget")
        && let Some(budget) = here.parameter("AlarmBudget").and_then(|text| text.parse::<f64>().ok())
    {
        input.insert("alarm_budget".to_owned(), json!(budget));
    }
    Ok(input)
}

/// The flags that were given, as the state machine calls them.
fn asked(args: &TrainArgs, origins: &Origins, moment: impl Fn(Moment) -> String) -> Map<String, Value> {
    let mut input = Map::new();
    let mut put = |name: &str, value: Value| drop(input.insert(name.to_owned(), value));
    if let Some(since) = args.since {
        put("since", json!(moment(since)));
    }
    if let Some(until) = args.until {
        put("until", json!(moment(until)));
    }
    if origins.is_given("alarms-per-device-day") {
        put("alarm_budget", json!(args.alarms_per_device_day));
    }
    if origins.is_given("seed") {
        put("seed", json!(args.seed));
    }
    if origins.is_given("promote") {
        let promote = match args.promote {
            Promote::Always => "always",
            Promote::Better => "yes",
            Promote::Never => "no",
        };
        put("promote", json!(promote));
    }
    input
}

fn runs_already(here: &Here, run: &Run) -> anyhow::Error {
    let since = run.began.map_or_else(String::new, |at| format!(" since {}", at.format("%Y-%m-%d %H:%M UTC")));
    anyhow::anyhow!(
        "a training runs already{since}\nhint: `vitals train --follow {}` shows it; `{}` starts another beside it: neither \
         disturbs the other, and of two models that are put in force the last one stays",
        run.arn,
        here.train(" --force")
    )
}

fn how_to_go_on(arn: &Arn) -> String {
    format!("`vitals train --follow {arn}` shows how it goes, `vitals train --stop {arn}` stops it")
}

/// Says what would be started.
async fn plan(
    here: &Here,
    machine: &Machine,
    args: &TrainArgs,
    input: &Map<String, Value>,
    running: &[Run],
) -> anyhow::Result<ExitCode> {
    let (stack, region) = (&here.args.stack, here.access.region());
    let by = match here.parameter("PrepareWith") {
        Some("spark") => "a job of Spark on EMR Serverless",
        _ => "tasks of ECS",
    };
    let kind = here.parameter("TrainingInstanceType").unwrap_or("one machine");
    let then = match args.promote {
        Promote::Never => "nothing more: it is not put in force",
        Promote::Always => "whatever it finds: scores the closed days again, and puts it in force",
        Promote::Better => "unless it finds less: scores the closed days again, and puts it in force",
    };
    say(&format!("aws       in the stack `{stack}` in {region}, by {}", machine.arn))?;
    say(&format!("input     {}", Value::Object(input.clone())))?;
    say(&format!("reads     {}, once the days that are over are closed, by {by}", here.output("LakeUri")?))?;
    let most = HumanCount(DEFAULT_READINGS as u64);
    say(&format!("learns    from at most {most} readings, of whole devices, by a job of SageMaker"))?;
    say(&format!("          on {kind}, spot capacity where there is any, else on demand"))?;
    say("compares  what it has learnt with the model in force")?;
    say(&format!("then      {then}"))?;
    if let Some(name) = here.held.output("TrainingScheduleName") {
        match Schedule::read(&here.access, name).await {
            Ok(schedule) => say(&format!("schedule  {}, with the input {}", schedule.when(), schedule.input()))?,
            Err(error) => tell(&format!("the schedule is not known: {}", in_words(&error))),
        }
    }
    for run in running {
        tell(&format!("a training runs already: {}; it would not be started without --force", run.arn));
    }
    Ok(ExitCode::SUCCESS)
}

/// Sets the schedule of trainings, or switches it off.
async fn schedule(here: &Here, every: Every, args: &TrainArgs, origins: &Origins) -> anyhow::Result<ExitCode> {
    let name = here.output("TrainingScheduleName")?;
    let held = Schedule::read(&here.access, name).await?;
    let (was, was_input) = (held.when(), held.input());
    let wanted = match every {
        Every::Off => held.off(),
        Every::Each(period) => {
            let rate = rate(period).map_err(|why| Exit::usage(format!("`--every`: {why}")))?;
            let period = TimeDelta::from_std(period)?;
            // As on this machine: so long after the last one, or now where that is over.
            let last = here.machine()?.newest().await?.and_then(|run| run.began);
            let now = Utc::now();
            let first = last.map_or(now, |last| last + period).max(now + TimeDelta::minutes(1));
            tell(&format!("the first at {}", first.format("%Y-%m-%d %H:%M UTC")));
            held.every(&rate, first, &asked(args, origins, |moment| moment.to_string()))
        }
    };
    say(&format!("schedule  {was} → {}", wanted.when()))?;
    if wanted.input() != was_input {
        say(&format!("input     {was_input} → {}", wanted.input()))?;
    }
    if args.dry_run {
        return Ok(ExitCode::SUCCESS);
    }
    wanted.write().await?;
    let keeps = match every {
        Every::Off => "--set TrainingEnabled=false".to_owned(),
        Every::Each(_) => format!("--set TrainingEnabled=true --set 'TrainingSchedule={}'", wanted.when()),
    };
    tell(&format!(
        "set; the stack's own parameters still say otherwise, which a later change of them would put back\nhint: `{} {keeps}` \
         sets those; Scheduler then begins at once",
        here.args.command("deploy")
    ));
    Ok(ExitCode::SUCCESS)
}

async fn stop(arn: &Arn, stack: &StackArgs) -> anyhow::Result<ExitCode> {
    let access = Access::new(stack.region.as_deref()).await?;
    let execution = Execution::new(&access, arn.clone());
    let standing = execution.standing().await.map_err(|refused| unknown(refused, arn))?;
    if standing.status != Status::Running {
        tell("it has ended already");
        return Ok(ExitCode::SUCCESS);
    }
    execution.stop("by `vitals train --stop`").await?;
    tell("stopped, with the job or task that it waited for; models and the lake are as they were");
    Ok(ExitCode::SUCCESS)
}

/// A refusal, as "not found" where there is no such execution.
fn unknown(refused: crate::aws::clients::CallFailed, arn: &Arn) -> anyhow::Error {
    if refused.is("ExecutionDoesNotExist") {
        return Exit::not_found(format!(
            "there is no training `{arn}`\nhint: Step Functions forgets them after 90 days; `vitals status` shows the last"
        ));
    }
    refused.into()
}

/// Follows a training to its end, and tells what came of it.
async fn attend(here: &Here, arn: Arn, mut interrupt: tokio::sync::watch::Receiver<bool>) -> anyhow::Result<ExitCode> {
    let watch = Watch::new(&here.access).await;
    let mut execution = Execution::new(&here.access, arn.clone());
    let followed = match follow(&mut execution, &watch, &mut interrupt).await {
        Ok(followed) => followed,
        Err(refused) => {
            let going_on = !refused.is("ExecutionDoesNotExist");
            let error = unknown(refused, &arn);
            if going_on {
                tell(&format!("the training goes on, but can't be followed; {}", how_to_go_on(&arn)));
            }
            return Err(error);
        }
    };
    match followed {
        Followed::Left => {
            tell(&format!("the training goes on in AWS\nnext: {}", how_to_go_on(&arn)));
            Ok(ExitCode::from(130))
        }
        Followed::Ended(standing, _) if standing.status == Status::Succeeded => done(here, &standing).await,
        Followed::Ended(standing, step) => Err(failure(here, &watch, &arn, &standing, step).await),
    }
}

/// Shows the model of a training that is done.
async fn done(here: &Here, standing: &Standing) -> anyhow::Result<ExitCode> {
    let Some(model) = standing.output["model"].as_str() else {
        return say(&standing.output.to_string()).map(|()| ExitCode::SUCCESS);
    };
    let lake = here.output("LakeUri")?;
    match model_card(lake, model).await {
        Ok(card) => say(&card)?,
        Err(error) => {
            tell(&format!("warning: the model's card can't be read from {lake}: {}", in_words(&error)));
            say(&standing.output.to_string())?;
        }
    }
    if standing.output["in_force"] == true {
        tell(&format!("{model} is in force, and the closed days are scored with it"));
        tell(&format!("hint: `{}` shows what it finds", here.args.command("query outliers --target aws")));
    } else {
        let why = if standing.input["promote"] == "no" {
            "as was asked for"
        } else {
            "as it finds less than the one in force: its card has the comparison"
        };
        tell(&format!("{model} is kept, and not in force, {why}"));
        tell(&format!("hint: `vitals models promote {model} --lake {lake}` puts it in force"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn model_card(lake: &str, id: &str) -> anyhow::Result<String> {
    let place: Place = lake.parse()?;
    let store = Store::at(&place).await?;
    card(load_model(&store, id).await?.card())
}

/// What a task of a step said in its log before it failed.
async fn said_by(watch: &Watch, group: &str, failure: &Failure, task: &str) -> anyhow::Result<Option<String>> {
    // As the template names the logs of its tasks.
    let prefix = match failure.step.as_deref() {
        Some("closing days" | "preparing the sample") => "compact",
        _ => "rescore",
    };
    watch.last_error(group, prefix, task).await
}

/// Why a training failed: the last lines that are said.
async fn failure(here: &Here, watch: &Watch, arn: &Arn, standing: &Standing, step: Option<&str>) -> anyhow::Error {
    let mut failure = Failure::of(standing, &arn.name, step);
    if let (Some(task), Some(group)) = (failure.task().map(str::to_owned), here.held.output("LogGroupName")) {
        match said_by(watch, group, &failure, &task).await {
            Ok(Some(said)) => failure.said_in_log(&said),
            Ok(None) => {}
            Err(error) => tell(&format!("warning: {}", in_words(&error))),
        }
    }
    let took = standing
        .began
        .map_or_else(String::new, |began| format!(" after {}", clock(standing.ended.unwrap_or_else(Utc::now) - began)));
    let at = failure.step.as_ref().map_or_else(String::new, |step| format!(" at {step}"));
    let verb = match standing.status {
        Status::Aborted => "was stopped",
        Status::TimedOut => "took too long",
        _ => "failed",
    };
    let hint = failure.hint(standing.status, &here.train(""), &here.args.command("deploy"));
    let hint = hint.map_or_else(String::new, |hint| format!("\nhint: {hint}"));
    anyhow::anyhow!("the training {verb}{at}{took}: {}{hint}", failure.why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stack_of_a_training_is_known_by_its_machine() {
        let named = StackArgs { stack: "named".to_owned(), region: None };
        let of = |machine: &str| {
            let arn = format!("arn:aws:states:eu-west-1:123456789012:execution:{machine}:n").parse().unwrap();
            let found = stack_of(&arn, &named);
            (found.stack, found.region)
        };
        assert_eq!(of("ward7-training"), ("ward7".to_owned(), Some("eu-west-1".to_owned())));
        assert_eq!(of("else"), ("named".to_owned(), Some("eu-west-1".to_owned())));
    }
}
