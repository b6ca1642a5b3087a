//! Copies of the three domains: what an old one still opens, what a restored part brings back. The answer to both is
//! nothing of the forgotten.

use std::path::Path;

use oubliette::clock::Clock;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{as_key, contact, key, last, register};
use crate::child::copy_dir;
use crate::harness::{Server, scan};
use crate::postgres::copy_place;

const ADA: &str = "Ada Augusta King";
const PERSON: &str = "ada-crm-4711";

fn data(dir: &Path) -> std::path::PathBuf {
    dir.join("data")
}

fn copy_of(dir: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_dir(&data(dir), &data(copy.path()));
    for part in ["events", "keys"] {
        copy_place(part, dir, copy.path());
    }
    copy
}

/// Puts one domain of `from` in place of that of `to`.
fn restore(part: &str, from: &Path, to: &Path) {
    if !copy_place(part, from, to) {
        std::fs::remove_dir_all(data(to).join(part)).unwrap();
        copy_dir(&data(from).join(part), &data(to).join(part));
    }
}

async fn start(dir: TempDir) -> Server {
    Server::on(dir, |config| config.dev = true, Clock::System).await
}

/// A store with Ada and Bob; Ada forgotten. Stopped copies: before, after.
async fn before_and_after() -> (TempDir, TempDir) {
    let server = Server::dev().await;
    register(&server).await;
    contact(&server, PERSON, ADA).await.expect(201);
    contact(&server, "bob", "Bob Boole").await.expect(201);
    assert_eq!(last(&server, &format!("contact-{PERSON}")).await["data"]["name"], ADA);
    let dir = server.stop().await;
    let before = copy_of(dir.path());
    let server = start(dir).await;
    let done = server.forget(PERSON).await;
    assert_eq!(done["verification"], json!({"events": 1, "tried": 1, "opened": 0}));
    (before, server.stop().await)
}

/// Ada is erased in every way of reading, Bob is not.
async fn nothing_of_hers(server: &Server) {
    for accept in ["application/json", "application/x-ndjson"] {
        let read = server.send("GET", "/v1/events", &[("accept", accept)], "").await.expect(200).text();
        assert!(!read.contains(ADA) && read.contains("Bob Boole"), "{read}");
    }
    let event = last(server, &format!("contact-{PERSON}")).await;
    assert_eq!(event["data"]["name"], "[erased]");
    assert_eq!(event["redactions"][0]["state"], "erased");
    let again = contact(server, PERSON, ADA).await.expect(409);
    assert_eq!(again.code(), "data-subject-erased");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_from_before_has_nothing_in_clear_and_one_from_after_opens_nothing() {
    let (before, after) = before_and_after().await;
    // The stream's name is the caller's own choice and no personal data; everything below it is searched.
    let secrets = [ADA.to_owned(), "Augusta".to_owned(), "Bob Boole".to_owned()];
    for dir in [&before, &after] {
        let found = scan(dir.path(), &secrets);
        assert!(found.is_empty(), "{found:?}");
    }
    let copy = copy_of(after.path());
    nothing_of_hers(&start(copy).await).await;
    // The old event log with everything of today: the record is ahead of it, and the keys are gone.
    let copy = copy_of(before.path());
    restore("keys", after.path(), copy.path());
    let server = start(copy).await;
    let partial = server.get("/v1/events?partial=allow").await.expect(503);
    assert_eq!(partial.code(), "erasure-record-behind");
    drop(server);
    // The old event log and keyring with today's keystore: still behind.
    let copy = copy_of(before.path());
    restore("keys", after.path(), copy.path());
    restore("keyring", after.path(), copy.path());
    assert_eq!(start(copy).await.get("/v1/events").await.expect(503).code(), "erasure-record-behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keystore_from_before_gets_the_destruction_again() {
    let (before, after) = before_and_after().await;
    restore("keys", before.path(), after.path());
    let server = start(after).await;
    assert!(server.app.is_level());
    nothing_of_hers(&server).await;
    let keys = server.get("/v1/keys").await.expect(200).json();
    assert_eq!(keys["applied_erasure"], 1, "{keys}");
    let dir = server.stop().await;
    // And it stays so, with the old keyring too.
    restore("keyring", before.path(), dir.path());
    nothing_of_hers(&start(dir).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_log_from_before_serves_nothing_personal() {
    let (before, after) = before_and_after().await;
    for newer in [&["keys", "keyring"][..], &["keyring"], &["keys"]] {
        let copy = copy_of(before.path());
        for part in newer {
            restore(part, after.path(), copy.path());
        }
        let server = start(copy).await;
        assert!(!server.app.is_level(), "{newer:?}");
        for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
            let answer = server.send("GET", "/v1/events", &[("accept", accept)], "").await;
            let text = answer.text();
            assert!(text.contains("erasure-record-behind"), "{newer:?} {accept}: {text}");
            assert!(!text.contains(ADA) && !text.contains("Bob"), "{text}");
        }
        assert_eq!(contact(&server, "bob", "Bob Boole").await.expect(503).code(), "erasure-record-behind");
        let forget = server.post("/v1/forget", &json!({"data_subject": "bob"})).await.expect(503);
        assert_eq!(forget.code(), "erasure-record-behind", "it would fork the record");
        server.append("count-1", "counted", &json!({"public": true})).await.expect(201);
        // Whoever sees nothing personal sees what is public.
        let reader = key(&server, "view", json!({"role": "reader"})).await;
        let page = as_key(&server, &reader, "GET", "/v1/events", None).await.expect(200).json();
        let items = page["items"].as_array().unwrap();
        assert_eq!(items.len(), 3, "{page}");
        for event in &items[..2] {
            assert_eq!(event["redactions"][0]["state"], "withheld");
        }
        let ready = server.get("/readyz?verbose").await;
        assert_eq!(ready.status.as_u16(), 503, "{}", ready.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn backups_of_every_age_bring_nobody_back() {
    let server = Server::dev().await;
    register(&server).await;
    let people: Vec<String> = (0..6).map(|n| format!("person-{n}")).collect();
    for person in &people {
        contact(&server, person, &format!("Name of {person}")).await.expect(201);
    }
    let mut dir = server.stop().await;
    let mut backups = Vec::new();
    for person in &people[..4] {
        backups.push(copy_of(dir.path()));
        let server = start(dir).await;
        server.forget(person).await;
        dir = server.stop().await;
    }
    for (age, backup) in backups.iter().enumerate() {
        let copy = copy_of(dir.path());
        restore("keys", backup.path(), copy.path());
        if age % 2 == 0 {
            restore("keyring", backup.path(), copy.path());
        }
        let server = start(copy).await;
        let text = server.send("GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await.expect(200).text();
        let names: Vec<String> = text
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["name"].as_str().map(str::to_owned))
            .collect();
        assert!(names[..4].iter().all(|name| name == "[erased]"), "backup {age}: {names:?}");
        assert_eq!(names[4..], ["Name of person-4", "Name of person-5"]);
    }
}
