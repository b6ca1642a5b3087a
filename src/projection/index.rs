//! Index entries: bytes that sort as the values do.
//!
//! Owns: the encoding of public values, what a row enters into each declared index, and where a query has to look. Must
//! not know: tables, keys. Keeps invariant 1: of a value that has owners an entry says that it is there and nothing else,
//! and nothing stands behind it, so an entry never holds a byte that an erasure would have to remove.
//!
//! Order: null, false, true, numbers, text by its bytes, then what cannot be compared. Every part says itself where it
//! ends, so no value's bytes are the beginning of another's, and every first byte is below `0xff`.

use serde_json::Value;

use super::cell::Content;
use super::definition::{ColumnSource, ColumnType, Definition, Index, IndexPart, Kind};
use super::row::Row;
use super::scalar::Number;
use crate::clock::Millis;

/// Stands for a value that has owners, for a list or a map, and for whatever else has no place in an order. Last in both
/// directions.
pub const SEALED: u8 = 0xfe;
/// Bytes of a text that are entered, zero bytes counted twice: eight parts of this length fit into an entry of PostgreSQL's
/// index, a third of a page. Longer ones are cut: they are found together and told apart in their rows.
pub const MOST_TEXT: usize = 256;

/// A value without an order.
static NO_ORDER: Value = Value::Array(Vec::new());

const NULL: u8 = 0x02;
const FALSE: u8 = 0x03;
const TRUE: u8 = 0x04;
const NUMBER: u8 = 0x05;
const TEXT: u8 = 0x06;
/// After a zero byte: the end, the end of what was cut, a zero byte of the text.
const END: u8 = 0x01;
const CUT: u8 = 0x02;
const ZERO: u8 = 0x03;

/// Part of a windowed row's key: when the window begins, RFC 3339.
pub const WINDOW_START: &str = "window_start";
/// Part of a windowed row's key: how long the window is, ISO 8601.
pub const WINDOW: &str = "window";

/// Names of the parts of a row's key: those declared, in that order, then those of a window.
pub fn part_names(definition: &Definition) -> impl Iterator<Item = &str> {
    let (parts, windowed) = match &definition.kind {
        Kind::Rows { key, window, .. } => (key.as_slice(), window.is_some()),
        Kind::Fold { .. } => (&[][..], false),
    };
    let window = [WINDOW_START, WINDOW].into_iter().filter(move |_| windowed);
    parts.iter().map(|part| part.name.as_str()).chain(window)
}

/// What a row enters: one entry per declared index, under the index's place among them.
pub fn entries(definition: &Definition, row: &Row) -> Vec<(i64, Vec<u8>)> {
    let Kind::Rows { indexes, .. } = &definition.kind else { return Vec::new() };
    indexes.iter().enumerate().map(|(number, index)| (number as i64, entry(definition, index, row))).collect()
}

/// Beginnings of all entries of rows that can meet these equalities, ascending: at every part that may be personal also
/// the sealed ones, of which nobody knows. `None` when no leading part is among them.
pub fn prefixes(definition: &Definition, index: &Index, equalities: &[(String, Value)]) -> Option<Vec<Vec<u8>>> {
    let mut found = Vec::new();
    let mut so_far = Vec::new();
    for part in &index.parts {
        let Some((_, value)) = equalities.iter().find(|(name, _)| *name == part.name) else { break };
        let mut next = so_far.clone();
        let Pushed::Whole(cut) = push_part(&mut next, definition, part, value) else { break };
        if !is_key_part(definition, &part.name) {
            so_far.push(SEALED);
            found.push(so_far);
        }
        so_far = next;
        if cut {
            break;
        }
    }
    if so_far.is_empty() {
        return None;
    }
    found.push(so_far);
    found.sort_unstable();
    Some(found)
}

/// How many leading parts equalities fix.
pub fn leading(index: &Index, equalities: &[(String, Value)]) -> usize {
    index.parts.iter().take_while(|part| equalities.iter().any(|(name, _)| *name == part.name)).count()
}

/// Adds one value; what has no order adds [`SEALED`].
pub fn push_value(out: &mut Vec<u8>, value: &Value, descending: bool) {
    push(out, value, descending);
}

/// What stands for a time of a `timestamp` column: two texts of one instant are one place in the order.
fn instant(definition: &Definition, name: &str, value: &Value) -> Option<Value> {
    let column = definition.column(name).map(|at| &definition.columns[at])?;
    let time = Some(value).filter(|_| column.kind == ColumnType::Timestamp)?.as_str()?;
    Some(Millis::parse_rfc3339(time)?.0.into())
}

