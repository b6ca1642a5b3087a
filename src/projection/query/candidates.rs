//! Rows that a query may have to look at, in chunks.
//!
//! Owns: the way through one row, an index or a whole generation, and joining looked-up rows. Must not know: filters,
//! viewers, keys: rows leave here sealed.

use std::collections::HashSet;

use super::{After, Live, QueryError, Run};
use crate::projection::definition::ColumnSource;
use crate::projection::index;
use crate::projection::row::{RowKey, StoredRow};
use crate::projection::store::RawRow;

/// A row, still sealed, with the rows its columns are looked up in.
#[derive(Clone)]
pub struct Candidate {
    /// Its key.
    pub key: RowKey,
    /// The entry that found it.
    pub entry: Option<Vec<u8>>,
    /// Stored bytes.
    pub size: usize,
    /// The row.
    pub stored: StoredRow,
    /// A row per projection that columns are looked up in, in the order of [`Live::lookups`].
    pub lookups: Vec<Option<StoredRow>>,
}

/// A way through the rows.
pub struct Candidates<'r> {
    run: &'r Run<'r>,
    way: Way,
    /// Rows given out.
    pub examined: usize,
}

enum Way {
    Done,
    One(RowKey),
    Scan(Option<RowKey>),
    /// As `Scan`, through the rows as they stood before an event.
    Past(Option<RowKey>, u64),
    /// Through the entries of an index; a row whose entry moves ahead meanwhile is not given out twice.
    Index {
        number: i64,
        prefixes: Vec<Vec<u8>>,
        at: usize,
        after: Option<(Vec<u8>, RowKey)>,
        seen: HashSet<RowKey>,
    },
}

impl Way {
    fn index(number: i64, prefixes: Vec<Vec<u8>>, after: Option<&After>) -> Self {
        let after = after.and_then(|after| Some((after.entry.clone()?, after.key)));
        Self::Index { number, prefixes, at: 0, after, seen: HashSet::new() }
    }
}

impl<'r> Candidates<'r> {
    /// The best way for the query, from where the last page ended if rows come in the order of this way.
    pub fn new(run: &'r Run<'r>, resume: bool) -> Self {
        let after = run.plan.query.after.as_ref().filter(|_| resume);
        let way = match (&run.plan.query.key, &run.plan.index) {
            (Some(_), _) if after.is_some() => Way::Done,
            (Some(key), _) => Way::One(*key),
            (None, Some((number, prefixes))) => Way::index(*number, prefixes.clone(), after),
            (None, None) => match run.plan.before {
                Some(before) => Way::Past(after.map(|after| after.key), before),
                None => Way::Scan(after.map(|after| after.key)),
            },
        };
        Self { run, way, examined: 0 }
    }

    /// The way through an index in whose order the rows shall come.
    pub fn in_order(run: &'r Run<'r>, number: i64, prefix: Vec<u8>) -> Self {
        let way = Way::index(number, vec![prefix], run.plan.query.after.as_ref());
        Self { run, way, examined: 0 }
    }

    /// The next rows, at most `limit`, and maybe none of those looked at; `None` when there are no more.
    pub async fn next(&mut self, limit: usize) -> Result<Option<Vec<Candidate>>, QueryError> {
        let store = &self.run.reader.store;
        let id = self.run.live.generation;
        let limit = limit.max(1);
        let found: Vec<(Option<Vec<u8>>, RawRow)> = match &mut self.way {
            Way::Done => return Ok(None),
            Way::One(key) => {
                let rows = self.run.stored(id, &[*key]).await?;
                self.way = Way::Done;
                rows.into_iter().flatten().map(|row| (None, row)).collect()
            }
            Way::Scan(after) => {
                let rows = store.scan(id, *after, limit).await?;
                match rows.last() {
                    Some(last) if rows.len() == limit => *after = Some(last.key),
                    _ => self.way = Way::Done,
                }
                rows.into_iter().map(|row| (None, row)).collect()
            }
            Way::Past(after, before) => {
                let moment = store.scan_before(id, *after, *before, limit).await?;
                // Keys of rows that did not stand then have been looked at, too.
                self.examined += moment.keys.iter().filter(|(_, row)| row.is_none()).count();
                match moment.keys.last() {
                    Some((last, _)) if !moment.done => *after = Some(*last),
                    _ => self.way = Way::Done,
                }
                moment.keys.into_iter().filter_map(|(_, row)| Some((None, row?))).collect()
            }
            Way::Index { number, prefixes, at, after, seen } => loop {
                let Some(prefix) = prefixes.get(*at) else { return Ok(None) };
                let rows = store.indexed(id, *number, prefix, after.clone(), limit).await?;
                if let Some((entry, row)) = rows.last() {
                    *after = Some((entry.clone(), row.key));
                }
                if rows.len() < limit {
                    *at += 1;
                }
                let new: Vec<_> = rows.into_iter().filter(|(_, row)| seen.insert(row.key)).collect();
                if !new.is_empty() {
                    break new.into_iter().map(|(entry, row)| (Some(entry), row)).collect();
                }
            },
        };
        self.examined += found.len();
        self.run.join(found).await.map(Some)
    }
}

