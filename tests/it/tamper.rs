//! Tampering: twelve ways to change a store behind its back, fifty times each, and every single one is found by the check of
//! the whole store. What cannot be told from the store alone (an older state put back whole) is told from a kept checkpoint.

use std::path::Path;
use std::sync::Arc;

use oubliette::keystore::Keystore;
use oubliette::keystore::keyring::Keyring;
use oubliette::keystore::sqlite::SqliteKeystore;
use oubliette::secret::Entropy;
use oubliette::verify::{Options, Report, TreeHead, verify};
use rusqlite::Connection;
use serde_json::json;

use crate::child::copy_dir;
use crate::crash::ledger::Random;
use crate::store::{Store, contact_schema, event, events_path, marked, open_log};

const EDITS: u64 = 50;

/// A store of ten people in sixty events and more, three of them forgotten in different ways, and a tile of notes.
async fn story() -> Store {
    let store = Store::new();
    store.schema("contact-created", contact_schema());
    for n in 0..30 {
        let person = format!("p{}", n % 10);
        let contact =
            json!({"id": person, "name": format!("N{n}"), "email": format!("e{n}@example.org"), "stage": "won"});
        store.append(&format!("contact-{}", n % 10), event("contact-created", contact)).await;
        let called = event("called", json!({"by": format!("B{n}"), "n": n}));
        store.append("call-1", marked(called, "/by", &person, &["support"])).await;
    }
    for n in 0..200 {
        store.append("note-1", event("noted", json!({"n": n}))).await;
    }
    store.forget("p1", None).await;
    store.forget("p2", Some(&["marketing"])).await;
    store.forget("p3", Some(&["support"])).await;
    store
}

/// What an attacker has: the two databases, laid open, and dice.
struct Attack {
    events: Connection,
    keys: Connection,
    dice: Random,
    last: i64,
}

impl Attack {
    fn below(&mut self, limit: i64) -> i64 {
        self.dice.below(limit as u64) as i64
    }

    fn position(&mut self) -> i64 {
        self.below(self.last)
    }

    /// An event that has envelopes which a living person's key opens.
    fn sealed(&mut self) -> i64 {
        self.below(3) * 20 + 2 * (4 + self.below(6))
    }

    fn two<T: PartialEq>(&mut self, mut draw: impl FnMut(&mut Self) -> T) -> (T, T) {
        loop {
            let (a, b) = (draw(self), draw(self));
            if a != b {
                return (a, b);
            }
        }
    }

    fn run(&self, sql: &str) {
        self.events.execute_batch(sql).unwrap_or_else(|error| panic!("{error}: {sql}"));
    }
}

type Class = (&'static str, fn(&mut Attack));

/// The columns of an event that are not its place.
const CONTENT: &str =
    "event_id, type, category, schema_version, caller_id, meta, public, salts, commitments, sealed, leaf";

fn classes() -> Vec<Class> {
    vec![
        ("edit", |attack| {
            let (at, n) = (attack.position(), attack.below(5));
            let what = [
                "public = public || ' '",
                "meta = replace(meta, 'u9', 'u8')",
                "commitments = zeroblob(length(commitments))",
                "salts = zeroblob(64)",
                "event_id = randomblob(16)",
            ][n as usize];
            attack.run(&format!("update events set {what} where position = {at}"));
        }),
        ("delete", |attack| {
            let at = attack.position();
            attack.run(&format!("delete from events where position = {at}"));
        }),
        ("insert", |attack| {
            let (at, last) = (attack.position(), attack.last);
            let head = if attack.below(2) == 0 { "update head set next_position = next_position + 1;" } else { "" };
            attack.run(&format!(
                "{head} insert into events(position, stream, revision, recorded_ms, {CONTENT})
                 select {last}, stream, 100000, recorded_ms, {CONTENT} from events where position = {at}"
            ));
        }),
        ("swap", |attack| {
            let (a, b) = attack.two(Attack::position);
            let set: Vec<String> = CONTENT
                .split(", ")
                .map(|c| format!("{c} = (select {c} from before b where b.position = {a} + {b} - events.position)"))
                .collect();
            attack.run(&format!(
                "create temp table before as select * from events;
                 update events set {} where position in ({a}, {b})",
                set.join(", ")
            ));
        }),
        ("reorder", |attack| {
            let (a, b) = attack.two(Attack::position);
            attack.run(&format!(
                "update events set position = -1 where position = {a}; update events set position = {a} where position = {b};
                 update events set position = {b} where position = -1"
            ));
        }),
        ("truncate", |attack| {
            let from = attack.position();
            attack.run(&format!(
                "delete from events where position >= {from}; delete from footprint where position >= {from};
                 update head set next_position = {from}"
            ));
        }),
        ("key swap", |attack| {
            let (a, b) = attack.two(|attack| attack.below(20));
            let sql = format!(
                "create temp table live as select slot, row_number() over (order by slot) - 1 as n from deks;
                 create temp table before as select * from key_slots;
                 update key_slots set wrapped = (select wrapped from before where slot = (select slot from live where n = {a}))
                   where slot = (select slot from live where n = {b});
                 update key_slots set wrapped = (select wrapped from before where slot = (select slot from live where n = {b}))
                   where slot = (select slot from live where n = {a})"
            );
            attack.keys.execute_batch(&sql).unwrap();
        }),
        ("slot swap", |attack| {
            let (a, b) = attack.two(Attack::sealed);
            attack.run(&format!(
                "create temp table before as select position, sealed from events;
                 update events set sealed = (select sealed from before b where b.position = {a} + {b} - events.position)
                 where position in ({a}, {b})"
            ));
        }),
        ("tombstone drop", |attack| {
            let n = attack.below(100);
            let sql = format!(
                "delete from tombstones where (subject, purpose, generation) in (select subject, purpose, generation
                   from tombstones where purpose not like '$%' limit 1 offset {n} % (select count(*) from tombstones where purpose not like '$%'));
                 delete from person_tombstones"
            );
            attack.keys.execute_batch(&sql).unwrap();
        }),
        ("timestamp", |attack| {
            let (at, by) = (attack.position(), 1 + attack.below(99_999));
            let sign = if attack.below(2) == 0 { '+' } else { '-' };
            attack.run(&format!("update events set recorded_ms = recorded_ms {sign} {by} where position = {at}"));
        }),
        ("purpose relabel", |attack| {
            let at = attack.sealed();
            let what = match attack.below(3) {
                0 => format!("update events set meta = replace(meta, 'general', 'crm') where position = {at}"),
                1 => format!(
                    "update events set salts = null, meta = replace(meta, 'marketing', 'crm') where position = {at}"
                ),
                _ => format!(
                    "insert or ignore into names(text) values ('crm'); update footprint set
                     purpose = (select id from names where text = 'crm') where position = {at} and slot = 0"
                ),
            };
            attack.run(&what);
        }),
    ]
}

