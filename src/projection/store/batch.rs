//! What one batch does to the tables.
//!
//! Owns: the statements that put rows, their owners, index entries and timers. Must not know: what a row means.

use super::{GenerationId, RowWrite};
use crate::db::statement::{Statement, Value};
use crate::event::SubjectRef;
use crate::projection::row::RowKey;

/// Statements for these rows, each run for all of them.
pub(super) fn row_statements(id: GenerationId, rows: Vec<(RowKey, RowWrite)>, timers: bool) -> Vec<Statement> {
    let generation = Value::from(id.0);
    let (mut put, mut gone, mut owned, mut disowned) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut entered, mut left, mut set, mut unset) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (key, write) in rows {
        let key = Value::from(key.0.as_slice());
        let at = || vec![generation.clone(), key.clone()];
        if timers {
            match write.timer {
                Some(time) => set.push(vec![generation.clone(), key.clone(), time.0.into()]),
                None => unset.push(at()),
            }
        }
        let owner = |subject: &SubjectRef| vec![generation.clone(), subject.0.as_slice().into(), key.clone()];
        let (now, before) = write.owners;
        owned.extend(now.iter().filter(|subject| !before.contains(subject)).map(owner));
        disowned.extend(before.iter().filter(|subject| !now.contains(subject)).map(owner));
        let entry = |(number, entry): &(i64, Vec<u8>)| {
            vec![generation.clone(), (*number).into(), entry.as_slice().into(), key.clone()]
        };
        let (now, before) = write.entries;
        entered.extend(now.iter().filter(|pair| !before.contains(pair)).map(entry));
        left.extend(before.iter().filter(|pair| !now.contains(pair)).map(entry));
        match write.row {
            Some(row) => put.push(vec![
                generation.clone(),
                key.clone(),
                row.parts.into(),
                row.doc.into(),
                row.sealed.into(),
                row.position.into(),
            ]),
            None => gone.push(at()),
        }
    }
    let all = [
        ("delete from projection_rows where generation = $1 and key = $2", gone),
        (
            "insert into projection_rows(generation, key, parts, doc, sealed, position) values ($1, $2, $3, $4, $5, $6)
             on conflict (generation, key) do update set
               parts = excluded.parts, doc = excluded.doc, sealed = excluded.sealed, position = excluded.position",
            put,
        ),
        ("delete from row_owners where generation = $1 and subject = $2 and key = $3", disowned),
        ("insert into row_owners(generation, subject, key) values ($1, $2, $3) on conflict do nothing", owned),
        ("delete from row_index where generation = $1 and number = $2 and entry = $3 and key = $4", left),
        (
            "insert into row_index(generation, number, entry, key) values ($1, $2, $3, $4) on conflict do nothing",
            entered,
        ),
        ("delete from row_timers where generation = $1 and key = $2", unset),
        (
            "insert into row_timers(generation, key, at_ms) values ($1, $2, $3)
             on conflict (generation, key) do update set at_ms = excluded.at_ms",
            set,
        ),
    ];
    all.into_iter().filter(|(_, sets)| !sets.is_empty()).map(|(sql, sets)| Statement::each(sql, sets)).collect()
}
