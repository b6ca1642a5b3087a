//! Where in an event a schema speaks: a path whose steps may stand for every element or member.
//!
//! Owns: matching, expanding and comparing such paths. Must not know: marks. Keeps: a step for "every other member"
//! leaves out exactly the names its schema lists beside it, and when in doubt it matches (over-sealing is safe,
//! under-sealing is a leak).

use std::borrow::Cow;
use std::collections::BTreeSet;

use serde_json::Value;

use crate::event::Pointer;

/// One step into an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// The member of this name.
    Key(String),
    /// The element at this index.
    Index(usize),
    /// Every element from this index on.
    Items {
        /// First index.
        from: usize,
    },
    /// Every member but these.
    Members {
        /// Names that the schema describes elsewhere.
        except: BTreeSet<String>,
    },
}

impl Step {
    fn accepts_token(&self, token: &str) -> bool {
        match self {
            Self::Key(name) => name == token,
            Self::Index(at) => index(token) == Some(*at),
            Self::Items { from } => index(token).is_some_and(|at| at >= *from),
            Self::Members { except } => !except.contains(token),
        }
    }

    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Key(name), step) | (step, Self::Key(name)) => step.accepts_token(name),
            (Self::Index(at), step) | (step, Self::Index(at)) => step.accepts_token(&at.to_string()),
            // Two open-ended steps always share some token.
            _ => true,
        }
    }

    fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Items { from }, Self::Index(at)) => from <= at,
            (Self::Items { from }, Self::Items { from: inner }) => from <= inner,
            (Self::Members { except }, Self::Key(name)) => !except.contains(name),
            (Self::Members { except }, Self::Members { except: inner }) => except.is_subset(inner),
            _ => self == other,
        }
    }

    fn is_open(&self) -> bool {
        matches!(self, Self::Items { .. } | Self::Members { .. })
    }
}

/// A path of [`Step`]s from the root of an event's data.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub(super) struct Pattern(Vec<Step>);

impl Pattern {
    /// This pattern, one step further.
    pub fn child(&self, step: Step) -> Self {
        let mut steps = Vec::with_capacity(self.0.len() + 1);
        steps.extend_from_slice(&self.0);
        steps.push(step);
        Self(steps)
    }

    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The form that is shown and stored: `*` for every open step.
    pub fn pointer(&self) -> Pointer {
        self.0.iter().fold(Pointer::root(), |at, step| match step {
            Step::Key(name) => at.child(name),
            Step::Index(index) => at.child(&index.to_string()),
            Step::Items { .. } | Step::Members { .. } => at.child("*"),
        })
    }

    /// Whether a member is literally named `*`, which the shown form could not tell from an open step.
    pub fn has_literal_star(&self) -> bool {
        self.0.iter().any(|step| matches!(step, Step::Key(name) if name == "*"))
    }

    pub fn has_open_step(&self) -> bool {
        self.0.iter().any(Step::is_open)
    }

    /// Whether a concrete path is meant by this pattern.
    pub fn matches(&self, path: &Pointer) -> bool {
        path.depth() == self.len() && self.0.iter().zip(path.tokens()).all(|(step, token)| step.accepts_token(&token))
    }

