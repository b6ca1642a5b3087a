//! Rows: in memory, and as stored.
//!
//! Owns: the stored form of a row (`docs/formats.md`, "Rows"), its key, its sealing and opening. Must not know: tables,
//! what changes a row. Keeps invariant 1: the document of a row has `null` wherever a cell has owners.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::cell::{Cell, Content, Origin, escape};
use super::definition::{Column, ColumnType};
use super::owners::{Alternative, Owners};
use crate::domain;
use crate::event::canonical::canonical;
use crate::event::{Purpose, SubjectRef};
use crate::eventlog::Fences;
use crate::keystore::{Dek, DekId};
use crate::sealing::envelope::{self, SealedBlob};
use crate::sealing::rows::{self, RowIdentity, RowSlot};
use crate::secret::{Entropy, EntropyError};

/// A row's key in the tables and, as `k_…`, in answers: it depends on the definition's name and the parts alone, so it
/// survives renames, rebuilds and erasure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowKey(pub [u8; 16]);

impl RowKey {
    /// The key of these parts.
    pub fn of(definition: &str, parts: &Map<String, Value>) -> Self {
        let parts = canonical(&Value::Object(parts.clone()));
        let digest: [u8; 32] =
            Sha256::digest(domain::lp(&[domain::ROW_KEY, definition.as_bytes(), parts.as_bytes()])).into();
        let mut key = [0; 16];
        key.copy_from_slice(&digest[..16]);
        Self(key)
    }

    /// Parses `k_…`.
    pub fn parse(text: &str) -> Option<Self> {
        let mut key = [0; 16];
        hex::decode_to_slice(text.strip_prefix("k_")?, &mut key).ok()?;
        Some(Self(key))
    }
}

impl std::fmt::Display for RowKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "k_{}", hex::encode(self.0))
    }
}

/// A row in memory.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Parts of the key.
    pub parts: Map<String, Value>,
    /// Contents, in the order of the columns.
    pub columns: Vec<Content>,
    /// Position of the last event that changed it.
    pub position: u64,
}

impl Row {
    /// A new row with every column at its default.
    pub fn new(columns: &[Column], parts: Map<String, Value>) -> Self {
        let columns = columns.iter().map(|column| Content::public(&column.kind, column.default.clone())).collect();
        Self { parts, columns, position: 0 }
    }

    /// `row` in expressions: values where they can be read, `null` elsewhere.
    pub fn clear(&self, columns: &[Column]) -> Value {
        let members = columns.iter().zip(&self.columns).map(|(column, content)| (column.name.clone(), content.clear()));
        Value::Object(members.collect())
    }

    /// Everyone the row is about: who owns a cell, and whose pseudonym is in the key.
    pub fn about(&self) -> BTreeSet<SubjectRef> {
        let named = self.parts.values().filter_map(|part| SubjectRef::parse(part.as_str()?));
        self.people().into_iter().chain(named).collect()
    }

    /// Everyone who owns a cell.
    pub fn people(&self) -> BTreeSet<SubjectRef> {
        self.columns.iter().flat_map(Content::cells).flat_map(|(_, cell)| cell.owners.people()).collect()
    }
}

/// A row as stored, before its slots are opened.
#[derive(Clone, Debug)]
pub struct StoredRow {
    /// Its key.
    pub key: RowKey,
    /// The row; sealed cells have no value yet.
    pub row: Row,
    slots: Vec<Slot>,
    sealed: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq)]
struct Slot {
    purpose: Purpose,
    people: Vec<(SubjectRef, u32)>,
    paths: Vec<String>,
    /// Whether there is an envelope. There is none for what could not be read any more when the row was written.
    sealed: bool,
}

impl Slot {
    fn ids(&self) -> impl Iterator<Item = DekId> {
        self.people.iter().map(|(subject, generation)| DekId {
            subject: *subject,
            purpose: self.purpose.clone(),
            generation: *generation,
        })
    }

    fn fenced(&self, fences: &Fences) -> bool {
        self.people
            .iter()
            .any(|(subject, generation)| fences.covering(subject, self.purpose.as_str(), *generation).is_some())
    }
}

