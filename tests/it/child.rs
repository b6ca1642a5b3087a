//! The real binary as a child process: started, killed, asked to stop.
//!
//! Owns: the process and its output. A child that a test forgets is killed when it is dropped.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal};

/// A running `oubliette serve`.
pub struct Child {
    process: std::process::Child,
    pub address: SocketAddr,
    /// What it said up to and including the line with its address.
    pub said: String,
}

/// A process that ended without ever listening.
#[derive(Debug)]
pub struct Refusal {
    pub status: ExitStatus,
    pub said: String,
    pub complained: String,
}

/// `oubliette` with these arguments, without the variables of whoever runs the tests, in a directory of its own.
pub fn oubliette(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_oubliette"));
    command.args(arguments).current_dir(dir).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    without_settings(&mut command);
    // Small page caches: many servers run side by side.
    command.env("OUBLIETTE_CACHE_KIB", "2048").env("OUBLIETTE_READERS", "2").env("OUBLIETTE_LOG_LEVEL", "error");
    command
}

/// Takes the settings of whoever runs the tests out of a command's environment.
pub fn without_settings(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("OUBLIETTE_") {
            command.env_remove(name);
        }
    }
}

/// `oubliette serve` on `dir/data`, on a free port.
pub fn serve(dir: &Path, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    let data = dir.join("data");
    let mut all = vec!["serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().expect("a plain path")];
    all.extend(arguments);
    let mut command = oubliette(dir, &all);
    // A directory whose stores are on a server says where (`postgres::place_dir`).
    for (file, variable) in [("events.dsn", "OUBLIETTE_EVENTS_DSN"), ("keys.dsn", "OUBLIETTE_KEYS_DSN")] {
        if let Ok(dsn) = std::fs::read_to_string(dir.join(file)) {
            command.env(variable, dsn);
        }
    }
    command.envs(variables.iter().copied());
    command
}

impl Child {
    /// Starts and waits until it listens; or the way it ended instead.
    pub fn start(mut command: Command) -> Result<Self, Refusal> {
        let mut process = command.spawn().expect("the binary runs");
        let mut out = BufReader::new(process.stdout.take().expect("piped"));
        let mut complaints = process.stderr.take().expect("piped");
        let mut said = String::new();
        let address = loop {
            let mut line = String::new();
            if out.read_line(&mut line).unwrap_or(0) == 0 {
                break None;
            }
            said.push_str(&line);
            if let Some(rest) = line.strip_prefix("Listening on http://") {
                break rest.split_whitespace().next().and_then(|text| text.parse().ok());
            }
        };
        let Some(address) = address else {
            let mut complained = String::new();
            let _ = complaints.read_to_string(&mut complained);
            let status = process.wait().expect("it ended");
            return Err(Refusal { status, said, complained });
        };
        // Read on in the background, or a chatty child would block on a full pipe.
        std::thread::spawn(move || std::io::copy(&mut out, &mut std::io::sink()));
        std::thread::spawn(move || {
            if std::env::var_os("TESTS_SHOW_SERVERS").is_some() {
                return std::io::copy(&mut complaints, &mut std::io::stderr());
            }
            std::io::copy(&mut complaints, &mut std::io::sink())
        });
        Ok(Self { process, address, said })
    }

    /// A `--dev` server on `dir/data`.
    pub fn dev(dir: &Path) -> Self {
        Self::start(serve(dir, &["--dev"], &[])).expect("the server starts")
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.process);
        rustix::process::kill_process(pid, signal).expect("the process is there");
    }

    /// Waits until it ended.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.process.try_wait().expect("a child of ours") {
                return Some(status);
            }
            if Instant::now() > deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended(Duration::from_secs(30)).expect("it stops when told to")
    }

    /// Whether it ended by SIGKILL, waiting a moment for it.
    pub fn was_killed(&mut self) -> bool {
        self.ended(Duration::from_secs(5)).is_some_and(|status| status.signal() == Some(9))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Copies a directory with its permissions: the keyring is refused with others.
pub fn copy_dir(from: &Path, to: &Path) {
    let mode = std::fs::metadata(from).expect("it exists").permissions().mode();
    std::fs::DirBuilder::new().recursive(true).mode(mode & 0o777).create(to).expect("a new directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copied");
        }
    }
}
