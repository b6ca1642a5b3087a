//! States of streams: the bank card of the reference, snapshots, who sees what, invariants.

use oubliette::audit::{Record, RecordError};
use oubliette::projection::definition::{Definition, Format};
use oubliette::projection::definitions::ProjectionRecord;
use serde_json::{Value, json};

use crate::api::{get_as, key, list, post_with, restart, start};
use crate::harness::{Reply, Server};

const CARD: &str = "
fold: card_balance
version: 1
from: {category: card}
state: {holder: string, balance_cents: {type: int, default: 0}, ops: {type: int, default: 0}}
handle:
  card-opened: {set: {holder: data.holder_name}}
  card-credited: {increment: {balance_cents: data.amount_cents, ops: 1}}
  card-withdrawn: {decrement: {balance_cents: data.amount_cents}, increment: {ops: 1}}
snapshot: {every: 5}
invariant: state.balance_cents >= 0
";

async fn define(server: &Server, yaml: &str) {
    let definition = Definition::parse(yaml, Format::Yaml).unwrap_or_else(|problems| panic!("{problems:?}"));
    let record = ProjectionRecord::ProjectionDefined {
        name: definition.name.to_string(),
        definition: serde_json::from_str(&definition.text).unwrap(),
        by: "test".into(),
    };
    server.app.recorder.record(|| Ok::<_, RecordError>(Record::Projection(record))).await.unwrap();
}

async fn bank() -> Server {
    let mut server = start().await;
    server.canary("Ada Lovelace");
    let opened = json!({"type": "object", "x-data-subjects": {"holder": {"id": "/holder_id"}}, "properties": {
        "holder_id": {"type": "string"},
        "holder_name": {"type": "string", "x-personal-data": {"subject": "holder", "category": "name"}}}});
    server.schema("card-opened", &opened).await;
    define(&server, CARD).await;
    server
}

async fn open_card(server: &Server, stream: &str) {
    let data = json!({"holder_id": "p-1", "holder_name": "Ada Lovelace"});
    server.append(stream, "card-opened", &data).await.expect(201);
}

async fn credit(server: &Server, stream: &str, cents: u64) {
    server.append(stream, "card-credited", &json!({"amount_cents": cents})).await.expect(201);
}

async fn withdraw(server: &Server, stream: &str, cents: u64) -> Reply {
    server.append(stream, "card-withdrawn", &json!({"amount_cents": cents})).await
}

async fn state(server: &Server, stream: &str) -> Value {
    server.get(&format!("/v1/streams/{stream}/state/card_balance")).await.expect(200).json()
}

