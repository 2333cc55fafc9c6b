//! `vitals template`: the CloudFormation template inside the program.

use std::{collections::BTreeMap, process::ExitCode};

use clap::{Args, ValueEnum};
use comfy_table::{ContentArrangement, Table, presets};

use super::{say, tell};
use crate::aws::stack::{
    Template,
    sizes::Size,
    template::{MAX_BODY_BYTES, SOURCE},
};

/// Print the CloudFormation template that `vitals deploy` sends
///
/// Examples:
///
///   # as people read it, with its reasons
///   vitals template
///
///   # as it is sent
///   vitals template --body > stack.json
///
///   vitals template --parameters
///   vitals template --sizes
///
///   # what is in it, and how much of what CloudFormation takes
///   vitals template --scan
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct TemplateArgs {
    /// The body as it is sent: compact JSON with the training workflow in it
    #[arg(long, group = "what")]
    body: bool,

    /// Its parameters, with their defaults
    #[arg(long, group = "what")]
    parameters: bool,

    /// What each `--size` sets
    #[arg(long, group = "what")]
    sizes: bool,

    /// How many resources of which types it has, and how near it is to CloudFormation's limits
    #[arg(long, group = "what")]
    scan: bool,
}

/// Runs the command.
pub fn run(args: TemplateArgs) -> anyhow::Result<ExitCode> {
    let template = Template::embedded()?;
    match () {
        () if args.body => say(&template.body())?,
        () if args.parameters => say(&parameters(&template))?,
        () if args.sizes => say(&sizes(&template))?,
        () if args.scan => scan(&template)?,
        () => say(SOURCE.trim_end())?,
    }
    Ok(ExitCode::SUCCESS)
}

fn parameters(template: &Template) -> String {
    let mut table = plain();
    table.set_header(["name", "default", "what"]);
    for parameter in template.parameters() {
        let default = parameter.default.unwrap_or_default();
        let allowed = match parameter.allowed.as_slice() {
            [] => String::new(),
            allowed => format!(" ({})", allowed.join(", ")),
        };
        table.add_row([parameter.name, default, format!("{}{allowed}", parameter.description)]);
    }
    lines(&table)
}

fn sizes(template: &Template) -> String {
    let sizes = Size::value_variants();
    let set: Vec<BTreeMap<_, _>> = sizes.iter().map(|size| size.parameters().collect()).collect();
    let mut table = plain();
    let names = sizes.iter().filter_map(|size| Some(size.to_possible_value()?.get_name().to_owned()));
    table.set_header(["name".to_owned()].into_iter().chain(names));
    for parameter in template.parameters() {
        if set.iter().any(|set| set.contains_key(parameter.name.as_str())) {
            let default = parameter.default.as_deref().unwrap_or_default();
            let values = set.iter().map(|set| set.get(parameter.name.as_str()).copied().unwrap_or(default));
            table.add_row([parameter.name.as_str()].into_iter().chain(values));
        }
    }
    lines(&table)
}

/// The most resources of a template.
const MAX_RESOURCES: usize = 500;

fn scan(template: &Template) -> anyhow::Result<()> {
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    let resources = template.resources();
    for resource in resources.values() {
        *kinds.entry(resource.kind.clone()).or_default() += 1;
    }
    for (kind, count) in &kinds {
        say(&format!("{count:>4}  {kind}"))?;
    }
    let retained = resources.values().filter(|resource| resource.retained).count();
    tell(&format!(
        "{} of {MAX_RESOURCES} resources, {retained} of which stay when the stack is deleted; body {} of {MAX_BODY_BYTES} bytes",
        resources.len(),
        template.body().len(),
    ));
    Ok(())
}

fn plain() -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table
}

fn lines(table: &Table) -> String {
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}
