//! Deep erase: the ciphertext of the forgotten goes, in time, and nothing else does.

use std::time::Duration;

use oubliette::clock::{Clock, Millis};
use oubliette::config::Config;
use oubliette::event::Position;
use oubliette::eventlog::AuditRow;
use oubliette::eventlog::postgres::SCHEMA;
use oubliette::merkle::Frontier;
use oubliette::sealing::envelope;
use oubliette::verify::{self, Defect};
use serde_json::{Value, json};

use super::{contact, last, pay, register};
use crate::api::{items, list};
use crate::harness::Server;
use crate::nodes::{Several, until};
use crate::postgres;

const DAY: i64 = 24 * 60 * 60 * 1000;

fn at_once(config: &mut Config) {
    config.dev = true;
    config.deep_erase_after = Duration::ZERO;
}

/// Forgets some purposes of a person and waits for completion: the request's id.
async fn forget(server: &Server, person: &str, scope: Value) -> String {
    let body = json!({"data_subject": person, "scope": scope}).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    let done = server.send("POST", "/v1/forget", &headers, body).await.expect(200).json();
    done["id"].as_str().unwrap().to_owned()
}

async fn deep(server: &Server, id: &str) -> Value {
    let request = server.get(&format!("/v1/forget-requests/{id}")).await.expect(200).json();
    assert_eq!(request["status"], "completed");
    assert_eq!(request["history"].as_array().unwrap().last().unwrap()["status"], "completed");
    request["deep_erase"].clone()
}

/// What a deep erase says it took, once it has: events, slots, bytes.
async fn taken(server: &Server, id: &str) -> (u64, u64, u64) {
    let gone = async || Some(deep(server, id).await).filter(|deep| !deep["done_at"].is_null());
    let deep = until("the ciphertext goes", gone).await;
    let count = |name: &str| deep[name].as_u64().unwrap();
    (count("events"), count("slots"), count("bytes"))
}

async fn rows(server: &Server) -> Vec<AuditRow> {
    server.app.log.audit_rows(Position(0), 10_000).await.unwrap()
}

/// The slots of every event that has or had any: what is in them, or nothing.
fn slots(rows: &[AuditRow]) -> Vec<Vec<Option<Vec<u8>>>> {
    let of = |row: &AuditRow| {
        let blob = row.event.sealed.as_deref().unwrap_or_default();
        envelope::slots(blob).map(|slot| slot.unwrap().map(<[u8]>::to_vec)).collect::<Vec<_>>()
    };
    rows.iter().filter(|row| row.commitments.len() > 64).map(of).collect()
}

/// Which slots are there.
async fn there(server: &Server) -> Vec<Vec<bool>> {
    slots(&rows(server).await).iter().map(|event| event.iter().map(Option::is_some).collect()).collect()
}

fn root(rows: &[AuditRow]) -> [u8; 32] {
    let mut tree = Frontier::default();
    for row in rows {
        tree.push(row.leaf);
    }
    tree.root()
}

/// How many events have these bytes in their sealed column, asked behind the server's back.
fn holding(server: &Server, bytes: &[u8]) -> i64 {
    let hex = hex::encode(bytes);
    if let Some(dsn) = server.app.config.events_dsn.text() {
        let sql = format!("select count(*) from {SCHEMA}.events where position('\\x{hex}'::bytea in sealed) > 0");
        return postgres::query(dsn, &sql)[0].get(0);
    }
    let file = rusqlite::Connection::open(server.app.config.events_db()).unwrap();
    let sql = format!("select count(*) from events where instr(sealed, x'{hex}') > 0");
    file.query_row(&sql, [], |row| row.get(0)).unwrap()
}

