//! Start-up: the erasure record in the log, the keystore and the keyring are brought together (R9).
//!
//! Owns: the comparison and the replay. A keystore restored from before an erasure gets the destruction again before
//! anything personal is served; a log restored from before an erasure that keystore or keyring remember cannot be
//! trusted with personal data at all.

use std::sync::Arc;

use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::requests::{ForgetError, Parts, Requests};
use super::worker::{Worker, fenced_generations, scope_of, witness};
use crate::event::StoreId;
use crate::eventlog::EventLog;
use crate::keystore::keyring::Keyring;
use crate::keystore::{DestroyOrder, Keystore};

/// What start-up found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// All three agree, or were made to.
    Level {
        /// Destructions that had to be repeated on a keystore older than the record.
        replayed: u64,
    },
    /// The log lacks erasures that the keystore or keyring remember, or tells another story about them. Personal data
    /// stays sealed until the newer record is there.
    Behind {
        /// Last erasure in the log.
        log: u64,
        /// Last erasure remembered elsewhere.
        witnessed: u64,
    },
}

/// Compares the three records and repeats what the keystore lacks.
///
/// # Errors
/// [`ForgetError`] when one of them cannot be read or the keystore cannot destroy.
pub async fn level(log: &dyn EventLog, keystore: &dyn Keystore, keyring: &Keyring) -> Result<Standing, ForgetError> {
    let applied = keystore.stats().await?.applied_erasure;
    let witnessed = keyring.erasure_record();
    let (mut replayed, mut last) = (0, 0);
    loop {
        let rows = log.erasures(last, 500).await?;
        let Some(newest) = rows.last().map(|row| row.number) else { break };
        for row in &rows {
            let forged = row.number == witnessed.number && row.digest != witnessed.digest;
            let gap = row.number != last + 1;
            if forged || gap {
                return Ok(Standing::Behind { log: last, witnessed: witnessed.number });
            }
            last = row.number;
            if row.number > applied && row.completed.is_some() {
                // Completed once, unknown to this keystore: it is older than the record.
                let fenced = fenced_generations(log, row.subject, row.purposes.as_deref()).await?;
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
            if row.completed.is_some() {
                witness(keyring, row)?;
            }
        }
        last = newest;
    }
    if replayed > 0 {
        keystore.wash().await?;
    }
    let remembered = applied.max(witnessed.number);
    if remembered > last {
        return Ok(Standing::Behind { log: last, witnessed: remembered });
    }
    Ok(Standing::Level { replayed })
}

/// Makes the request handler and starts the worker that belongs to it, which begins with what is unfinished.
pub fn start(parts: Parts, keyring: Arc<Keyring>, store: StoreId) -> (Requests, JoinHandle<()>) {
    let wake = Arc::new(Notify::new());
    let (tick, progress) = watch::channel(0);
    let requests = Requests::new(parts, Arc::clone(&wake), progress);
    let worker = Worker::new(requests.clone(), keyring, store, wake, tick);
    (requests, tokio::spawn(worker.run()))
}
