//! What this machine has to have.

use std::{io, net::TcpListener, path::Path};

use indicatif::HumanBytes;

use super::super::config::Origins;
use crate::{
    aws::{
        devices::folder::{DEFAULT, FolderError, Index},
        doctor::Check,
    },
    lake::{Place, landing, state},
};

/// Free space below which a run of some hours may not fit, and below which hardly anything does.
const LITTLE_BYTES: u64 = 2 << 30;
const TOO_LITTLE_BYTES: u64 = 200 << 20;

/// Where the broker of `vitals up` listens if nothing else is said.
const BROKER: &str = "127.0.0.1:1883";

/// Looks at program, configuration, lake, disk, broker's port, temporary files and identities.
pub async fn examine(lake: &Place, origins: &Origins) -> Vec<Check> {
    let mut checks = vec![version(), configuration(origins)];
    match lake {
        Place::Folder(folder) => {
            let folder = nearest(folder);
            checks.push(writable(lake, folder));
            checks.extend(space(folder));
        }
        Place::S3 { .. } => checks.push(reachable(lake).await),
    }
    checks.extend([temporary(), broker()]);
    checks.extend(identities(Path::new(DEFAULT)));
    checks
}

fn version() -> Check {
    let formats = format!("landing files {}, state {}", landing::FORMAT, state::FORMAT);
    Check::ok("program", format!("vitals {}; formats: {formats}", env!("CARGO_PKG_VERSION")))
}

fn configuration(origins: &Origins) -> Check {
    match (&origins.problem, &origins.file) {
        (Some(problem), _) => {
            let (found, hint) =
                problem.split_once("\nhint: ").unwrap_or((problem, "`vitals config check` shows it all"));
            Check::fail("config", found, hint)
        }
        (None, Some(file)) => Check::ok("config", format!("`{}`", file.display())),
        (None, None) => Check::ok("config", "no file"),
    }
}

/// The folder itself, or the one in which it would be made.
fn nearest(folder: &Path) -> &Path {
    let there = folder.ancestors().find(|folder| folder.exists());
    // A relative path ends with an empty one, which is the current folder.
    there.unwrap_or(Path::new("."))
}

fn writable(lake: &Place, folder: &Path) -> Check {
    match tempfile::tempfile_in(folder) {
        Ok(_) if lake.folder() == Some(folder) => Check::ok("lake", format!("`{lake}` can be written")),
        Ok(_) => Check::ok("lake", format!("`{lake}` is not there, and can be made")),
        Err(error) => Check::fail(
            "lake",
            format!("`{}` can't be written: {error}", folder.display()),
            "`--lake DIR` names another folder, or its owner gives access",
        ),
    }
}

async fn reachable(lake: &Place) -> Check {
    match super::super::reach(lake).await {
        Ok((_, true)) => Check::ok("lake", format!("{lake} is there")),
        Ok((_, false)) => Check::ok("lake", format!("{lake} can be reached, and has no lake yet")),
        Err(error) => {
            let text = error.to_string();
            let (found, todo) =
                text.split_once("\nhint: ").unwrap_or((&text, "look at bucket, region and credentials"));
            Check::fail("lake", found, todo)
        }
    }
}

fn space(folder: &Path) -> Option<Check> {
    let free = free_bytes(folder)?;
    let found = format!("{} free in `{}`", HumanBytes(free), folder.display());
    let todo = "make room, or let `--lake` name a larger disk";
    Some(match free {
        ..TOO_LITTLE_BYTES => Check::fail("disk", found, todo),
        TOO_LITTLE_BYTES..LITTLE_BYTES => Check::warn("disk", found, todo),
        LITTLE_BYTES.. => Check::ok("disk", found),
    })
}

/// What this process may still write there, where the system tells.
#[cfg(unix)]
fn free_bytes(folder: &Path) -> Option<u64> {
    use std::{ffi::CString, mem::MaybeUninit, os::unix::ffi::OsStrExt};
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let path = CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut told = MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the path ends with a zero, and `told` has room for the answer, of which all bits zero is a valid one.
    let told = unsafe {
        if libc::statvfs(path.as_ptr(), told.as_mut_ptr()) != 0 {
            return None;
        }
        told.assume_init()
    };
    // The fields are of other types on other systems.
    #[allow(clippy::useless_conversion, clippy::unnecessary_cast)]
    Some(told.f_bavail as u64 * told.f_frsize as u64)
}

