//! `vitals devices`: identities of devices on the stack in AWS.

use std::{
    collections::BTreeSet,
    io::{self, BufRead, IsTerminal, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, Subcommand, ValueEnum};
use comfy_table::{Table, presets::NOTHING};
use serde::Serialize;

use super::{Exit, progress::Progress, say, stack::StackArgs, tell};
use crate::{
    aws::devices::{
        Certificate, Fleet, Registry, Thing,
        add::natural,
        folder::{self, Folder, FolderError, Index},
    },
    reading::valid_device_id,
    simulate::{MAX_DEVICES, device_id},
};

/// Give devices identities on the stack in AWS, list them, take them back
///
/// Examples:
///
///   # device_1 to device_100, then let them publish
///   vitals devices add 100
///   vitals simulate --target aws --devices 100
///
///   vitals devices add ward7-bed3 ward7-bed4
///   vitals devices list
///   vitals devices rm ward7-bed3
///
/// An identity is a thing of AWS IoT Core with a certificate of its own, which lets it connect under its name and publish
/// its own readings, nothing else. Keys are in a folder (`--identities`), readable for its owner only; AWS keeps no copy.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct DevicesArgs {
    #[command(subcommand)]
    command: DevicesCommand,
}

#[derive(Debug, Subcommand)]
enum DevicesCommand {
    Add(AddArgs),
    List(ListArgs),
    Rm(RmArgs),
}

/// Where keys are.
#[derive(Debug, Args)]
struct DirArgs {
    /// The folder of keys and certificates
    #[arg(long, value_name = "DIR", default_value = folder::DEFAULT)]
    identities: PathBuf,
}

/// Make devices; those that are there stay as they are
///
/// Examples:
///
///   # see to it that device_1 to device_100 are there
///   vitals devices add 100
///
///   vitals devices add ward7-bed3 ward7-bed4 --identities ward7
///
/// About 10 a second, which is what AWS takes. A run that was interrupted is gone on with by the same command.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct AddArgs {
    /// How many (device_1, device_2, …), or names of letters, digits, `-`, `_` and `:`
    #[arg(value_name = "N|NAME", required = true)]
    devices: Vec<String>,

    #[command(flatten)]
    dir: DirArgs,

    #[command(flatten)]
    stack: StackArgs,
}

/// Every device of the stack, its certificate, and whether its key is here
///
/// Examples:
///
///   vitals devices list
///   vitals devices list --output json
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct ListArgs {
    #[command(flatten)]
    dir: DirArgs,

    #[command(flatten)]
    stack: StackArgs,

    /// How it is written
    #[arg(long, short, value_enum, value_name = "FORMAT", default_value = "text")]
    output: Output,
}

/// Revoke the certificates of devices, and delete devices, certificates and keys
///
/// Examples:
///
///   vitals devices rm device_7
///   vitals devices rm --all --yes
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct RmArgs {
    /// Names
    #[arg(value_name = "NAME", required_unless_present = "all", conflicts_with = "all")]
    devices: Vec<String>,

    /// Every device of the stack
    #[arg(long)]
    all: bool,

    /// Don't ask
    #[arg(long)]
    yes: bool,

    #[command(flatten)]
    dir: DirArgs,

    #[command(flatten)]
    stack: StackArgs,
}

/// The form of the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    Text,
    Json,
}

/// Runs the command.
pub async fn run(args: DevicesArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DevicesCommand::Add(args) => add(args).await,
        DevicesCommand::List(args) => list(args).await,
        DevicesCommand::Rm(args) => rm(args).await,
    }
}

/// The fleet of a stack that is there.
async fn registry(args: &StackArgs) -> anyhow::Result<Registry> {
    let (access, stack) = args.open().await?;
    let (name, region) = (&stack.name, access.region());
    let held = stack.describe().await?.ok_or_else(|| {
        Exit::not_found(format!("there is no stack `{name}` in {region}\nhint: `{}` makes it", args.command("deploy")))
    })?;
    let fleet = Fleet::of(&access, name, &held).map_err(|missing| {
        anyhow::anyhow!(
            "stack {name} is {} and has no output `{missing}` (yet)\nhint: `{}` shows how it stands",
            held.status.as_str(),
            args.command("status")
        )
    })?;
    Ok(Registry::new(&access, fleet))
}

