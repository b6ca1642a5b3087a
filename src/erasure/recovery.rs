//! Start-up: the erasure record in the log, the keystore, the keyring and its export are brought together (R9).
//!
//! Owns: the comparison and the replay. A keystore restored from before an erasure gets the destruction again before
//! anything personal is served; a log restored from before an erasure that anybody else remembers cannot be trusted with
//! personal data at all. Nothing is changed before the log's record was found to be whole and the newest.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::Status;
use super::deep::DeepErase;
use super::requests::{self, ForgetError, Parts, Requests};
use super::worker::{Worker, fenced_generations, scope_of, witness};
use crate::domain;
use crate::event::StoreId;
use crate::eventlog::{ErasureRow, EventLog};
use crate::keystore::keyring::{ErasureRecord, Keyring};
use crate::keystore::{DestroyOrder, Keystore};

/// Entries read at a time.
const PAGE: usize = 500;

/// What start-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All agree, or were made to.
    Level {
        /// Destructions that had to be repeated on a keystore older than the record.
        replayed: u64,
    },
    /// The log lacks erasures that others remember, or tells another story about them. Personal data stays sealed until
    /// the newer record is there.
    Behind {
        /// Last erasure in the log that fits together.
        log: u64,
        /// Last erasure remembered elsewhere.
        witnessed: u64,
    },
}

/// Compares the records and repeats what the keystore lacks. `exported`: what the exported record says, if there is one.
///
/// # Errors
/// [`ForgetError`] when one of them cannot be read or the keystore cannot destroy.
pub async fn level(
    log: &dyn EventLog,
    keystore: &dyn Keystore,
    keyring: &Keyring,
    exported: Option<ErasureRecord>,
) -> Result<Standing, ForgetError> {
    let applied = keystore.stats().await?.applied_erasure;
    let witnesses = [keyring.erasure_record(), exported.unwrap_or_default()];
    let remembered = witnesses.iter().map(|witness| witness.number).fold(applied, u64::max);
    let mut last = ErasureRecord::default();
    let (mut newest, mut lacking) = (None, false);
    loop {
        let rows = log.erasures(last.number, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let Some(next) = follows(&last, &row, &witnesses) else {
                return Ok(Standing::Behind { log: last.number, witnessed: remembered.max(row.number) });
            };
            last = next;
            // Destroyed once, unknown to this keystore: it is older than the record.
            lacking |= row.number > applied && was_destroyed(log, &row).await?;
            newest = Some(row);
        }
    }
    if remembered > last.number {
        return Ok(Standing::Behind { log: last.number, witnessed: remembered });
    }
    let replayed = if lacking { replay(log, keystore).await? } else { 0 };
    if let Some(row) = newest {
        witness(keyring, &row)?;
    }
    Ok(Standing::Level { replayed })
}

/// The record up to this entry; `None` when the entry does not follow, or somebody remembers another one of its number.
fn follows(last: &ErasureRecord, row: &ErasureRow, witnesses: &[ErasureRecord]) -> Option<ErasureRecord> {
    let digest = domain::erasure_digest(&last.digest, row.number, &row.subject.0, &row.scope());
    let next = ErasureRecord { number: row.number, digest };
    let other = witnesses.iter().any(|witness| witness.number == row.number && *witness != next);
    (row.number == last.number + 1 && row.digest == digest && !other).then_some(next)
}

/// Whether the log says that the keys are destroyed. Of an erasure whose stream cannot be read it says nothing.
async fn was_destroyed(log: &dyn EventLog, row: &ErasureRow) -> Result<bool, ForgetError> {
    if row.completed.is_some() {
        return Ok(true);
    }
    match requests::load(log, &row.request).await {
        Ok(found) => Ok(found.is_some_and(|(request, _)| request.status == Status::Verifying)),
        Err(ForgetError::Corrupt) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Repeats every destruction that was made once, from the first: a keystore that lacks one may lack an earlier one too, which
/// was made out of turn. What is done already changes nothing; what never was is the worker's.
async fn replay(log: &dyn EventLog, keystore: &dyn Keystore) -> Result<u64, ForgetError> {
    let (mut last, mut replayed) = (0, 0);
    loop {
        let rows = log.erasures(last, PAGE).await?;
        let Some(newest) = rows.last().map(|row| row.number) else { break };
        for row in rows {
            if !was_destroyed(log, &row).await? {
                continue;
            }
            let fenced = fenced_generations(log, keystore, row.subject, row.purposes.as_deref()).await?;
            let order = DestroyOrder {
                subject: row.subject,
                scope: scope_of(row.purposes.clone()),
                fenced: fenced.into_iter().flatten().collect(),
                erasure: row.number,
                at: row.fenced,
            };
            keystore.destroy(order).await?;
            replayed += 1;
        }
        last = newest;
    }
    keystore.wash().await?;
    Ok(replayed)
}

/// Makes the request handler and starts the worker that belongs to it, which begins with what is unfinished, and the deep erase
/// that follows `after` each erasure.
pub fn start(parts: Parts, keyring: Arc<Keyring>, store: StoreId, after: Duration) -> (Requests, [JoinHandle<()>; 2]) {
    let wake = Arc::new(Notify::new());
    let (tick, progress) = watch::channel(0);
    let requests = Requests::new(parts, Arc::clone(&keyring), Arc::clone(&wake), progress);
    let worker = Worker::new(requests.clone(), keyring, store, wake, tick);
    let deep = DeepErase::new(requests.clone(), after);
    (requests, [tokio::spawn(worker.run()), tokio::spawn(deep.run())])
}
