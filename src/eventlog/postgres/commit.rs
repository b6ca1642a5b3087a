//! The write transaction: lock the head, gather facts, plan, insert, move the head, commit.
//!
//! Owns: the node's write connection. Nodes take turns by the lock of the head, one batch each; nothing in memory changes
//! before the outcome is known. When the connection breaks at the commit, the outcome is looked up under the same lock, which
//! the old transaction must have given up first: what stands there then is the answer, not a guess.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::CommitResult;
use super::facts::{Cache, Failed as NotGathered, Gathered, gather};
use super::lookups;
use super::rows::get;
use super::write::{Failed, Learnt, number, write};
use crate::crash;
use crate::db::postgres::{Connection, Connector, PgError};
use crate::event::StreamId;
use crate::eventlog::plan::{Planned, StreamFact, plan};
use crate::eventlog::{AccessEntry, Batch, CommitError, ReadError};
use crate::secret::Entropy;

/// Attempts to begin, when another transaction is in the way.
const ATTEMPTS: u32 = 4;
/// How long an outcome is looked for, beyond the time that the server gives a stalled transaction.
const SETTLE: Duration = Duration::from_secs(20);

/// The single writer of one node.
pub struct Writer {
    connector: Arc<Connector>,
    connection: Option<Connection>,
    cache: Cache,
    publish: Arc<watch::Sender<u64>>,
    entropy: Arc<Entropy>,
}

impl Writer {
    /// A writer that connects when there is something to write.
    pub fn new(connector: Arc<Connector>, publish: Arc<watch::Sender<u64>>, entropy: Arc<Entropy>) -> Self {
        Self { connector, connection: None, cache: Cache::new(), publish, entropy }
    }

    /// Commits a batch; one answer per job.
    pub async fn commit(&mut self, batch: Batch) -> CommitResult {
        let (connection, mut gathered) = self.begin(&batch).await?;
        let now = batch.jobs.first().map(|job| job.at);
        let Batch { jobs, access } = batch;
        let entropy = &self.entropy;
        let mut drawn = Ok(());
        let mut planned = plan(gathered.head.clone(), &gathered.facts, jobs, || {
            StreamId(entropy.draw().unwrap_or_else(|error| {
                drawn = Err(error);
                [0; 16]
            }))
        });
        if drawn.is_err() {
            return Err(CommitError::Unavailable { reason: "no random bytes" });
        }
        if planned.events.is_empty() && planned.effects.is_empty() && planned.replies.is_empty() && access.is_empty() {
            connection.send("rollback");
            self.connection = Some(connection);
            return Ok(planned.outcomes);
        }
        crash::point("log.before-insert");
        let learnt = number(&planned, &access, &mut gathered, &self.cache.names);
        match write(&connection, &mut planned, &access, &gathered, &learnt, &self.cache.names, now).await {
            Ok(()) => self.connection = Some(connection),
            Err(Failed::Commit(PgError::Lost { .. })) => {
                drop(connection);
                self.settle(&planned, &access, &learnt).await?;
            }
            // Nothing was committed: the connection is dropped, and the server undoes the transaction.
            Err(Failed::Before(error) | Failed::Commit(error)) => return Err(unavailable(error)),
        }
        crash::point("log.after-commit");
        Ok(self.landed(planned, learnt))
    }

