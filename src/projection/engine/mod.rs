//! The engine: definitions run over the log.
//!
//! Owns: which generations run, shadows and swaps, who waits for what. Must not know: HTTP, how a row is shown. Each
//! definition has a live generation that answers; a changed definition, or a rebuild, is computed into a shadow from
//! position 0 and takes over in one step when it has caught up.

pub mod batch;
pub mod due;
mod erasure;
pub mod history;
mod observer;
mod pace;
mod past;
pub mod rebuild;
pub mod runner;
pub mod sources;
mod threads;
mod trial;
pub mod work;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Mutex, watch};
use tokio::task::JoinHandle;

use super::definition::{Definition, Kind};
use super::definitions::{Defined, Definitions};
use super::store::{Generation, GenerationState};
use crate::append::Appender;
use crate::clock::Millis;
use crate::db::statement::DbError;
use crate::keystore::nodes::TERM;
use batch::{Changed, Parts};
use due::Emitter;
use observer::Seen;
use rebuild::Diff;
use runner::{Cause, Orders, Runner, State, Status};
pub use trial::Trial;

/// Between two looks at what should run.
const LOOK: Duration = Duration::from_millis(200);

/// All projections of this process.
pub struct Projections {
    parts: Parts,
    emitter: Emitter,
    definitions: Arc<Definitions>,
    running: Mutex<BTreeMap<String, Entry>>,
    /// Counts changes of what runs, for whoever waits.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Entry {
    live: Option<Handle>,
    shadow: Option<Handle>,
    last_diff: Option<Diff>,
}

struct Handle {
    definition: Arc<Definition>,
    generation: Generation,
    status: watch::Receiver<Status>,
    orders: watch::Sender<Orders>,
    /// Computes it; none where another process does.
    task: Option<JoinHandle<()>>,
    /// What it is shown to be where another process computes it.
    said: Option<watch::Sender<Status>>,
}

/// A generation as others see it.
#[derive(Clone)]
pub struct Running {
    /// What it computes.
    pub definition: Arc<Definition>,
    /// Where its rows are.
    pub generation: Generation,
    /// Where it stands.
    pub status: watch::Receiver<Status>,
}

impl Running {
    /// Whether it does not move.
    pub fn is_stalled(&self) -> bool {
        self.status.borrow().state == State::Stalled
    }
}

/// A projection as others see it.
#[derive(Clone)]
pub struct Projection {
    /// The generation that answers, unless it has not begun.
    pub live: Option<Running>,
    /// The one that will.
    pub shadow: Option<Running>,
    /// How the last shadow differed from what it replaced.
    pub last_diff: Option<Diff>,
}

/// Why waiting for a position was in vain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WaitError {
    /// It will not get there by itself.
    #[error("the projection does not move")]
    Stalled(Cause),
    /// It did not get there in time.
    #[error("the projection is behind")]
    Behind {
        /// Where it is.
        cursor: u64,
    },
    /// There is no such projection.
    #[error("there is no such projection")]
    Unknown,
}

impl Projections {
    /// Projections over these parts.
    pub fn new(parts: Parts, appender: Appender, definitions: Arc<Definitions>) -> Arc<Self> {
        let changed = watch::Sender::new(0);
        Arc::new(Self { parts, emitter: Emitter::new(appender), definitions, running: Mutex::default(), changed })
    }

    /// What they run on.
    pub fn parts(&self) -> &Parts {
        &self.parts
    }

    /// The definitions in force.
    pub fn definitions(&self) -> &Arc<Definitions> {
        &self.definitions
    }

