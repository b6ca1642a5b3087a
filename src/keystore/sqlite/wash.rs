//! The wash: after it no file of the keystore holds bytes that were deleted before it.
//!
//! Owns: the overwriting of the write-ahead log, and counting. Must not know: what was destroyed. Keeps invariant 5.
//! The log is never truncated or removed: that would hand its blocks back to the file system with the keys in them. It
//! is checkpointed, so that the next transaction starts at its beginning, and then overwritten to its whole length by a
//! transaction of zeros. The main file needs no wash: what can be destroyed lies in slots that never
//! move and are zeroed in place (`migrations/keys/sqlite`).

use rusqlite::Connection;

use crate::crash;
use crate::keystore::{KeystoreError, KeystoreStats, WashReport};

use super::Engine;

type Result<T> = std::result::Result<T, KeystoreError>;

const WAL_HEADER: u64 = 32;
const FRAME: u64 = 4096 + 24;
/// What a page of an overflow chain carries.
const PAGE_PAYLOAD: u64 = 4092;
/// The largest blob bound at once; SQLite's own limit is 10^9.
const LARGEST: u64 = 64 * 1024 * PAGE_PAYLOAD;
/// Pages that a transaction of one blob writes beside the blob's overflow pages: the leaf and the file's first page.
const BESIDE: u64 = 2;
const ATTEMPTS: u32 = 5;

impl Engine {
    pub(super) fn wash(&self) -> Result<WashReport> {
        crash::point("wash.before-checkpoint");
        // The file's length, not the number of live frames: older generations of the log lie beyond those.
        let bytes = std::fs::metadata(&self.wal).map_or(0, |meta| meta.len());
        let frames = bytes.saturating_sub(WAL_HEADER).div_ceil(FRAME);
        self.restart_log()?;
        crash::point("wash.after-checkpoint");
        let mut pages = frames.saturating_sub(BESIDE);
        for _ in 0..ATTEMPTS {
            self.fill(pages)?;
            let written = self.restart_log()?;
            self.conn.execute_batch("delete from wash")?;
            self.restart_log()?;
            if written >= frames {
                crash::point("wash.overwritten");
                return Ok(WashReport { bytes, incomplete: false });
            }
            pages += frames - written;
        }
        Err(KeystoreError::Unavailable { reason: "the write-ahead log could not be overwritten" })
    }

    /// One transaction of zeros that fills about `pages` pages.
    fn fill(&self, pages: u64) -> Result<()> {
        // Without this the automatic checkpoint would let the log start over in the middle.
        self.conn.execute_batch("begin immediate")?;
        let filled = (|| {
            let mut left = pages.max(1) * PAGE_PAYLOAD;
            let mut insert = self.conn.prepare_cached("insert into wash (pad) values (zeroblob(?1))")?;
            while left > 0 {
                let now = left.min(LARGEST);
                insert.execute([now as i64])?;
                left -= now;
            }
            self.conn.execute_batch("commit")
        })();
        if filled.is_err() && !self.conn.is_autocommit() {
            let _ = self.conn.execute_batch("rollback");
        }
        Ok(filled?)
    }

    /// Copies the whole log into the main file and lets the next transaction begin at its start. Gives the number of
    /// frames that were in it.
    fn restart_log(&self) -> Result<u64> {
        for _ in 0..ATTEMPTS {
            let (busy, log, done) = self.conn.query_row("pragma wal_checkpoint(restart)", [], |row| {
                Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?))
            })?;
            if busy == 0 && log == done {
                return Ok(u64::try_from(log).unwrap_or(0));
            }
        }
        Err(KeystoreError::Unavailable { reason: "the write-ahead log could not be checkpointed" })
    }
}

/// Counts everything once, at start; afterwards the numbers are carried along.
pub(super) fn count(conn: &Connection, epoch: u32) -> rusqlite::Result<KeystoreStats> {
    let counted = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
    Ok(KeystoreStats {
        active: counted("select count(*) from deks")?,
        destroyed: counted("select count(*) from tombstones where kid is not null")?,
        subjects: counted(
            "select (select count(*) from subjects) + (select count(distinct subject) from natural_people)",
        )?,
        epoch,
        applied_erasure: counted("select applied_erasure from meta where id = 1")?,
    })
}
