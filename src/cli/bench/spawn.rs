//! A server of our own for the length of a benchmark.
//!
//! Owns: the child process, its directory, and what the system says the child used. Must not know: workloads. Keeps:
//! the child never outlives this value, and only a directory that was made here is removed.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde::Serialize;

use super::driver::{Connection, Request, Target};

/// How long a server may take to become ready, and to end.
const PATIENCE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);
/// Unit of CPU times in `/proc`: `USER_HZ` is 100 on every architecture that Linux exposes it on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running server.
pub struct Spawned {
    child: Child,
    directory: PathBuf,
    url: String,
    keep: bool,
}

/// What the server used, from the first request to the last.
#[derive(Clone, Debug, Serialize)]
pub struct Usage {
    /// User and system time in seconds.
    pub cpu_seconds: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// Disk space of the data directory after the server has ended.
    pub disk_bytes: u64,
    /// The same per event that the benchmark appended.
    pub disk_bytes_per_event: f64,
    /// The same per file.
    pub files: Vec<FileSize>,
}

/// A file of the data directory.
#[derive(Clone, Debug, Serialize)]
pub struct FileSize {
    /// Path below the data directory.
    pub path: String,
    /// Disk space of the file in bytes.
    pub bytes: u64,
}

impl Spawned {
    /// Starts so many nodes, one after the other: the first makes the store. Where they keep it, the environment says
    /// (`OUBLIETTE_EVENTS_DSN`, `OUBLIETTE_KEYS_DSN`).
    ///
    /// # Errors
    /// As [`Spawned::start`].
    pub async fn start_all(parent: &Path, tag: &str, keep: bool, nodes: u32) -> anyhow::Result<Vec<Self>> {
        let keyring = (nodes > 1).then(|| parent.join(format!("oubliette-bench-{tag}")).join("keyring"));
        let mut all = vec![Self::start(parent, tag, keep, keyring.as_deref()).await?];
        for node in 1..nodes {
            all.push(Self::start(parent, &format!("{tag}-{node}"), keep, keyring.as_deref()).await?);
        }
        Ok(all)
    }

    /// Starts `oubliette serve --dev` on a free port in a fresh directory under `parent`, and waits until it is ready.
    ///
    /// # Errors
    /// The program cannot be started, or ends or stays unready; the directory then stays, with the server's log in it.
    pub async fn start(parent: &Path, tag: &str, keep: bool, keyring: Option<&Path>) -> anyhow::Result<Self> {
        let directory = parent.join(format!("oubliette-bench-{tag}"));
        let data = directory.join("data");
        fs::create_dir_all(parent).with_context(|| format!("cannot create {}", parent.display()))?;
        fs::create_dir(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
        let log = File::create(directory.join("server.log")).context("cannot create the server's log")?;
        let port = free_port()?;
        let program = std::env::current_exe().context("cannot find the program itself")?;
        let mut command = Command::new(program);
        if let Some(keyring) = keyring {
            command.env("OUBLIETTE_KEYRING_DIR", keyring);
        }
        let child = command
            .args(["serve", "--dev", "--listen", &format!("127.0.0.1:{port}"), "--data-dir"])
            .arg(&data)
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("cannot share the server's log")?)
            .stderr(log)
            .spawn()
            .context("cannot start the server")?;
        // From here on the child is stopped whatever happens; the directory stays until the server proved usable.
        let mut spawned = Self { child, directory, url: format!("http://127.0.0.1:{port}"), keep: true };
        spawned.wait_until_ready().await?;
        spawned.keep = keep;
        Ok(spawned)
    }

