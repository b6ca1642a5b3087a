//! Expressions: CEL over events and rows, with limits.
//!
//! Owns: compiling, what an expression may read, evaluating, our own functions. Must not know: owners, rows, storage. An
//! error says where and of which kind, never a value: the operands may be personal. What [`Expression::reads`] says is
//! complete, because evaluation is given nothing else.
//!
//! The language is [CEL](https://cel.dev) with optionals, its string, list and math extensions, and these functions:
//!
//! | function | result |
//! |---|---|
//! | `lower(s)` `upper(s)` `trim(s)` | the text changed; `null` of `null` |
//! | `date(x)` | the day, `2026-11-21`, in UTC, of a timestamp, an RFC 3339 text or a date; `null` of `null` |
//! | `latest(a, b)` `earliest(a, b)` | of two such instants, as given; the other one of `null` |
//! | `local(day, '07:00', zone)` | the instant, RFC 3339 in UTC, of a time of day in an IANA zone; a time that clocks skip is the first instant after the gap, one that they show twice is the first of the two; `null` when one of them is |
//! | `coalesce(a, b, …)` | the first of two to four that is neither `null` nor an empty optional |
//! | `markdown(s)` | HTML of CommonMark with tables and strikethrough, sanitised; `null` of `null` |
//!
//! `matches` wants its pattern as a literal. Iterating over a map goes through its keys in their order, always the same.
//!
//! Limits: 2,000 bytes of source, [`MOST_DEPTH`] levels and [`MOST_NODES`] nodes of syntax, iterations two deep, 10,000
//! elements and 256 KiB of text read, 64 KiB of result, and an amount of work and memory that is counted, so that
//! no expression takes much longer than a second or makes much more than 64 MiB of values.

mod compile;
mod convert;
mod errors;
mod functions;
mod guard;
mod instants;
mod markdown;
mod meter;
mod names;
mod reads;
mod resolve;

#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use cel::{Context, IdedExpr};
use regex::Regex;
use serde_json::Value;

pub(super) use convert::Counter;
use convert::Needs;
use reads::Path;
pub use resolve::{MOST_DEPTH, MOST_NODES};

/// What an expression can read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Root {
    /// `data`: the event's payload, personal values opened.
    Data,
    /// `event`: `id`, `type`, `stream`, `category`, `revision`, `position`, `time`, `recorded_at`, `actor`,
    /// `correlation_id`, `causation_id`; absent members are absent.
    Event,
    /// `subject`: pseudonym per role (`subject.contact`); a list for a role with several people.
    Subject,
    /// `row` (in folds `state`): the columns.
    Row,
    /// `key`: the parts of the row's key.
    Key,
}

/// Which names an expression may use.
#[derive(Clone, Copy, Debug)]
pub struct Scope {
    /// Named roots.
    pub roots: &'static [Root],
    /// Whether the row is called `state`.
    pub fold: bool,
    /// Whether any other name is a column of the row: filters (`account == 'a1'`).
    pub bare: bool,
}

/// Something an expression reads: a root and the constant part of the path. `data.items[data.id].qty` reads
/// `data.items` and `data.id`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// The root.
    pub root: Root,
    /// Member names and constant indexes; empty for the whole root.
    pub path: Vec<String>,
}

/// A compiled expression. Send and sync; compiled once, evaluated as often as wanted.
pub struct Expression(Box<Compiled>);

struct Compiled {
    source: String,
    reads: Vec<Reference>,
    path: Option<(Reference, Path)>,
    literal: Option<Value>,
    equalities: Vec<(String, Value)>,
    program: Program,
}

/// What is run, when the expression is neither a path nor a literal.
struct Program {
    /// Names resolved, costs metered.
    syntax: IdedExpr,
    /// Patterns of `matches`, by the index that stands in their place.
    patterns: Arc<[Regex]>,
    /// Which members of which roots it is given.
    needs: Vec<Needs>,
    /// Whether a member's name may come from a value, so that an error must not repeat it.
    dynamic: bool,
}

