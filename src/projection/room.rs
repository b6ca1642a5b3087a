//! How much room personal values have in a row.
//!
//! Owns: the limit, and what happens beyond it. A row that is refused for its size stops the projection or puts an event
//! aside, and that would tell everyone how large a personal value is, for ever. So personal values share a fixed room
//! equally, and one that does not fit its share is empty, sealed like any other. How large a share is depends only on how
//! many there are, which is as public after an erasure as before. Must not know: keys, storage.

use serde_json::Value;

use super::cell::Content;
use super::row::Row;

/// Bytes of all personal values of a row, those sealed for several purposes counted for each.
pub const MOST_PERSONAL: usize = 2 << 20;

/// Empties personal values that do not fit their share.
pub fn fit(row: &mut Row) {
    let personal = || row.columns.iter().flat_map(Content::cells).filter(|(_, cell)| !cell.owners.is_public());
    let count: usize = personal().map(|(_, cell)| cell.owners.alternatives().len()).sum();
    if count == 0 {
        return;
    }
    let share = MOST_PERSONAL / count;
    for (_, cell) in row.columns.iter_mut().flat_map(Content::cells_mut) {
        if !cell.owners.is_public() && cell.value.as_ref().is_some_and(|value| size(value) > share) {
            cell.value = Some(Value::Null);
        }
    }
}

/// About as many bytes as the values of a row have.
pub fn bytes(row: &Row) -> usize {
    let cells = row.columns.iter().flat_map(Content::cells);
    cells.filter_map(|(_, cell)| cell.value.as_ref()).map(size).sum()
}

/// About as many bytes as it has written down, and never fewer than a third of them: text may have to be escaped.
fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 24,
        Value::String(text) => text.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|item| size(item) + 1).sum::<usize>(),
        Value::Object(members) => 2 + members.iter().map(|(name, member)| name.len() + 4 + size(member)).sum::<usize>(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Map, json};

    use super::*;
    use crate::event::{Purpose, SubjectRef};
    use crate::projection::cell::Cell;
    use crate::projection::owners::{Alternative, Owners};

    fn owned(value: Option<Value>, purposes: &[&str]) -> Cell {
        let people = BTreeSet::from([(SubjectRef([1; 16]), 0)]);
        let way = |name: &&str| Alternative { purpose: Purpose::parse(name).unwrap(), people: people.clone() };
        Cell { value, owners: Owners::any_of(purposes.iter().map(way)), origin: None }
    }

    fn fitted(cells: Vec<Cell>) -> Vec<bool> {
        let mut row = Row::new(&[], Map::new());
        row.columns = vec![Content::List(cells)];
        fit(&mut row);
        row.columns[0]
            .cells()
            .iter()
            .map(|(_, cell)| cell.value.as_ref().is_some_and(|value| !value.is_null()))
            .collect()
    }

    #[test]
    fn what_does_not_fit_its_share_is_empty() {
        let text = |bytes: usize| Some(json!("x".repeat(bytes)));
        let half = MOST_PERSONAL / 2;
        assert_eq!(fitted(vec![owned(text(MOST_PERSONAL - 2), &["a"])]), [true]);
        assert_eq!(fitted(vec![owned(text(MOST_PERSONAL - 1), &["a"])]), [false]);
        assert_eq!(fitted(vec![owned(text(half), &["a", "b"])]), [false]);
        // One that cannot be read any more takes its share as before.
        assert_eq!(fitted(vec![owned(text(half), &["a"]), owned(None, &["a"])]), [false, false]);
        assert_eq!(fitted(vec![owned(text(half - 2), &["a"]), owned(text(9), &["a"])]), [true, true]);
        assert_eq!(fitted(vec![Cell::public(json!("x".repeat(MOST_PERSONAL * 2)))]), [true]);
    }
}
