//! The whole-store check: silent about an intact store, and to the point about every way to tamper with one.

use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

use oubliette::event::Position;
use oubliette::keystore::{DestroyOrder, Keystore, Scope};
use oubliette::schema::{self, Registry};
use oubliette::verify::{Defect, Options, Place, Report, Sampling, verify};
use rusqlite::Connection;
use serde_json::json;

use crate::store::{Store, contact_schema, event, events_path, marked, open_log};

/// Position of the first event of Ben's forget request, and of Ada's for marketing.
const BEN_FORGOTTEN: u64 = 6;
const ADA_UNMARKETED: u64 = 12;

/// Ada and Ben, a joint value, an event that only names somebody, one person forgotten and one purpose.
async fn story() -> Store {
    let store = Store::new();
    store.schema("contact-created", contact_schema());
    let contact = |id: &str, name: &str| json!({"id": id, "name": name, "email": "x@example.org", "stage": "lead"});
    store.append("contact-1", event("contact-created", contact("ada", "Ada"))).await;
    store.append("contact-2", event("contact-created", contact("ben", "Ben"))).await;
    let joint = event("met", json!({"place": "Lisbon", "at": "noon"}));
    store.append("meeting-1", marked(marked(joint, "/place", "ada", &[]), "/place", "ben", &[])).await;
    store.append("note-1", event("noted", json!({"lines": 3}))).await;
    store.append("contact-1", marked(event("called", json!({"by": "Ada"})), "/by", "ada", &["support"])).await;
    store.append("contact-1", event("contact-created", json!({"id": "ada", "stage": "won"}))).await;
    store.forget("ben", None).await;
    store.append("contact-3", event("contact-created", contact("cleo", "Cleo"))).await;
    store.forget("ada", Some(&["marketing"])).await;
    store.append("note-1", event("noted", json!({"lines": 4}))).await;
    store
}

async fn check(store: &Store) -> Report {
    verify(&*store.log, Some(&*store.keystore), Some(&store.registry), &Options::default()).await.unwrap()
}

#[tokio::test]
async fn an_intact_store_is_clean_however_it_is_read() {
    let store = story().await;
    let report = check(&store).await;
    assert_eq!(report.findings, []);
    // Ada: general and support; Cleo: both. Erased: Ben's two, the joint one, Ada's for marketing.
    assert_eq!((report.events, report.slots, report.opened, report.erased), (18, 8, 4, 4));
    for page in [1, 2, 7, 1000] {
        let options = Options { page, ..Options::default() };
        let again = verify(&*store.log, Some(&*store.keystore), Some(&store.registry), &options).await.unwrap();
        assert_eq!(again, report);
    }
    let bare = verify(&*store.log, None, None, &Options::default()).await.unwrap();
    assert_eq!(bare, Report { opened: 0, ..report.clone() });
    for (open, opened) in [(Sampling::None, 0), (Sampling::Every(NonZeroU64::new(2).unwrap()), 2)] {
        let options = Options { open, ..Options::default() };
        let sampled = verify(&*store.log, Some(&*store.keystore), None, &options).await.unwrap();
        assert_eq!((sampled.opened, sampled.findings.len()), (opened, 0));
    }
}

#[tokio::test]
async fn an_empty_store_is_clean() {
    assert_eq!(check(&Store::new()).await, Report::default());
}