#[cfg(not(unix))]
fn free_bytes(_: &Path) -> Option<u64> {
    None
}

fn temporary() -> Check {
    let folder = std::env::temp_dir();
    match tempfile::tempfile_in(&folder) {
        Ok(_) => Check::ok("temporary", format!("files can be made in `{}`", folder.display())),
        Err(error) => Check::fail(
            "temporary",
            format!("no files in `{}`: {error}", folder.display()),
            "`TMPDIR` names another folder",
        ),
    }
}

fn broker() -> Check {
    match TcpListener::bind(BROKER) {
        Ok(_) => Check::ok("broker", format!("{BROKER} is free for `vitals up`")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => Check::warn(
            "broker",
            format!("something listens on {BROKER}"),
            "`vitals up` runs already, or another broker: `vitals up --broker 127.0.0.1:1884` takes another port",
        ),
        Err(error) => Check::fail("broker", format!("{BROKER}: {error}"), "`vitals up --broker` takes another address"),
    }
}

/// The identities in their usual folder, where there are any.
fn identities(folder: &Path) -> Option<Check> {
    let place = folder.display();
    let index = match Index::read(folder) {
        Ok(index) => index,
        Err(FolderError::NotThere { .. }) => return None,
        Err(error) => {
            return Some(Check::fail("identities", error.to_string(), "`vitals devices add` makes them anew"));
        }
    };
    let keys: Vec<_> = index.devices.iter().map(|device| folder.join(&device.key)).collect();
    let (there, missing): (Vec<_>, Vec<_>) = keys.iter().partition(|key| key.is_file());
    if let Some(first) = missing.first() {
        let found = format!("{} of {} keys are missing, such as `{}`", missing.len(), keys.len(), first.display());
        let todo = "`vitals devices rm NAME` and `vitals devices add NAME` make a new one";
        return Some(Check::fail("identities", found, todo));
    }
    if let Some(open) = there.iter().find(|key| is_open_to_others(key)) {
        let found = format!("others can read `{}`", open.display());
        return Some(Check::fail(
            "identities",
            found,
            format!("`chmod 600 {place}/*.key`, or revoke and make them anew"),
        ));
    }
    Some(Check::ok("identities", format!("{} devices of stack {} in `{place}`", keys.len(), index.stack)))
}

#[cfg(unix)]
fn is_open_to_others(file: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    file.metadata().is_ok_and(|about| about.permissions().mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aws::{
        devices::folder::{Device, Folder},
        doctor::Verdict,
    };

    #[test]
    fn a_lake_that_is_not_there_is_judged_by_where_it_would_be_made() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(nearest(&parent.path().join("a/b")), parent.path());
        assert_eq!(nearest(Path::new("no/such/folder")), Path::new("."));
        assert!(free_bytes(nearest(Path::new("no/such/folder"))).is_some_and(|free| free > 0));
        assert!(free_bytes(Path::new("/no/such/folder")).is_none());
    }

    #[cfg(unix)]
    #[test]
    fn keys_that_are_missing_or_open_are_failures() {
        use std::os::unix::fs::PermissionsExt;
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(identities(parent.path()), None);
        let folder = Folder::open(parent.path()).unwrap();
        let mut index = Folder::new_index("ward", "eu-central-1", "a.example", "readings");
        index.devices.push(Device::new("device_1", "arn:cert/a"));
        folder.write_index(&index).unwrap();
        let judged = || identities(parent.path()).unwrap();
        assert!(judged().verdict == Verdict::Fail && judged().found.contains("device_1.key"));
        folder.keep(&index.devices[0], "C", "K").unwrap();
        assert_eq!(judged().verdict, Verdict::Ok);
        let key = parent.path().join("device_1.key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(judged().verdict == Verdict::Fail && judged().found.contains("others can read"));
    }
}