    /// The lock and the facts; waits and repeats when another transaction is in the way. Nothing is written yet.
    async fn begin(&mut self, batch: &Batch) -> Result<(Connection, Gathered), CommitError> {
        let mut pause = Duration::from_millis(5);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let (connection, fresh) = match self.connection.take() {
                Some(connection) if !connection.is_closed() => (connection, false),
                _ => (self.connector.connect_patiently().await.map_err(unavailable)?, true),
            };
            match gather(&connection, batch, &mut self.cache).await {
                Ok(gathered) => return Ok((connection, gathered)),
                Err(NotGathered::Database(PgError::Refused { retry: true, .. })) if attempt < ATTEMPTS => {}
                // A connection that broke while nobody used it shows it only now.
                Err(NotGathered::Database(PgError::Lost { .. })) if attempt < ATTEMPTS && !fresh => continue,
                Err(error) => return Err(CommitError::Unavailable { reason: error.reason() }),
            }
            sleep(pause).await;
            pause *= 4;
        }
    }

    /// The connection broke at the commit: did it land? Who holds the lock of the head knows, for the transaction in
    /// question held it and has ended.
    async fn settle(&mut self, planned: &Planned, access: &[AccessEntry], learnt: &Learnt) -> Result<(), CommitError> {
        let end = Instant::now() + self.connector.target().timeouts.idle_in_transaction + SETTLE;
        let mut pause = Duration::from_millis(50);
        while Instant::now() < end {
            if let Ok(connection) = self.connector.connect_patiently().await {
                match look_up(&connection, planned, access, learnt).await {
                    Ok(Some(true)) => {
                        self.connection = Some(connection);
                        return Ok(());
                    }
                    Ok(Some(false)) => {
                        self.connection = Some(connection);
                        return Err(CommitError::Unavailable { reason: "the connection broke before the commit" });
                    }
                    Ok(None) => return Err(CommitError::Indeterminate),
                    Err(_) => {}
                }
            }
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        Err(CommitError::Indeterminate)
    }

    fn landed(
        &mut self,
        planned: Planned,
        learnt: Learnt,
    ) -> Vec<Result<crate::eventlog::Appended, crate::eventlog::Refused>> {
        // An unbounded set of names would be an unbounded cache.
        if self.cache.names.len() + learnt.names.len() > 65_536 {
            self.cache.names.clear();
        }
        self.cache.names.extend(learnt.names);
        for event in &planned.events {
            if let Some((row, id)) = learnt.streams.get(&event.stream) {
                let fact = StreamFact { row: *row, id: *id, last: Some(event.revision) };
                self.cache.streams.put(event.stream.clone(), Some(fact));
            }
        }
        self.cache.last_stream = Some(learnt.last_stream);
        self.cache.next = Some(planned.head.next);
        publish(&self.publish, planned.head.next.0);
        planned.outcomes
    }
}

/// The watch never goes back: two connections may see commits in another order.
pub fn publish(watch: &watch::Sender<u64>, next: u64) {
    watch.send_if_modified(|seen| {
        let newer = next > *seen;
        *seen = next.max(*seen);
        newer
    });
}

/// Whether the batch is there; `None` when there is nothing to look for.
async fn look_up(
    connection: &Connection,
    planned: &Planned,
    access: &[AccessEntry],
    learnt: &Learnt,
) -> Result<Option<bool>, ReadError> {
    connection.batch("begin").await?;
    lookups::head_of(&connection.query(super::facts::LOCK, &[]).await?)?;
    let found = if let Some(event) = planned.events.first() {
        let sql = "select exists (select 1 from events where position = $1 and event_id = $2 and leaf = $3)";
        let (position, id) = (event.position.0 as i64, event.event.id());
        connection.row(sql, &[&position, &id.0.as_slice(), &event.leaf.as_slice()]).await?
    } else if let (Some(entry), Some(number)) = (access.last(), learnt.last_access) {
        let sql = "select exists (select 1 from access_log
                   where id = $1 and at_ms = $2 and principal = $3 and subject = $4 and request = $5)";
        let subject = entry.subject.0.as_slice();
        connection.row(sql, &[&number, &entry.at.0, &entry.principal, &subject, &entry.request]).await?
    } else {
        None
    };
    let found = found.map(|row| get(&row, 0)).transpose()?;
    connection.batch("rollback").await?;
    Ok(found)
}

fn unavailable(error: PgError) -> CommitError {
    CommitError::Unavailable { reason: error.reason() }
}