/// Waits until the snapshot of a revision is there.
async fn snapshot(server: &Server, stream: &str, revision: u64) -> Value {
    for _ in 0..500 {
        let state = state(server, stream).await;
        if state["snapshot_revision"] == revision {
            return state;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("no snapshot: {}", state(server, stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_of_a_card() {
    let server = bank().await;
    open_card(&server, "card-1").await;
    credit(&server, "card-1", 700).await;
    withdraw(&server, "card-1", 200).await.expect(201);
    let now = state(&server, "card-1").await;
    assert_eq!(now["state"], json!({"holder": "Ada Lovelace", "balance_cents": 500, "ops": 2}));
    assert_eq!((&now["revision"], &now["version"], &now["events_folded"]), (&json!(2), &json!(1), &json!(3)));
    assert_eq!((&now["snapshot_revision"], &now.get("_redactions")), (&Value::Null, &None));
    let reply = server.get("/v1/streams/card-1/state/card_balance").await;
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    let path = "/v1/streams/card-1/state/card_balance?as_of=";
    let then = server.get(&format!("{path}revision:1")).await.expect(200).json();
    assert_eq!((&then["state"]["balance_cents"], &then["revision"]), (&json!(700), &json!(1)));
    let position = then["position"].as_u64().unwrap();
    let same = server.get(&format!("{path}position:{position}")).await.expect(200).json();
    assert_eq!(same, then);
    let before = server.get(&format!("{path}2001-01-01T00:00:00Z")).await.expect(200).json();
    assert_eq!((&before["revision"], &before["state"]["balance_cents"]), (&Value::Null, &json!(0)));
    server.get(&format!("{path}yesterday")).await.expect(400);
    server.get("/v1/streams/card-1/state/nothing").await.expect(404);
    server.get("/v1/streams/card-9/state/card_balance").await.expect(404);
    server.get("/v1/streams/card-1/state/card_balance?limit=1").await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_operations_and_at_most_four_to_fold() {
    let server = bank().await;
    open_card(&server, "card-1").await;
    let credits = |count: usize| -> Vec<Value> {
        (0..count).map(|_| json!({"type": "card-credited", "data": {"amount_cents": 1}})).collect()
    };
    server.post("/v1/streams/card-1/events", &json!(credits(500))).await.expect(201);
    server.post("/v1/streams/card-1/events", &json!(credits(500))).await.expect(201);
    for _ in 1001..=1003 {
        credit(&server, "card-1", 1).await;
    }
    let seen = snapshot(&server, "card-1", 999).await;
    assert_eq!((&seen["revision"], &seen["events_folded"]), (&json!(1003), &json!(4)));
    assert_eq!(seen["state"], json!({"holder": "Ada Lovelace", "balance_cents": 1003, "ops": 1003}));
    let old = server.get("/v1/streams/card-1/state/card_balance?as_of=revision:3").await.expect(200).json();
    assert_eq!((&old["state"]["balance_cents"], &old["snapshot_revision"]), (&json!(3), &Value::Null));
    let server = restart(server).await;
    assert_eq!(state(&server, "card-1").await, seen);
    // A new version begins without the snapshots of the old one.
    define(&server, &CARD.replace("version: 1", "version: 2").replace("ops: 1}", "ops: 2}")).await;
    let again = state(&server, "card-1").await;
    assert_eq!((&again["version"], &again["state"]["ops"]), (&json!(2), &json!(2006)));
    assert_eq!((&again["events_folded"], &again["snapshot_revision"]), (&json!(1004), &Value::Null));
    snapshot(&server, "card-1", 999).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_holder() {
    let server = bank().await;
    for (stream, credits) in [("card-1", 2), ("card-2", 6)] {
        open_card(&server, stream).await;
        for _ in 0..credits {
            credit(&server, stream, 10).await;
        }
    }
    snapshot(&server, "card-2", 4).await;
    let before = "/v1/streams/card-2/state/card_balance?as_of=revision:5";
    assert_eq!(server.get(before).await.expect(200).json()["state"]["holder"], "Ada Lovelace");
    server.forget("p-1").await;
    for stream in ["card-1", "card-2"] {
        let seen = state(&server, stream).await;
        assert_eq!(
            (&seen["state"]["holder"], &seen["_redactions"]),
            (&json!("[erased]"), &json!({"holder": "erased"}))
        );
    }
    assert_eq!(server.get(before).await.expect(200).json()["state"]["holder"], "[erased]");
    // The snapshot goes; the next one has no envelope of hers.
    let seen = state(&server, "card-2").await;
    for _ in 0..4 {
        credit(&server, "card-2", 10).await;
    }
    let server = restart(server).await;
    snapshot(&server, "card-2", 9).await;
    let after = state(&server, "card-2").await;
    assert_eq!((&after["state"]["holder"], &after["_redactions"]), (&seen["state"]["holder"], &seen["_redactions"]));
    assert_eq!(after["state"]["balance_cents"], 100);
    let marker = server.get("/v1/streams/card-2/state/card_balance?redaction=marker").await.expect(200).json();
    assert_eq!(marker["state"]["holder"]["$redacted"]["state"], "erased");
    let omit = server.get("/v1/streams/card-2/state/card_balance?redaction=omit").await.expect(200).json();
    assert_eq!(omit["state"].get("holder"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_what() {
    let server = bank().await;
    open_card(&server, "card-1").await;
    credit(&server, "card-1", 10).await;
    let path = "/v1/streams/card-1/state/card_balance";
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let seen = get_as(&server, &reader, path).await.expect(200).json();
    assert_eq!((&seen["state"]["balance_cents"], &seen["_redactions"]), (&json!(10), &json!({"holder": "withheld"})));
    assert!(!seen.to_string().contains("Ada"));
    let log = server.get("/v1/audit/access-log").await.expect(200).json();
    assert!(!log.to_string().contains("/state/"), "{log}");
    let pii = key(&server, "pii", &json!({"role": "pii_reader", "purposes": ["general"]})).await;
    assert_eq!(get_as(&server, &pii, path).await.expect(200).json()["state"]["holder"], "Ada Lovelace");
    let log = server.get("/v1/audit/access-log").await.expect(200).json();
    let entry = list(&log["items"]).into_iter().find(|entry| entry["route"] == "/v1/streams/{stream}/state/{fold}");
    assert_eq!(entry.expect("an entry")["purpose"], "general");
    let other = key(&server, "other", &json!({"role": "pii_reader", "purposes": ["marketing"]})).await;
    let seen = get_as(&server, &other, path).await.expect(200).json();
    assert_eq!(seen["_redactions"], json!({"holder": "withheld"}));
    let confined = key(&server, "confined", &json!({"role": "reader", "categories": ["dog"]})).await;
    get_as(&server, &confined, path).await.expect(403);
    let typed = key(&server, "typed", &json!({"role": "reader", "types": ["card-credited"]})).await;
    get_as(&server, &typed, path).await.expect(403);
    let admin = key(&server, "admin", &json!({"role": "admin"})).await;
    get_as(&server, &admin, path).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_than_there_is() {
    let server = bank().await;
    open_card(&server, "card-1").await;
    credit(&server, "card-1", 100).await;
    let refused = withdraw(&server, "card-1", 101).await.expect(409);
    assert_eq!((refused.code(), &refused.json()["fold"]), ("invariant-violated".into(), &json!("card_balance")));
    assert_eq!(refused.json()["errors"][0]["pointer"], "");
    // Whatever follows in the same append.
    let both = json!([{"type": "card-withdrawn", "data": {"amount_cents": 101}},
        {"type": "card-credited", "data": {"amount_cents": 500}}]);
    let refused = server.post("/v1/streams/card-1/events", &both).await.expect(409);
    assert_eq!(refused.json()["errors"][0]["pointer"], "/0");
    let event = json!({"type": "card-withdrawn", "data": {"amount_cents": 60}});
    let two = json!({"appends": [{"stream": "card-2", "events": [{"type": "card-credited", "data": {"amount_cents": 1}}]},
        {"stream": "card-1", "events": [event, event]}]});
    let refused = server.post("/v1/events", &two).await.expect(409);
    assert_eq!(refused.json()["errors"][0]["pointer"], "/appends/1/events/1");
    server.get("/v1/streams/card-2").await.expect(404);
    // What cannot be computed is not let in.
    let failed = server.append("card-1", "card-withdrawn", &json!({"amount_cents": "many"})).await.expect(409);
    assert_eq!(failed.code(), "invariant-failed");
    assert!(!failed.text().contains("many"));
    // The caller's expectation is answered first, and kept.
    let at = |revision: u64| json!({"expected": {"revision": revision}, "events": [event]});
    let stale = server.post("/v1/streams/card-1/events", &at(0)).await.expect(409);
    assert_eq!((stale.code(), &stale.json()["expected"]), ("wrong-expected-revision".into(), &json!(0)));
    let early = server.post("/v1/streams/card-1/events", &at(7)).await.expect(409).json();
    assert_eq!((&early["code"], &early["expected"]), (&json!("wrong-expected-revision"), &json!(7)));
    server.post("/v1/streams/card-1/events", &at(1)).await.expect(201);
    withdraw(&server, "card-9", 1).await.expect(409);
    server.append("dog-1", "card-withdrawn", &json!({"amount_cents": 1})).await.expect(201);
    assert_eq!(state(&server, "card-1").await["state"]["balance_cents"], 40);
    // Also when she is forgotten.
    server.forget("p-1").await;
    withdraw(&server, "card-1", 41).await.expect(409);
    withdraw(&server, "card-1", 40).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_at_once() {
    let server = bank().await;
    credit(&server, "card-1", 1000).await;
    let path = "/v1/streams/card-1/events";
    let body = json!({"type": "card-withdrawn", "data": {"amount_cents": 90}});
    let tasks = (0..16).map(|_| async {
        let mut taken = 0;
        for _ in 0..3 {
            let reply = server.post(path, &body).await;
            match reply.status.as_u16() {
                201 => taken += 1,
                409 => assert_eq!(reply.code(), "invariant-violated"),
                status => panic!("{status}: {}", reply.text()),
            }
        }
        taken
    });
    let taken: i32 = futures_util::future::join_all(tasks).await.into_iter().sum();
    assert_eq!(taken, 11);
    assert_eq!(state(&server, "card-1").await["state"]["balance_cents"], 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_is_a_replay() {
    let server = bank().await;
    credit(&server, "card-1", 100).await;
    let path = "/v1/streams/card-1/events";
    let id = "0193a1b2-0000-7000-8000-000000000001";
    let event = json!({"id": id, "type": "card-withdrawn", "data": {"amount_cents": 100}});
    let first = server.post(path, &event).await.expect(201).json();
    // Again, it would be 100 too many.
    let again = server.post(path, &event).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json(), first);
    let stale = json!({"expected": {"revision": 0}, "events": [event]});
    server.post(path, &stale).await.expect(200);
    // Another id is another withdrawal.
    let mut other = event.clone();
    other["id"] = "0193a1b2-0000-7000-8000-000000000002".into();
    assert_eq!(server.post(path, &other).await.expect(409).code(), "invariant-violated");
    credit(&server, "card-1", 50).await;
    let keyed = json!({"type": "card-withdrawn", "data": {"amount_cents": 50}});
    let headers = [("idempotency-key", "k-1")];
    post_with(&server, path, &headers, &keyed).await.expect(201);
    post_with(&server, path, &headers, &keyed).await.expect(200);
    let refused = post_with(&server, path, &[("idempotency-key", "k-2")], &keyed).await.expect(409);
    assert_eq!(refused.code(), "invariant-violated");
    let server = restart(server).await;
    server.post(path, &event).await.expect(200);
    assert_eq!(state(&server, "card-1").await["state"]["balance_cents"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_cannot_be_folded() {
    let server = start().await;
    let yaml = "
fold: total
version: 1
from: {types: [added]}
state: {sum: {type: int, default: 0}}
handle: {added: {increment: {sum: data.n}}}
";
    server.append("box-1", "added", &json!({"n": 2})).await.expect(201);
    server.append("box-1", "added", &json!({"n": "canary-of-an-amount"})).await.expect(201);
    server.append("box-1", "removed", &json!({"n": 1})).await.expect(201);
    define(&server, yaml).await;
    let stopped = server.get("/v1/streams/box-1/state/total").await.expect(409);
    assert_eq!((stopped.code(), &stopped.json()["cause"]["position"]), ("fold-stopped".into(), &json!(1)));
    assert!(!stopped.text().contains("canary"));
    let then = server.get("/v1/streams/box-1/state/total?as_of=revision:0").await.expect(200).json();
    assert_eq!(then["state"], json!({"sum": 2}));
    define(&server, &yaml.replace("version: 1", "version: 2\non_error: park")).await;
    let parked = server.get("/v1/streams/box-1/state/total").await.expect(200).json();
    assert_eq!((&parked["state"], &parked["events_parked"]), (&json!({"sum": 2}), &json!(1)));
    assert_eq!((&parked["revision"], &parked["events_folded"]), (&json!(2), &json!(3)));
}

#[tokio::test(flavor = "multi_thread")]
async fn people_in_an_invariant() {
    let server = start().await;
    let schema = json!({"type": "object", "x-data-subjects": {"who": {"id": "/who"}}, "properties": {
        "who": {"type": "string"}, "n": {"type": "integer"},
        "note": {"type": "string", "x-personal-data": {"subject": "who"}}}});
    server.schema("moved", &schema).await;
    // Nobody may take more than she gave.
    define(
        &server,
        "
fold: shares
version: 1
from: {types: [moved]}
state: {of: 'map<string,int>', note: string}
handle: {moved: {increment: {'of[subject.who]': data.n}, set: {note: upper(data.note)}}}
invariant: state.of.all(k, state.of[k] >= 0)
",
    )
    .await;
    let moved = |who: &str, n: i64| json!({"who": who, "n": n, "note": "hidden"});
    server.append("pot-1", "moved", &moved("a", 5)).await.expect(201);
    server.append("pot-1", "moved", &moved("b", -1)).await.expect(409);
    server.append("pot-1", "moved", &moved("a", -5)).await.expect(201);
    server.append("pot-1", "moved", &moved("a", -1)).await.expect(409);
    let state = server.get("/v1/streams/pot-1/state/shares").await.expect(200).json();
    assert_eq!(state["state"]["note"], "HIDDEN");
}