/// What is done to the closed file, and what must be found: all of it, and nothing else.
type Case = (&'static str, fn(&Connection), Vec<(Place, Defect)>);

fn at(position: u64) -> Place {
    Place::Event(Position(position))
}

fn slot(position: u64, number: u16) -> Place {
    Place::Slot(Position(position), number)
}

fn run(connection: &Connection, sql: &str) {
    connection.execute_batch(sql).unwrap();
}

fn edits() -> Vec<Case> {
    use Defect::*;
    vec![
        (
            "public edited",
            |c| run(c, "update events set public = replace(public, '3', '4') where position = 3"),
            vec![(at(3), PublicCommitment)],
        ),
        (
            "actor in meta edited",
            |c| run(c, "update events set meta = replace(meta, 'u9', 'u8') where position = 3"),
            vec![(at(3), MetaCommitment)],
        ),
        (
            "purpose in meta relabelled, salts taken away",
            |c| run(c, "update events set salts = null, meta = replace(meta, 'support', 'general') where position = 4"),
            vec![(slot(4, 0), KeyId), (slot(4, 0), DoesNotOpen), (at(4), FootprintExtra), (at(4), FootprintMissing)],
        ),
        (
            "sealed blobs swapped",
            |c| {
                run(
                    c,
                    "create temp table s as select position p, sealed b from events where position in (0, 11);
                     update events set sealed = (select b from s where p = 11 - events.position) where position in (0, 11)",
                );
            },
            vec![(slot(0, 0), DoesNotOpen), (slot(11, 0), DoesNotOpen), (slot(11, 1), DoesNotOpen)],
        ),
        (
            "last event deleted",
            |c| run(c, "delete from events where position = 17"),
            vec![(at(17), Missing), (Place::Head, TreeRoot)],
        ),
        (
            "event in the middle deleted",
            |c| run(c, "delete from events where position = 3"),
            vec![(at(3), Missing), (at(17), Revision), (Place::Head, TreeRoot)],
        ),
    ]
}

fn moves() -> Vec<Case> {
    use Defect::*;
    vec![
        (
            "revision changed",
            |c| run(c, "update events set revision = 9 where position = 5"),
            vec![(at(5), Revision), (at(5), Leaf)],
        ),
        (
            "type changed",
            |c| run(c, "update events set type = (select id from names where text = 'met') where position = 4"),
            vec![(at(4), Leaf), (slot(4, 0), DoesNotOpen)],
        ),
        (
            "recorded time changed",
            |c| run(c, "update events set recorded_ms = recorded_ms - 60000 where position = 3"),
            vec![(at(3), TimeWentBack), (at(3), Leaf)],
        ),
        (
            "event moved to another stream",
            |c| run(c, "update events set revision = 3, stream = 1 where position = 3"),
            vec![(at(3), Revision), (at(4), Revision), (at(17), Revision), (at(3), Leaf)],
        ),
        (
            "leaf flipped",
            |c| run(c, "update events set leaf = zeroblob(32) where position = 2"),
            vec![(at(2), Leaf), (Place::Head, TreeRoot)],
        ),
        (
            "ciphertext removed",
            |c| run(c, "update events set sealed = null where position = 0"),
            vec![(slot(0, 0), CiphertextMissing)],
        ),
        (
            "ciphertext cut",
            |c| run(c, "update events set sealed = substr(sealed, 1, 20) where position = 4"),
            vec![(at(4), SealedMalformed)],
        ),
        (
            "schema version changed",
            |c| run(c, "update events set schema_version = 9 where position = 0"),
            vec![(at(0), SchemaUnknown), (slot(0, 0), DoesNotOpen)],
        ),
        (
            "name no longer a name",
            |c| {
                run(
                    c,
                    "insert into names(text) values ('no name');
                     update events set type = (select id from names where text = 'no name') where position = 3",
                );
            },
            vec![(at(3), Unreadable), (at(17), Revision), (Place::Head, TreeRoot)],
        ),
    ]
}

fn records() -> Vec<Case> {
    use Defect::*;
    vec![
        ("frontier flipped", flip_frontier, vec![(Place::Head, TreeRoot)]),
        (
            "head set back",
            |c| run(c, "update head set next_position = 17"),
            vec![(Place::Head, TreeSize), (Place::Head, TreeRoot), (at(17), BeyondHead)],
        ),
        (
            "footprint row removed",
            |c| run(c, "delete from footprint where position = 4"),
            vec![(at(4), FootprintMissing)],
        ),
        (
            "mention removed from the footprint",
            |c| run(c, "delete from footprint where position = 5"),
            vec![(at(5), FootprintMissing)],
        ),
        (
            "footprint row added",
            |c| {
                run(
                    c,
                    "insert into footprint select subject, 3, 0, purpose, generation from footprint where position = 4",
                );
            },
            vec![(at(3), FootprintExtra)],
        ),
        (
            "first erasure dropped",
            |c| run(c, "delete from erasures where number = 1"),
            vec![(at(BEN_FORGOTTEN + 2), ErasureUnrecorded), (Place::Erasure(1), ErasureMissing)],
        ),
        (
            "last erasure dropped",
            |c| run(c, "delete from erasures where number = 2"),
            vec![(at(ADA_UNMARKETED + 2), ErasureUnrecorded), (Place::Keystore, KeystoreAhead)],
        ),
        (
            "scope of an erasure narrowed",
            |c| run(c, "update erasures set scope = 'general' where number = 1"),
            vec![
                (at(BEN_FORGOTTEN + 2), ErasureContradicts),
                (Place::Erasure(1), ErasureDigest),
                (Place::Erasure(1), FenceMissing),
                (Place::Erasure(1), ErasureContradicts),
            ],
        ),
        (
            "completion taken back",
            |c| run(c, "update erasures set completed_ms = null where number = 2"),
            vec![(Place::Erasure(2), Completion)],
        ),
        (
            "fence removed",
            |c| run(c, "delete from fences where purpose = 'marketing'"),
            vec![(slot(0, 1), KeyDestroyed), (Place::Erasure(2), FenceMissing)],
        ),
        (
            "completed without a request",
            |c| run(c, "update erasures set request = 'fr_none' where number = 2"),
            vec![(at(ADA_UNMARKETED + 2), ErasureUnrecorded), (Place::Erasure(2), RequestUnreadable)],
        ),
    ]
}

fn flip_frontier(connection: &Connection) {
    let mut bytes: Vec<u8> = connection.query_row("select frontier from head", [], |row| row.get(0)).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    connection.execute("update head set frontier = ?1", [bytes]).unwrap();
}

/// Lays the closed log open to a case, and checks it against the live keystore.
async fn tampered(original: &Path, case: fn(&Connection), keys: &dyn Keystore, registry: &Registry) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let path = events_path(dir.path());
    std::fs::copy(original, &path).unwrap();
    let connection = Connection::open(&path).unwrap();
    let triggers: Vec<String> = connection
        .prepare("select name from sqlite_schema where type = 'trigger'")
        .and_then(|mut found| found.query_map([], |row| row.get(0))?.collect())
        .unwrap();
    for name in triggers {
        run(&connection, &format!("drop trigger {name}"));
    }
    case(&connection);
    connection.close().unwrap();
    let log = open_log(&path);
    let report = verify(&*log, Some(keys), Some(registry), &Options::default()).await.unwrap();
    log.close().await;
    report
}

