//! The event log on PostgreSQL: the conformance suite on it.

use std::sync::Arc;

use oubliette::clock::Millis;
use oubliette::db::postgres::Target;
use oubliette::eventlog::EventLog;
use oubliette::eventlog::postgres::{Opened, PostgresEventLog, SCHEMA};
use oubliette::secret::Entropy;

use crate::conformance::eventlog::{Rig, STORE, eventlog_suite};
use crate::postgres::{cluster, execute, wait};

/// A database for an event log.
pub struct PostgresRig(String);

impl PostgresRig {
    pub fn dsn(&self) -> &str {
        &self.0
    }

    pub fn target(&self) -> Target {
        Target::parse(&self.0, SCHEMA).unwrap()
    }

    pub async fn create(&self) -> Opened {
        PostgresEventLog::create(self.target(), STORE, Millis(0), 4, Arc::new(Entropy::system())).await
    }

    pub async fn reopen(&self) -> Opened {
        PostgresEventLog::open(self.target(), 4, Arc::new(Entropy::system())).await
    }
}

impl Rig for PostgresRig {
    fn new() -> Self {
        Self::place().expect("checked by whoever calls this")
    }

    fn place() -> Option<Self> {
        Some(Self(cluster()?.database()))
    }

    fn open(&self) -> Arc<dyn EventLog> {
        let open = async {
            let there = PostgresEventLog::exists(&self.target()).await.unwrap();
            if there { self.reopen().await } else { self.create().await }
        };
        Arc::new(wait(open).unwrap())
    }

    fn execute(&self, sql: &str) -> Result<usize, String> {
        execute(&format!("{} options='-c search_path={SCHEMA}'", self.0), sql)
    }

    fn bytes(&self, bytes: &[u8]) -> String {
        format!("'\\x{}'::bytea", hex::encode(bytes))
    }
}

eventlog_suite!(PostgresRig);
