//! A whole store in a directory, made of the real pieces, for tests below HTTP.
//!
//! Owns: how the pieces are put together in a test. Nothing here is a mock; only the clock is moved by hand.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use oubliette::append::writer::{self, Writer};
use oubliette::append::{AppendRequest, Appender, StreamDraft};
use oubliette::clock::{Clock, Millis};
use oubliette::erasure::requests::{OpenRequest, Parts, Requests};
use oubliette::erasure::{Request, Status, recovery};
use oubliette::event::{
    EventType, ExternalId, InlineMark, NewEvent, Pointer, Purpose, StoreId, StreamName, SubjectKey, SubjectRef,
};
use oubliette::eventlog::sqlite::{self, SqliteEventLog};
use oubliette::eventlog::{Appended, EventLog};
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::lease::Leases;
use oubliette::keystore::sqlite::SqliteKeystore;
use oubliette::keystore::{CachedKeystore, KeyCache, Keystore, Resolved};
use oubliette::schema::{self, Registry, RegistryRecord};
use oubliette::sealing::Sealer;
use oubliette::secret::Entropy;
use serde_json::{Value, json};

pub const STORE: StoreId = StoreId([7; 16]);

/// An open store.
pub struct Store {
    pub dir: tempfile::TempDir,
    pub log: Arc<dyn EventLog>,
    pub keystore: Arc<dyn Keystore>,
    pub registry: Arc<Registry>,
    pub appender: Appender,
    pub requests: Requests,
    pub clock: Clock,
}

/// Path of the event log in a store's directory.
pub fn events_path(dir: &Path) -> PathBuf {
    dir.join("events.db")
}

/// Opens an event log that is there.
pub fn open_log(path: &Path) -> Arc<dyn EventLog> {
    let entropy = Arc::new(Entropy::system());
    Arc::new(SqliteEventLog::open(path, &sqlite::Options::default(), entropy).unwrap())
}

impl Store {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::manual(Millis(1_700_000_000_000));
        let entropy = Arc::new(Entropy::system());
        let keyring = Arc::new(Keyring::create(&dir.path().join("keyring"), STORE).unwrap());
        let keys = dir.path().join("keys.db");
        let keystore: Arc<dyn Keystore> =
            Arc::new(SqliteKeystore::create(&keys, STORE, Arc::clone(&keyring), &clock, Arc::clone(&entropy)).unwrap());
        let path = events_path(dir.path());
        let options = sqlite::Options::default();
        let log: Arc<dyn EventLog> =
            Arc::new(SqliteEventLog::create(&path, STORE, clock.now(), &options, Arc::clone(&entropy)).unwrap());
        let registry = Arc::new(Registry::new(schema::Options::default()));
        let cached = Arc::new(CachedKeystore::new(Arc::clone(&keystore), KeyCache::new(1000).unwrap()));
        let (writer, _) = Writer::start(Arc::clone(&log), writer::Options::default());
        let sealer = Sealer::new(STORE, Arc::clone(&entropy), 64);
        let appender = Appender::new(
            Arc::clone(&registry),
            Arc::clone(&cached),
            sealer,
            writer,
            clock.clone(),
            Arc::new(AtomicBool::new(true)),
        );
        let parts = Parts {
            log: Arc::clone(&log),
            keys: cached,
            leases: Arc::new(Leases::new(Duration::from_millis(20))),
            appender: appender.clone(),
            clock: clock.clone(),
            entropy,
            horizon: Duration::from_hours(8 * 24),
        };
        let (requests, _) = recovery::start(parts, keyring, STORE, Duration::from_hours(24));
        Self { dir, log, keystore, registry, appender, requests, clock }
    }

    /// Registers the first version of a type.
    pub fn schema(&self, event_type: &str, schema: Value) {
        let record = RegistryRecord::SchemaRegistered { event_type: event_type.into(), version: 1, schema };
        self.registry.apply(&record).unwrap();
    }

    /// Appends one event; a second later.
    pub async fn append(&self, stream: &str, event: NewEvent) -> Appended {
        self.clock.advance(1000);
        let draft = StreamDraft { stream: StreamName::parse(stream).unwrap(), expected: None, events: vec![event] };
        let request = AppendRequest { appends: vec![draft], conditions: vec![], idempotency: None };
        self.appender.append(&request).await.unwrap().appended
    }

    /// Forgets a person, or some purposes of one, and waits for the end.
    pub async fn forget(&self, person: &str, purposes: Option<&[&str]>) -> Request {
        self.clock.advance(1000);
        let parse = |list: &[&str]| list.iter().map(|p| Purpose::parse(p).unwrap()).collect();
        let wish = OpenRequest {
            subject: SubjectKey::External(ExternalId::parse(person).unwrap()),
            purposes: purposes.map(parse),
            basis: "gdpr:A17-1-b".into(),
            received_at: None,
            reference: None,
            by: "ak_test".into(),
        };
        let request = self.requests.open(wish).await.unwrap();
        self.requests.approve(&request.id, &request.preview.digest, "ak_dpo").await.unwrap();
        let done = self.requests.wait(&request.id, Duration::from_secs(10)).await.unwrap().unwrap();
        assert_eq!(done.status, Status::Completed);
        done
    }

    /// The pseudonym of a known person.
    pub async fn pseudonym(&self, person: &str) -> SubjectRef {
        match self.keystore.resolve(vec![ExternalId::parse(person).unwrap()]).await.unwrap()[0] {
            Resolved::Known(subject) => subject,
            other => panic!("not known: {other:?}"),
        }
    }
}

/// An event without marks.
pub fn event(event_type: &str, data: Value) -> NewEvent {
    NewEvent {
        id: None,
        event_type: EventType::parse(event_type).unwrap(),
        schema_version: None,
        data,
        marks: vec![],
        actor: Some("user:u9".into()),
        correlation_id: None,
        causation_id: None,
        time: None,
        source: None,
        source_id: None,
    }
}

/// Marks a place as personal data.
pub fn marked(mut event: NewEvent, path: &str, person: &str, purposes: &[&str]) -> NewEvent {
    event.marks.push(InlineMark {
        path: Pointer::parse(path).unwrap(),
        subject: SubjectKey::External(ExternalId::parse(person).unwrap()),
        purposes: purposes.iter().map(|p| Purpose::parse(p).unwrap()).collect(),
        category: None,
        placeholder: None,
    });
    event
}

/// A contact with an id, a name for two purposes and an e-mail address.
pub fn contact_schema() -> Value {
    json!({"type": "object", "additionalProperties": false,
        "x-data-subjects": {"contact": {"id": "/id"}},
        "properties": {
            "id": {"type": "string"},
            "stage": {"type": "string"},
            "name": {"type": "string",
                "x-personal-data": {"subject": "contact", "purposes": ["general", "marketing"]}},
            "email": {"type": "string", "x-personal-data": {"subject": "contact"}}}})
}