#[tokio::test]
async fn every_tampering_is_found_where_it_is() {
    let store = story().await;
    store.log.close().await;
    let original = events_path(store.dir.path());
    let mut wrong = Vec::new();
    for (name, case, expected) in edits().into_iter().chain(moves()).chain(records()) {
        let report = tampered(&original, case, &*store.keystore, &store.registry).await;
        let found: Vec<_> = report.findings.iter().map(|finding| (finding.place, finding.defect)).collect();
        let same = found.len() == expected.len() && expected.iter().all(|one| found.contains(one));
        if !same {
            wrong.push(format!("{name}: found {found:?}, expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn keys_that_die_without_an_erasure_are_found_and_so_are_those_that_survive_one() {
    let store = story().await;
    let cleo = store.pseudonym("cleo").await;
    let order =
        DestroyOrder { subject: cleo, scope: Scope::Person, fenced: Vec::new(), erasure: 2, at: store.clock.now() };
    store.keystore.destroy(order).await.unwrap();
    let found: Vec<_> = check(&store).await.findings.iter().map(|f| (f.place, f.defect)).collect();
    assert_eq!(found, [(slot(11, 0), Defect::KeyDestroyed), (slot(11, 1), Defect::KeyDestroyed)]);

    // Another store's keystore under this log: no key is known, no tombstone is there, nothing was applied.
    let other = Store::new();
    let report = verify(&*store.log, Some(&*other.keystore), None, &Options::default()).await.unwrap();
    let count = |defect| report.findings.iter().filter(|finding| finding.defect == defect).count();
    assert_eq!((count(Defect::KeyUnknown), count(Defect::TombstoneMissing), report.findings.len()), (4, 4, 8));
}

#[tokio::test]
async fn a_key_that_survived_is_found() {
    let store = story().await;
    // The log says that Cleo's erasure is complete; the keystore was never asked.
    let cleo = store.pseudonym("cleo").await;
    store.log.close().await;
    let path = events_path(store.dir.path());
    let connection = Connection::open(&path).unwrap();
    connection
        .execute(
            "insert into fences(subject, purpose, generation, state, basis, request, at_ms, epoch)
             select ?1, '*', 4294967295, 'erased', basis, request, fenced_ms, 3 from erasures where number = 2",
            [cleo.0],
        )
        .unwrap();
    connection.close().unwrap();
    let log = open_log(&path);
    let report = verify(&*log, Some(&*store.keystore), None, &Options::default()).await.unwrap();
    let found: Vec<_> = report.findings.iter().map(|f| (f.place, f.defect)).collect();
    assert_eq!(found, [(slot(11, 0), Defect::KeyAlive), (slot(11, 1), Defect::KeyAlive)]);
}

#[tokio::test]
async fn findings_are_limited_and_the_rest_is_counted() {
    let store = story().await;
    let strange: Arc<dyn Keystore> = Store::new().keystore;
    let options = Options { most_findings: 3, ..Options::default() };
    let report = verify(&*store.log, Some(&*strange), None, &options).await.unwrap();
    assert_eq!((report.findings.len(), report.omitted), (3, 5));
    assert!(!report.is_clean());
    let unknown = Registry::new(schema::Options::default());
    let report = verify(&*store.log, None, Some(&unknown), &Options::default()).await.unwrap();
    assert!(report.findings.iter().all(|finding| finding.defect == Defect::SchemaUnknown));
    assert_eq!(report.findings.len(), 4);
}