/// The names that the words of a command line mean.
fn names(words: &[String]) -> anyhow::Result<Vec<String>> {
    if let [word] = words
        && word.bytes().all(|byte| byte.is_ascii_digit())
    {
        let count = word.parse().ok().filter(|count| (1..=MAX_DEVICES).contains(count));
        let count = count.ok_or_else(|| Exit::usage(format!("`{word}`: 1 to {MAX_DEVICES} devices can be added")))?;
        return Ok((0..count).map(device_id).collect());
    }
    let is_name = |word: &&String| valid_device_id(word) && !word.bytes().all(|byte| byte.is_ascii_digit());
    if let Some(odd) = words.iter().find(|word| !is_name(word)) {
        return Err(Exit::usage(format!(
            "`{odd}` is no name of a device: letters, digits, `-`, `_` and `:`, 128 at most, not digits only"
        )));
    }
    let mut seen = BTreeSet::new();
    Ok(words.iter().filter(|word| seen.insert(word.as_str())).cloned().collect())
}

/// Some names, for a message.
fn some(names: &[String]) -> String {
    match names {
        [first, _, _, .., last] => format!("{first} … {last}"),
        names => names.join(", "),
    }
}

fn devices(count: usize) -> String {
    if count == 1 { "1 device".to_owned() } else { format!("{count} devices") }
}

