//! What a rebuild changed: a sample.
//!
//! Owns: comparing rows of two generations. Must not know: values of personal cells; two sealed cells are compared by
//! their owners, which is all that may be said about them.

use super::batch::{BatchError, Parts};
use crate::projection::cell::{Cell, Content};
use crate::projection::definition::Definition;
use crate::projection::row::{Row, RowKey, StoredRow};
use crate::projection::store::{GenerationId, RawRow};

/// Rows compared.
const SAMPLE: usize = 1000;
/// Differing rows named.
const NAMED: usize = 20;

/// How a generation differs from the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Diff {
    /// Rows of both that were looked at.
    pub compared: u64,
    /// Rows that only the new one has, that only the old one had, and that differ, among those looked at.
    pub added: u64,
    /// Only the old one had them.
    pub removed: u64,
    /// Both have them, with another public value or other owners.
    pub changed: u64,
    /// Some of the differing rows: key, and names of the columns that differ.
    pub sample: Vec<(RowKey, Vec<String>)>,
}

/// Compares the first rows by key.
///
/// # Errors
/// [`BatchError`].
pub async fn diff(
    parts: &Parts,
    old: (&Definition, GenerationId),
    new: (&Definition, GenerationId),
) -> Result<Diff, BatchError> {
    let before = parts.store.scan(old.1, None, SAMPLE).await?;
    let after = parts.store.scan(new.1, None, SAMPLE).await?;
    // Beyond the shorter sample nothing is known about the other one.
    let full = |rows: &[RawRow]| (rows.len() == SAMPLE).then(|| rows.last().map(|row| row.key)).flatten();
    let end = [full(&before), full(&after)].into_iter().flatten().min();
    let within = |row: &RawRow| end.is_none_or(|end| row.key <= end);
    let mut diff = Diff::default();
    let mut others = after.iter().filter(|row| within(row)).peekable();
    for row in before.iter().filter(|row| within(row)) {
        while others.next_if(|other| other.key < row.key).is_some() {
            diff.added += 1;
        }
        let Some(other) = others.next_if(|other| other.key == row.key) else {
            diff.removed += 1;
            continue;
        };
        diff.compared += 1;
        let columns = differing((old.0, &parse(old.0, row)?), (new.0, &parse(new.0, other)?));
        if !columns.is_empty() {
            diff.changed += 1;
            if diff.sample.len() < NAMED {
                diff.sample.push((row.key, columns));
            }
        }
    }
    diff.added += others.count() as u64;
    Ok(diff)
}

fn parse(definition: &Definition, row: &RawRow) -> Result<Row, BatchError> {
    let sealed = row.sealed.as_deref();
    let row = StoredRow::parse(&definition.columns, &row.key.0, &row.parts, &row.doc, sealed, row.position)?;
    Ok(row.row)
}

fn differing((old, before): (&Definition, &Row), (new, after): (&Definition, &Row)) -> Vec<String> {
    let mut names: Vec<&str> = old.columns.iter().chain(&new.columns).map(|column| column.name.as_str()).collect();
    names.sort_unstable();
    names.dedup();
    let content =
        |definition: &Definition, row: &Row, name: &str| definition.column(name).map(|at| row.columns[at].clone());
    let differs = |name: &&str| match (content(old, before, name), content(new, after, name)) {
        (Some(one), Some(two)) => !alike(&one, &two),
        _ => true,
    };
    names.into_iter().filter(differs).map(str::to_owned).collect()
}

fn alike(one: &Content, two: &Content) -> bool {
    let seen = |cell: &Cell| (cell.owners.clone(), cell.owners.is_public().then(|| cell.value.clone()));
    let (one, two) = (one.cells(), two.cells());
    one.len() == two.len() && one.iter().zip(&two).all(|(a, b)| a.0 == b.0 && seen(a.1) == seen(b.1))
}
