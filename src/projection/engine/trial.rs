//! Definitions tried out: rows that answer one caller only, and then go.
//!
//! Owns: how a trial runs, and that nothing is left of it. Must not know: HTTP, how a row is shown. A trial ends with the
//! call that began it; what a process that died left behind is removed at the next start.

use super::Projections;
use super::batch::{self, BatchError, Progress};
use super::work::Stop;
use crate::clock::Millis;
use crate::db::statement::DbError;
use crate::projection::definition::Definition;
use crate::projection::store::{GenerationId, GenerationState};

/// How long the longest trial may take, in milliseconds.
const LONGEST_TRIAL: i64 = 3_600_000;

/// A definition tried out.
#[derive(Clone, Debug)]
pub struct Trial {
    /// Where its rows are.
    pub generation: GenerationId,
    /// How far it came.
    pub cursor: u64,
    /// Where it stopped.
    pub stop: Option<Stop>,
}

impl Projections {
    /// Runs a definition over some events into rows of its own, which nobody answers from. The caller forgets them.
    ///
    /// # Errors
    /// [`BatchError`]; then nothing is left.
    pub async fn try_out(&self, definition: &Definition, from: u64, limit: usize) -> Result<Trial, BatchError> {
        let parts = &self.parts;
        let digest = crate::projection::definitions::digest(&definition.text);
        // Another process may be trying the same name out: the number that was given is found by the whole name.
        let random: [u8; 8] = parts.entropy.draw().map_err(|_| BatchError::Unavailable("no random bytes"))?;
        let name = format!("{}#{}", definition.name, hex::encode(random));
        let state = GenerationState::Trial;
        let generation = parts.store.begin(&name, definition.version, digest, state, parts.clock.now()).await?.id;
        let mut trial = Trial { generation, cursor: from, stop: None };
        match self.run_trial(definition, &mut trial, limit as u64).await {
            Ok(()) => Ok(trial),
            Err(error) => {
                // If this fails too, the next start removes it.
                let _ = self.forget_trial(generation).await;
                Err(error)
            }
        }
    }

    async fn run_trial(&self, definition: &Definition, trial: &mut Trial, mut left: u64) -> Result<(), BatchError> {
        self.parts.store.place(trial.generation, trial.cursor).await?;
        while left > 0 {
            let most = (left as usize).min(batch::MOST_EVENTS);
            match batch::run(&self.parts, definition, trial.generation, trial.cursor, most).await? {
                Progress::Idle => break,
                Progress::Advanced { cursor, events } => (trial.cursor, left) = (cursor, left.saturating_sub(events)),
                Progress::Stopped { cursor, stop } => {
                    (trial.cursor, trial.stop) = (cursor, Some(stop));
                    break;
                }
            }
        }
        Ok(())
    }

    /// Removes what a trial left.
    ///
    /// # Errors
    /// [`DbError`]; it is removed at the next start then.
    pub async fn forget_trial(&self, generation: GenerationId) -> Result<(), DbError> {
        self.parts.store.drop_generation(generation).await
    }

    /// Trials of a process that died: where there are others, those that nobody can be waiting for any more.
    pub(super) async fn clear_trials(&self) -> Result<(), DbError> {
        let now = self.parts.clock.now();
        let others = self.parts.keys.keystore().nodes().is_some();
        let before = if others { Millis(now.0 - LONGEST_TRIAL) } else { Millis(i64::MAX) };
        self.parts.store.drop_trials(before).await
    }
}
