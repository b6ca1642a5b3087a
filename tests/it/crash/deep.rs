//! Servers that die while ciphertext is removed: at every batch, before and after, and then finish it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use oubliette::crash::DEEP_POINTS;
use serde_json::{Value, json};

use super::{Engine, block_on, fresh, ledger, nothing_in_clear};
use crate::child::{Child, serve};
use crate::harness::{Reply, send, try_send};
use crate::postgres;

const AT_ONCE: (&str, &str) = ("OUBLIETTE_DEEP_ERASE_AFTER", "PT0S");
/// Three batches.
const EVENTS: u64 = 300;
const BATCHES: u64 = 3;
const FORGOTTEN: u64 = 0;
const ALIVE: u64 = 1;

async fn get(address: SocketAddr, path: &str) -> Reply {
    let headers = [("authorization", "Bearer dev"), ("accept", "application/json")];
    send(address, "GET", path, &headers, Bytes::new()).await
}

async fn populate(address: SocketAddr) {
    let event = |person: u64| {
        let data = json!({"contact_id": ledger::external(person), "name": ledger::name(person), "tag": person});
        json!({"type": "contact-noted", "data": data})
    };
    let events: Vec<Value> = (0..EVENTS).map(|_| event(FORGOTTEN)).chain([event(ALIVE)]).collect();
    ledger::post(address, "/v1/streams/contact-1/events", &json!(events)).await.expect("an answer").expect(201);
}

/// The server may die before it can answer.
async fn forget(address: SocketAddr) {
    let body = json!({"data_subject": ledger::external(FORGOTTEN)});
    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json")];
    let _ = try_send(address, "POST", "/v1/forget", &headers, Bytes::from(body.to_string())).await;
}

/// Everything is taken once, and said as often as there were batches.
async fn check(address: SocketAddr) {
    let list = get(address, "/v1/forget-requests").await.expect(200).json();
    let id = list["items"][0]["id"].as_str().expect("a request").to_owned();
    let deadline = Instant::now() + Duration::from_secs(40);
    let deep = loop {
        let request = get(address, &format!("/v1/forget-requests/{id}")).await.expect(200).json();
        if !request["deep_erase"]["done_at"].is_null() {
            break request["deep_erase"].clone();
        }
        assert!(Instant::now() < deadline, "the ciphertext does not go: {request}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let counts = (&deep["events"], &deep["slots"], &deep["bytes"]);
    assert_eq!(counts, (&json!(EVENTS), &json!(EVENTS), &json!(EVENTS * 200)), "{deep}");
    let said = get(address, &format!("/v1/streams/$erasure-{id}/events")).await.expect(200).json();
    let said = said["items"].as_array().expect("a list").iter();
    assert_eq!(said.filter(|event| event["type"] == "ciphertext-removed").count() as u64, BATCHES);
    let last = get(address, "/v1/streams/contact-1/events?direction=backward&limit=2").await.expect(200).json();
    let names = [&last["items"][0]["data"]["name"], &last["items"][1]["data"]["name"]];
    assert_eq!(names, [&json!(ledger::name(ALIVE)), &json!("[erased]")]);
}

fn case(engine: Engine, point: &str, nth: u64) {
    let dir = fresh(engine);
    let at = format!("{point}:{nth}");
    let variables = [("OUBLIETTE_CRASH_AT", at.as_str()), AT_ONCE];
    let mut child = Child::start(serve(dir.path(), &["--dev"], &variables)).expect("it starts");
    block_on(async {
        populate(child.address).await;
        forget(child.address).await;
    });
    assert!(child.ended(Duration::from_secs(20)).is_some() && child.was_killed(), "{at} was never reached");
    drop(child);
    // And once more after that: nothing is left to be done, and nothing is done twice.
    for _ in 0..2 {
        let child = Child::start(serve(dir.path(), &["--dev"], &[AT_ONCE])).expect("it starts again");
        block_on(check(child.address));
        assert!(child.stop().success());
        nothing_in_clear(dir.path());
    }
}

fn every_point(engine: Engine) {
    let cases = DEEP_POINTS.iter().flat_map(|point| (1..=BATCHES).map(move |nth| (*point, nth)));
    super::side_by_side(engine, cases.collect(), |point, nth| case(engine, point, nth));
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_batch_of_a_deep_erase() {
    every_point(Engine::Files);
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_batch_of_a_deep_erase_on_postgres() {
    if postgres::cluster().is_some() {
        every_point(Engine::Postgres);
    }
}
