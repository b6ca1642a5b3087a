//! The event log as a transparency log: roots of any size, proofs, tiles (RFC 6962, C2SP tlog-tiles).
//!
//! Owns: which hashes a root, a proof or a tile is made of. Must not know: how hashes are kept, who signs, HTTP. A proof
//! costs a handful of reads of at most 256 hashes each, however long the log is, where the roots of full tiles are kept; what a
//! store from before that lacks is computed each time.

use std::ops::Range;
use std::sync::Arc;

use futures_util::future::{BoxFuture, try_join_all};

use crate::eventlog::{EventLog, ReadError};
use crate::merkle::{
    Hash, TILE_HEIGHT, consistency_ranges, empty_root, fold_subtrees, inclusion_ranges, perfect_subtrees, root_of,
};

/// Hashes in a full tile.
pub const TILE_WIDTH: u64 = 1 << TILE_HEIGHT;

/// The tree of a log.
#[derive(Clone)]
pub struct Tree(Arc<dyn EventLog>);

impl Tree {
    /// The tree over the leaves of a log.
    pub fn of(log: Arc<dyn EventLog>) -> Self {
        Self(log)
    }

    /// Root of the tree over the first `size` leaves, which must be there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn root(&self, size: u64) -> Result<Hash, ReadError> {
        if size == 0 { Ok(empty_root()) } else { self.root_of_range(0..size).await }
    }

    /// Inclusion proof of a leaf in the tree over the first `size` leaves, which must be there; `None` when the leaf is not
    /// among them.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn inclusion(&self, index: u64, size: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        let Some(ranges) = inclusion_ranges(index, size) else { return Ok(None) };
        self.roots(ranges).await.map(Some)
    }

    /// Consistency proof between the trees over the first `first` and `second` leaves, which must be there; `None` when the
    /// first is the larger one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn consistency(&self, first: u64, second: u64) -> Result<Option<Vec<Hash>>, ReadError> {
        let Some(ranges) = consistency_ranges(first, second) else { return Ok(None) };
        self.roots(ranges).await.map(Some)
    }

    /// The hashes of a tile: `width` of them, at `tile_level` counted in tiles. The leaves they rest on must be there.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn tile(&self, tile_level: u8, number: u64, width: u64) -> Result<Vec<Hash>, ReadError> {
        self.hashes(tile_level * TILE_HEIGHT, number * TILE_WIDTH, width).await
    }

    async fn roots(&self, ranges: Vec<Range<u64>>) -> Result<Vec<Hash>, ReadError> {
        try_join_all(ranges.into_iter().map(|range| self.root_of_range(range))).await
    }

    async fn root_of_range(&self, range: Range<u64>) -> Result<Hash, ReadError> {
        let subtrees = perfect_subtrees(range).into_iter().map(|(level, number)| self.node(level, number));
        Ok(fold_subtrees(&try_join_all(subtrees).await?).unwrap_or_else(empty_root))
    }

    /// A complete node, from the kept hashes next below it.
    async fn node(&self, level: u8, number: u64) -> Result<Hash, ReadError> {
        let below = level / TILE_HEIGHT * TILE_HEIGHT;
        let width = 1 << (level - below);
        Ok(root_of(&self.hashes(below, number * width, width).await?))
    }

    /// Complete nodes of a kept level. What is not kept is computed from the level below.
    fn hashes(&self, level: u8, from: u64, count: u64) -> BoxFuture<'_, Result<Vec<Hash>, ReadError>> {
        Box::pin(async move {
            let kept = self.0.hashes(level, from, count as usize).await?;
            let mut kept = kept.into_iter().peekable();
            let mut all = Vec::with_capacity(count as usize);
            for number in from..from + count {
                if let Some((_, hash)) = kept.next_if(|(found, _)| *found == number) {
                    all.push(hash);
                } else if let Some(below) = level.checked_sub(TILE_HEIGHT) {
                    all.push(root_of(&self.hashes(below, number * TILE_WIDTH, TILE_WIDTH).await?));
                } else {
                    return Err(ReadError::Corrupt { table: "events", column: "leaf", row: number });
                }
            }
            Ok(all)
        })
    }
}