/// What a row is in the tables.
#[derive(Clone, Debug, PartialEq)]
pub struct Encoded {
    /// Canonical JSON of the key's parts.
    pub parts: String,
    /// Canonical JSON of columns, slots and origins.
    pub doc: String,
    /// Envelopes.
    pub sealed: Option<Vec<u8>>,
}

/// The stored bytes contradict the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored row is not in the format")]
pub struct CorruptRow;

/// Why a row cannot be stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// No random bytes.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// A cell with a value has no key: a mistake of ours, and nothing is written.
    #[error("a personal cell has no key")]
    MissingKey,
    /// Larger than the limit.
    #[error("the row is larger than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
}

/// Most bytes of a stored row, without what is sealed.
pub const MAX_ROW: usize = 512 * 1024;

/// Keys at hand.
pub type Keys = HashMap<DekId, Arc<Dek>>;

impl StoredRow {
    /// Reads what [`Row::encode`] wrote.
    ///
    /// # Errors
    /// [`CorruptRow`].
    pub fn parse(
        columns: &[Column],
        key: &[u8],
        parts: &str,
        doc: &str,
        sealed: Option<&[u8]>,
        position: u64,
    ) -> Result<Self, CorruptRow> {
        let key = RowKey(key.try_into().map_err(|_| CorruptRow)?);
        let parts: Map<String, Value> = serde_json::from_str(parts).map_err(|_| CorruptRow)?;
        let mut doc: Map<String, Value> = serde_json::from_str(doc).map_err(|_| CorruptRow)?;
        let slots = slots(doc.remove("slots"))?;
        let origins = origins(doc.remove("origins"))?;
        let Some(Value::Object(mut values)) = doc.remove("columns") else { return Err(CorruptRow) };
        let mut owners: HashMap<&str, Vec<Alternative>> = HashMap::new();
        for slot in &slots {
            for path in &slot.paths {
                let people = slot.people.iter().copied().collect();
                owners.entry(path).or_default().push(Alternative { purpose: slot.purpose.clone(), people });
            }
        }
        let contents = columns
            .iter()
            .map(|column| {
                let value = values.remove(&column.name).unwrap_or_else(|| column.default.clone());
                let place = format!("/{}", escape(&column.name));
                let mut content = if owners.contains_key(place.as_str()) {
                    Content::Single(Cell::public(value))
                } else if column.kind == ColumnType::Json && owners.keys().any(|path| lies_below(path, &place)) {
                    // An aggregate over people: one part per person.
                    Content::public(&ColumnType::Map(Box::new(ColumnType::Json)), value)
                } else {
                    Content::public(&column.kind, value)
                };
                for (path, cell) in content.cells_mut() {
                    let path = format!("{place}{path}");
                    if let Some(ways) = owners.remove(path.as_str()) {
                        cell.value = None;
                        cell.owners = Owners::any_of(ways);
                        cell.origin = origins.get(&path).cloned();
                    }
                }
                content
            })
            .collect();
        if !owners.is_empty() {
            return Err(CorruptRow);
        }
        let row = Row { parts, columns: contents, position };
        Ok(Self { key, row, slots, sealed: sealed.unwrap_or_default().to_vec() })
    }

