//! Projections by code: what the declarative language cannot say, written in Rust by whoever embeds the library.
//!
//! Owns: the contract with that code, and everything it can touch. Must not know: storage, keys, when it is called. Keeps
//! invariant 1 for code that nobody here has read: a personal value reaches it only inside a [`CodeValue`], which computes
//! under seal, does not print, does not compare and has no way out but into a column, where it is sealed to its owners.
//!
//! The declarative part of the definition stays what it is (name, version, source, key, columns, indexes, timers), with
//! `code: <name>` in place of `handle`. So lineage, queries, rebuilds, erasure and status are those of every projection.

mod event;
mod panics;
mod rows;
mod value;

use std::collections::BTreeMap;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

pub use event::CodeEvent;
pub use rows::{CodeRow, CodeRows, MOST_ROWS};
pub use value::CodeValue;

use super::apply::{ApplyError, Change};
use super::definition::{Definition, ProjectionName};
use super::owners::CombineError;
use super::row::{Row, RowKey};
use super::view::EventView;

/// A projection written in Rust.
///
/// `handle` must be a function of what it is given: the same event on the same rows must always do the same. No clock, no
/// randomness, no state of its own, no network. It may be called several times for one event, each time from the
/// beginning (when it asks for a row that has not been read yet), and once more for every event when the projection is
/// rebuilt. It is called on a thread that serves others too, so it must come back soon.
///
/// Code that changes what it does must get another name: definitions name the old one until they name the new one, in a
/// new version, and rows are then computed anew. See `docs/projections/projections-in-rust.md`.
pub trait CodeProjection: Send + Sync {
    /// Handles one event. What it did is thrown away unless it returns `Ok`.
    ///
    /// # Errors
    /// [`CodeError`] when the event cannot be handled; the definition's `on_error` says what becomes of it. Errors of
    /// `event` and `rows` are to be passed on with `?`.
    fn handle(&self, event: &CodeEvent<'_>, rows: &mut CodeRows<'_>) -> Result<(), CodeError>;
}

/// Why code cannot handle an event. No variant holds a value of the event, and there is no way to put one in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodeError {
    /// The code says so, in words that were written before any event was.
    #[error("the code refuses the event: {0}")]
    Refused(&'static str),
    /// It panicked.
    #[error("the code panicked at {place}")]
    Panicked {
        /// File and line.
        place: String,
    },
    /// A path that is not a JSON Pointer.
    #[error("a path of the code is not a JSON Pointer")]
    Pointer,
    /// Something personal was asked for, or would be put, where only what is public may be.
    #[error("{place} is personal")]
    Personal {
        /// Which place.
        place: &'static str,
    },
    /// There is no such column, or handlers do not fill it.
    #[error("there is no column that code could use in such a way")]
    Column,
    /// A key that has not the declared parts, each a text, a number or a truth value.
    #[error("a key of the code has not the parts that the definition declares")]
    Key,
    /// A value deeper or longer than the limits.
    #[error("a value is larger than the limit")]
    TooLarge,
    /// The row has not been read yet. Pass it on with `?`: the row is read, and the event handled from the beginning.
    #[error("a row has not been read yet")]
    NotRead,
    /// One event asks for too many rows.
    #[error("the code asks for more than {MOST_ROWS} rows for one event")]
    TooManyRows,
    /// Values that may not be combined.
    #[error(transparent)]
    Combine(#[from] CombineError),
    /// What a declarative projection would be refused for, too.
    #[error(transparent)]
    Apply(#[from] ApplyError),
}

impl CodeError {
    /// Stable code.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Refused(_) => "code-refused",
            Self::Panicked { .. } => "code-panicked",
            Self::Pointer | Self::Column | Self::Key | Self::NotRead | Self::TooManyRows => "code-error",
            Self::Personal { .. } => "personal-data-in-the-clear",
            Self::Combine(_) => "owners-not-combinable",
            Self::TooLarge => "too-large",
            Self::Apply(error) => error.code(),
        }
    }
}

/// Code by name, as a process brings it.
#[derive(Clone, Default)]
pub struct Codes(BTreeMap<String, Arc<dyn CodeProjection>>);

/// Why code cannot be registered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The name is not one.
    #[error("a name of code is a lower-case letter, then a-z 0-9 _, at most 64 characters")]
    Name,
    /// There is code of this name already.
    #[error("there is code of the name {name} already")]
    Taken {
        /// The name.
        name: String,
    },
}

impl Codes {
    /// Adds code under a name, by which definitions find it (`code: <name>`).
    ///
    /// From the first time on, panics of such code do not reach the process's panic hook (their messages could quote a
    /// personal value). A program that sets a hook of its own does so before.
    ///
    /// # Errors
    /// [`RegisterError`].
    pub fn register(&mut self, name: &str, code: impl CodeProjection + 'static) -> Result<(), RegisterError> {
        let name = ProjectionName::parse(name).ok_or(RegisterError::Name)?.to_string();
        if self.0.contains_key(&name) {
            return Err(RegisterError::Taken { name });
        }
        // A panic's message could quote a value, and the code is not ours.
        panics::keep_quiet();
        self.0.insert(name, Arc::new(code));
        Ok(())
    }

    /// Names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The code that a definition names. `Err` with the name when this process does not have it.
    ///
    /// # Errors
    /// The name.
    pub fn of<'d>(&self, definition: &'d Definition) -> Result<Option<Arc<dyn CodeProjection>>, &'d str> {
        match &definition.code {
            None => Ok(None),
            Some(name) => self.0.get(name).cloned().map(Some).ok_or(name.as_str()),
        }
    }
}

impl fmt::Debug for Codes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// What became of an event.
#[derive(Debug)]
pub enum Handled {
    /// It is handled.
    Done(Vec<Change>),
    /// These rows have to be read first.
    Needs(Vec<RowKey>),
}

/// Lets code handle an event. `row_of` gives rows as they were before it; `None` for one that was not read.
///
/// # Errors
/// [`CodeError`]; the event changes nothing then.
pub fn handle<'r>(
    code: &dyn CodeProjection,
    definition: &'r Definition,
    view: &'r EventView,
    row_of: &'r dyn Fn(&RowKey) -> Option<Option<&'r Row>>,
) -> Result<Handled, CodeError> {
    let mut rows = CodeRows::new(definition, view, row_of);
    let event = CodeEvent::new(view);
    let watch = panics::Watch::code();
    // Whatever a panic leaves half done is in `rows`, which is thrown away.
    let outcome = catch_unwind(AssertUnwindSafe(|| code.handle(&event, &mut rows)));
    let place = watch.end();
    // What it said without having seen the rows it asked for means nothing.
    if let Some(keys) = rows.needs()? {
        return Ok(Handled::Needs(keys));
    }
    match outcome {
        Ok(outcome) => outcome?,
        Err(payload) => {
            // Dropping it may run the code's own destructors, which may panic again.
            std::mem::forget(payload);
            return Err(CodeError::Panicked { place });
        }
    }
    rows.finish().map(Handled::Done)
}

#[cfg(test)]
mod tests;