impl Run<'_> {
    /// Rows by key, those that are still there, in this order.
    pub async fn by_keys(&self, keys: &[RowKey]) -> Result<Vec<Candidate>, QueryError> {
        let rows = self.stored(self.live.generation, keys).await?;
        self.join(rows.into_iter().flatten().map(|row| (None, row)).collect()).await
    }

    /// Reads the rows that columns are looked up in, one statement per projection.
    async fn join(&self, found: Vec<(Option<Vec<u8>>, RawRow)>) -> Result<Vec<Candidate>, QueryError> {
        let mut rows = Vec::with_capacity(found.len());
        for (entry, raw) in found {
            let size = raw.parts.len() + raw.doc.len() + raw.sealed.as_ref().map_or(0, Vec::len);
            let stored = parse(self.live.definition, &raw)?;
            rows.push(Candidate { key: raw.key, entry, size, stored, lookups: Vec::new() });
        }
        for at in 0..self.live.lookups.len() {
            self.join_one(at, &mut rows).await?;
        }
        Ok(rows)
    }

    async fn join_one(&self, at: usize, rows: &mut [Candidate]) -> Result<(), QueryError> {
        let (other, generation) = self.live.lookups[at];
        if !looked_up(self.live, self.plan.touched.iter().copied(), other.name.as_str()) {
            for row in rows {
                row.lookups.push(None);
            }
            return Ok(());
        }
        let keys: Vec<Option<RowKey>> = rows.iter().map(|row| other_key(other, &row.stored)).collect();
        let mut wanted: Vec<RowKey> = keys.iter().flatten().copied().collect();
        wanted.sort_unstable();
        wanted.dedup();
        let raws = self.stored(generation, &wanted).await?;
        for (row, key) in rows.iter_mut().zip(keys) {
            let raw = key.and_then(|key| wanted.binary_search(&key).ok()).and_then(|found| raws[found].as_ref());
            let stored = raw.map(|raw| parse(other, raw)).transpose()?;
            row.size += raw.map_or(0, |raw| raw.doc.len() + raw.sealed.as_ref().map_or(0, Vec::len));
            row.lookups.push(stored);
        }
        Ok(())
    }
}

/// Whether one of these columns is looked up there.
pub(super) fn looked_up(live: &Live<'_>, columns: impl Iterator<Item = usize>, name: &str) -> bool {
    let mut sources = columns.map(|at| &live.definition.columns[at].source);
    sources.any(|source| matches!(source, ColumnSource::Lookup { projection, .. } if projection.as_str() == name))
}

/// The key of the row with the same values of the parts of the same names.
fn other_key(other: &crate::projection::definition::Definition, row: &StoredRow) -> Option<RowKey> {
    let part = |name: &str| Some((name.to_owned(), row.row.parts.get(name)?.clone()));
    let parts = index::part_names(other).map(part).collect::<Option<_>>()?;
    Some(RowKey::of(other.name.as_str(), &parts))
}

fn parse(
    definition: &crate::projection::definition::Definition,
    raw: &RawRow,
) -> Result<StoredRow, crate::projection::row::CorruptRow> {
    StoredRow::parse(&definition.columns, &raw.key.0, &raw.parts, &raw.doc, raw.sealed.as_deref(), raw.position)
}
