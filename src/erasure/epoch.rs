//! Epochs of root keys: the job that moves keys under a new root, destroys the old one, and says so in the log (F10).
//!
//! Owns: the order of the steps, and the stream `$epochs`. Must not know: engines, HTTP, when it is woken. What was done is in
//! the keystore; what was said is in the log; the job compares the two and says what is missing, so a crash anywhere leaves
//! nothing to mend: it is started again and goes on. Several nodes may run it at once: every step is decided again under the
//! keystore's lock, and an event is appended only where the stream ends as it was read.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, Notify, watch};

use super::release::{self, Departing};
use crate::append::{AppendError, Appender};
use crate::clock::{Boottime, Clock};
use crate::crash;
use crate::event::{EventType, ExpectedRevision, Revision, StreamName};
use crate::eventlog::{Direction, EventLog, Filter, ReadError, ReadQuery, Refused};
use crate::keystore::epoch::{EpochStatus, EpochStep, EpochTimes, next_step};
use crate::keystore::nodes::Duty;
use crate::keystore::{CachedKeystore, KeystoreError};

/// The stream that says what became of roots.
pub const STREAM: &str = "$epochs";

/// Why an epoch does not go on. It is tried again.
#[derive(Debug, thiserror::Error)]
pub enum EpochError {
    /// The log cannot take the event.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// An event of the stream is not ours.
    #[error("the stream of epochs cannot be read")]
    Corrupt,
    /// The keystore cannot take the step.
    #[error(transparent)]
    Keystore(#[from] KeystoreError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The erasure record is behind: what was forgotten is not known well enough.
    #[error("the erasure record is behind")]
    RecordBehind,
}

/// A fact about an epoch: the payload of an event of `$epochs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case", deny_unknown_fields)]
pub enum EpochFact {
    /// Everything in use is under the root of this epoch.
    EpochFinished {
        /// Its number.
        epoch: u32,
        /// Shard keys that were replaced.
        shards_rekeyed: u64,
        /// Shard keys wrapped under the new root as they were.
        shards_rewrapped: u64,
        /// Keys of data subjects wrapped under new shard keys.
        keys_rewrapped: u64,
        /// Keys of data subjects that did not open.
        keys_unreadable: u64,
        /// The last erasure that the epoch covers.
        erasure: u64,
        /// Whether what was replaced was removed from the database's files.
        files_rewritten: bool,
    },
    /// The root of this epoch is gone: "backups effective".
    RootDestroyed {
        /// Its number.
        epoch: u32,
        /// When, RFC 3339.
        at: String,
        /// The last erasure of which no copy of the keystore opens anything any more.
        effective_erasure: u64,
    },
}

impl EpochFact {
    /// Type of the event that carries the fact.
    pub fn event_type(&self) -> EventType {
        let name = match self {
            Self::EpochFinished { .. } => "epoch-finished",
            Self::RootDestroyed { .. } => "root-destroyed",
        };
        EventType::parse(name).expect("a valid event type")
    }

    fn key(&self) -> (bool, u32) {
        match self {
            Self::EpochFinished { epoch, .. } => (false, *epoch),
            Self::RootDestroyed { epoch, .. } => (true, *epoch),
        }
    }
}

/// What [`Epochs`] is made of.
#[derive(Clone)]
pub struct EpochParts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<CachedKeystore>,
    /// Appends.
    pub appender: Appender,
    /// Time.
    pub clock: Clock,
    /// Whether the erasure records agree; until then nothing is done.
    pub level: Arc<AtomicBool>,
    /// How often, and how long.
    pub times: EpochTimes,
}

/// The epochs of a store.
#[derive(Clone)]
pub struct Epochs {
    parts: EpochParts,
    shared: Arc<Shared>,
}

struct Shared {
    /// One step at a time in this process.
    turn: Mutex<()>,
    wake: Notify,
    /// Something may have been done that the log does not say yet.
    unsaid: AtomicBool,
    ticks: watch::Sender<u64>,
}