/// Sets the sealed column of an event, behind the server's back.
fn put(server: &Server, position: u64, column: &[u8]) {
    let hex = hex::encode(column);
    let changed = if let Some(dsn) = server.app.config.events_dsn.text() {
        let sql = format!("update {SCHEMA}.events set sealed = '\\x{hex}'::bytea where position = {position}");
        postgres::execute(dsn, &sql).unwrap()
    } else {
        let file = rusqlite::Connection::open(server.app.config.events_db()).unwrap();
        file.busy_timeout(Duration::from_secs(5)).unwrap();
        file.execute(&format!("update events set sealed = x'{hex}' where position = {position}"), []).unwrap()
    };
    assert_eq!(changed, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ciphertext_goes_and_everything_else_stays() {
    let mut server = Server::with(at_once).await;
    server.canary("grace Payer");
    register(&server).await;
    pay(&server, "account-1", "grace", "bob").await;
    contact(&server, "grace", "grace Payer").await.expect(201);
    contact(&server, "bob", "bob Payee").await.expect(201);
    let before = rows(&server).await;
    let full = slots(&before);
    let id = forget(&server, "grace", json!("all")).await;
    let (events, count, bytes) = taken(&server, &id).await;

    let after = rows(&server).await;
    let left = slots(&after);
    // Of the payment hers for payments and marketing, and what is about both; the contact.
    let gone: Vec<&Vec<u8>> = full.iter().flatten().flatten().filter(|slot| holding(&server, slot) == 0).collect();
    assert_eq!((events, count, bytes), (2, 4, gone.iter().map(|slot| slot.len() as u64).sum()));
    assert_eq!((gone.len(), left[1].len()), (4, 0), "a column without ciphertext is none");
    assert_eq!((left[0].iter().flatten().count(), &left[2]), (1, &full[2]), "what is his stays");
    for (slot, now) in full[0].iter().zip(&left[0]) {
        assert!(now.is_none() || now == slot, "what stays is as it was, in its place");
    }
    // Nothing that a leaf covers has changed: every proof ever taken verifies.
    assert_eq!(root(&after[..before.len()]), root(&before));
    for (was, is) in before.iter().zip(&after) {
        assert_eq!((&was.salts, &was.commitments, &was.leaf), (&is.salts, &is.commitments, &is.leaf));
        assert_eq!((&*was.event.meta, &*was.event.public), (&*is.event.meta, &*is.event.public));
    }
    let payment = last(&server, "account-1").await["data"].clone();
    assert_eq!((&payment["payer_name"], &payment["note"]), (&json!("[erased]"), &json!("[erased]")));
    assert_eq!((&payment["payee_name"], &payment["payee_id"]), (&json!("bob Payee"), &json!("bob")));
    let erased = last(&server, "contact-grace").await;
    assert_eq!((&erased["data"]["name"], &erased["redactions"][0]["state"]), (&json!("[erased]"), &json!("erased")));
    let said = last(&server, &format!("$erasure-{id}")).await;
    let fact = json!({"fact": "ciphertext-removed", "erasure": 1, "events": 2, "slots": 4, "bytes": bytes});
    assert_eq!((&said["type"], &said["data"]), (&json!("ciphertext-removed"), &fact));
    // His goes too; what is about both went with hers.
    let id = forget(&server, "bob", json!("all")).await;
    assert_eq!(taken(&server, &id).await, (2, 2, 400));
    assert!(there(&server).await.concat().is_empty());
    // A restart finds nothing to do.
    let head = server.app.log.head().await.unwrap().next;
    let server = Server::on(server.stop().await, at_once, Clock::System).await;
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(server.app.log.head().await.unwrap().next, head);
    assert_eq!(last(&server, "account-1").await["data"]["payee_name"], "[erased]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_scope_goes_and_only_when_it_is_due() {
    let clock = Clock::manual(Millis(1_800_000_000_000));
    let settings = |config: &mut Config| config.dev = true;
    let server = Server::on(tempfile::tempdir().unwrap(), settings, clock.clone()).await;
    register(&server).await;
    pay(&server, "account-1", "ada", "bob").await;
    let marketing = json!({"purposes": ["marketing"]});
    let first = forget(&server, "ada", marketing.clone()).await;
    let waiting =
        json!({"due": Millis(clock.now().0 + DAY).rfc3339(), "done_at": null, "events": 0, "slots": 0, "bytes": 0});
    assert_eq!(deep(&server, &first).await, waiting);
    // She allows it again; what is sealed from here on is of another generation.
    server.post("/v1/data-subjects/ada/reauthorizations", &marketing).await.expect(201);
    pay(&server, "account-1", "ada", "bob").await;
    clock.advance(DAY - 1);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(deep(&server, &first).await, waiting);
    assert_eq!(there(&server).await, [[true; 4]; 2]);
    clock.advance(1);
    assert_eq!(taken(&server, &first).await, (1, 1, 200));
    assert_eq!(deep(&server, &first).await["done_at"], waiting["due"]);
    let left = there(&server).await;
    assert_eq!(left[0].iter().filter(|there| !**there).count(), 1, "{left:?}");
    assert_eq!(left[1], [true; 4], "what came after the re-authorisation");
    for event in items(&server, "/v1/streams/account-1/events").await {
        assert_eq!(
            (&event["data"]["iban"], &event["data"]["payer_name"]),
            (&json!("ada Account"), &json!("ada Payer"))
        );
    }
    // The rest of her: counted is what is taken now.
    let all = forget(&server, "ada", json!("all")).await;
    clock.advance(DAY);
    assert_eq!(taken(&server, &all).await, (2, 5, 1000));
    let left = there(&server).await.concat();
    assert_eq!((left.len(), left.iter().filter(|there| **there).count()), (8, 2), "his own are there");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_events_go_in_portions_among_appends_and_reads() {
    const EVENTS: usize = 300;
    let server = Server::with(at_once).await;
    register(&server).await;
    let event = |person: &str| json!({"type": "contact-created", "data": {"contact_id": person, "name": "Ada King"}});
    let path = "/v1/streams/contact-1/events";
    server.post(path, &json!(vec![event("ada"); EVENTS])).await.expect(201);
    let id = forget(&server, "ada", json!("all")).await;
    let traffic = async {
        let mut appended = 0;
        while deep(&server, &id).await["done_at"].is_null() {
            server.post(path, &event("bob")).await.expect(201);
            appended += 1;
            assert_eq!(last(&server, "contact-1").await["data"]["name"], "Ada King");
        }
        appended
    };
    let (counts, appended) = tokio::join!(taken(&server, &id), traffic);
    assert_eq!(counts, (EVENTS as u64, EVENTS as u64, EVENTS as u64 * 200));
    let said = items(&server, &format!("/v1/streams/$erasure-{id}/events")).await;
    let removed: Vec<&Value> = said.iter().filter(|event| event["type"] == "ciphertext-removed").collect();
    assert_eq!(removed.len(), 3, "{removed:?}");
    assert_eq!(removed.iter().filter(|event| event["data"]["next"].is_null()).count(), 1);
    assert_eq!(there(&server).await.iter().filter(|event| event.as_slice() == [true]).count(), appended);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_the_same_when_computed_again_without_it() {
    let server = Server::with(at_once).await;
    register(&server).await;
    for person in ["ada", "bob"] {
        contact(&server, person, &format!("{person} King")).await.expect(201);
    }
    let definition = json!({"projection": "names", "version": 1, "from": {"types": ["contact-created"]},
        "key": {"person": "data.contact_id"}, "columns": {"name": "string"},
        "handle": {"contact-created": {"upsert": {"name": "data.name"}}}});
    let rows = async || {
        let head = *server.app.log.watch().borrow() - 1;
        let path = format!("/v1/projections/names/rows?at_least={head}");
        list(&server.send("GET", &path, &[("prefer", "wait=20")], "").await.expect(200).json()["items"])
    };
    let id = forget(&server, "ada", json!("all")).await;
    taken(&server, &id).await;
    server.put("/v1/projections/names", &definition).await.expect(201);
    let found = rows().await;
    let texts = json!(found).to_string();
    assert!(
        found.len() == 2 && texts.contains("bob King") && texts.contains("[erased]") && !texts.contains("ada King"),
        "{texts}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ciphertext_that_comes_back_is_found() {
    let mut server = Server::with(at_once).await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    let before = rows(&server).await;
    let row = before.iter().find(|row| row.event.sealed.is_some()).unwrap();
    let id = forget(&server, "ada", json!("all")).await;
    taken(&server, &id).await;
    assert!(server.verify().await.is_empty());
    put(&server, row.event.position.0, row.event.sealed.as_deref().unwrap());
    server.damaged = true;
    let keystore = server.app.keys.keystore();
    let report = verify::verify(&*server.app.log, Some(&**keystore), None, &verify::Options::default()).await.unwrap();
    let found: Vec<Defect> = report.findings.iter().map(|finding| finding.defect).collect();
    assert_eq!(found, [Defect::CiphertextLeft]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_taken_keeps_nobody_elses() {
    let mut server = Server::with(|config| config.dev = true).await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    contact(&server, "bob", "Bob Ray").await.expect(201);
    let [ada, bob] = [forget(&server, "ada", json!("all")).await, forget(&server, "bob", json!("all")).await];
    let rows = rows(&server).await;
    let hers = rows.iter().find(|row| row.event.stream.as_str() == "contact-ada").unwrap();
    put(&server, hers.event.position.0, b"no list of envelopes");
    server.damaged = true;
    let mut server = Server::on(server.stop().await, at_once, Clock::System).await;
    server.damaged = true;
    assert_eq!(taken(&server, &bob).await, (1, 1, 200));
    assert!(deep(&server, &ada).await["done_at"].is_null(), "it is not said");
    contact(&server, "eve", "Eve Orr").await.expect(201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_several_nodes_it_happens_once() {
    let Some(mut several) = Several::start(0).await else { return };
    for _ in 0..3 {
        several.join_with(at_once, Clock::System).await;
    }
    register(several.any(0)).await;
    for person in 0..5 {
        contact(several.any(person), &format!("p{person}"), "Ada King").await.expect(201);
    }
    for person in 0..5 {
        let id = forget(several.any(person), &format!("p{person}"), json!("all")).await;
        assert_eq!(taken(several.any(person + 1), &id).await, (1, 1, 200));
        let said = items(several.any(person + 2), &format!("/v1/streams/$erasure-{id}/events")).await;
        assert_eq!(said.iter().filter(|event| event["type"] == "ciphertext-removed").count(), 1);
    }
}
