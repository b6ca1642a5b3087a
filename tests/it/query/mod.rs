//! Queries over rows made by hand: real tables, real keys, a real log for fences and the access log.
//!
//! Owns: the scene in which queries are asked. Nothing here is a mock; only the clock is moved by hand.

mod aggregates;
mod filters;
mod paging;
mod shown;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oubliette::append::writer::{self, Writer};
use oubliette::clock::{Clock, Millis};
use oubliette::db::Db;
use oubliette::db::sqlite::SqliteDb;
use oubliette::event::{Purpose, StoreId, SubjectRef};
use oubliette::eventlog::{Effect, EventLog, Job};
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::lease::Leases;
use oubliette::keystore::sqlite::SqliteKeystore;
use oubliette::keystore::{CachedKeystore, Granted, KeyCache, Keystore};
use oubliette::projection::cell::{Cell, Content, Origin};
use oubliette::projection::definition::{
    Column, ColumnSource, ColumnType, Definition, Index, IndexPart, KeyPart, Kind, OnErasure, OnError, ProjectionName,
    Source,
};
use oubliette::projection::expression::{Expression, Root, Scope};
use oubliette::projection::index;
use oubliette::projection::owners::{Alternative, Owners};
use oubliette::projection::query::{After, FILTER, Live, QueryError, QueryOptions, RenderedRows, RowQuery, RowReader};
use oubliette::projection::row::{Keys, Row, RowKey};
use oubliette::projection::store::{self, BatchWrite, GenerationId, GenerationState, RawRow, RowWrite, Store};
use oubliette::read::access::AccessLog;
use oubliette::read::{Parts, Purposes, Redaction, Viewer};
use oubliette::schema::{self, Registry};
use oubliette::sealing::rows::RowIdentity;
use oubliette::secret::Entropy;
use serde_json::{Map, Value, json};

use crate::conformance::keystore::{order, want};

const STORE: StoreId = StoreId([7; 16]);

/// Everything a query needs, in a directory.
pub struct Scene {
    pub dir: tempfile::TempDir,
    pub log: Arc<dyn EventLog>,
    pub keystore: Arc<dyn Keystore>,
    pub registry: Arc<Registry>,
    pub leases: Arc<Leases>,
    pub level: Arc<AtomicBool>,
    writer: Writer,
    store: Store,
    clock: Clock,
    keys: Keys,
}