/// What an expression is evaluated over. Roots that its scope does not have are not looked at.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// `data`
    pub data: &'a Value,
    /// `event`
    pub event: &'a Value,
    /// `subject`
    pub subject: &'a Value,
    /// `row` or `state`
    pub row: &'a Value,
    /// `key`
    pub key: &'a Value,
}

/// Why a text is not an expression. `message` holds names from the source, never values of events.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} (column {column})")]
pub struct CompileError {
    /// Character position in the source, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
}

/// Why an evaluation failed. No variant holds a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// A member is missing.
    #[error("no such key: {name}")]
    NoSuchKey {
        /// Its name, as far as the source says it; else `?`.
        name: String,
    },
    /// An operator or function does not take such operands.
    #[error("{operation} does not take {operands}")]
    Type {
        /// Operator or function.
        operation: String,
        /// Types of the operands.
        operands: String,
    },
    /// Overflow, division by zero, a bad date: the operation.
    #[error("{operation} has no result here")]
    Arithmetic {
        /// Operator or function.
        operation: String,
    },
    /// Input or result is larger than the limit.
    #[error("the {what} is larger than the limit")]
    TooLarge {
        /// `input`, `result`, or `work`: it takes too long or makes too many values on the way.
        what: &'static str,
    },
    /// Anything else.
    #[error("the expression failed")]
    Other,
}

impl Expression {
    /// Compiles.
    ///
    /// # Errors
    /// [`CompileError`].
    pub fn compile(source: &str, scope: Scope) -> Result<Self, CompileError> {
        compile::compile(source, scope)
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.0.source
    }

    /// Everything it may read, whichever branch is taken; sorted, distinct.
    pub fn reads(&self) -> &[Reference] {
        &self.0.reads
    }

    /// The path, if the expression is nothing but one.
    pub fn path(&self) -> Option<&Reference> {
        self.0.path.as_ref().map(|(reference, _)| reference)
    }

    /// The value, if the expression is a literal.
    pub fn literal(&self) -> Option<&Value> {
        self.0.literal.as_ref()
    }

    /// Conditions of the form `column == literal` that must all hold for the whole to hold (bare scope). Numbers are
    /// equal across their types: `1` is also `1.0`.
    pub fn equalities(&self) -> Vec<(String, Value)> {
        self.0.equalities.clone()
    }

    /// Evaluates. `None` when the expression is nothing but a path that is not there, be it that a member is missing or
    /// that something on the way has no members (an erased object may be a text).
    ///
    /// Timestamps become RFC 3339 in UTC, with milliseconds if there are any; durations ISO 8601 in seconds
    /// (`PT3600S`); types their names; an empty optional `null`.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Option<Value>, EvalError> {
        if let Some(value) = &self.0.literal {
            return Ok(Some(value.clone()));
        }
        match &self.0.path {
            Some((reference, path)) => convert::look_up(inputs.root(reference.root), path),
            None => self.0.program.run(inputs).map(Some),
        }
    }
}

impl Program {
    /// Runs the program. A panic of the interpreter (none is known) is an error of this one expression.
    fn run(&self, inputs: &Inputs<'_>) -> Result<Value, EvalError> {
        catch_unwind(AssertUnwindSafe(|| self.interpret(inputs))).unwrap_or(Err(EvalError::Other))
    }

    fn interpret(&self, inputs: &Inputs<'_>) -> Result<Value, EvalError> {
        let mut context = Context::with_env(functions::environment());
        meter::install(&mut context, &self.patterns);
        let mut limit = convert::Limit::default();
        for needs in &self.needs {
            let value = convert::root(inputs.root(needs.root), needs, &mut limit)?;
            context.add_variable_as_val(names::variable(needs.root), value);
        }
        // Not `resolve_val`: the compiler would inline it here, unoptimised in a debug build, and it recurses on itself in
        // frames that a thread has room for twenty of.
        let result = context.resolve(&self.syntax);
        convert::result(&result.map_err(|error| errors::of(&error, self.dynamic))?)
    }
}

impl<'a> Inputs<'a> {
    fn root(&self, root: Root) -> &'a Value {
        match root {
            Root::Data => self.data,
            Root::Event => self.event,
            Root::Subject => self.subject,
            Root::Row => self.row,
            Root::Key => self.key,
        }
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.source())
    }
}
