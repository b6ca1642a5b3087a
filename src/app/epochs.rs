//! The task that keeps epochs of root keys going.
//!
//! Owns: when it looks, and how long it waits after a failure. Must not know: what a step is. At start it goes on with what a
//! crash left; afterwards it looks every few seconds, for what is due by the clock, and whenever it is woken.

use std::time::Duration;

use crate::erasure::epoch::{EpochError, Epochs};

/// How often it looks whether something is due.
const LOOK: Duration = Duration::from_secs(5);
/// Longest pause after a failure.
const LONGEST: Duration = Duration::from_mins(1);

/// Runs until the task is stopped, which may happen anywhere.
pub(super) async fn run(epochs: Epochs) {
    let mut pause = LOOK;
    loop {
        match epochs.advance().await {
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
