//! `vitals plan`: what `vitals deploy` would do.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use anyhow::Context;

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;

use super::{
    Exit, Form, check_file,
    deploy::watch::part_of,
    say,
    stack::{StackArgs, shell_word},
    tell,
};
use crate::{
    aws::{
        clients::Access,
        ec2,
        stack::{
            Described, Stack, Standing, Template,
            body::Body,
            change::{Action, ChangeSet, Replacement, Row, Wanted},
            fit::misfits,
            sizes::Size,
        },
    },
    query::nearest,
};

/// The exit code where there is something to do and `--detailed-exitcode` was given.
const CHANGES: u8 = 6;

/// Show what `vitals deploy` would do to the stack in AWS
///
/// Examples:
///
///   vitals plan
///
///   # a larger fleet, in another region
///   vitals plan --size production --region eu-central-1
///
///   # in a script: ends with 6 where there is something to do
///   vitals plan --detailed-exitcode --output json
///
/// Nothing is changed: CloudFormation works the changes out, and the change set is deleted again.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct PlanArgs {
    #[command(flatten)]
    stack: StackArgs,

    #[command(flatten)]
    wanted: WantedArgs,

    /// End with 6 where there is something to do, with 0 where there is nothing
    #[arg(long)]
    detailed_exitcode: bool,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Form,
}

/// What the stack is to be.
#[derive(Debug, Clone, Args)]
pub struct WantedArgs {
    /// How large it is made; `vitals template --sizes` shows what that means [default: what the stack has; demo if it is new]
    #[arg(long, value_enum, value_name = "SIZE")]
    pub size: Option<Size>,

    /// One parameter of the template; `vitals template --parameters` shows them
    #[arg(long = "set", value_name = "NAME=VALUE", value_parser = assignment)]
    pub set: Vec<(String, String)>,

    /// Another template instead of the one inside this program, such as a changed copy of what `vitals template` prints
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
}

fn assignment(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.trim().to_owned(), value.to_owned()))
}

/// Which of the two passes a stack is in for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Pass {
    /// All that needs neither the brokers' addresses nor the image.
    First,
    /// All of it.
    Second,
}

/// The parameter whose value says that the second pass may be made.
pub const BROKERS: &str = "BootstrapBrokersScram";

impl Pass {
    /// The pass that a stack needs next.
    pub fn of(held: Option<&Described>) -> Pass {
        let brokers = held.and_then(|held| held.parameters.get(BROKERS)).is_some_and(|brokers| !brokers.is_empty());
        if brokers { Pass::Second } else { Pass::First }
    }
}

impl WantedArgs {
    /// These flags as they were given, to be copied, each after a space.
    pub fn words(&self) -> String {
        let size = self.size.and_then(|size| Some(format!(" --size {}", size.to_possible_value()?.get_name())));
        let set = self.set.iter().map(|(name, value)| format!(" --set {}", shell_word(&format!("{name}={value}"))));
        let template =
            self.template.iter().map(|path| format!(" --template {}", shell_word(&path.display().to_string())));
        size.into_iter().chain(set).chain(template).collect()
    }

    /// The template to work with.
    ///
    /// # Errors
    /// Where a file can't be read, or is no template.
    pub fn template(&self) -> anyhow::Result<Template> {
        let Some(path) = &self.template else { return Template::embedded() };
        check_file(path)?;
        let named = || format!("`{}`", path.display());
        let text = std::fs::read_to_string(path).with_context(named)?;
        Template::with_workflow(&text).with_context(named)
    }

    /// What CloudFormation is asked for. A new stack gets zones in which all of it can be.
    ///
    /// # Errors
    /// Where a parameter has no such name, or zones can't be asked for.
    pub async fn resolve(
        &self,
        access: &Access,
        template: &Template,
        held: Option<&Described>,
    ) -> anyhow::Result<Wanted> {
        let declared: Vec<String> = template.parameters().into_iter().map(|parameter| parameter.name).collect();
        let is_new = held.is_none_or(|held| held.standing() == Standing::New);
        let mut parameters = BTreeMap::new();
        if let Some(size) = self.size.or(is_new.then_some(Size::Demo)) {
            parameters.extend(size.parameters().map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        for (name, value) in &self.set {
            if !declared.contains(name) {
                let nearest = nearest(name, declared.iter().map(String::as_str), 1);
                let hint = nearest.first().map_or_else(String::new, |nearest| format!("; did you mean `{nearest}`?"));
                return Err(Exit::usage(format!(
                    "the template has no parameter `{name}`{hint}\nhint: `vitals template --parameters` shows them"
                )));
            }
            parameters.insert(name.clone(), value.clone());
        }
        if is_new {
            let given = |name: &str| parameters.get(name).is_some_and(|value| !value.is_empty());
            if !given("Zones") && !given("VpcId") {
                parameters.insert("Zones".to_owned(), self.zones(access, &parameters).await?);
            }
        }
        let value = |name: &str| effective(name, &parameters, held, template);
        let misfits = misfits(value);
        if !misfits.is_empty() {
            return Err(Exit::usage(format!(
                "{}\nhint: `--set NAME=VALUE` changes one; `vitals template --sizes` shows values that go together",
                misfits.join("\n")
            )));
        }
        let tags = vec![("application".to_owned(), "vitals".to_owned())];
        let body = Body::of(access, template.body()).await?;
        Ok(Wanted { body, parameters, declared, tags })
    }

    async fn zones(&self, access: &Access, parameters: &BTreeMap<String, String>) -> anyhow::Result<String> {
        let count = parameters.get("ZoneCount").and_then(|count| count.parse().ok()).unwrap_or(2);
        let zones: Vec<String> = ec2::zones(access).await?.into_iter().map(|zone| zone.zone_name).take(count).collect();
        if zones.len() < count {
            let region = access.region();
            anyhow::bail!(
                "{region} has {} zones for MSK, and {count} are wanted\nhint: `--set ZoneCount=2`",
                zones.len()
            );
        }
        Ok(zones.join(","))
    }
}

/// The value that a parameter will have: given, kept, or the template's own.
pub fn effective(
    name: &str,
    given: &BTreeMap<String, String>,
    held: Option<&Described>,
    template: &Template,
) -> String {
    let value = given.get(name).or_else(|| held?.parameters.get(name)).cloned();
    let default = || template.parameters().into_iter().find(|parameter| parameter.name == name)?.default;
    value.or_else(default).unwrap_or_default()
}

/// Rows that would take data away: what the template retains, replaced or removed.
pub fn endangered<'r>(rows: &'r [Row], template: &Template) -> Vec<&'r Row> {
    let resources = template.resources();
    let retained = |row: &&Row| match resources.get(&row.resource) {
        Some(resource) => resource.retained,
        // What this template does not know any more.
        None => matches!(row.kind.as_str(), "AWS::S3::Bucket" | "AWS::KMS::Key" | "AWS::MSK::Cluster"),
    };
    rows.iter()
        .filter(|row| row.replacement == Replacement::Yes || row.action == Action::Remove)
        .filter(retained)
        .collect()
}

