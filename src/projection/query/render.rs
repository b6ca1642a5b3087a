//! Rows as JSON and CSV.
//!
//! Owns: the two shapes. Must not know: rows, keys, viewers: it writes down what it is given. CSV values are written as
//! they are, so that a program reads back what was stored; nothing is put before a leading `=`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::After;
use crate::event::canonical::{canonical, push_string};
use crate::keystore::Lease;
use crate::projection::row::RowKey;
use crate::read::render::Counts;

/// A page that holds opened personal data. The lease must be checked before every write of it.
pub struct RenderedRows {
    /// Names of the fields, in order.
    pub header: Arc<Header>,
    /// The rows.
    pub items: Vec<RenderedRow>,
    /// Where the next page begins.
    pub next: Option<After>,
    /// The generation's cursor: every event before it is in these rows.
    pub position: u64,
    /// Latest erasure epoch of anybody whose value is on the page or decided what is, for its `ETag`.
    pub epoch: u64,
    /// Whether anything was unavailable: such a page must not be cached under an `ETag`.
    pub unavailable: bool,
    /// Personal values shown in clear.
    pub opened: u64,
    /// Personal values not shown, by state.
    pub redacted: Vec<(&'static str, u64)>,
    /// Held until the last byte has left.
    pub lease: Lease,
}

/// What the fields are called.
#[derive(Debug)]
pub struct Header {
    /// Names.
    pub names: Vec<String>,
}

/// One row.
pub struct RenderedRow {
    /// Its key.
    pub key: RowKey,
    /// Position of the last event that changed it.
    pub position: u64,
    /// JSON text.
    pub json: Vec<u8>,
    /// What it shows, field by field.
    pub cells: Vec<ShownCell>,
}

/// What one field of a row shows.
#[derive(Default)]
pub struct ShownCell {
    /// The value or what stands in its place; `None` when it is left out.
    pub value: Option<Value>,
    /// Whether anybody owns any of it.
    pub personal: bool,
    /// What is not shown, and why: pointers below the field.
    pub redactions: Vec<(String, &'static str)>,
    /// People left out of an aggregate because their parts cannot be read.
    pub left_out: u64,
}

/// Rendered rows before it is known where the next page begins.
pub(super) struct Shown {
    pub header: Arc<Header>,
    pub items: Vec<RenderedRow>,
    pub next: Option<After>,
    pub counts: Counts,
}

impl Shown {
    pub fn new(header: Arc<Header>) -> Self {
        Self { header, items: Vec::new(), next: None, counts: Counts::default() }
    }
}

impl ShownCell {
    /// A public value.
    pub fn public(value: Value) -> Self {
        Self { value: Some(value), ..Self::default() }
    }
}

impl RenderedRow {
    pub(super) fn new(key: RowKey, position: u64, cells: Vec<ShownCell>, header: &Header) -> Self {
        let json = json(key, position, &cells, header).into_bytes();
        Self { key, position, json, cells }
    }
}

impl RenderedRows {
    /// The page as CSV (RFC 4180). Lists and maps are JSON text. Behind every column of which a value on this page is
    /// personal stands `<column>__redacted`: the state, with the place before it (`0:erased`) in lists and maps.
    pub fn csv(&self, with_header: bool) -> Vec<u8> {
        let companions: BTreeSet<usize> = self
            .items
            .iter()
            .flat_map(|row| row.cells.iter().enumerate())
            .filter(|(_, cell)| cell.personal || !cell.redactions.is_empty())
            .map(|(at, _)| at)
            .collect();
        let mut out = csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).from_writer(Vec::new());
        let mut record = csv::ByteRecord::new();
        if with_header {
            record.push_field(b"_key");
            for (at, name) in self.header.names.iter().enumerate() {
                record.push_field(name.as_bytes());
                if companions.contains(&at) {
                    record.push_field(format!("{name}__redacted").as_bytes());
                }
            }
            write(&mut out, &record);
        }
        for row in &self.items {
            record.clear();
            record.push_field(row.key.to_string().as_bytes());
            for (at, cell) in row.cells.iter().enumerate() {
                record.push_field(text(cell.value.as_ref()).as_bytes());
                if companions.contains(&at) {
                    record.push_field(states(cell).as_bytes());
                }
            }
            write(&mut out, &record);
        }
        out.into_inner().expect("writing to memory does not fail")
    }
}

fn write(out: &mut csv::Writer<Vec<u8>>, record: &csv::ByteRecord) {
    out.write_byte_record(record).expect("every record has the header's fields, and memory takes them");
}

fn text(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => canonical(other),
    }
}

fn states(cell: &ShownCell) -> String {
    let one = |(path, state): &(String, &'static str)| match path.strip_prefix('/') {
        Some(place) => format!("{place}:{state}"),
        None => (*state).to_owned(),
    };
    cell.redactions.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn json(key: RowKey, position: u64, cells: &[ShownCell], header: &Header) -> String {
    let mut out = format!("{{\"_key\":\"{key}\",\"_position\":{position}");
    let mut redactions = Map::new();
    let mut left_out = Map::new();
    for (name, cell) in header.names.iter().zip(cells) {
        if let Some(value) = &cell.value {
            out.push(',');
            push_string(&mut out, name);
            out.push(':');
            out.push_str(&canonical(value));
        }
        redactions.extend(cell.redactions.iter().map(|(path, state)| (format!("{name}{path}"), Value::from(*state))));
        if cell.left_out > 0 {
            left_out.insert(name.clone(), cell.left_out.into());
        }
    }
    for (name, members) in [("_redactions", redactions), ("_redacted_count", left_out)] {
        if !members.is_empty() {
            out.push_str(",\"");
            out.push_str(name);
            out.push_str("\":");
            out.push_str(&canonical(&Value::Object(members)));
        }
    }
    out.push('}');
    out
}
