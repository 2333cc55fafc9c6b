//! The program as people and devices meet it: a process.

use std::{
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::mpsc,
};

/// What a command did.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Ran {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

/// `vitals` in a folder, with nothing of the tester's own settings.
pub fn program(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_vitals"));
    for name in [
        "VITALS_LAKE",
        "VITALS_TARGET",
        "VITALS_STACK",
        "VITALS_REGION",
        "VITALS_BROKER",
        "VITALS_CONFIG",
        "VITALS_OPT_ML",
        "VITALS_REPORT_TOKEN",
        "VITALS_LOG",
        "VITALS_LOG_FORMAT",
        "COLUMNS",
        "NO_COLOR",
    ] {
        command.env_remove(name);
    }
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// Runs `vitals` with these words in a folder, whose `.vitals` is the lake where none is named.
pub fn vitals(folder: &Path, words: &[&str]) -> Ran {
    program(folder).args(words).output().unwrap().into()
}

/// Ctrl-C.
pub fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// A running `vitals up` on the lake `.vitals` of a folder.
pub struct Up {
    pub port: u16,
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Up {
    pub fn start(folder: &Path) -> Up {
        let words = ["up", "--broker", "127.0.0.1:0", "--listen", "off", "--window", "1"];
        let mut child = program(folder).args(words).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = mpsc::channel();
        // Read to the end, as whoever writes to a pipe that nobody reads stops.
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).for_each(|line| drop(sender.send(line))));
        let line = lines.recv().unwrap();
        let port = line.split("mqtt://127.0.0.1:").nth(1).and_then(|rest| rest.split([',', ' ']).next());
        let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port in `{line}`"));
        Up { port, child, lines }
    }

    /// Ends it as people do; gives what it said since it started.
    pub fn interrupt(mut self) -> Ran {
        interrupt(&self.child);
        let code = self.child.wait().unwrap().code();
        Ran { code, out: String::new(), err: self.lines.iter().collect::<Vec<_>>().join("\n") }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // A test that fails leaves nothing running; one that ended well has nothing to kill.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
