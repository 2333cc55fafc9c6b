//! `vitals image`: the container image of this program.

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use clap::{Args, Subcommand};
use indicatif::HumanBytes;

use super::{Exit, progress::Progress, stack::shell_word};
use crate::aws::image::{Auth, Image, Program, Reference, Target, push};

/// Build the container image of this program, and push it to a registry; no Docker is needed
///
/// Examples:
///
///   vitals image build
///   vitals image push --to 123456789012.dkr.ecr.eu-central-1.amazonaws.com/vitals
///
/// The image's only layer is this one program, linked statically, at /vitals, with certificate authorities, two users and
/// /tmp. The same program gives the same digest, wherever it is built.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
pub struct ImageArgs {
    #[command(subcommand)]
    command: ImageCommand,
}

#[derive(Debug, Subcommand)]
enum ImageCommand {
    Build(BuildArgs),
    Push(PushArgs),
}

/// What an image is made of.
#[derive(Debug, Clone, Args)]
pub struct SourceArgs {
    /// The program, for Linux on amd64 or arm64 [default: the one that runs now]
    #[arg(long, value_name = "FILE")]
    linux_binary: Option<PathBuf>,

    /// Lay it on this image, which then has to bring glibc, CA certificates and /tmp: debian:12, HOST/REPO@sha256:…
    #[arg(long, value_name = "REF")]
    base_image: Option<Reference>,
}

impl SourceArgs {
    /// These flags as they were given, to be copied, each after a space.
    pub fn words(&self) -> String {
        let binary =
            self.linux_binary.iter().map(|path| format!(" --linux-binary {}", shell_word(&path.display().to_string())));
        binary.chain(self.base_image.iter().map(|image| format!(" --base-image {image}"))).collect()
    }
}

/// Build the image, and print its digest
///
/// Examples:
///
///   vitals image build
///
///   # for a container engine on this machine: `docker load -i vitals.tar`
///   vitals image build --out vitals.tar
///
///   # for Graviton, from a program that was built there
///   vitals image build --linux-binary vitals-arm64 --out vitals-arm64.tar
///
/// The program must be linked statically, unless there is a base image: `cargo rustc --release --bin vitals -- -C
/// target-feature=+crt-static -C strip=symbols` only links anew. Files in the image are of the time SOURCE_DATE_EPOCH, or of
/// 1970. A container runs as root, unless it is told to run as 65532:65532.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct BuildArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Write it to a file for `docker load`, FILE.tar, or to a new folder, an OCI image layout
    #[arg(long, value_name = "PATH")]
    out: Option<PathBuf>,
}

/// Build the image and push it; prints its name by digest
///
/// Examples:
///
///   # Amazon ECR: with AWS's credentials
///   vitals image push --to 123456789012.dkr.ecr.eu-central-1.amazonaws.com/vitals
///
///   # any other registry
///   VITALS_REGISTRY_USER=me VITALS_REGISTRY_PASSWORD_FILE=pw vitals image push --to registry.example.com/me/vitals:v1
///
/// Only what the registry does not have is sent. A tag stays with its image: pushing the same one again is fine, another one
/// under its tag is refused. Without the variables VITALS_REGISTRY_USER and VITALS_REGISTRY_PASSWORD (or …_PASSWORD_FILE),
/// `auths` in ~/.docker/config.json says who you are to a registry. Registries on this machine are spoken to without TLS.
#[derive(Debug, Args)]
#[command(verbatim_doc_comment)]
struct PushArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// Where to: HOST/REPO[:TAG]; without a tag one is made of the version and the digest
    #[arg(long, value_name = "TARGET")]
    to: Target,
}

/// Runs the command.
pub async fn run(args: ImageArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        ImageCommand::Build(args) => {
            let image = build(&args.source).await?;
            if let Some(out) = &args.out {
                image.save(out)?;
                eprintln!("{:>10} {}", "written", out.display());
            }
            super::say(image.digest())?;
        }
        ImageCommand::Push(args) => {
            // Better said before the image is built than after.
            let auth = Auth::to_push(&args.to.host).await?;
            let image = build(&args.source).await?;
            super::say(&push_shown(&image, &args.to, auth).await?)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl SourceArgs {
    /// The program.
    pub(super) fn program(&self) -> anyhow::Result<Program> {
        match &self.linux_binary {
            Some(path) => {
                super::check_file(path)?;
                Program::read(path)
            }
            None => Program::running(),
        }
    }
}

/// Builds the image, and says how large it is.
pub(super) async fn build(source: &SourceArgs) -> anyhow::Result<Image> {
    let program = source.program()?;
    let epoch_s = epoch_s()?;
    let progress = Progress::spinner("build");
    let image = Image::build(&program, source.base_image.as_ref(), epoch_s).await?;
    progress.done(&format!("image for linux/{}, {}", image.architecture(), HumanBytes(image.size())));
    Ok(image)
}

/// The time of files, as builds that can be repeated have it.
fn epoch_s() -> anyhow::Result<u64> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH").filter(|text| !text.is_empty()) else { return Ok(0) };
    let seconds = text.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds < 1 << 33);
    seconds.ok_or_else(|| Exit::usage("SOURCE_DATE_EPOCH is no number of seconds since 1970"))
}

/// Pushes and shows how far it is; gives the image's name by digest.
pub(super) async fn push_shown(image: &Image, to: &Target, auth: Auth) -> anyhow::Result<String> {
    let sent = Arc::<AtomicU64>::default();
    let mut progress = Progress::bar("push", image.size());
    let pushing = push(image, to, auth, &sent);
    tokio::pin!(pushing);
    let pushed = loop {
        tokio::select! {
            pushed = &mut pushing => break pushed?,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                let sent = sent.load(Relaxed);
                progress.at(sent, || format!("{} of {}", HumanBytes(sent), HumanBytes(image.size())));
            }
        }
    };
    let did = if pushed.already_there { "was there already" } else { "pushed" };
    progress.done(&format!("{}/{}:{} {did}", to.host, to.repository, pushed.tag));
    Ok(pushed.reference)
}
