//! Projections that another process computes.
//!
//! Owns: what this process shows of them, so that it can answer queries, fail whoever waits in vain, and follow rows live. Must not
//! know: how rows are computed. Everything comes from the tables; nothing is computed twice.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::runner::{Cause, Orders, State, Status};
use super::{Changed, Handle, Projections};
use crate::clock::Millis;
use crate::db::statement::DbError;
use crate::projection::store::{Generation, GenerationId, GenerationState, Standing};

/// Between two looks.
pub const LOOK: Duration = Duration::from_millis(50);
/// After a longer pause than this the tables may have forgotten what changed.
const MEMORY: Duration = Duration::from_secs(30);
/// How long changes are kept for others.
const KEPT: i64 = 60_000;
/// Between two removals of what was kept.
const TIDY: Duration = Duration::from_secs(10);

/// What an observer remembers between two looks.
#[derive(Default)]
pub struct Seen {
    looked: Option<Instant>,
    tidied: Option<Instant>,
    /// What this process said, and the requests to try again that it has seen.
    said: HashMap<GenerationId, Standing>,
}

impl Projections {
    /// Shows what another process computes.
    pub(super) async fn observe(&self, seen: &mut Seen) -> Result<(), DbError> {
        let late = seen.looked.is_none_or(|at| at.elapsed() > MEMORY);
        let stored = self.parts.store.generations().await?;
        let standings = self.parts.store.standings().await?;
        seen.looked = Some(Instant::now());
        let mut running = self.running.lock().await;
        let mut wanted: BTreeMap<String, [Option<&Generation>; 2]> = BTreeMap::new();
        for generation in &stored {
            let place = match generation.state {
                GenerationState::Live => 0,
                GenerationState::Shadow => 1,
                GenerationState::Trial | GenerationState::Dropped => continue,
            };
            wanted.entry(generation.name.clone()).or_default()[place] = Some(generation);
        }
        running.retain(|name, _| wanted.contains_key(name) && self.definitions.get(name).is_some());
        for (name, [live, shadow]) in wanted {
            let entry = running.entry(name.clone()).or_default();
            let before = entry.live.as_ref().map(|handle| handle.generation.id);
            self.show(&name, &mut entry.live, live, &standings).await?;
            self.show(&name, &mut entry.shadow, shadow, &standings).await?;
            let now = entry.live.as_ref().map(|handle| handle.generation.id);
            if before != now {
                self.changed.send_modify(|count| *count += 1);
            }
            if before.is_some() && before != now || late {
                let _ = self.parts.changes.send(Changed::Swapped { name });
            }
        }
        running.retain(|_, entry| entry.live.is_some() || entry.shadow.is_some());
        Ok(())
    }

    async fn show(
        &self,
        name: &str,
        place: &mut Option<Handle>,
        stored: Option<&Generation>,
        standings: &HashMap<GenerationId, Standing>,
    ) -> Result<(), DbError> {
        let Some(stored) = stored else {
            *place = None;
            return Ok(());
        };
        let known = place.as_ref().is_some_and(|handle| handle.generation.id == stored.id);
        if !known {
            // Not known here yet: the next look will find it.
            let definition = self.definitions.get(name).and_then(|defined| defined.version(&stored.digest).cloned());
            *place = definition.map(|definition| {
                let (status, orders) = (self.status_of(stored, None), Orders::default());
                let (said, status) = watch::channel(status);
                let orders = watch::Sender::new(orders);
                Handle { definition, generation: stored.clone(), status, orders, task: None, said: Some(said) }
            });
        }
        let Some(Handle { said: Some(said), .. }) = place else { return Ok(()) };
        let before = said.borrow().cursor;
        if stored.cursor > before && self.parts.changes.receiver_count() > 0 {
            for (_, keys) in self.parts.store.changed_after(stored.id, before).await? {
                let _ = self.parts.changes.send(Changed::Rows { generation: stored.id, keys: keys.into() });
            }
        }
        let status = self.status_of(stored, standings.get(&stored.id));
        said.send_replace(status);
        Ok(())
    }

    fn status_of(&self, stored: &Generation, standing: Option<&Standing>) -> Status {
        let head = *self.parts.log.watch().borrow();
        let behind = stored.cursor < head;
        let said = standing.and_then(|standing| State::parse(&standing.state));
        let state = match said {
            Some(state @ (State::Stalled | State::Paused)) => state,
            _ if stored.state == GenerationState::Shadow => State::Rebuilding,
            _ if behind => State::CatchingUp,
            _ => State::Running,
        };
        let cause = standing.filter(|_| state == State::Stalled).and_then(|standing| standing.cause.clone());
        let now = self.parts.clock.now();
        Status {
            state,
            cursor: stored.cursor,
            head,
            handled: 0,
            rate: standing.map_or(0.0, |standing| standing.rate as f64),
            last_tick: now,
            behind_since: behind.then_some(now),
            cause: cause.map(|(position, code, message)| Cause { position, code: code.into(), message }),
        }
    }

    /// Tells others how what is computed here stands, and hears whether somebody there wants it to try again.
    pub(super) async fn tell(&self, seen: &mut Seen) -> Result<(), DbError> {
        let standings = self.parts.store.standings().await?;
        let mut news = Vec::new();
        let running = self.running.lock().await;
        for handle in running.values().flat_map(|entry| [&entry.live, &entry.shadow]).flatten() {
            let id = handle.generation.id;
            let again = standings.get(&id).map_or(0, |standing| standing.again);
            let standing = standing_of(&handle.status.borrow(), again);
            let before = seen.said.insert(id, standing.clone());
            if before.as_ref().is_some_and(|before| before.again < again) {
                handle.orders.send_modify(|orders| orders.again += 1);
            }
            if before
                .is_none_or(|before| (before.state, before.cause) != (standing.state.clone(), standing.cause.clone()))
            {
                news.push((id, standing));
            }
        }
        drop(running);
        if !news.is_empty() {
            self.parts.store.stand(news).await?;
        }
        if seen.tidied.is_none_or(|at| at.elapsed() > TIDY) {
            seen.tidied = Some(Instant::now());
            self.parts.store.forget_changes(Millis(self.parts.clock.now().0 - KEPT)).await?;
        }
        Ok(())
    }

    /// Ends what runs or is shown here: another process computes from now on, or this one does.
    pub(super) async fn let_go(&self) {
        let entries = std::mem::take(&mut *self.running.lock().await);
        for entry in entries.into_values() {
            for handle in [entry.live, entry.shadow].into_iter().flatten() {
                handle.end().await;
            }
        }
    }

    /// Whether this process computes. Where it cannot be asked, whoever did goes on: a batch that another process was faster with
    /// does not land.
    pub(super) async fn leads(&self, before: bool) -> bool {
        match self.parts.keys.keystore().nodes() {
            None => true,
            Some(nodes) => nodes.lead(crate::keystore::nodes::Duty::Projections).await.unwrap_or(before),
        }
    }
}

fn standing_of(status: &Status, again: u64) -> Standing {
    let cause = status.cause.clone();
    Standing {
        state: status.state.as_str().to_owned(),
        rate: status.rate.round() as u64,
        cause: cause.map(|cause| (cause.position, cause.code.into_owned(), cause.message)),
        again,
    }
}
