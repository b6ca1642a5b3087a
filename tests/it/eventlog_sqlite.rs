//! The embedded event log: the conformance suite on it, and what only a file can get wrong.

use std::path::PathBuf;
use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::db::OpenError;
use oubliette::eventlog::EventLog;
use oubliette::eventlog::sqlite::{MIGRATIONS, Options, SqliteEventLog};
use oubliette::secret::Entropy;

use crate::conformance::eventlog::{ANY, Maker, Rig, STORE, commit, eventlog_suite, job};

/// A directory for an event log.
pub struct SqliteRig(tempfile::TempDir);

impl SqliteRig {
    fn path(&self) -> PathBuf {
        self.0.path().join("events.db")
    }

    fn create(&self) -> Result<SqliteEventLog, OpenError> {
        SqliteEventLog::create(&self.path(), STORE, Millis(0), &Options::default(), Arc::new(Entropy::system()))
    }

    fn reopen(&self) -> Result<SqliteEventLog, OpenError> {
        SqliteEventLog::open(&self.path(), &Options::default(), Arc::new(Entropy::system()))
    }
}

impl Rig for SqliteRig {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn open(&self) -> Arc<dyn EventLog> {
        Arc::new(if self.path().exists() { self.reopen() } else { self.create() }.unwrap())
    }

    fn execute(&self, sql: &str) -> Result<usize, String> {
        rusqlite::Connection::open(self.path()).unwrap().execute(sql, []).map_err(|error| error.to_string())
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        format!("x'{}'", hex::encode(bytes))
    }
}

eventlog_suite!(SqliteRig);

#[tokio::test]
async fn opening_never_creates_and_creating_never_replaces() {
    let rig = SqliteRig::new();
    assert_eq!(rig.reopen().err(), Some(OpenError::Missing));
    assert!(!rig.path().exists());
    drop(rig.create().unwrap());
    assert_eq!(rig.create().err(), Some(OpenError::Exists));
    rig.reopen().unwrap();
}

#[tokio::test]
async fn half_made_damaged_and_newer_files_are_refused() {
    let newest = MIGRATIONS.last().unwrap();
    let rig = SqliteRig::new();
    std::fs::write(rig.path(), b"").unwrap();
    assert!(matches!(rig.reopen().err(), Some(OpenError::Unusable { .. })), "an empty file is no log");
    for (damage, error) in [
        ("update head set frontier = x'01'", OpenError::Unusable { reason: "head" }),
        ("delete from head", OpenError::Unusable { reason: "head" }),
        ("pragma user_version = 99", OpenError::Newer { found: 99, known: newest.version }),
    ] {
        let rig = SqliteRig::new();
        rig.create().unwrap().close().await;
        rusqlite::Connection::open(rig.path()).unwrap().execute_batch(damage).unwrap();
        assert_eq!(rig.reopen().err(), Some(error), "{damage}");
    }
}

#[tokio::test]
async fn closing_folds_the_write_ahead_log_into_the_file() {
    let rig = SqliteRig::new();
    let log = rig.open();
    commit(&*log, job("a-1", ANY, vec![Maker::new().plain("t")])).await;
    log.close().await;
    let names: Vec<_> = std::fs::read_dir(rig.0.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["events.db"], "a copy of the one file is a whole log");
}