    /// `http://127.0.0.1:port`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// CPU time used so far, in seconds; `None` where there is no `/proc`.
    pub fn cpu_seconds(&self) -> Option<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id())).ok()?;
        cpu_seconds(&stat)
    }

    /// Ends the server in an orderly way and measures what it leaves on disk.
    ///
    /// # Errors
    /// The server does not end, or ends with a failure.
    pub async fn stop(mut self, events: u64) -> anyhow::Result<Usage> {
        let cpu_seconds = self.cpu_seconds().unwrap_or_default();
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let rss_bytes = resident_bytes(&status).unwrap_or_default();
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), rustix::process::Signal::TERM)
            .context("cannot signal the server")?;
        let begin = Instant::now();
        let exit = loop {
            if let Some(exit) = self.child.try_wait()? {
                break exit;
            }
            ensure!(begin.elapsed() < PATIENCE, "the server did not end within {PATIENCE:?}");
            tokio::time::sleep(POLL).await;
        };
        if !exit.success() {
            self.keep = true;
            bail!("the server ended with {exit}; its log is in {}", self.directory.display());
        }
        let mut files = Vec::new();
        let data = self.directory.join("data");
        list(&data, &data, &mut files)?;
        files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        let disk_bytes = files.iter().map(|file| file.bytes).sum();
        let disk_bytes_per_event = disk_bytes as f64 / events.max(1) as f64;
        Ok(Usage { cpu_seconds, rss_bytes, disk_bytes, disk_bytes_per_event, files })
    }

    async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let target = Target::new(&self.url, "none")?;
        let begin = Instant::now();
        loop {
            if let Some(exit) = self.child.try_wait()? {
                bail!("the server ended at once with {exit}; its log is in {}", self.directory.display());
            }
            if let Ok(mut connection) = Connection::open(&target).await
                && let Ok(reply) = connection.call(Request::get("/readyz")).await
                && reply.status == 200
            {
                return Ok(());
            }
            ensure!(begin.elapsed() < PATIENCE, "not ready after {PATIENCE:?}: see {}", self.directory.display());
            tokio::time::sleep(POLL).await;
        }
    }
}

impl Usage {
    /// What several servers used together.
    pub fn of_all(all: Vec<Self>) -> Option<Self> {
        all.into_iter().reduce(|one, other| Self {
            cpu_seconds: one.cpu_seconds + other.cpu_seconds,
            rss_bytes: one.rss_bytes + other.rss_bytes,
            disk_bytes: one.disk_bytes + other.disk_bytes,
            disk_bytes_per_event: one.disk_bytes_per_event + other.disk_bytes_per_event,
            files: one.files.into_iter().chain(other.files).collect(),
        })
    }
}

impl Drop for Spawned {
    fn drop(&mut self) {
        // After an orderly end both calls do nothing; after a failure the data is of no use to anybody.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.keep {
            let _ = fs::remove_dir_all(&self.directory);
        }
    }
}

/// A port that was free a moment ago. Should somebody else take it in between, the server says so and ends.
fn free_port() -> anyhow::Result<u16> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no free port")?;
    Ok(listener.local_addr()?.port())
}

/// User and system time of a line of `/proc/<pid>/stat` (proc(5), fields 14 and 15).
fn cpu_seconds(stat: &str) -> Option<f64> {
    // The second field is the program's name in parentheses and may hold anything, so counting starts after it.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}

/// `VmRSS` of `/proc/<pid>/status`, in bytes.
fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}

fn list(root: &Path, directory: &Path, files: &mut Vec<FileSize>) -> anyhow::Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let entry = entry?;
        let meta = entry.metadata()?;
        if meta.is_dir() {
            list(root, &entry.path(), files)?;
        } else {
            let path = entry.path();
            let path = path.strip_prefix(root).unwrap_or(&path).display().to_string();
            // Blocks that are really taken: a preallocated or sparse file counts as what it costs.
            files.push(FileSize { path, bytes: meta.blocks() * 512 });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says() {
        let stat = "42 (a ) b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 4 0 100 1000 10 0";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(cpu_seconds("42"), None);
        assert_eq!(resident_bytes("Name:\tx\nVmRSS:\t    1234 kB\n"), Some(1234 * 1024));
        assert_eq!(resident_bytes("Name:\tx\n"), None);
    }

    #[tokio::test]
    async fn a_server_that_ends_at_once_leaves_its_log() {
        let parent = tempfile::tempdir().unwrap();
        // The program that runs here is the test binary, which does not know the command `serve --dev …`.
        let error = Spawned::start(parent.path(), "tag", false, None).await.err().unwrap();
        assert!(error.to_string().contains("ended at once"), "{error}");
        assert!(parent.path().join("oubliette-bench-tag/server.log").exists());
    }

    #[test]
    fn files_are_listed_with_what_they_take() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("keys")).unwrap();
        fs::write(directory.path().join("keys/a.db"), vec![1; 10_000]).unwrap();
        let mut files = Vec::new();
        list(directory.path(), directory.path(), &mut files).unwrap();
        assert_eq!(files.len(), 1);
        assert_eq!(files[0].path, "keys/a.db");
    }
}
