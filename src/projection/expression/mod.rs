//! Expressions: CEL over events and rows, with limits.
//!
//! Owns: compiling, what an expression may read, evaluating, our own functions. Must not know: owners, rows, storage. An
//! error says where and of which kind, never a value: the operands may be personal.

use serde_json::Value;

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

/// A compiled expression.
pub struct Expression {
    source: String,
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
        /// `input` or `result`.
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
        let _ = scope;
        Ok(Self { source: source.to_owned() })
    }

    /// The text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Everything it may read, whichever branch is taken; sorted, distinct.
    pub fn reads(&self) -> &[Reference] {
        unimplemented!()
    }

    /// The path, if the expression is nothing but one.
    pub fn path(&self) -> Option<&Reference> {
        unimplemented!()
    }

    /// The value, if the expression is a literal.
    pub fn literal(&self) -> Option<&Value> {
        unimplemented!()
    }

    /// Conditions of the form `column == literal` that must all hold for the whole to hold (bare scope).
    pub fn equalities(&self) -> Vec<(String, Value)> {
        unimplemented!()
    }

    /// Evaluates. `None` when the expression is nothing but a path that is not there.
    ///
    /// # Errors
    /// [`EvalError`].
    pub fn evaluate(&self, inputs: &Inputs<'_>) -> Result<Option<Value>, EvalError> {
        let _ = inputs;
        unimplemented!()
    }
}

impl std::fmt::Debug for Expression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.source)
    }
}
