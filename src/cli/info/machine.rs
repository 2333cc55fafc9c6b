//! What this machine gives to the program.

use std::{fs, path::PathBuf};

use indicatif::HumanBytes;
use serde::Serialize;

/// Cores, memory, and where temporary files go.
#[derive(Debug, Serialize)]
pub struct Machine {
    cores: usize,
    /// What this process may use, where the system says so.
    memory_bytes: Option<u64>,
    temporary_folder: PathBuf,
    /// Why no temporary file can be made there.
    temporary_problem: Option<String>,
}

impl Machine {
    /// As this process sees it.
    pub fn of_this_process() -> Machine {
        let temporary_folder = std::env::temp_dir();
        let made = tempfile::tempfile_in(&temporary_folder);
        Machine {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            memory_bytes: memory_bytes(),
            temporary_problem: made.err().map(|e| e.to_string()),
            temporary_folder,
        }
    }

    /// What is wrong with it.
    pub fn problem(&self) -> Option<String> {
        let why = self.temporary_problem.as_ref()?;
        let folder = self.temporary_folder.display();
        Some(format!("can't make temporary files in `{folder}`: {why}; `TMPDIR` names another folder"))
    }

    /// On one line.
    pub fn describe(&self) -> String {
        let cores = if self.cores == 1 { "1 core".to_owned() } else { format!("{} cores", self.cores) };
        let memory = self.memory_bytes.map_or_else(String::new, |bytes| format!(", {} of memory", HumanBytes(bytes)));
        format!("{cores}{memory}, temporary files in {}", self.temporary_folder.display())
    }
}

/// The machine's memory, or what a container leaves of it. Linux only: elsewhere it is not known.
fn memory_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok().as_deref().and_then(of_meminfo);
    let limit = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.into_iter().chain(limit).min()
}

fn of_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_in_bytes() {
        assert_eq!(of_meminfo("MemFree: 1 kB\nMemTotal:        8000 kB\n"), Some(8_192_000));
        assert_eq!(of_meminfo("MemTotal: much"), None);
        assert_eq!(of_meminfo(&format!("MemTotal: {} kB", u64::MAX)), None);
    }
}