/// Runs the command.
pub async fn run(args: PlanArgs) -> anyhow::Result<ExitCode> {
    let (access, stack) = args.stack.open().await?;
    let template = args.wanted.template()?;
    let held = stack.describe().await?;
    check(&stack, held.as_ref(), &args.stack)?;
    let wanted = args.wanted.resolve(&access, &template, held.as_ref()).await?;
    let set = stack.propose(&wanted).await?;
    let endangered: Vec<String> = endangered(&set.rows, &template).iter().map(|row| row.resource.clone()).collect();
    stack.drop_change_set(&set).await?;
    let pass = Pass::of(held.as_ref());
    match args.output {
        Form::Text => {
            say(&text(&set.rows))?;
            tell_more(&args, &template, pass, &set, &endangered);
        }
        Form::Json => say(&serde_json::to_string_pretty(&Answer {
            schema_version: 1,
            stack: &stack.name,
            region: access.region(),
            pass,
            endangered: &endangered,
            changes: &set.rows,
        })?)?,
    }
    Ok(if args.detailed_exitcode && !set.rows.is_empty() { CHANGES.into() } else { ExitCode::SUCCESS })
}

/// Whether there can be a change set now.
fn check(stack: &Stack, held: Option<&Described>, args: &StackArgs) -> anyhow::Result<()> {
    let Some(held) = held else { return Ok(()) };
    let (name, status) = (&stack.name, held.status.as_str());
    match held.standing() {
        Standing::New | Standing::Ready => Ok(()),
        Standing::Busy => {
            anyhow::bail!(
                "stack {name} is {status}\nhint: `{}` shows how it goes; then plan again",
                args.command("status")
            )
        }
        _ => anyhow::bail!(
            "stack {name} is {status}, and can't be changed before that is mended\nhint: `{}` says what happened, `{}` mends it",
            args.command("why"),
            args.command("deploy")
        ),
    }
}

#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    stack: &'a str,
    region: &'a str,
    pass: Pass,
    /// Resources with data that would be replaced or removed.
    endangered: &'a [String],
    changes: &'a [Row],
}

/// Changes as a table.
pub fn text(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "No changes.".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "part", "resource", "type", "replaced", "what changes"]);
    let mut rows: Vec<&Row> = rows.iter().collect();
    rows.sort_by_key(|row| (part_of(&row.resource), &row.resource));
    for row in rows {
        let mark = match row.action {
            Action::Add | Action::Import => "+",
            Action::Modify => "~",
            Action::Remove => "-",
            Action::Dynamic => "?",
        };
        let replaced = match row.replacement {
            Replacement::Yes => "yes",
            Replacement::Maybe => "maybe",
            Replacement::No => "",
        };
        let kind = row.kind.strip_prefix("AWS::").unwrap_or(&row.kind);
        table.add_row([mark, part_of(&row.resource).1, &row.resource, kind, replaced, &row.properties.join(", ")]);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// How many of each.
pub fn counts(rows: &[Row]) -> String {
    let of = |action| rows.iter().filter(|row| row.action == action).count();
    let replaced = rows.iter().filter(|row| row.replacement == Replacement::Yes).count();
    let replaced = if replaced > 0 { format!(" ({replaced} replaced)") } else { String::new() };
    format!("{} to add, {} to change{replaced}, {} to remove", of(Action::Add), of(Action::Modify), of(Action::Remove))
}

fn tell_more(args: &PlanArgs, template: &Template, pass: Pass, set: &ChangeSet, endangered: &[String]) {
    if set.rows.is_empty() {
        return;
    }
    tell(&counts(&set.rows));
    if pass == Pass::First {
        tell(&second_pass(template));
    }
    if !endangered.is_empty() {
        tell(&format!("with data: {}: `deploy` refuses without `--replace` of each", endangered.join(", ")));
    }
    tell(&format!("next: {}", args.stack.command(&format!("deploy{}", args.wanted.words()))));
}

/// What the second pass adds to a new stack.
pub fn second_pass(template: &Template) -> String {
    let names = template.of_parameters(&[BROKERS, "ImageDigest"]);
    format!("{} of these need the brokers' addresses or the image, and are made in a second pass", names.len())
}