    /// The keys that may open something, given the fences and the purposes allowed.
    pub fn wanted<'a>(
        &'a self,
        fences: &'a Fences,
        allowed: &'a dyn Fn(&str) -> bool,
    ) -> impl Iterator<Item = DekId> + 'a {
        let open =
            self.slots.iter().filter(move |slot| slot.sealed && allowed(slot.purpose.as_str()) && !slot.fenced(fences));
        open.flat_map(Slot::ids)
    }

    /// Opens what the keys at hand open; fences and purposes as in [`StoredRow::wanted`]. The second value says whether
    /// something stayed closed that neither a fence nor a purpose explains.
    pub fn open(
        self,
        store_and_definition: (&crate::event::StoreId, &str),
        columns: &[Column],
        keys: &Keys,
        fences: &Fences,
        allowed: &dyn Fn(&str) -> bool,
    ) -> (Row, bool) {
        let Self { key, mut row, slots, sealed } = self;
        let identity = RowIdentity { store: store_and_definition.0, definition: store_and_definition.1, key: &key.0 };
        let mut opened: HashMap<String, Value> = HashMap::new();
        let mut missing = false;
        let mut envelopes = envelope::slots(&sealed);
        for (number, slot) in slots.iter().enumerate().filter(|(_, slot)| slot.sealed) {
            let bytes = envelopes.next().and_then(Result::ok).flatten();
            if !allowed(slot.purpose.as_str()) || slot.fenced(fences) {
                continue;
            }
            match bytes.and_then(|bytes| slot.open(&identity, number as u16, keys, bytes)) {
                Some(values) => opened.extend(values),
                None => missing = true,
            }
        }
        for (column, content) in columns.iter().zip(&mut row.columns) {
            let place = format!("/{}", escape(&column.name));
            for (path, cell) in content.cells_mut() {
                if let Some(value) = opened.get(&format!("{place}{path}")).filter(|_| !cell.owners.is_public()) {
                    cell.value = Some(value.clone());
                }
            }
        }
        (row, missing)
    }
}

impl Slot {
    fn open(&self, identity: &RowIdentity<'_>, number: u16, keys: &Keys, bytes: &[u8]) -> Option<Vec<(String, Value)>> {
        let deks: Vec<&Dek> = self.ids().map(|id| keys.get(&id).map(AsRef::as_ref)).collect::<Option<_>>()?;
        let people: Vec<SubjectRef> = self.people.iter().map(|(subject, _)| *subject).collect();
        let slot = RowSlot { number, purpose: self.purpose.as_str(), people: &people, paths: &self.paths };
        let opened = rows::open(identity, &slot, &deks, bytes).ok()?;
        let fields = opened.fields().ok()?;
        fields.into_iter().map(|(path, text)| Some((path.into_owned(), serde_json::from_str(text).ok()?))).collect()
    }
}

impl Row {
    /// Seals and writes the row. `keys` has every key that is still alive of the owners of its values.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn encode(
        &self,
        identity: &RowIdentity<'_>,
        columns: &[Column],
        keys: &Keys,
        entropy: &Entropy,
    ) -> Result<Encoded, EncodeError> {
        let mut values = Map::new();
        let mut groups: BTreeMap<(&Owners, bool), BTreeMap<String, &Cell>> = BTreeMap::new();
        let mut origins = Map::new();
        for (column, content) in columns.iter().zip(&self.columns) {
            let place = format!("/{}", escape(&column.name));
            for (path, cell) in content.cells().into_iter().filter(|(_, cell)| !cell.owners.is_public()) {
                let path = format!("{place}{path}");
                if let Some(origin) = &cell.origin {
                    origins.insert(path.clone(), origin_to_json(origin));
                }
                groups.entry((&cell.owners, cell.value.is_some())).or_default().insert(path, cell);
            }
            let shown = content.to_json(|_, cell| match &cell.value {
                Some(value) if cell.owners.is_public() => value.clone(),
                _ => Value::Null,
            });
            if shown != column.default || !matches!(content, Content::Single(cell) if cell.owners.is_public()) {
                values.insert(column.name.clone(), shown);
            }
        }
        let mut slots = Vec::new();
        let mut blob = SealedBlob::default();
        for ((owners, has_value), cells) in &groups {
            for way in owners.alternatives() {
                let sealed =
                    *has_value && Self::seal_slot(identity, slots.len() as u16, way, cells, keys, entropy, &mut blob)?;
                let people: Vec<Value> = way.people.iter().map(|(s, g)| json!([s.to_string(), g])).collect();
                let paths: Vec<&String> = cells.keys().collect();
                slots.push(json!([way.purpose.as_str(), people, paths, u8::from(sealed)]));
            }
            if *has_value && !slots.iter().rev().take(owners.alternatives().len()).any(|slot| slot[3] == 1) {
                return Err(EncodeError::MissingKey);
            }
        }
        let any_sealed = slots.iter().any(|slot| slot[3] == 1);
        let mut doc = Map::from_iter([("columns".to_owned(), Value::Object(values))]);
        if !slots.is_empty() {
            doc.insert("slots".into(), Value::Array(slots));
        }
        if !origins.is_empty() {
            doc.insert("origins".into(), Value::Object(origins));
        }
        let encoded = Encoded {
            parts: canonical(&Value::Object(self.parts.clone())),
            doc: canonical(&Value::Object(doc)),
            sealed: any_sealed.then(|| blob.into_bytes()),
        };
        // What is sealed has room of its own: see `room`. Of an aggregate over people it is limited by their number.
        let size = encoded.doc.len() + encoded.parts.len();
        if size > MAX_ROW { Err(EncodeError::TooLarge { limit: MAX_ROW }) } else { Ok(encoded) }
    }

    /// Seals one slot if all its keys are alive; whether it did.
    fn seal_slot(
        identity: &RowIdentity<'_>,
        number: u16,
        way: &Alternative,
        cells: &BTreeMap<String, &Cell>,
        keys: &Keys,
        entropy: &Entropy,
        blob: &mut SealedBlob,
    ) -> Result<bool, EncodeError> {
        let id = |subject: SubjectRef, generation| DekId { subject, purpose: way.purpose.clone(), generation };
        let deks: Option<Vec<&Dek>> =
            way.people.iter().map(|(s, g)| keys.get(&id(*s, *g)).map(AsRef::as_ref)).collect();
        let Some(deks) = deks else { return Ok(false) };
        let people: Vec<SubjectRef> = way.people.iter().map(|(subject, _)| *subject).collect();
        let paths: Vec<String> = cells.keys().cloned().collect();
        let values: Vec<&Value> = cells.values().filter_map(|cell| cell.value.as_ref()).collect();
        let slot = RowSlot { number, purpose: way.purpose.as_str(), people: &people, paths: &paths };
        blob.push(&rows::seal(entropy, identity, &slot, &deks, &values)?);
        Ok(true)
    }
}