impl Scene {
    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Millis(1_700_000_000_000));
        let entropy = Arc::new(Entropy::system());
        let keyring = Arc::new(Keyring::create(&dir.path().join("keyring"), STORE).unwrap());
        let keys = dir.path().join("keys.db");
        let keystore: Arc<dyn Keystore> =
            Arc::new(SqliteKeystore::create(&keys, STORE, keyring, &clock, Arc::clone(&entropy)).unwrap());
        let options = oubliette::eventlog::sqlite::Options::default();
        let path = dir.path().join("events.db");
        let log = oubliette::eventlog::sqlite::SqliteEventLog::create(&path, STORE, clock.now(), &options, entropy);
        let log: Arc<dyn EventLog> = Arc::new(log.unwrap());
        let (writer, _) = Writer::start(Arc::clone(&log), writer::Options::default());
        let db = SqliteDb::open(&dir.path().join("projections.db"), store::MIGRATIONS, 2, 1024, "test").unwrap();
        let store = Store::open(Db::Sqlite(db), STORE).await.unwrap().unwrap();
        Self {
            dir,
            log,
            keystore,
            registry: Arc::new(Registry::new(schema::Options::default())),
            leases: Arc::new(Leases::new(Duration::from_secs(5))),
            level: Arc::new(AtomicBool::new(true)),
            writer,
            store,
            clock,
            keys: Keys::new(),
        }
    }

    /// A person with keys for these purposes.
    pub async fn person(&mut self, name: &str, purposes: &[&str]) -> SubjectRef {
        let granted = self.keystore.ensure(vec![want(name, purposes)]).await.unwrap().remove(0);
        let Granted::Keys { subject, keys } = granted else { panic!("not granted") };
        self.keys.extend(keys);
        subject
    }

    /// Fences a person or some purposes; the keys stay.
    pub async fn fence(&self, subject: SubjectRef, purposes: &[&str]) {
        let purposes = (!purposes.is_empty()).then(|| purposes.iter().map(|p| Purpose::parse(p).unwrap()).collect());
        let number = self.log.head().await.unwrap().erasure_epoch + 1;
        let request = format!("fr_{number}");
        let fence = Effect::Fence { subject, purposes, basis: "gdpr:A17-1-b".into(), request };
        let at = self.clock.now();
        let job = Job { appends: vec![], conditions: vec![], idempotency: None, effects: vec![fence], at };
        self.writer.submit(job).await.unwrap().unwrap();
    }

    /// Destroys a person's keys; no fence says so.
    pub async fn destroy(&self, subject: SubjectRef) {
        self.keystore.destroy(order(subject, &[], 1)).await.unwrap();
    }

    /// Makes these rows the live ones of a definition.
    pub async fn put(&self, definition: &Definition, rows: &[Row]) -> GenerationId {
        let name = definition.name.as_str();
        let made = self.store.begin(name, 1, [0; 32], GenerationState::Live, self.clock.now()).await.unwrap();
        let identity = format!("projection/{name}");
        let write = |row: &Row| {
            let key = RowKey::of(name, &row.parts);
            let of = RowIdentity { store: &STORE, definition: &identity, key: &key.0 };
            let encoded = row.encode(&of, &definition.columns, &self.keys, &Entropy::system()).unwrap();
            let raw =
                RawRow { key, parts: encoded.parts, doc: encoded.doc, sealed: encoded.sealed, position: row.position };
            let owners = (row.people().into_iter().collect(), vec![]);
            let entries = (index::entries(definition, row), vec![]);
            (key, RowWrite { row: Some(raw), owners, entries, timer: None })
        };
        let rows = rows.iter().map(write).collect();
        let batch = BatchWrite { rows, cursor: (0, 100), ..BatchWrite::default() };
        self.store.commit(made.id, batch).await.unwrap();
        made.id
    }

    /// A reader without any key in its cache.
    pub fn reader(&self, options: QueryOptions) -> RowReader {
        let parts = Parts {
            log: Arc::clone(&self.log),
            keys: Arc::new(CachedKeystore::new(Arc::clone(&self.keystore), KeyCache::new(100).unwrap())),
            leases: Arc::clone(&self.leases),
            registry: Arc::clone(&self.registry),
            access: Arc::new(AccessLog::new(self.writer.clone())),
            clock: self.clock.clone(),
            level: Arc::clone(&self.level),
        };
        RowReader::new(self.store.clone(), parts, STORE, options)
    }

    /// Who was read: purpose and number of values per entry, newest first.
    pub async fn access(&self) -> Vec<(SubjectRef, String, u32)> {
        let rows = self.log.access_log(None, None, 100).await.unwrap();
        rows.into_iter().map(|row| (row.entry.subject, row.entry.purpose, row.entry.fields)).collect()
    }
}

/// Live rows of one definition.
pub fn live(definition: &Definition, generation: GenerationId) -> Live<'_> {
    Live { definition, generation, cursor: 100, lookups: vec![] }
}

pub fn viewer(purposes: Purposes) -> Viewer {
    Viewer {
        principal: "ak_1".into(),
        purposes,
        redaction: Redaction::Typed,
        partial: false,
        reason: String::new(),
        route: "/v1/projections/{name}/rows",
        request: "r1".into(),
    }
}

pub fn items(rows: &RenderedRows) -> Vec<Value> {
    rows.items.iter().map(|row| serde_json::from_slice(&row.json).unwrap()).collect()
}