impl Epochs {
    /// Over these parts. Nothing runs until [`Epochs::advance`] is called.
    pub fn new(parts: EpochParts) -> Self {
        let (ticks, wake) = (watch::Sender::new(0), Notify::new());
        // What was done before a crash may not have been said.
        Self { parts, shared: Arc::new(Shared { turn: Mutex::new(()), wake, unsaid: AtomicBool::new(true), ticks }) }
    }

    /// How things stand.
    ///
    /// # Errors
    /// [`EpochError::Keystore`].
    pub async fn status(&self) -> Result<EpochStatus, EpochError> {
        Ok(self.parts.keys.keystore().epochs().await?)
    }

    /// How often epochs begin and how long earlier roots are kept.
    pub fn times(&self) -> EpochTimes {
        self.parts.times
    }

    /// Begins an epoch now, durably, unless one is at work: its number. [`Epochs::advance`] does the rest.
    ///
    /// # Errors
    /// [`EpochError`].
    pub async fn rotate(&self) -> Result<u32, EpochError> {
        self.check_level()?;
        let _turn = self.shared.turn.lock().await;
        let mut status = self.status().await?;
        if !status.is_running() {
            let after = status.newest().map_or(0, |newest| newest.epoch);
            status = self.step(EpochStep::Begin { after, at: self.parts.clock.now() }).await?;
        }
        self.wake();
        status.newest().map(|newest| newest.epoch).ok_or(EpochError::Corrupt)
    }

    /// Takes the next step, if there is one, and says in the log what was done. Whether there may be more to do now.
    ///
    /// # Errors
    /// [`EpochError`]; the same call again goes on where this one stopped.
    pub async fn advance(&self) -> Result<bool, EpochError> {
        self.check_level()?;
        let _turn = self.shared.turn.lock().await;
        let mut status = self.status().await?;
        let step = next_step(&status, self.parts.clock.now(), &self.parts.times);
        if let Some(step) = step {
            let ends = matches!(step, EpochStep::Finish { .. } | EpochStep::DestroyRoot { .. });
            self.shared.unsaid.fetch_or(ends, Ordering::SeqCst);
            if matches!(step, EpochStep::Finish { .. }) {
                self.release().await?;
            }
            status = self.step(step).await?;
        }
        if self.shared.unsaid.load(Ordering::SeqCst) {
            self.say(&status).await?;
            self.shared.unsaid.store(false, Ordering::SeqCst);
        }
        self.shared.ticks.send_modify(|tick| *tick += 1);
        Ok(step.is_some())
    }

    /// Waits until no process has a shard key in memory that was replaced: an epoch that still opens what it left behind is not
    /// finished.
    async fn release(&self) -> Result<(), EpochError> {
        if let Some(nodes) = self.parts.keys.keystore().nodes() {
            let number = nodes.revoke_shard_keys(self.parts.clock.now()).await?;
            // Who does not answer is expelled; the next forget waits for it once more, and whoever carries that out remembers it.
            release::everywhere(nodes, number, Boottime::now(), &mut Departing::default()).await?;
        }
        Ok(())
    }

    /// Whether epochs are this process's to keep going. Where others are, each looks at them all the same, and lets go of roots
    /// that were destroyed.
    ///
    /// # Errors
    /// [`EpochError::Keystore`].
    pub async fn leads(&self) -> Result<bool, EpochError> {
        let Some(nodes) = self.parts.keys.keystore().nodes() else { return Ok(true) };
        let leads = nodes.lead(Duty::Epochs).await?;
        if !leads {
            self.status().await?;
        }
        Ok(leads)
    }

    /// Looks for something to do before the next time it would.
    pub fn wake(&self) {
        self.shared.wake.notify_one();
    }

    /// Returns when somebody called [`Epochs::wake`].
    pub async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    /// Changes whenever a step was taken or there was none to take.
    pub fn ticks(&self) -> watch::Receiver<u64> {
        self.shared.ticks.subscribe()
    }