fn slots(stored: Option<Value>) -> Result<Vec<Slot>, CorruptRow> {
    type Raw = (String, Vec<(String, u32)>, Vec<String>, u8);
    let Some(stored) = stored else { return Ok(Vec::new()) };
    let raw: Vec<Raw> = serde_json::from_value(stored).map_err(|_| CorruptRow)?;
    raw.into_iter()
        .map(|(purpose, people, paths, sealed)| {
            let people = people.iter().map(|(s, g)| Some((SubjectRef::parse(s)?, *g))).collect::<Option<Vec<_>>>();
            let purpose = Purpose::parse_any(&purpose).map_err(|_| CorruptRow)?;
            Ok(Slot { purpose, people: people.ok_or(CorruptRow)?, paths, sealed: sealed == 1 })
        })
        .collect()
}

fn origin_to_json(origin: &Origin) -> Value {
    match origin {
        Origin::Schema(event_type, version, pointer) => json!([event_type, version, pointer]),
        Origin::Inline(placeholder) => json!([placeholder]),
    }
}

fn origins(stored: Option<Value>) -> Result<HashMap<String, Arc<Origin>>, CorruptRow> {
    let Some(stored) = stored else { return Ok(HashMap::new()) };
    let Value::Object(members) = stored else { return Err(CorruptRow) };
    members
        .into_iter()
        .map(|(path, value)| {
            let origin = match value.as_array().map(Vec::as_slice) {
                Some([Value::String(placeholder)]) => Origin::Inline(placeholder.clone()),
                Some([Value::String(event_type), version, Value::String(pointer)]) => {
                    let version = version.as_u64().and_then(|v| u32::try_from(v).ok()).ok_or(CorruptRow)?;
                    Origin::Schema(event_type.clone(), version, pointer.clone())
                }
                _ => return Err(CorruptRow),
            };
            Ok((path, Arc::new(origin)))
        })
        .collect()
}

fn lies_below(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.starts_with('/'))
}

/// Whether a column of this type holds elements or entries.
pub fn is_container(kind: &ColumnType) -> bool {
    matches!(kind, ColumnType::List(_) | ColumnType::Map(_))
}
