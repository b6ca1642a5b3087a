//! Following the head: told by other nodes, and asking all the same.
//!
//! Owns: one connection that listens. What is heard is a hint to ask at once, unless it is only what this node did itself;
//! what is asked at an interval is the truth, so a notification that is lost costs a quarter of a second and nothing else.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::commit::publish;
use super::rows::count;
use crate::db::postgres::{Connection, Connector, PgError};

const INTERVAL: Duration = Duration::from_millis(250);
const RECONNECT: Duration = Duration::from_secs(1);

/// Follows the head until it is dropped.
pub async fn follow(connector: Arc<Connector>, next: Arc<watch::Sender<u64>>) {
    loop {
        if let Ok(connection) = connector.connect_patiently().await {
            let Err(error) = listen(&connection, &next).await;
            tracing::warn!(reason = error.reason(), "the head of the event log is not followed; connecting anew");
        }
        sleep(RECONNECT).await;
    }
}

async fn listen(connection: &Connection, next: &watch::Sender<u64>) -> Result<std::convert::Infallible, PgError> {
    connection.batch("listen oubliette_log").await?;
    loop {
        let row = connection.row("select next_position from head", &[]).await?;
        if let Some(row) = row {
            publish(next, count(&row, 0)?);
        }
        let again = Instant::now() + INTERVAL;
        while !connection.is_closed() {
            tokio::select! {
                told = connection.told() => if told > *next.borrow() { break },
                () = sleep_until(again) => break,
            }
        }
    }
}