    fn check_level(&self) -> Result<(), EpochError> {
        if self.parts.level.load(Ordering::SeqCst) { Ok(()) } else { Err(EpochError::RecordBehind) }
    }

    async fn step(&self, step: EpochStep) -> Result<EpochStatus, EpochError> {
        let status = self.parts.keys.keystore().advance_epoch(step).await?;
        match step {
            EpochStep::Begin { .. } => {
                tracing::info!(epoch = status.newest().map_or(0, |newest| newest.epoch), "an epoch of keys has begun");
            }
            EpochStep::DestroyRoot { epoch, .. } => {
                tracing::info!(epoch, "a root key was destroyed: copies of the keystore from its epoch open nothing");
            }
            EpochStep::Rewrap | EpochStep::Finish { .. } => {}
        }
        Ok(status)
    }

    /// Appends what the log does not say yet.
    async fn say(&self, status: &EpochStatus) -> Result<(), EpochError> {
        loop {
            let (said, expected) = self.said().await?;
            let missing = facts(status).into_iter().filter(|fact| !said.contains(&fact.key()));
            let events: Vec<_> = missing
                .map(|fact| Ok((fact.event_type(), serde_json::to_value(&fact).map_err(|_| EpochError::Corrupt)?)))
                .collect::<Result<_, EpochError>>()?;
            if events.is_empty() {
                return Ok(());
            }
            crash::point("epoch.before-event");
            match self.parts.appender.append_system(stream(), expected, events, Vec::new()).await {
                Ok(_) => {
                    crash::point("epoch.after-event");
                    return Ok(());
                }
                // Another node said something; perhaps this.
                Err(AppendError::Refused(Refused::WrongExpectedRevision { .. })) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the log says, and where its stream ends.
    async fn said(&self) -> Result<(BTreeSet<(bool, u32)>, ExpectedRevision), EpochError> {
        let (mut said, mut expected, mut from) = (BTreeSet::new(), ExpectedRevision::NoStream, Some(0));
        while let Some(revision) = from {
            let query = ReadQuery {
                stream: Some(stream()),
                from: Some(revision),
                direction: Direction::Forward,
                limit: 1000,
                max_bytes: 16 << 20,
                until: None,
                filter: Filter::default(),
                system: true,
            };
            let page = self.parts.log.read(query).await?;
            for event in &page.events {
                let fact: EpochFact = serde_json::from_str(&event.public).map_err(|_| EpochError::Corrupt)?;
                said.insert(fact.key());
                expected = ExpectedRevision::Exact(Revision(event.revision.0));
            }
            from = page.next;
        }
        Ok((said, expected))
    }
}

/// Everything the log should say by now, in the order in which it happened. The first epoch began with the store and replaced
/// nothing.
fn facts(status: &EpochStatus) -> Vec<EpochFact> {
    let mut facts = Vec::new();
    for (at, epoch) in status.epochs.iter().enumerate() {
        if let Some(finished) = epoch.finished.filter(|_| at > 0) {
            let fact = EpochFact::EpochFinished {
                epoch: epoch.epoch,
                shards_rekeyed: epoch.shards_rekeyed,
                shards_rewrapped: epoch.shards_rewrapped,
                keys_rewrapped: epoch.keys_rewrapped,
                keys_unreadable: epoch.keys_unreadable,
                erasure: epoch.erasure,
                files_rewritten: epoch.files_rewritten,
            };
            facts.push((finished, fact));
        }
        if let (Some(destroyed), Some(following)) = (epoch.destroyed, status.following(epoch.epoch)) {
            let (epoch, at, effective_erasure) = (epoch.epoch, destroyed.rfc3339(), following.erasure);
            facts.push((destroyed, EpochFact::RootDestroyed { epoch, at, effective_erasure }));
        }
    }
    // At one moment an epoch finishes first: only then is an earlier root destroyed.
    facts.sort_by_key(|(at, fact)| (*at, fact.key()));
    facts.into_iter().map(|(_, fact)| fact).collect()
}

fn stream() -> StreamName {
    StreamName::parse_any(STREAM).expect("a valid system name")
}