/// Beginnings of entries in whose order rows come when they are sorted so, and beginnings of those that must not exist for
/// that: of rows with something sealed in such a place. `None` when the index has another order, or when that cannot be
/// told from a few looks: then behind the first place sorted by there is one that may be sealed.
pub fn ordered(
    definition: &Definition,
    index: &Index,
    equalities: &[(String, Value)],
    sort: &[IndexPart],
) -> Option<(Vec<u8>, Vec<Vec<u8>>)> {
    let fixed = leading(index, equalities);
    let rest = index.parts.get(fixed..)?;
    let sealable = |part: &IndexPart| !is_key_part(definition, &part.name);
    if sort.is_empty() || !rest.starts_with(sort) || sort[1..].iter().any(sealable) {
        return None;
    }
    let (mut prefix, mut sealed) = (Vec::new(), Vec::new());
    for part in &index.parts[..=fixed] {
        if sealable(part) {
            sealed.push([prefix.as_slice(), &[SEALED]].concat());
        }
        let Some((_, value)) = equalities.iter().find(|(name, _)| *name == part.name) else { break };
        // A text that was cut fixes no more than its beginning.
        let Pushed::Whole(false) = push_part(&mut prefix, definition, part, value) else { return None };
    }
    Some((prefix, sealed))
}

/// Adds the value of a part.
fn push_part(out: &mut Vec<u8>, definition: &Definition, part: &IndexPart, value: &Value) -> Pushed {
    let instant = instant(definition, &part.name, value);
    push(out, instant.as_ref().unwrap_or(value), part.descending)
}

enum Pushed {
    /// The value, and whether it was cut.
    Whole(bool),
    /// Only that there is one.
    Sealed,
}

fn entry(definition: &Definition, index: &Index, row: &Row) -> Vec<u8> {
    let mut out = Vec::new();
    for part in &index.parts {
        let value = public(definition, row, &part.name).unwrap_or(&NO_ORDER);
        let pushed = push_part(&mut out, definition, part, value);
        // Behind something sealed an order says nothing, and of a cut text only the beginning is fixed.
        if !matches!(pushed, Pushed::Whole(false)) {
            break;
        }
    }
    out
}

/// The value of a key part or column if it is public and stands in the row.
fn public<'r>(definition: &Definition, row: &'r Row, name: &str) -> Option<&'r Value> {
    if is_key_part(definition, name) {
        return row.parts.get(name);
    }
    let at = definition.column(name)?;
    // A looked-up value stands in another row, an aggregate's column holds its state.
    let elsewhere = matches!(definition.columns[at].source, ColumnSource::Lookup { .. }) || is_aggregate(definition);
    match row.columns.get(at)? {
        Content::Single(cell) if cell.owners.is_public() && !elsewhere => cell.value.as_ref(),
        _ => None,
    }
}

/// Whether the columns of a definition hold states of aggregates.
pub(super) fn is_aggregate(definition: &Definition) -> bool {
    matches!(&definition.kind, Kind::Rows { aggregates, .. } if !aggregates.is_empty())
}

fn is_key_part(definition: &Definition, name: &str) -> bool {
    part_names(definition).any(|part| part == name)
}