    /// Whether some place can be meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        self.len() == other.len() && self.overlaps_start_of(other)
    }

    /// Whether some place meant by this can be, or contain, a place meant by `other`.
    pub fn overlaps_start_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.0.iter().zip(&other.0).all(|(a, b)| a.overlaps(b))
    }

    /// Whether every place meant by `other` is, or lies inside, a place meant by this.
    pub fn covers_start_of(&self, other: &Self) -> bool {
        self.len() <= other.len() && self.0.iter().zip(&other.0).all(|(a, b)| a.covers(b))
    }

    /// Whether this can mean what an id pointer with `*` means, or (`start` only) contain it.
    pub fn overlaps_pointer(&self, pointer: &Pointer, start: bool) -> bool {
        let fits = if start { self.len() <= pointer.depth() } else { self.len() == pointer.depth() };
        fits && self.0.iter().zip(pointer.tokens()).all(|(step, token)| token == "*" || step.accepts_token(&token))
    }

    /// Whether the schema node at this pattern is what `pointer` addresses: `*` for an open step or an index, a name
    /// for that name.
    pub fn describes_pointer(&self, pointer: &Pointer) -> bool {
        self.len() == pointer.depth()
            && self.0.iter().zip(pointer.tokens()).all(|(step, token)| match step {
                Step::Key(name) => *name == token,
                _ if token == "*" => true,
                step => step.accepts_token(&token),
            })
    }

    /// Whether this pattern begins with exactly these tokens, `*` standing for any one step.
    pub fn begins_with<'t>(&self, mut tokens: impl Iterator<Item = Cow<'t, str>>) -> bool {
        let mut steps = self.0.iter();
        tokens.all(|token| match steps.next() {
            Some(_) if token == "*" => true,
            Some(Step::Key(name)) => *name == token,
            Some(Step::Index(at)) => index(&token) == Some(*at),
            None | Some(Step::Items { .. } | Step::Members { .. }) => false,
        })
    }

    /// Whether `document` has the place of a pattern without open steps.
    pub fn is_in(&self, document: &Value) -> bool {
        let inner = self.0.iter().try_fold(document, |value, step| match (step, value) {
            (Step::Key(name), Value::Object(members)) => members.get(name),
            (Step::Index(index), Value::Array(items)) => items.get(*index),
            _ => None,
        });
        inner.is_some()
    }

    /// Every place in `document` that this pattern means, in document order.
    pub fn expand(&self, document: &Value) -> Vec<Pointer> {
        let mut found = vec![(Pointer::root(), document)];
        for step in &self.0 {
            found = found.into_iter().flat_map(|(at, value)| enter(&at, value, step)).collect();
        }
        found.into_iter().map(|(at, _)| at).collect()
    }
}

fn enter<'v>(at: &Pointer, value: &'v Value, step: &Step) -> Vec<(Pointer, &'v Value)> {
    match (step, value) {
        (Step::Key(name), Value::Object(members)) => {
            members.get(name).map(|inner| (at.child(name), inner)).into_iter().collect()
        }
        (Step::Index(index), Value::Array(items)) => {
            items.get(*index).map(|inner| (at.child(&index.to_string()), inner)).into_iter().collect()
        }
        (Step::Items { from }, Value::Array(items)) => {
            items.iter().enumerate().skip(*from).map(|(i, item)| (at.child(&i.to_string()), item)).collect()
        }
        (Step::Members { except }, Value::Object(members)) => members
            .iter()
            .filter(|(name, _)| !except.contains(*name))
            .map(|(name, item)| (at.child(name), item))
            .collect(),
        _ => Vec::new(),
    }
}

fn index(token: &str) -> Option<usize> {
    if token.len() > 1 && token.starts_with('0') || !token.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    token.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn members(except: &[&str]) -> Step {
        Step::Members { except: except.iter().map(|s| (*s).to_owned()).collect() }
    }

    #[test]
    fn open_steps_leave_out_what_is_described() {
        let pattern = Pattern::default().child(members(&["id"])).child(Step::Key("name".into()));
        let data = json!({"id": {"name": 1}, "a": {"name": 2}, "b": {}});
        let found: Vec<String> = pattern.expand(&data).iter().map(Pointer::to_string).collect();
        assert_eq!(found, ["/a/name"]);
        assert!(!pattern.matches(&Pointer::parse("/id/name").unwrap()));
        assert_eq!(pattern.pointer().to_string(), "/*/name");
    }

    #[test]
    fn overlap_and_cover() {
        let any = Pattern::default().child(members(&[]));
        let a = Pattern::default().child(Step::Key("a".into()));
        let inner = a.child(Step::Key("b".into()));
        assert!(any.overlaps(&a) && a.overlaps(&any) && any.covers_start_of(&a) && !a.covers_start_of(&any));
        assert!(a.overlaps_start_of(&inner) && !inner.overlaps_start_of(&a));
        assert!(!Pattern::default().child(members(&["a"])).overlaps(&a));
        let tail = Pattern::default().child(Step::Items { from: 2 });
        assert!(!tail.overlaps(&Pattern::default().child(Step::Index(1))));
        assert!(tail.covers_start_of(&Pattern::default().child(Step::Items { from: 3 })));
    }
}
