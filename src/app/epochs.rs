//! The task that keeps epochs of root keys going.
//!
//! Owns: when it looks, and how long it waits after a failure. Must not know: what a step is. At start it goes on with what a
//! crash left; afterwards it looks every few seconds, for what is due by the clock, and whenever it is woken.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::config::Config;
use crate::erasure::epoch::{EpochError, EpochParts, Epochs};
use crate::erasure::requests::Parts;
use crate::keystore::epoch::EpochTimes;

/// How often it looks whether something is due.
const LOOK: Duration = Duration::from_secs(5);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// The epochs of a store, and the task that keeps them going.
pub(super) fn start(config: &Config, parts: &Parts, level: Arc<AtomicBool>) -> (Epochs, JoinHandle<()>) {
    let epochs = Epochs::new(EpochParts {
        log: Arc::clone(&parts.log),
        keys: Arc::clone(&parts.keys),
        appender: parts.appender.clone(),
        clock: parts.clock.clone(),
        level,
        times: EpochTimes { every: config.epoch, keep: config.backup_horizon },
    });
    (epochs.clone(), tokio::spawn(run(epochs)))
}

/// Runs until the task is stopped, which may happen anywhere.
async fn run(epochs: Epochs) {
    let mut pause = LOOK;
    loop {
        let advanced = match epochs.leads().await {
            Ok(true) => epochs.advance().await,
            Ok(false) => Ok(false),
            Err(error) => Err(error),
        };
        match advanced {
            Ok(true) => {
                pause = LOOK;
                // Whoever waits for the keystore comes first.
                tokio::task::yield_now().await;
                continue;
            }
            Ok(false) => pause = LOOK,
            // Said at start, and nothing changes it but a restart.
            Err(EpochError::RecordBehind) => {}
            Err(error) => {
                tracing::error!(error = %error, "an epoch of keys cannot go on; trying again");
                pause = (pause * 2).min(LONGEST);
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = epochs.woken() => {}
        }
    }
}