/// One member of every item.
pub fn column(rows: &RenderedRows, name: &str) -> Vec<Value> {
    items(rows).iter().map(|item| item[name].clone()).collect()
}

/// Every page, and how many there were; rows by key.
pub async fn all_pages(
    reader: &RowReader,
    live: &Live<'_>,
    query: impl Fn(Option<After>) -> RowQuery,
    viewer: &Viewer,
) -> Result<(Vec<RowKey>, usize), QueryError> {
    let (mut keys, mut pages, mut after) = (Vec::new(), 0, None);
    loop {
        let page = reader.rows(live, &query(after), viewer).await?;
        keys.extend(page.items.iter().map(|row| row.key));
        pages += 1;
        after = page.next;
        if after.is_none() {
            return Ok((keys, pages));
        }
    }
}

/// Readable for this purpose with all these people's keys.
pub fn way(purpose: &str, people: &[SubjectRef]) -> Alternative {
    let people = people.iter().map(|subject| (*subject, 0)).collect();
    Alternative { purpose: Purpose::parse(purpose).unwrap(), people }
}

/// A personal value.
pub fn owned(value: impl Into<Value>, ways: &[Alternative]) -> Cell {
    Cell { value: Some(value.into()), owners: Owners::any_of(ways.iter().cloned()), origin: None }
}

/// With a placeholder of its own.
pub fn inline(mut cell: Cell, placeholder: &Value) -> Cell {
    cell.origin = Some(Arc::new(Origin::Inline(placeholder.to_string())));
    cell
}

pub fn column_of(name: &str, kind: ColumnType) -> Column {
    Column {
        name: name.into(),
        kind,
        default: Value::Null,
        source: ColumnSource::Handlers,
        placeholder: None,
        searchable: true,
        sortable: true,
        public: false,
    }
}

pub fn sort(names: &[&str]) -> Vec<IndexPart> {
    let part = |name: &&str| IndexPart { name: name.trim_start_matches('-').into(), descending: name.starts_with('-') };
    names.iter().map(part).collect()
}

pub fn definition(name: &str, parts: &[&str], columns: Vec<Column>, indexes: &[&[&str]]) -> Definition {
    let scope = Scope { roots: &[Root::Data], fold: false, bare: false };
    let part = |name: &&str| KeyPart {
        name: (*name).into(),
        value: Expression::compile(&format!("data.{name}"), scope).unwrap(),
    };
    let indexes = indexes.iter().map(|names| Index { parts: sort(names) }).collect();
    let key = parts.iter().map(part).collect();
    Definition {
        name: ProjectionName::parse(name).unwrap(),
        version: 1,
        kind: Kind::Rows { key, indexes, window: None, aggregates: vec![], due: None },
        from: Source { category: None, types: vec![] },
        columns,
        handlers: BTreeMap::new(),
        code: None,
        on_erasure: OnErasure::Redact,
        on_error: OnError::Stop,
        history: None,
        text: String::new(),
    }
}

/// `contacts` by account and number: a name, an age, notes, a stage.
pub fn contacts() -> Definition {
    let text = || ColumnType::String;
    let mut stage = column_of("stage", text());
    stage.placeholder = Some(json!("gone"));
    let columns = vec![
        column_of("name", text()),
        column_of("age", ColumnType::Int),
        column_of("notes", ColumnType::List(Box::new(text()))),
        stage,
    ];
    definition("contacts", &["account", "n"], columns, &[&["account", "name"], &["stage", "-n"]])
}

pub fn parts(members: Value) -> Map<String, Value> {
    let Value::Object(members) = members else { panic!("not an object") };
    members
}

/// A contact with a name.
pub fn contact(definition: &Definition, account: &str, n: u64, name: Cell) -> Row {
    let mut row = Row::new(&definition.columns, parts(json!({"account": account, "n": n})));
    row.columns[0] = Content::Single(name);
    row.position = n;
    row
}
