//! The definitions in force.
//!
//! Owns: the fold of the system stream `$projections`: which definitions there are, which were, which are paused. Must not
//! know: rows, who recorded what. What a live generation was computed from stays known here while it answers.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::definition::{Definition, Format, Kind};

/// A decision about projections.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case", deny_unknown_fields)]
pub enum ProjectionRecord {
    /// A definition was made or replaced.
    ProjectionDefined {
        /// Its name.
        name: String,
        /// The definition.
        definition: Value,
        /// API key that did it.
        by: String,
    },
    /// It is not wanted any more.
    ProjectionRemoved {
        /// Its name.
        name: String,
        /// API key that did it.
        by: String,
    },
    /// It does not run until it is resumed.
    ProjectionPaused {
        /// Its name.
        name: String,
        /// API key that did it.
        by: String,
    },
    /// It runs.
    ProjectionResumed {
        /// Its name.
        name: String,
        /// API key that did it.
        by: String,
    },
}

/// One name and what it stands for.
#[derive(Clone, Debug)]
pub struct Defined {
    /// The definition in force.
    pub current: Arc<Definition>,
    /// SHA-256 of its text.
    pub digest: [u8; 32],
    /// Whether it was paused.
    pub paused: bool,
    /// Everything the name stood for since it was first defined, by digest.
    history: BTreeMap<[u8; 32], Arc<Definition>>,
}

impl Defined {
    /// An earlier or the present definition.
    pub fn version(&self, digest: &[u8; 32]) -> Option<&Arc<Definition>> {
        self.history.get(digest)
    }

    /// Whether an earlier definition emitted its due events into streams that it names otherwise. A due event that was
    /// emitted is found again in its stream, and nowhere else: in another one all of them would come a second time.
    pub fn emitted_elsewhere(&self, definition: &Definition) -> bool {
        let stream = |definition: &Definition| match &definition.kind {
            Kind::Rows { due: Some(due), .. } => Some(due.stream.as_ref().map(|stream| stream.source().to_owned())),
            Kind::Rows { due: None, .. } | Kind::Fold { .. } => None,
        };
        let Some(now) = stream(definition) else { return false };
        self.history.values().filter_map(|earlier| stream(earlier)).any(|earlier| earlier != now)
    }
}

/// All definitions.
pub struct Definitions {
    names: RwLock<BTreeMap<String, Defined>>,
    changed: watch::Sender<u64>,
}

impl Default for Definitions {
    fn default() -> Self {
        Self { names: RwLock::default(), changed: watch::Sender::new(0) }
    }
}

impl Definitions {
    /// Applies a record; `false` when it cannot be read.
    pub fn apply(&self, record: &ProjectionRecord) -> bool {
        let mut names = self.names.write().unwrap_or_else(PoisonError::into_inner);
        match record {
            ProjectionRecord::ProjectionDefined { name, definition, .. } => {
                let Ok(definition) = Definition::parse(&definition.to_string(), Format::Json) else { return false };
                let digest = digest(&definition.text);
                define(&mut names, name, Arc::new(definition), digest);
            }
            ProjectionRecord::ProjectionRemoved { name, .. } => drop(names.remove(name)),
            ProjectionRecord::ProjectionPaused { name, .. } => pause(&mut names, name, true),
            ProjectionRecord::ProjectionResumed { name, .. } => pause(&mut names, name, false),
        }
        drop(names);
        self.changed.send_modify(|count| *count += 1);
        true
    }

    /// One name.
    pub fn get(&self, name: &str) -> Option<Defined> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All names.
    pub fn all(&self) -> Vec<Defined> {
        self.names.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Folds with an invariant, which appends have to look at.
    pub fn guards(&self) -> Vec<Arc<Definition>> {
        let names = self.names.read().unwrap_or_else(PoisonError::into_inner);
        let all = names.values().map(|defined| &defined.current);
        all.filter(|definition| matches!(&definition.kind, Kind::Fold { invariant: Some(_), .. })).cloned().collect()
    }

    /// Follows changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }
}

fn define(names: &mut BTreeMap<String, Defined>, name: &str, definition: Arc<Definition>, digest: [u8; 32]) {
    let (paused, mut history) = names.remove(name).map_or_else(Default::default, |known| (known.paused, known.history));
    history.insert(digest, Arc::clone(&definition));
    names.insert(name.to_owned(), Defined { current: definition, digest, paused, history });
}

fn pause(names: &mut BTreeMap<String, Defined>, name: &str, paused: bool) {
    if let Some(defined) = names.get_mut(name) {
        defined.paused = paused;
    }
}

/// What tells one definition from another: SHA-256 of its canonical text.
pub fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
