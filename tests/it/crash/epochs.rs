//! Servers that die in an epoch of root keys: at every point of it, and then finish it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use oubliette::crash::EPOCH_POINTS;
use serde_json::{Value, json};

use super::{Engine, block_on, fresh, ledger, nothing_in_clear};
use crate::child::{Child, serve};
use crate::harness::{Reply, send, try_send};
use crate::postgres;

/// Roots are destroyed as soon as nothing lies under them.
const AT_ONCE: (&str, &str) = ("OUBLIETTE_BACKUP_HORIZON", "PT0S");
const PEOPLE: u64 = 4;
/// Who is forgotten before the epoch.
const FORGOTTEN: u64 = 0;

/// Which passages of a point kill: begin, shards and secrets each commit, finish and destruction each say something.
fn passages(point: &str) -> std::ops::RangeInclusive<u64> {
    match point {
        "epoch.before-commit" | "epoch.after-commit" => 1..=PEOPLE + 2,
        "epoch.before-event" | "epoch.after-event" => 1..=2,
        _ => 1..=1,
    }
}

async fn get(address: SocketAddr, path: &str) -> Reply {
    let headers = [("authorization", "Bearer dev"), ("accept", "application/json")];
    send(address, "GET", path, &headers, Bytes::new()).await
}

async fn populate(address: SocketAddr) {
    for person in 0..PEOPLE {
        let data = json!({"contact_id": ledger::external(person), "name": ledger::name(person), "tag": person});
        let event = json!({"type": "contact-noted", "data": data});
        let stream = format!("/v1/streams/contact-{person}/events");
        ledger::post(address, &stream, &event).await.expect("an answer").expect(201);
    }
    let body = json!({"data_subject": ledger::external(FORGOTTEN)});
    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json"), ("prefer", "wait=30")];
    let done = send(address, "POST", "/v1/forget", &headers, Bytes::from(body.to_string())).await.expect(200).json();
    assert_eq!(done["status"], "completed");
}

/// Whether the call was answered.
async fn rotate(address: SocketAddr) -> bool {
    let headers = [("authorization", "Bearer dev")];
    match try_send(address, "POST", "/v1/keys/rotations", &headers, Bytes::new()).await {
        Ok(reply) => {
            let reply = reply.expect(202);
            assert!(reply.header("location").is_some_and(|place| place.starts_with("/v1/keys/rotations/")));
            true
        }
        Err(_) => false,
    }
}

/// Waits until every root but the newest is gone and nothing is at work.
async fn finished(address: SocketAddr) -> Value {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let keys = get(address, "/v1/keys").await.expect(200).json();
        let epochs = keys["epochs"].as_array().expect("a list");
        let gone = epochs.iter().filter(|epoch| epoch["state"] == "destroyed").count();
        if keys["rotation"].is_null() && gone > 0 && gone + 1 == epochs.len() {
            return keys;
        }
        assert!(Instant::now() < deadline, "the epoch does not finish: {keys}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Everything alive opens, the forgotten person does not, and the log says once what happened.
async fn check(address: SocketAddr, acknowledged: bool) {
    let keys = get(address, "/v1/keys").await.expect(200).json();
    if keys["epochs"].as_array().expect("a list").len() == 1 && keys["epoch"] == 1 {
        assert!(!acknowledged, "an acknowledged rotation is lost");
        assert!(rotate(address).await);
    }
    let keys = finished(address).await;
    // A root that died before it had an epoch is destroyed with those before it; another one takes its place.
    let epochs = keys["epochs"].as_array().expect("a list");
    let newest = epochs.last().expect("an epoch");
    assert!(epochs.len() <= 3 && newest["state"] == "current" && keys["backups"]["effective_erasure"] == 1, "{keys}");
    assert!(epochs[..epochs.len() - 1].iter().all(|epoch| epoch["state"] == "destroyed"), "{keys}");
    for person in 0..PEOPLE {
        let events = get(address, &format!("/v1/streams/contact-{person}/events")).await.expect(200).json();
        let name = if person == FORGOTTEN { "[erased]".to_owned() } else { ledger::name(person) };
        assert_eq!(events["items"][0]["data"]["name"], name);
    }
    let said = said(address, epochs.len()).await;
    let types: Vec<&str> = said.iter().map(|event| event["type"].as_str().expect("a type")).collect();
    assert_eq!(types, [&["epoch-finished"], &["root-destroyed"; 2][..epochs.len() - 1]].concat());
    assert_eq!((&said[0]["data"]["epoch"], &said[0]["data"]["erasure"]), (&newest["epoch"], &json!(1)));
    let last = &said[said.len() - 1]["data"];
    assert_eq!((&last["epoch"], &last["effective_erasure"]), (&json!(epochs.len() - 1), &json!(1)));
}

/// The log's events of epochs, once all are there.
async fn said(address: SocketAddr, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(40);
    loop {
        let reply = get(address, "/v1/streams/$epochs/events").await;
        let items = if reply.status.as_u16() == 200 { reply.json()["items"].clone() } else { json!([]) };
        let items = items.as_array().expect("a list").clone();
        if items.len() >= count {
            return items;
        }
        assert!(Instant::now() < deadline, "the log does not say it: {items:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn case(engine: Engine, point: &str, nth: u64) {
    let dir = fresh(engine);
    let at = format!("{point}:{nth}");
    let variables = [("OUBLIETTE_CRASH_AT", at.as_str()), AT_ONCE];
    let mut child = Child::start(serve(dir.path(), &["--dev"], &variables)).expect("it starts");
    let acknowledged = block_on(async {
        populate(child.address).await;
        rotate(child.address).await
    });
    // The last passages are not reached when two people share a shard.
    let died = child.ended(Duration::from_secs(20)).is_some();
    assert!(died || nth > PEOPLE, "{at} was never reached");
    if died {
        assert!(child.was_killed());
    }
    drop(child);
    nothing_in_clear(dir.path());
    let child = Child::start(serve(dir.path(), &["--dev"], &[AT_ONCE])).expect("it starts again");
    block_on(check(child.address, acknowledged));
    assert!(child.stop().success());
    // And once more: nothing is left to be done, and nothing is done twice.
    let child = Child::start(serve(dir.path(), &["--dev"], &[AT_ONCE])).expect("it starts again");
    block_on(check(child.address, true));
    assert!(child.stop().success());
    let roots = std::fs::read_dir(dir.path().join("data/keyring")).expect("a keyring");
    let roots = roots.filter(|entry| entry.as_ref().expect("an entry").file_name().to_string_lossy().contains("root-"));
    assert_eq!(roots.count(), 1, "{at}: files of roots are left");
    nothing_in_clear(dir.path());
}

fn every_point(engine: Engine) {
    let cases = EPOCH_POINTS.iter().flat_map(|point| passages(point).map(move |nth| (*point, nth)));
    super::side_by_side(engine, cases.collect(), |point, nth| case(engine, point, nth));
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_point_of_an_epoch() {
    every_point(Engine::Files);
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_point_of_an_epoch_on_postgres() {
    if postgres::cluster().is_some() {
        every_point(Engine::Postgres);
    }
}