async fn add(args: AddArgs) -> anyhow::Result<ExitCode> {
    let names = names(&args.devices)?;
    let registry = registry(&args.stack).await?;
    let folder = Folder::open(&args.dir.identities)?;
    let mut progress = Progress::bar("devices", names.len() as u64);
    let told = |done: usize| progress.at(done as u64, || format!("{done} of {}", names.len()));
    let added = registry.add(&folder, &names, super::on_interrupt(), told).await?;
    let dir = args.dir.identities.display();
    progress.done(&format!("{} made, keys in `{dir}`", devices(added.made.len())));
    if added.deleted > 0 {
        tell(&format!("{} certificates of an interrupted run were deleted: their keys never arrived", added.deleted));
    }
    if !added.there.is_empty() {
        tell(&format!("{} there already: {}", devices(added.there.len()), some(&added.there)));
    }
    if added.interrupted {
        tell("interrupted before the end: the same command goes on");
        return Ok(ExitCode::from(130));
    }
    if !added.elsewhere.is_empty() {
        anyhow::bail!(
            "{} of the stack have keys that are not in `{dir}`: {}\nhint: `--identities` names the folder that has them; `{}` revokes \
             them, and then they can be added here",
            devices(added.elsewhere.len()),
            some(&added.elsewhere),
            args.stack.command(&format!("devices rm {}", added.elsewhere[0]))
        );
    }
    if let ([only], false) = (args.devices.as_slice(), added.made.is_empty())
        && only.bytes().all(|byte| byte.is_ascii_digit())
    {
        tell(&format!("next: vitals simulate --target aws --devices {only}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// One device in the answer of `list`.
#[derive(Serialize)]
struct Row<'a> {
    device: &'a str,
    certificates: &'a [Certificate],
    /// Whether the folder has its key.
    key_here: bool,
}

#[derive(Serialize)]
struct Answer<'a> {
    schema_version: u32,
    stack: &'a str,
    devices: Vec<Row<'a>>,
}

async fn list(args: ListArgs) -> anyhow::Result<ExitCode> {
    let registry = registry(&args.stack).await?;
    let held = match Index::read(&args.dir.identities) {
        Err(FolderError::NotThere { .. }) => None,
        other => Some(other?),
    };
    let held = held.filter(|index| index.stack == args.stack.stack);
    let here: BTreeSet<&str> =
        held.iter().flat_map(|index| &index.devices).map(|device| device.thing.as_str()).collect();
    let mut progress = Progress::spinner("devices");
    let mut things: Vec<Thing> =
        registry.things(|done, of| progress.at(done, || format!("{done} of {of}: asking for certificates"))).await?;
    progress.clear();
    things.sort_by_cached_key(|thing| natural(&thing.name));
    let rows = things.iter().map(|thing| Row {
        device: &thing.name,
        certificates: &thing.certificates,
        key_here: here.contains(thing.name.as_str()),
    });
    let rows: Vec<Row> = rows.collect();
    match args.output {
        Output::Json => {
            let answer = Answer { schema_version: 1, stack: &args.stack.stack, devices: rows };
            say(&serde_json::to_string_pretty(&answer)?)?;
        }
        Output::Text => {
            say(&table(&rows))?;
            let missing = here.iter().filter(|name| !things.iter().any(|thing| thing.name == **name)).count();
            if missing > 0 {
                tell(&format!(
                    "`{}` has keys of {} that AWS does not know (any more)",
                    args.dir.identities.display(),
                    devices(missing)
                ));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no devices".to_owned();
    }
    let mut table = Table::new();
    table.load_preset(NOTHING).set_header(["DEVICE", "CERTIFICATE", "STATUS", "KEY HERE"]);
    for row in rows {
        let key_here = if row.key_here { "yes" } else { "" };
        if row.certificates.is_empty() {
            table.add_row([row.device, "", "none", key_here]);
        }
        for certificate in row.certificates {
            let id = certificate.arn.rsplit('/').next().unwrap_or_default();
            let short: String = id.chars().take(12).collect();
            let status = certificate.status.as_deref().unwrap_or("gone");
            table.add_row([row.device, &short, &status.to_lowercase(), key_here]);
        }
    }
    table.trim_fmt()
}

async fn rm(args: RmArgs) -> anyhow::Result<ExitCode> {
    if !args.yes && !io::stdin().is_terminal() {
        return Err(Exit::usage("there is nobody to ask: `--yes` removes without asking"));
    }
    let registry = registry(&args.stack).await?;
    let folder = Folder::open(&args.dir.identities)?;
    let mut names: Vec<String> =
        if args.all { registry.removable(&folder).await?.into_iter().collect() } else { args.devices.clone() };
    names.sort_by_cached_key(|name| natural(name));
    names.dedup();
    if names.is_empty() {
        tell(&format!("stack {} has no devices", args.stack.stack));
        return Ok(ExitCode::SUCCESS);
    }
    let what = format!("{} of stack {}: {}", devices(names.len()), args.stack.stack, some(&names));
    if !args.yes && !agreed(&format!("remove {what}? They can never connect again. [y/N] "))? {
        anyhow::bail!("nothing was done");
    }
    let mut progress = Progress::bar("devices", names.len() as u64);
    let told = |done: usize| progress.at(done as u64, || format!("{done} of {}", names.len()));
    let removed = registry.remove(&folder, &names, super::on_interrupt(), told).await?;
    progress.done(&format!("{} removed", devices(removed.removed.len())));
    if removed.interrupted {
        tell("interrupted before the end: the same command goes on");
        return Ok(ExitCode::from(130));
    }
    if !removed.unknown.is_empty() {
        return Err(Exit::not_found(format!(
            "stack {} has no {}\nhint: `{}` shows what it has",
            args.stack.stack,
            some(&removed.unknown),
            args.stack.command("devices list")
        )));
    }
    Ok(ExitCode::SUCCESS)
}

fn agreed(question: &str) -> io::Result<bool> {
    let mut err = io::stderr().lock();
    write!(err, "{question}")?;
    err.flush()?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(["y", "yes"].contains(&line.trim().to_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_means_that_many_and_a_name_itself() {
        let read = |line: &str| names(&line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        assert_eq!(read("2").unwrap(), ["device_1", "device_2"]);
        assert_eq!(read("b a b").unwrap(), ["b", "a"]);
        for bad in ["0", "a 7", "1000000000", "ä", "a/b", ""] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