fn push(out: &mut Vec<u8>, value: &Value, descending: bool) -> Pushed {
    let from = out.len();
    let mut cut = false;
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::String(text) => cut = push_text(out, text),
        other => {
            let Some(number) = Number::of(other) else {
                out.push(SEALED);
                return Pushed::Sealed;
            };
            push_number(out, number);
        }
    }
    if descending {
        out[from..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Pushed::Whole(cut)
}

/// The nearest double, its bits turned so that they sort, and how far the whole number is from it: 2^53 and 2^53 + 1 have
/// one double, and no 64-bit number is further than 1024 from its own.
fn push_number(out: &mut Vec<u8>, number: Number) {
    let float = number.float();
    let bits = float.to_bits();
    let bits = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
    let rest = match number {
        Number::Whole(whole) => whole - float as i128,
        Number::Fraction(_) => 0,
    };
    let rest = i16::try_from(rest).unwrap_or_default();
    out.push(NUMBER);
    out.extend_from_slice(&bits.to_be_bytes());
    out.extend_from_slice(&(rest as u16 ^ 0x8000).to_be_bytes());
}

/// Whether the text was cut.
fn push_text(out: &mut Vec<u8>, text: &str) -> bool {
    out.push(TEXT);
    let mut room = MOST_TEXT;
    let mut bytes = text.bytes();
    let cut = loop {
        let Some(byte) = bytes.next() else { break false };
        let needed = if byte == 0 { 2 } else { 1 };
        if needed > room {
            break true;
        }
        room -= needed;
        out.push(byte);
        if byte == 0 {
            out.push(ZERO);
        }
    };
    out.extend_from_slice(&[0, if cut { CUT } else { END }]);
    cut
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;
    use std::collections::BTreeSet;

    use super::*;
    use crate::event::{Purpose, SubjectRef};
    use crate::projection::cell::Cell;
    use crate::projection::definition::{
        Column, ColumnType, IndexPart, KeyPart, OnErasure, OnError, ProjectionName, Source,
    };
    use crate::projection::expression::{Expression, Root, Scope};
    use crate::projection::owners::{Alternative, Owners};
    use crate::projection::scalar::Scalar;
    use proptest::prelude::*;
    use serde_json::json;

    fn value() -> impl Strategy<Value = Value> {
        let edges = vec![
            json!(null),
            json!(false),
            json!(true),
            json!(0),
            json!(-0.0),
            json!(0.5),
            json!(-0.5),
            json!(5),
            json!(5.0),
            json!(u64::MAX),
            json!(u64::MAX as f64),
            json!(u64::MAX - 1),
            json!(i64::MIN),
            json!(1_u64 << 53),
            json!((1_u64 << 53) + 1),
            json!((1_u64 << 53) as f64),
            json!(1e300),
            json!(-1e300),
            json!(5e-324),
            json!(""),
            json!("\0"),
            json!("\0\0"),
            json!("a\0"),
            json!("a\u{1}"),
            json!("\u{10ffff}"),
        ];
        prop_oneof![
            prop::sample::select(edges),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            "[a\0\u{1}\u{ff}é]{0,5}".prop_map(Value::from),
        ]
    }

    fn rank(value: &Value) -> u8 {
        match value {
            Value::Null => 0,
            Value::Bool(false) => 1,
            Value::Bool(true) => 2,
            Value::Number(_) => 3,
            _ => 4,
        }
    }

    fn compare(a: &Value, b: &Value) -> Ordering {
        rank(a).cmp(&rank(b)).then_with(|| match (a, b) {
            (Value::String(a), Value::String(b)) => a.as_bytes().cmp(b.as_bytes()),
            (Value::Number(_), Value::Number(_)) => {
                Scalar::of(a).zip(Scalar::of(b)).and_then(|(a, b)| a.compare(&b)).unwrap()
            }
            _ => Ordering::Equal,
        })
    }

    fn encoded(values: &[Value], descending: bool) -> Vec<u8> {
        let mut out = Vec::new();
        for value in values {
            push_value(&mut out, value, descending);
        }
        out
    }

    fn definition(parts: &[(&str, bool)]) -> Definition {
        let scope = Scope { roots: &[Root::Data], fold: false, bare: false };
        let column = |name: &str, kind| Column {
            name: name.into(),
            kind,
            default: Value::Null,
            source: ColumnSource::Handlers,
            placeholder: None,
            searchable: true,
            sortable: true,
            public: false,
        };
        let parts = parts.iter().map(|(name, descending)| IndexPart { name: (*name).into(), descending: *descending });
        Definition {
            name: ProjectionName::parse("contacts").unwrap(),
            version: 1,
            kind: Kind::Rows {
                key: vec![KeyPart {
                    name: "account".into(),
                    value: Expression::compile("data.account", scope).unwrap(),
                }],
                indexes: vec![Index { parts: parts.collect() }],
                window: None,
                aggregates: vec![],
                due: None,
            },
            from: Source { category: None, types: vec![] },
            columns: vec![
                column("name", ColumnType::String),
                column("tags", ColumnType::List(Box::new(ColumnType::String))),
            ],
            handlers: Default::default(),
            code: None,
            on_erasure: OnErasure::Redact,
            on_error: OnError::Stop,
            history: None,
            text: String::new(),
        }
    }

    fn row(definition: &Definition, account: &str, name: Cell) -> Row {
        let mut row = Row::new(&definition.columns, [("account".to_owned(), json!(account))].into_iter().collect());
        row.columns[0] = Content::Single(name);
        row
    }

    fn ada(value: &str) -> Cell {
        let people: BTreeSet<_> = [(SubjectRef([1; 16]), 0)].into();
        let way = Alternative { purpose: Purpose::parse("general").unwrap(), people };
        Cell { value: Some(json!(value)), owners: Owners::any_of([way]), origin: None }
    }

    fn covers(prefix: &[u8], entry: &[u8]) -> bool {
        let end = [prefix, &[0xff]].concat();
        prefix <= entry && entry < end.as_slice()
    }

    #[test]
    fn of_an_owned_value_nothing_is_entered_and_nothing_behind_it() {
        let definition = definition(&[("account", false), ("name", false), ("account", true)]);
        let one = entries(&definition, &row(&definition, "a1", ada("Ada")));
        let two = entries(&definition, &row(&definition, "a1", ada("Bob")));
        assert_eq!(one, two);
        assert_eq!(one[0].1, [encoded(&[json!("a1")], false), vec![SEALED]].concat());
    }

    #[test]
    fn a_query_finds_the_public_and_the_sealed() {
        let definition = definition(&[("account", true), ("name", false)]);
        let Kind::Rows { indexes, .. } = &definition.kind else { unreachable!() };
        let wanted = [("name".to_owned(), json!("Ada")), ("account".to_owned(), json!("a1"))];
        let prefixes = prefixes(&definition, &indexes[0], &wanted).unwrap();
        assert_eq!(prefixes.len(), 2);
        let found = |account, name| {
            let entry = &entries(&definition, &row(&definition, account, name))[0].1;
            prefixes.iter().filter(|prefix| covers(prefix, entry)).count()
        };
        assert_eq!(found("a1", Cell::public(json!("Ada"))), 1);
        assert_eq!(found("a1", ada("Ada")), 1);
        assert_eq!(found("a1", Cell::public(json!("Adam"))), 0);
        assert_eq!(found("a2", ada("Ada")), 0);
        assert_eq!(super::prefixes(&definition, &indexes[0], &wanted[..1]), None);
    }

    #[test]
    fn long_text_is_found_by_its_beginning() {
        let definition = definition(&[("account", false), ("name", false)]);
        let Kind::Rows { indexes, .. } = &definition.kind else { unreachable!() };
        let long = "x".repeat(MOST_TEXT);
        for account in [long.clone(), long.clone() + "y", long.clone() + "z"] {
            let entry = &entries(&definition, &row(&definition, &account, Cell::public(json!("Ada"))))[0].1;
            let wanted = [("account".to_owned(), json!(account)), ("name".to_owned(), json!("Ada"))];
            let prefixes = prefixes(&definition, &indexes[0], &wanted).unwrap();
            assert!(prefixes.iter().any(|prefix| covers(prefix, entry)));
        }
        assert!(encoded(&[json!(long)], false) < encoded(&[json!(long.clone() + "\0")], false));
        assert!(encoded(&[json!(long)], true) > encoded(&[json!(long + "\0")], true));
    }

    #[test]
    fn eight_parts_of_the_longest_texts_fit_into_a_third_of_a_page() {
        for text in ["x".repeat(70_000), "\0".repeat(70_000), format!("x{}", "\0".repeat(70_000))] {
            let parts: Vec<Value> = std::iter::repeat_n(json!(text), 8).collect();
            assert!(encoded(&parts, false).len() <= 2600);
        }
    }

    proptest! {
        #[test]
        fn bytes_sort_as_values_do(a in value(), b in value()) {
            let expected = compare(&a, &b);
            let (one, two) = ([a], [b]);
            prop_assert_eq!(encoded(&one, false).cmp(&encoded(&two, false)), expected);
            prop_assert_eq!(encoded(&one, true).cmp(&encoded(&two, true)), expected.reverse());
            for descending in [false, true] {
                prop_assert!(encoded(&one, descending)[0] < SEALED);
            }
        }

        #[test]
        fn no_value_begins_with_another(a in prop::collection::vec(value(), 1..4), b in prop::collection::vec(value(), 1..4), descending: bool) {
            let (one, two) = (encoded(&a, descending), encoded(&b, descending));
            let prefix = a.len() <= b.len() && a.iter().zip(&b).all(|(a, b)| compare(a, b).is_eq());
            prop_assert_eq!(two.starts_with(&one), prefix);
            prop_assert_eq!(covers(&one, &two), prefix);
        }
    }
}
