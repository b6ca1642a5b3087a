//! A pool of connections.
//!
//! Owns: how many there are, and on which one something runs. A connection goes back only when what was done with it is
//! complete: a caller that went away in the middle of a transaction must not leave it to the next one.

use std::ops::Deref;
use std::sync::{Arc, Mutex};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::connection::{Connection, Connector};
use super::error::PgError;

const CLOSED: PgError = PgError::Lost { reason: "the database is closed" };

/// A bounded number of connections, made when needed.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    connector: Arc<Connector>,
    count: usize,
    idle: Mutex<Vec<Connection>>,
    permits: Arc<Semaphore>,
}

impl Pool {
    /// At most `count` connections, at least one.
    pub fn new(connector: Arc<Connector>, count: usize) -> Self {
        let count = count.max(1);
        let permits = Arc::new(Semaphore::new(count));
        Self(Arc::new(Inner { connector, count, idle: Mutex::default(), permits }))
    }

    /// A connection for the length of some work.
    ///
    /// # Errors
    /// [`PgError`] when none can be made, or the pool is closed.
    pub async fn lease(&self) -> Result<Lease, PgError> {
        let permit = Arc::clone(&self.0.permits).acquire_owned().await.map_err(|_| CLOSED)?;
        let idle = || self.0.idle.lock().ok().and_then(|mut idle| idle.pop());
        while let Some(connection) = idle() {
            if !connection.is_closed() {
                return Ok(Lease { connection, pool: Arc::clone(&self.0), _permit: permit });
            }
        }
        let connection = self.0.connector.connect_patiently().await?;
        Ok(Lease { connection, pool: Arc::clone(&self.0), _permit: permit })
    }

    /// Waits for the work under way, refuses more and closes every connection.
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

/// A connection that is closed when this is dropped, unless it was given back.
pub struct Lease {
    connection: Connection,
    pool: Arc<Inner>,
    _permit: OwnedSemaphorePermit,
}

impl Lease {
    /// The work is complete: others may use the connection. What failed may have left a transaction open; that
    /// connection is closed.
    pub fn done<T, E>(self, result: Result<T, E>) -> Result<T, E> {
        if result.is_ok()
            && let Ok(mut idle) = self.pool.idle.lock()
            && !self.pool.permits.is_closed()
        {
            idle.push(self.connection);
        }
        result
    }
}

impl Deref for Lease {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        &self.connection
    }
}
