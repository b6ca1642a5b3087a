//! A value that code may compute with and not look at.
//!
//! Owns: computing under seal. Must not know: columns, events. The result belongs to everybody to whom any operand
//! belongs, whatever the function does with them. Of a personal value nothing is told: neither what it is, nor whether it
//! can still be read, nor whether a function had a result. So a rebuild after an erasure takes the same way through the
//! code as the first pass did.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use serde_json::Value;

use super::CodeError;
use super::panics::Watch;
use crate::projection::cell::Cell;
use crate::projection::owners::Owners;

/// A value with its owners.
///
/// There is no way to compare, print or take out a personal one; it is copied, computed with and put into columns. The
/// functions of [`CodeValue::map`] and [`CodeValue::join`] are plain `fn`s: a closure that captures nothing is one. So
/// they have nothing to carry a value out with, and everything they need has to be an operand.
#[derive(Clone)]
pub struct CodeValue(Cell);

impl CodeValue {
    pub(super) fn of(cell: Cell) -> Self {
        Self(cell)
    }

    pub(super) fn into_cell(self) -> Cell {
        self.0
    }

    /// A value that is nobody's.
    pub fn public(value: impl Into<Value>) -> Self {
        Self(Cell::public(value.into()))
    }

    /// Whether it is somebody's. That depends on the event's marks only and never on the value.
    pub fn is_personal(&self) -> bool {
        !self.0.owners.is_public()
    }

    /// The value, if it is nobody's.
    pub fn as_public(&self) -> Option<&Value> {
        self.0.value.as_ref().filter(|_| !self.is_personal())
    }

    /// A function of it. Where the function gives `None` the result is empty; a panic of it does the same if the value is
    /// personal. Of a value that cannot be read any more the function is not called: the result cannot be read either.
    #[must_use]
    pub fn map(&self, function: fn(&Value) -> Option<Value>) -> Self {
        let owners = self.0.owners.clone();
        let value = self.0.value.as_ref().map(|value| compute(&owners, || function(value)));
        Self(Cell { value, owners, origin: None })
    }

    /// A function of several, in their order; the result belongs to the owners of all of them. Otherwise as
    /// [`CodeValue::map`].
    ///
    /// # Errors
    /// [`CodeError::Combine`] when nobody may read all of them at once.
    pub fn join(parts: &[&Self], function: fn(&[&Value]) -> Option<Value>) -> Result<Self, CodeError> {
        let mut owners = Owners::public();
        for part in parts {
            owners = owners.and(&part.0.owners)?;
        }
        let values: Option<Vec<&Value>> = parts.iter().map(|part| part.0.value.as_ref()).collect();
        let value = values.map(|values| compute(&owners, || function(&values)));
        Ok(Self(Cell { value, owners, origin: None }))
    }
}

/// A panic over public values is a mistake that everyone may see.
fn compute(owners: &Owners, function: impl FnOnce() -> Option<Value>) -> Value {
    if owners.is_public() {
        return function().unwrap_or_default();
    }
    let watch = Watch::seal();
    // Functions of values keep nothing that a panic could leave half done.
    let result = catch_unwind(AssertUnwindSafe(function));
    drop(watch);
    match result {
        Ok(value) => value.unwrap_or_default(),
        Err(payload) => {
            // Dropping it may run the code's own destructors, which may panic again.
            std::mem::forget(payload);
            Value::Null
        }
    }
}

impl fmt::Debug for CodeValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.as_public() {
            Some(value) => value.fmt(f),
            None => f.write_str("[personal]"),
        }
    }
}

macro_rules! from_plain {
    ($($plain:ty),*) => {$(
        impl From<$plain> for CodeValue {
            fn from(value: $plain) -> Self {
                Self::public(value)
            }
        }
    )*};
}

from_plain!(Value, &str, String, bool, i32, u32, i64, u64, f64);

impl From<&CodeValue> for CodeValue {
    fn from(value: &CodeValue) -> Self {
        value.clone()
    }
}