fn lay_open(path: &Path) -> Connection {
    let connection = Connection::open(path).unwrap();
    let triggers: Vec<String> = connection
        .prepare("select name from sqlite_schema where type = 'trigger'")
        .and_then(|mut found| found.query_map([], |row| row.get(0))?.collect())
        .unwrap();
    for name in triggers {
        connection.execute_batch(&format!("drop trigger {name}")).unwrap();
    }
    // An attacker is not held up by anything.
    connection.execute_batch("pragma foreign_keys = off").unwrap();
    connection
}

async fn check(dir: &Path, store: &Store, since: Option<TreeHead>) -> Report {
    let log = open_log(&events_path(dir));
    let keyring = Arc::new(Keyring::open(&store.dir.path().join("keyring")).unwrap());
    let entropy = Arc::new(Entropy::system());
    let keystore = SqliteKeystore::open(&dir.join("keys.db"), crate::store::STORE, keyring, entropy).unwrap();
    let options = Options { since, ..Options::default() };
    let report = verify(&*log, Some(&keystore), Some(&store.registry), &options).await.unwrap();
    log.close().await;
    keystore.close().await;
    report
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_tamper_is_found() {
    let store = story().await;
    let head = store.log.head().await.unwrap();
    let last = i64::try_from(head.next.0).unwrap();
    store.log.close().await;
    store.keystore.close().await;
    let since = Some(TreeHead { size: head.next.0, root: head.frontier.root() });
    let clean = tempfile::tempdir().unwrap();
    copy_dir(store.dir.path(), clean.path());
    assert_eq!(check(clean.path(), &store, since).await.findings, []);
    for (name, tamper) in classes() {
        for seed in 0..EDITS {
            let dir = tempfile::tempdir().unwrap();
            copy_dir(store.dir.path(), dir.path());
            let (events, keys) = (lay_open(&events_path(dir.path())), lay_open(&dir.path().join("keys.db")));
            let mut attack = Attack { events, keys, dice: Random::new(seed), last };
            tamper(&mut attack);
            attack.events.close().unwrap();
            attack.keys.close().unwrap();
            let report = check(dir.path(), &store, None).await;
            assert!(!report.is_clean(), "{name}, seed {seed}");
            let first = &report.findings[0];
            assert!(!first.place.to_string().is_empty() && !first.defect.to_string().is_empty());
        }
    }
}

/// Older states, whole and each intact in itself: without an erasure in between only a kept checkpoint tells.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_is_found_by_what_was_kept() {
    let store = Store::new();
    let mut states = Vec::new();
    for n in 0..EDITS {
        store.append("note-1", event("noted", json!({"n": n}))).await;
        let dir = tempfile::tempdir().unwrap();
        let copy = Connection::open(events_path(store.dir.path())).unwrap();
        copy.execute("vacuum into ?1", [events_path(dir.path()).display().to_string()]).unwrap();
        copy.close().unwrap();
        states.push(dir);
    }
    let last = marked(event("noted", json!({"by": "Ada"})), "/by", "ada", &[]);
    store.append("note-1", last).await;
    let head = store.log.head().await.unwrap();
    let since = Some(TreeHead { size: head.next.0, root: head.frontier.root() });
    store.forget("ada", None).await;
    store.keystore.close().await;
    for dir in states {
        std::fs::copy(store.dir.path().join("keys.db"), dir.path().join("keys.db")).unwrap();
        let report = check(dir.path(), &store, since).await;
        let found: Vec<String> = report.findings.iter().map(|finding| finding.defect.to_string()).collect();
        assert!(found.contains(&"the log is shorter than the kept checkpoint".to_owned()), "{found:?}");
        assert!(found.contains(&"the keystore is ahead of the erasure record".to_owned()), "{found:?}");
    }
}
