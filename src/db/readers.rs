//! A pool of read connections to an SQLite file.
//!
//! Owns: how many reads run at once, and on which connection. Must not know: what is read.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use futures_util::future::{BoxFuture, FutureExt};
use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::{OpenError, OpenMode, cache, open};

/// Why nothing could be read: a fact without values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unavailable(pub &'static str);

/// A fixed number of read connections.
#[derive(Clone)]
pub struct Readers(Arc<Pool>);

struct Pool {
    path: PathBuf,
    count: usize,
    cache_kib: u32,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Readers {
    /// Opens them all, at least one.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(path: &Path, count: usize, cache_kib: u32) -> Result<Self, OpenError> {
        let count = count.max(1);
        let pool = Pool {
            path: path.to_owned(),
            count,
            cache_kib,
            idle: Mutex::new(Vec::new()),
            permits: Arc::new(Semaphore::new(count)),
        };
        for _ in 0..count {
            let connection = pool.connect()?;
            pool.give(connection);
        }
        Ok(Self(Arc::new(pool)))
    }

    /// Runs `work` on a connection of its own, off the async threads.
    pub fn run<T, E>(
        &self,
        work: impl FnOnce(&mut Connection) -> Result<T, E> + Send + 'static,
    ) -> BoxFuture<'_, Result<T, E>>
    where
        T: Send + 'static,
        E: From<Unavailable> + Send + 'static,
    {
        let pool = Arc::clone(&self.0);
        async move {
            let permit =
                Arc::clone(&pool.permits).acquire_owned().await.map_err(|_| Unavailable("the database is closed"))?;
            let result = tokio::task::spawn_blocking(move || {
                let mut connection = pool.take()?;
                let result = work(&mut connection);
                pool.give(connection);
                drop(permit);
                result
            });
            result.await.unwrap_or_else(|_| Err(Unavailable("a read was cancelled").into()))
        }
        .boxed()
    }

    /// Waits for the reads under way, refuses later ones and closes every connection.
    pub async fn close(&self) {
        let all = u32::try_from(self.0.count).unwrap_or(u32::MAX);
        let waited = self.0.permits.acquire_many(all).await;
        self.0.permits.close();
        drop(waited);
        if let Ok(mut idle) = self.0.idle.lock() {
            idle.clear();
        }
    }
}

impl Pool {
    fn connect(&self) -> Result<Connection, OpenError> {
        let connection = open(&self.path, OpenMode::ReadOnly)?;
        cache(&connection, self.cache_kib)?;
        Ok(connection)
    }

    /// An idle connection; a new one where a panicking read lost its own.
    fn take(&self) -> Result<Connection, Unavailable> {
        let idle = self.idle.lock().ok().and_then(|mut idle| idle.pop());
        match idle {
            Some(connection) => Ok(connection),
            None => self.connect().map_err(|_| Unavailable("no read connection")),
        }
    }

    fn give(&self, connection: Connection) {
        if let Ok(mut idle) = self.idle.lock() {
            idle.push(connection);
        }
    }
}
