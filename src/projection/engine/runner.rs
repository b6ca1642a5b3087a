//! One generation running: batch after batch, then waiting for the log.
//!
//! Owns: when the next batch runs, and what is said about it. An event that cannot be handled stops it until the
//! definition changes or somebody tells it to try again; whatever cannot be reached is tried again by itself. Must not
//! know: queries.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::batch::{self, BatchError, Parts, Progress};
use super::due::Emitter;
use super::history;
use super::pace::Pace;
use crate::clock::Millis;
use crate::projection::definition::Definition;
use crate::projection::store::GenerationId;

/// What a generation is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// At the head of the log.
    Running,
    /// Behind, and moving.
    CatchingUp,
    /// A shadow, and moving.
    Rebuilding,
    /// At an event that cannot be handled, or at something that cannot be reached.
    Stalled,
    /// Told to wait.
    Paused,
}

impl State {
    /// The word in answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::CatchingUp => "catching_up",
            Self::Rebuilding => "rebuilding",
            Self::Stalled => "stalled",
            Self::Paused => "paused",
        }
    }

    /// The state with this word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Running, Self::CatchingUp, Self::Rebuilding, Self::Stalled, Self::Paused]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// Why a generation does not move. Holds no values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    /// The event, if it is one.
    pub position: Option<u64>,
    /// Stable code.
    pub code: Cow<'static, str>,
    /// What is wrong.
    pub message: String,
}

/// Where a generation stands.
#[derive(Clone, Debug)]
pub struct Status {
    /// What it is doing.
    pub state: State,
    /// Next position to look at.
    pub cursor: u64,
    /// The log's next position when it last looked.
    pub head: u64,
    /// Events handled since the process began, and the time that took.
    pub handled: u64,
    /// Events a second, over the last seconds it was busy.
    pub rate: f64,
    /// When it last looked.
    pub last_tick: Millis,
    /// Since when it has been behind.
    pub behind_since: Option<Millis>,
    /// Why it does not move.
    pub cause: Option<Cause>,
}

/// What a generation is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Orders {
    /// To wait.
    pub paused: bool,
    /// To end.
    pub stop: bool,
    /// Counts requests to try again.
    pub again: u64,
}

/// One generation running.
pub struct Runner {
    /// What it runs on.
    pub parts: Parts,
    /// What it computes.
    pub definition: Arc<Definition>,
    /// Into which rows.
    pub generation: GenerationId,
    /// Whether it is a shadow: it emits nothing, and leaves room for others.
    pub shadow: bool,
    /// Emits due events.
    pub emitter: Emitter,
    /// What it says.
    pub status: watch::Sender<Status>,
    /// What it is told.
    pub orders: watch::Receiver<Orders>,
}

/// Longest wait between two looks at timers that may have been set by another process.
const TICK: Duration = Duration::from_secs(1);
/// Longest wait before something that cannot be reached is tried again.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

impl Runner {
    /// Runs until told to end.
    pub async fn run(mut self) {
        if let Err(code) = self.parts.codes.of(&self.definition) {
            tracing::warn!(projection = %self.definition.name, code, "this process has not the code of a projection");
        }
        let mut head = self.parts.log.watch();
        let mut retry = Duration::from_millis(50);
        let mut pace = Pace::new(self.shadow, *head.borrow(), Instant::now());
        loop {
            let orders = *self.orders.borrow_and_update();
            if orders.stop {
                return;
            }
            if orders.paused {
                self.say(State::Paused, None);
                if self.orders.changed().await.is_err() {
                    return;
                }
                continue;
            }
            head.borrow_and_update();
            let began = Instant::now();
            let cursor = self.status.borrow().cursor;
            match batch::run(&self.parts, &self.definition, self.generation, cursor, pace.limit()).await {
                Ok(Progress::Advanced { cursor, events }) => {
                    retry = Duration::from_millis(50);
                    let worked = began.elapsed();
                    let rest = pace.rest(*self.parts.log.watch().borrow(), Instant::now());
                    self.advanced(cursor, events, worked * (rest + 1));
                    tokio::time::sleep(worked * rest).await;
                }
                Ok(Progress::Idle) => {
                    retry = Duration::from_millis(50);
                    self.say(State::Running, None);
                    if self.tidy().await {
                        continue;
                    }
                    let wait = if self.shadow { TICK } else { self.timers().await };
                    tokio::select! {
                        _ = head.changed() => {}
                        changed = self.orders.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(wait) => {}
                    }
                }
                Ok(Progress::Stopped { cursor, stop }) => {
                    self.status.send_modify(|status| status.cursor = cursor);
                    tracing::warn!(projection = %self.definition.name, position = stop.position, code = stop.code, "a projection stopped");
                    let cause = Cause { position: Some(stop.position), code: stop.code.into(), message: stop.message };
                    self.say(State::Stalled, Some(cause));
                    if self.orders.changed().await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    self.say(State::Stalled, Some(cause(&error)));
                    tokio::select! {
                        changed = self.orders.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(retry) => {}
                    }
                    retry = (retry * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// Emits what is due; how long until the next look.
    async fn timers(&self) -> Duration {
        match self.emitter.emit(&self.parts, &self.definition, self.generation).await {
            Ok(Some(next)) => {
                let wait = next.0.saturating_sub(self.parts.clock.now().0).max(0) as u64;
                Duration::from_millis(wait).min(TICK)
            }
            Ok(None) => TICK * 30,
            Err(error) => {
                tracing::warn!(projection = %self.definition.name, error = %error, "due events cannot be emitted now");
                TICK
            }
        }
    }

    /// Whether there may be more to do. Nothing waits for it.
    async fn tidy(&self) -> bool {
        history::tidy(&self.parts, &self.definition, self.generation).await.unwrap_or_else(|error| {
            tracing::warn!(projection = %self.definition.name, error = %error, "former versions cannot be removed now");
            false
        })
    }

    fn advanced(&self, cursor: u64, events: u64, took: Duration) {
        let state = if self.shadow { State::Rebuilding } else { State::CatchingUp };
        let head = *self.parts.log.watch().borrow();
        let now = self.parts.clock.now();
        self.status.send_modify(|status| {
            let speed = events as f64 / took.as_secs_f64().max(1e-6);
            status.rate = if status.rate == 0.0 { speed } else { status.rate * 0.9 + speed * 0.1 };
            status.state = if cursor >= head && !self.shadow { State::Running } else { state };
            status.cursor = cursor;
            status.head = head;
            status.handled += events;
            status.last_tick = now;
            status.cause = None;
            status.behind_since = if cursor >= head { None } else { status.behind_since.or(Some(now)) };
        });
    }

    fn say(&self, state: State, cause: Option<Cause>) {
        let head = *self.parts.log.watch().borrow();
        let now = self.parts.clock.now();
        self.status.send_modify(|status| {
            status.state = if self.shadow && state == State::Running { State::Rebuilding } else { state };
            status.head = head;
            status.last_tick = now;
            status.cause = cause;
            status.behind_since = if status.cursor >= head { None } else { status.behind_since.or(Some(now)) };
        });
    }
}

fn cause(error: &BatchError) -> Cause {
    let code = match error {
        BatchError::Unavailable(_) => "unavailable",
        BatchError::KeyUnknown => "key-unknown",
        BatchError::ErasureRecordBehind => "erasure-record-behind",
        BatchError::Overtaken => "overtaken",
        BatchError::Corrupt(_) => "corrupt",
        BatchError::CodeUnknown(_) => "code-unknown",
    };
    Cause { position: None, code: code.into(), message: error.to_string() }
}
