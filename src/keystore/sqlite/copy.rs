//! A copy of the file while it is in use.
//!
//! Owns: the steps. The file is locked exclusively, so the copy is made by the only connection there is, some pages at a
//! time; between steps the thread does what waits. What changes meanwhile is carried into the copy by SQLite, because it
//! is changed through the same connection: the copy is the file as it is at the last step. Keys lie in slots that are
//! zeroed in place, so a page that is copied holds no key that is destroyed by then. Must not know: where copies are kept.

use std::path::Path;

use rusqlite::Connection;
use rusqlite::backup::{Backup, StepResult};
use tokio::sync::mpsc;

use super::{BATCH, Engine, Request};
use crate::keystore::KeystoreError;

/// Pages copied before somebody else has a turn: about a millisecond.
const PAGES: std::ffi::c_int = 256;

impl Engine {
    /// Copies, and works in between. What has to wait for the end (washes, steps of an epoch, closing) is left in `waiting`.
    pub(super) fn copy_while_working(
        &self,
        to: &Path,
        requests: &mut mpsc::Receiver<Request>,
        waiting: &mut Vec<Request>,
    ) -> Result<(), KeystoreError> {
        let mut copy = Connection::open(to)?;
        // A file that nobody reads before it is whole: it is flushed once, by whoever asked for it.
        copy.execute_batch("pragma journal_mode=off; pragma synchronous=off; pragma locking_mode=exclusive")?;
        {
            let backup = Backup::new(&self.conn, &mut copy)?;
            loop {
                match backup.step(PAGES)? {
                    StepResult::Done => break,
                    StepResult::More => self.work_between(requests, waiting),
                    _ => return Err(KeystoreError::Unavailable { reason: "the database is locked" }),
                }
            }
        }
        copy.close().map_err(|(_, error)| error.into())
    }

    fn work_between(&self, requests: &mut mpsc::Receiver<Request>, waiting: &mut Vec<Request>) {
        let mut work = Vec::new();
        // Bounded: who waits for the end stays in the queue beyond this.
        while work.len() + waiting.len() < BATCH
            && let Ok(request) = requests.try_recv()
        {
            match request {
                later @ (Request::Wash(_) | Request::Close(_) | Request::Copy(..) | Request::Epoch(..)) => {
                    waiting.push(later);
                }
                now => work.push(now),
            }
        }
        if !work.is_empty() {
            self.batch(work);
        }
    }
}