    /// Returns when everything defined is there, or after a while: whoever asks right after a start is not told that a
    /// projection does not exist.
    pub async fn begun(&self, within: Duration) {
        let all = self.definitions.all();
        let rows = || all.iter().filter(|defined| matches!(defined.current.kind, Kind::Rows { .. }));
        let there = async || {
            let running = self.running.lock().await;
            rows().all(|defined| running.contains_key(defined.current.name.as_str()))
        };
        let began = Instant::now();
        while !there().await && began.elapsed() < within {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Runs until told to stop: starts what is defined, swaps what has caught up, removes what is not wanted any more.
    pub async fn run(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let mut definitions = self.definitions.watch();
        let shared = self.parts.keys.keystore().nodes().is_some();
        let (mut leading, mut asked, mut seen) = (false, None::<Instant>, Seen::default());
        loop {
            definitions.borrow_and_update();
            if !shared && !leading || shared && asked.is_none_or(|at| at.elapsed() > TERM / 5) {
                let now = self.leads(leading).await;
                if now != leading {
                    self.let_go().await;
                    seen = Seen::default();
                    if now && let Err(error) = self.clear_trials().await {
                        tracing::warn!(error = %error, "what trials left behind cannot be removed now");
                    }
                }
                (leading, asked) = (now, Some(Instant::now()));
            }
            let looked = match (leading, shared) {
                (true, false) => self.reconcile().await,
                (true, true) => match self.reconcile().await {
                    Ok(()) => self.tell(&mut seen).await,
                    failed => failed,
                },
                (false, _) => self.observe(&mut seen).await,
            };
            if let Err(error) = looked {
                tracing::warn!(error = %error, "projections cannot be started now");
            }
            tokio::select! {
                _ = definitions.changed() => {}
                _ = stop.wait_for(|stop| *stop) => break,
                () = tokio::time::sleep(if leading { LOOK } else { observer::LOOK }) => {}
            }
        }
        self.let_go().await;
    }

    /// Makes what runs agree with what is defined.
    async fn reconcile(&self) -> Result<(), DbError> {
        let mut running = self.running.lock().await;
        let wanted: BTreeMap<String, Defined> = self
            .definitions
            .all()
            .into_iter()
            .filter(|defined| matches!(defined.current.kind, Kind::Rows { .. }))
            .map(|defined| (defined.current.name.to_string(), defined))
            .collect();
        let unwanted: Vec<String> = running.keys().filter(|name| !wanted.contains_key(*name)).cloned().collect();
        for name in unwanted {
            if let Some(entry) = running.remove(&name) {
                for handle in [entry.live, entry.shadow].into_iter().flatten() {
                    let id = handle.generation.id;
                    handle.end().await;
                    self.parts.store.drop_generation(id).await?;
                }
            }
        }
        let mut stored = self.parts.store.generations().await?;
        // A trial mostly tries what is not defined yet: it belongs to whoever began it.
        let ours = |state| matches!(state, GenerationState::Live | GenerationState::Shadow);
        for generation in stored.iter().filter(|g| ours(g.state) && !wanted.contains_key(&g.name)) {
            self.parts.store.drop_generation(generation.id).await?;
        }
        for (name, defined) in wanted {
            let entry = running.entry(name.clone()).or_default();
            self.adopt(entry, &defined, &mut stored).await?;
            self.swap_if_ready(entry).await?;
            for handle in [&entry.live, &entry.shadow].into_iter().flatten() {
                handle.order(|orders| orders.paused = defined.paused);
            }
        }
        // A few at a time, so that removing a large one does not hold up the others.
        if let Some(dropped) = stored.iter().find(|g| g.state == GenerationState::Dropped) {
            self.parts.store.remove_some(dropped.id).await?;
        }
        Ok(())
    }

    /// Starts what a definition needs: its live generation, or a shadow of its newest text.
    async fn adopt(&self, entry: &mut Entry, defined: &Defined, stored: &mut [Generation]) -> Result<(), DbError> {
        let name = defined.current.name.as_str();
        for place in [&mut entry.live, &mut entry.shadow] {
            // It panicked: it begins again where its cursor is.
            if place.as_ref().is_some_and(|handle| handle.task.as_ref().is_some_and(JoinHandle::is_finished)) {
                tracing::error!(projection = name, "a projection died and is started again");
                *place = None;
            }
        }
        if entry.live.is_none() {
            let known = stored.iter().find(|g| g.name == name && g.state == GenerationState::Live).cloned();
            // Rows that are ahead of the log were computed from a longer one: the log was restored.
            let head = *self.parts.log.watch().borrow();
            let known = known.filter(|generation| generation.cursor <= head).and_then(|generation| {
                let definition = defined.version(&generation.digest).cloned();
                definition.map(|definition| (definition, generation))
            });
            let (definition, generation) = if let Some(known) = known {
                known
            } else {
                let answers = |state| matches!(state, GenerationState::Live | GenerationState::Shadow);
                for stale in stored.iter().filter(|g| g.name == name && answers(g.state)) {
                    self.parts.store.drop_generation(stale.id).await?;
                }
                let generation = self.begin(defined, GenerationState::Live).await?;
                (Arc::clone(&defined.current), generation)
            };
            entry.live = Some(self.start(definition, generation, defined.paused));
            self.changed.send_modify(|count| *count += 1);
        }
        if entry.shadow.is_none() {
            let known = stored.iter().find(|g| g.name == name && g.state == GenerationState::Shadow).cloned();
            match known {
                Some(generation) if generation.digest == defined.digest => {
                    entry.shadow = Some(self.start(Arc::clone(&defined.current), generation, defined.paused));
                }
                Some(generation) => self.parts.store.drop_generation(generation.id).await?,
                None => {}
            }
        }
        let digest_of = |handle: &Option<Handle>| handle.as_ref().map(|handle| handle.generation.digest);
        let outdated = digest_of(&entry.shadow).is_some_and(|digest| digest != defined.digest);
        if outdated && let Some(shadow) = entry.shadow.take() {
            let id = shadow.generation.id;
            shadow.end().await;
            self.parts.store.drop_generation(id).await?;
        }
        if entry.shadow.is_none() && digest_of(&entry.live) != Some(defined.digest) {
            let generation = self.begin(defined, GenerationState::Shadow).await?;
            entry.shadow = Some(self.start(Arc::clone(&defined.current), generation, defined.paused));
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(())
    }

    async fn begin(&self, defined: &Defined, state: GenerationState) -> Result<Generation, DbError> {
        let name = defined.current.name.as_str();
        self.parts.store.begin(name, defined.current.version, defined.digest, state, self.parts.clock.now()).await
    }

    fn start(&self, definition: Arc<Definition>, generation: Generation, paused: bool) -> Handle {
        let shadow = generation.state == GenerationState::Shadow;
        let first = Status {
            state: if shadow { State::Rebuilding } else { State::CatchingUp },
            cursor: generation.cursor,
            head: *self.parts.log.watch().borrow(),
            handled: 0,
            rate: 0.0,
            last_tick: self.parts.clock.now(),
            behind_since: None,
            cause: None,
        };
        let (status, seen) = watch::channel(first);
        let (orders, told) = watch::channel(Orders { paused, ..Orders::default() });
        let runner = Runner {
            parts: self.parts.clone(),
            definition: Arc::clone(&definition),
            generation: generation.id,
            shadow,
            emitter: self.emitter.clone(),
            status,
            orders: told,
        };
        let task = Some(tokio::spawn(runner.run()));
        Handle { definition, generation, status: seen, orders, task, said: None }
    }

    /// Lets a shadow take over once it has come as far as the live generation.
    async fn swap_if_ready(&self, entry: &mut Entry) -> Result<(), DbError> {
        let (Some(live), Some(shadow)) = (&entry.live, &entry.shadow) else { return Ok(()) };
        let (old, new) = (live.status.borrow().clone(), shadow.status.borrow().clone());
        // A live generation that cannot move must not keep its successor waiting.
        let far_enough = new.cursor >= old.cursor || old.state == State::Stalled && new.cursor >= new.head;
        if !far_enough || new.cause.is_some() || new.state == State::Paused {
            return Ok(());
        }
        let diff = rebuild::diff(
            &self.parts,
            (&live.definition, live.generation.id),
            (&shadow.definition, shadow.generation.id),
        )
        .await;
        let (Some(live), Some(shadow)) = (entry.live.take(), entry.shadow.take()) else { return Ok(()) };
        let (from, mut generation, definition) =
            (live.generation.id, shadow.generation.clone(), Arc::clone(&shadow.definition));
        let paused = shadow.orders.borrow().paused;
        let name = definition.name.to_string();
        shadow.end().await;
        live.end().await;
        crate::crash::point("projection.before-swap");
        self.parts.store.swap(Some(from), generation.id).await?;
        crate::crash::point("projection.after-swap");
        generation.state = GenerationState::Live;
        let stored = self.parts.store.generations().await?;
        generation.cursor = stored.iter().find(|g| g.id == generation.id).map_or(generation.cursor, |g| g.cursor);
        entry.live = Some(self.start(definition, generation, paused));
        entry.last_diff = diff.ok();
        let _ = self.parts.changes.send(Changed::Swapped { name });
        self.changed.send_modify(|count| *count += 1);
        Ok(())
    }

    /// Computes a projection anew beside the one that answers. `None` when there is no such projection; `Some(false)` when
    /// one is being computed already.
    ///
    /// # Errors
    /// [`DbError`].
    pub async fn rebuild(&self, name: &str) -> Result<Option<bool>, DbError> {
        let Some(defined) = self.definitions.get(name) else { return Ok(None) };
        let mut running = self.running.lock().await;
        let Some(entry) = running.get_mut(name) else { return Ok(None) };
        if entry.shadow.is_some() {
            return Ok(Some(false));
        }
        let generation = self.begin(&defined, GenerationState::Shadow).await?;
        // Where another process computes, it finds the shadow among the generations.
        if entry.live.as_ref().is_some_and(|live| live.task.is_some()) {
            entry.shadow = Some(self.start(Arc::clone(&defined.current), generation, defined.paused));
            self.changed.send_modify(|count| *count += 1);
        }
        Ok(Some(true))
    }

    /// Tells a projection that stopped to try again.
    pub async fn try_again(&self, name: &str) -> bool {
        let running = self.running.lock().await;
        let Some(entry) = running.get(name) else { return false };
        for handle in [&entry.live, &entry.shadow].into_iter().flatten() {
            handle.orders.send_modify(|orders| orders.again += 1);
            if handle.task.is_none()
                && let Err(error) = self.parts.store.ask_again(handle.generation.id).await
            {
                tracing::warn!(error = %error, "whoever computes a projection cannot be asked to try again");
            }
        }
        true
    }

    /// One projection.
    pub async fn get(&self, name: &str) -> Option<Projection> {
        let running = self.running.lock().await;
        let entry = running.get(name)?;
        let seen = |handle: &Option<Handle>| handle.as_ref().map(Handle::running);
        Some(Projection { live: seen(&entry.live), shadow: seen(&entry.shadow), last_diff: entry.last_diff.clone() })
    }

    /// All projections, by name.
    pub async fn all(&self) -> Vec<(String, Projection)> {
        let running = self.running.lock().await;
        let seen = |handle: &Option<Handle>| handle.as_ref().map(Handle::running);
        let view = |entry: &Entry| Projection {
            live: seen(&entry.live),
            shadow: seen(&entry.shadow),
            last_diff: entry.last_diff.clone(),
        };
        running.iter().map(|(name, entry)| (name.clone(), view(entry))).collect()
    }

    /// Waits until the live generation has handled the event at `position`, and says which generation that is.
    ///
    /// # Errors
    /// [`WaitError`], at once when the projection does not move.
    pub async fn wait(&self, name: &str, position: Option<u64>, most: Duration) -> Result<Running, WaitError> {
        let deadline = tokio::time::Instant::now() + most;
        let mut changed = self.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let live = self.get(name).await.and_then(|projection| projection.live);
            if live.is_none() && self.definitions.get(name).is_none() {
                return Err(WaitError::Unknown);
            }
            let cursor = live.as_ref().map_or(0, |live| live.status.borrow().cursor);
            if let Some(running) = live {
                let mut status = running.status.clone();
                let Some(position) = position else { return Ok(running) };
                tokio::select! {
                    found = reached(&mut status, position) => match found {
                        Some(Ok(())) => return Ok(running),
                        Some(Err(cause)) => return Err(WaitError::Stalled(cause)),
                        // The generation ended: another one takes over.
                        None => {}
                    },
                    () = tokio::time::sleep_until(deadline) => return Err(WaitError::Behind { cursor }),
                }
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep(Duration::from_millis(20)) => {}
                () = tokio::time::sleep_until(deadline) => return Err(WaitError::Behind { cursor }),
            }
        }
    }

    /// Newest time any generation looked at the log.
    pub async fn last_tick(&self) -> Option<Millis> {
        let all = self.all().await;
        all.iter().filter_map(|(_, projection)| Some(projection.live.as_ref()?.status.borrow().last_tick)).max()
    }
}

/// Waits until a position was handled; `None` when the generation ended.
async fn reached(status: &mut watch::Receiver<Status>, position: u64) -> Option<Result<(), Cause>> {
    loop {
        {
            let now = status.borrow_and_update();
            if now.cursor > position {
                return Some(Ok(()));
            }
            if let Some(cause) = &now.cause {
                return Some(Err(cause.clone()));
            }
            if now.state == State::Paused {
                let message = "the projection is paused".to_owned();
                return Some(Err(Cause { position: None, code: "paused".into(), message }));
            }
        }
        status.changed().await.ok()?;
    }
}

impl Handle {
    fn running(&self) -> Running {
        Running {
            definition: Arc::clone(&self.definition),
            generation: self.generation.clone(),
            status: self.status.clone(),
        }
    }

    fn order(&self, change: impl Fn(&mut Orders)) {
        self.orders.send_if_modified(|orders| {
            let before = *orders;
            change(orders);
            *orders != before
        });
    }

    async fn end(self) {
        self.order(|orders| orders.stop = true);
        if let Some(task) = self.task {
            let _ = task.await;
        }
    }
}
