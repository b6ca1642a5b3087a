//! An event as code sees it.
//!
//! Owns: which of its parts are plain and which are cells. Must not know: rows, columns. Keeps: what is plain does not
//! depend on what is personal, nor on whether that can still be read.

use std::borrow::Cow;
use std::cell::OnceCell;

use serde_json::Value;

use super::{CodeError, CodeValue};
use crate::event::Pointer;
use crate::projection::cell::Cell;
use crate::projection::owners::Owners;
use crate::projection::view::{EventView, Mark, overlap};

/// One event.
pub struct CodeEvent<'a> {
    view: &'a EventView,
    public: OnceCell<Value>,
}

impl<'a> CodeEvent<'a> {
    pub(super) fn new(view: &'a EventView) -> Self {
        Self { view, public: OnceCell::new() }
    }

    /// Its type.
    pub fn event_type(&self) -> &'a str {
        self.view.event_type.as_str()
    }

    /// Its place in the log.
    pub fn position(&self) -> u64 {
        self.view.position.0
    }

    /// Its stream.
    pub fn stream(&self) -> &'a str {
        self.about("stream").unwrap_or_default()
    }

    /// When the log recorded it, RFC 3339.
    pub fn recorded_at(&self) -> &'a str {
        self.about("recorded_at").unwrap_or_default()
    }

    /// When it happened, RFC 3339: as the caller said, else when it was recorded.
    pub fn time(&self) -> &'a str {
        self.about("time").unwrap_or_default()
    }

    /// A text about it: `id`, `stream`, `category`, `time`, `recorded_at`, `actor`, `correlation_id`, `causation_id`.
    pub fn about(&self, name: &str) -> Option<&'a str> {
        self.view.event.get(name)?.as_str()
    }

    /// The pseudonym (`ds_…`) of the person in a role; of the first, if there are several.
    pub fn subject(&self, role: &str) -> Option<&'a str> {
        self.subjects(role).first().copied()
    }

    /// The pseudonyms of all people in a role.
    pub fn subjects(&self, role: &str) -> Vec<&'a str> {
        match self.view.subjects.get(role) {
            Some(Value::Array(people)) => people.iter().filter_map(Value::as_str).collect(),
            Some(person) => person.as_str().into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// The payload with `null` at every personal place: what everyone may see of it.
    pub fn data(&self) -> &Value {
        self.public.get_or_init(|| {
            let mut data = self.view.data.clone();
            for mark in &self.view.marks {
                clear(&mut data, &mark.tokens);
            }
            data
        })
    }

    /// A public value of the payload; `None` when it is not there.
    ///
    /// # Errors
    /// [`CodeError::Personal`] when anything at, in or around the place is personal: that is what [`CodeEvent::cell`] is
    /// for.
    pub fn public(&self, path: &str) -> Result<Option<&'a Value>, CodeError> {
        let path = parse(path)?;
        if self.marks(&path).next().is_some() {
            return Err(CodeError::Personal { place: "the place of the event that is read as public" });
        }
        Ok(path.lookup(&self.view.data))
    }

    /// Any value of the payload, with the owners of everything at, in or around the place; `null` when it is not there.
    ///
    /// # Errors
    /// [`CodeError::Combine`] when nobody may read all of it at once.
    pub fn cell(&self, path: &str) -> Result<CodeValue, CodeError> {
        let path = parse(path)?;
        let mut owners = Owners::public();
        let (mut readable, mut origin) = (true, None);
        for mark in self.marks(&path) {
            owners = owners.and(&mark.owners)?;
            readable &= mark.readable;
            if path.tokens().eq(mark.tokens.iter().map(String::as_str)) {
                origin = Some(mark.origin.clone());
            }
        }
        let value = readable.then(|| path.lookup(&self.view.data).cloned().unwrap_or_default());
        Ok(CodeValue::of(Cell { value, owners, origin }))
    }

    fn marks(&self, path: &Pointer) -> impl Iterator<Item = &'a Mark> + use<'a> {
        let tokens: Vec<String> = path.tokens().map(Cow::into_owned).collect();
        self.view.marks.iter().filter(move |mark| overlap(&mark.tokens, &tokens))
    }
}

fn parse(path: &str) -> Result<Pointer, CodeError> {
    Pointer::parse(path).map_err(|_| CodeError::Pointer)
}

fn clear(value: &mut Value, path: &[String]) {
    let found = path.iter().try_fold(value, |value, token| match value {
        Value::Object(members) => members.get_mut(token),
        Value::Array(items) => items.get_mut(token.parse::<usize>().ok()?),
        _ => None,
    });
    if let Some(place) = found {
        *place = Value::Null;
    }
}
