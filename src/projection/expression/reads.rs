//! What an expression reads.
//!
//! Owns: the walk over resolved syntax to references, conditions and literals. Invariant: whatever evaluation can reach
//! of a root lies at or below a reference found here, in every branch; to say too little would leave a derived value
//! without its owners. Must not know: values of events.

use std::collections::BTreeSet;

use cel::IdedExpr;
use cel::common::ast::{CallExpr, EntryExpr, Expr, LiteralValue, operators};

use super::{Reference, Root, names};

/// One step of a path.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Step {
    /// `.name`, `['name']`
    Member(String),
    /// `[0]`
    Element(i64),
}

/// A constant path below a root.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Path {
    pub(super) root: Root,
    pub(super) steps: Vec<Step>,
}

impl Path {
    pub(super) fn reference(&self) -> Reference {
        let name = |step: &Step| match step {
            Step::Member(name) => name.clone(),
            Step::Element(index) => index.to_string(),
        };
        Reference { root: self.root, path: self.steps.iter().map(name).collect() }
    }
}

/// Every path of an expression, sorted, distinct.
pub(super) fn paths(syntax: &IdedExpr) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    collect(syntax, &mut found);
    found
}

/// The path that an expression is, if it is nothing else: neither a test nor an optional.
pub(super) fn plain_path(syntax: &IdedExpr) -> Option<Path> {
    path(syntax).and_then(|(path, plain)| plain.then_some(path))
}

/// Whether an expression is made of literals only.
pub(super) fn is_constant(syntax: &IdedExpr) -> bool {
    match &syntax.expr {
        Expr::Literal(_) => true,
        Expr::List(list) => list.optional_indices.is_empty() && list.elements.iter().all(is_constant),
        Expr::Map(map) => map.entries.iter().all(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => !entry.optional && is_constant(&entry.key) && is_constant(&entry.value),
            EntryExpr::StructField(_) => false,
        }),
        Expr::Call(call) => call.func_name == operators::NEGATE && call.args.iter().all(is_constant),
        _ => false,
    }
}

/// Conditions `column == literal` of a conjunction: the column and the literal's syntax.
pub(super) fn equalities(syntax: &IdedExpr) -> Vec<(String, &IdedExpr)> {
    let Expr::Call(call) = &syntax.expr else { return Vec::new() };
    match (call.func_name.as_str(), call.args.as_slice()) {
        (operators::LOGICAL_AND, [left, right]) => {
            let mut both = equalities(left);
            both.extend(equalities(right));
            both
        }
        (operators::EQUALS, [left, right]) => {
            equality(left, right).or_else(|| equality(right, left)).into_iter().collect()
        }
        _ => Vec::new(),
    }
}

fn equality<'a>(column: &IdedExpr, literal: &'a IdedExpr) -> Option<(String, &'a IdedExpr)> {
    let path = plain_path(column).filter(|path| path.root == Root::Row)?;
    match path.steps.as_slice() {
        [Step::Member(name)] if is_constant(literal) => Some((name.clone(), literal)),
        _ => None,
    }
}

/// Walks everything; a path is taken whole, as is whatever a path that is not constant begins with.
fn collect(syntax: &IdedExpr, found: &mut BTreeSet<Path>) {
    if let Some((path, _)) = path(syntax) {
        found.insert(path);
        return;
    }
    match &syntax.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => {}
        Expr::Select(select) => collect(&select.operand, found),
        Expr::Call(call) => {
            call.target.iter().for_each(|target| collect(target, found));
            call.args.iter().for_each(|argument| collect(argument, found));
        }
        Expr::List(list) => list.elements.iter().for_each(|element| collect(element, found)),
        Expr::Map(map) => map.entries.iter().for_each(|entry| collect_entry(&entry.expr, found)),
        Expr::Struct(made) => made.entries.iter().for_each(|entry| collect_entry(&entry.expr, found)),
        Expr::Comprehension(node) => {
            for part in [&node.iter_range, &node.accu_init, &node.loop_cond, &node.loop_step, &node.result] {
                collect(part, found);
            }
        }
    }
}

fn collect_entry(entry: &EntryExpr, found: &mut BTreeSet<Path>) {
    match entry {
        EntryExpr::MapEntry(entry) => {
            collect(&entry.key, found);
            collect(&entry.value, found);
        }
        EntryExpr::StructField(field) => collect(&field.value, found),
    }
}

/// The path an expression is, and whether it is plain: without a test and without optional steps.
fn path(syntax: &IdedExpr) -> Option<(Path, bool)> {
    match &syntax.expr {
        Expr::Ident(name) => Some((Path { root: names::root_of(name)?, steps: Vec::new() }, true)),
        Expr::Select(select) => {
            let (mut path, plain) = path(&select.operand)?;
            path.steps.push(Step::Member(select.field.clone()));
            Some((path, plain && !select.test))
        }
        Expr::Call(call) => {
            let (base, index, plain_step) = step(call)?;
            let (mut path, plain) = path(base)?;
            path.steps.push(index);
            Some((path, plain && plain_step))
        }
        _ => None,
    }
}

/// What an indexing call indexes, by which constant, and whether it is not optional.
fn step(call: &CallExpr) -> Option<(&IdedExpr, Step, bool)> {
    let [base, index] = call.args.as_slice() else { return None };
    let plain = match call.func_name.as_str() {
        operators::INDEX => true,
        operators::OPT_INDEX | operators::OPT_SELECT => false,
        _ => return None,
    };
    match &index.expr {
        Expr::Literal(LiteralValue::String(name)) => Some((base, Step::Member(name.inner().to_owned()), plain)),
        Expr::Literal(LiteralValue::Int(index)) => Some((base, Step::Element(*index.inner()), plain)),
        _ => None,
    }
}
