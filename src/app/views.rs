//! Everything derived from the log: projections, their rows, folds, and their tasks.
//!
//! Owns: what they are made of and the order in which they end. Must not know: HTTP.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, broadcast, watch};
use tokio::task::JoinHandle;

use super::{Paths, StartError};
use crate::clock::Clock;
use crate::event::StoreId;
use crate::projection::code::Codes;
use crate::projection::definitions::Definitions;
use crate::projection::engine::Projections;
use crate::projection::engine::batch::Parts;
use crate::projection::fold::Folds;
use crate::projection::fold::guard::Guard;
use crate::projection::query::{QueryOptions, RowReader};
use crate::projection::store::Store;
use crate::secret::Entropy;

/// How many changes of rows a live reader may be behind before it begins anew.
const CHANGES: usize = 1024;

/// How long the server waits for projections before it listens.
const LONGEST_BEGINNING: Duration = Duration::from_secs(5);

/// What is derived.
pub(super) struct Views {
    pub projections: Arc<Projections>,
    pub rows: RowReader,
    pub folds: Arc<Folds>,
    pub guard: Guard,
    pub tasks: ViewTasks,
}

/// The tasks behind it.
pub(super) struct ViewTasks {
    ending: watch::Sender<bool>,
    running: Mutex<Vec<JoinHandle<()>>>,
}

impl Views {
    /// Opens the tables and starts what is defined.
    pub async fn start(
        paths: &Paths,
        tables: Store,
        (clock, entropy, store_id): (&Clock, &Arc<Entropy>, StoreId),
        definitions: Arc<Definitions>,
        codes: Codes,
    ) -> Result<Self, StartError> {
        let parts = Parts {
            store: tables,
            log: Arc::clone(&paths.log),
            keys: Arc::clone(&paths.keys),
            leases: Arc::clone(&paths.leases),
            registry: Arc::clone(&paths.registry),
            clock: clock.clone(),
            entropy: Arc::clone(entropy),
            store_id,
            level: Arc::clone(&paths.level),
            codes: Arc::new(codes),
            changes: broadcast::channel(CHANGES).0,
        };
        let rows = RowReader::new(parts.store.clone(), paths.read.clone(), store_id, QueryOptions::default());
        let (folds, snapshotter) = Folds::new(parts.clone(), Arc::clone(&paths.access), Arc::clone(&definitions));
        snapshotter.prepare().await.map_err(StartError::Tables)?;
        let guard = Guard::new(Arc::clone(&folds), paths.appender.clone());
        let projections = Projections::new(parts, paths.appender.clone(), definitions);
        let ending = watch::Sender::new(false);
        let running = vec![
            tokio::spawn(Arc::clone(&projections).run(ending.subscribe())),
            tokio::spawn(snapshotter.run(ending.subscribe())),
        ];
        projections.begun(LONGEST_BEGINNING).await;
        Ok(Self { projections, rows, folds, guard, tasks: ViewTasks { ending, running: Mutex::new(running) } })
    }
}

impl ViewTasks {
    /// Ends the tasks, then closes the tables.
    pub async fn end(&self, projections: &Projections) {
        self.ending.send_replace(true);
        for task in self.running.lock().await.drain(..) {
            let _ = task.await;
        }
        projections.parts().store.close().await;
    }
}
