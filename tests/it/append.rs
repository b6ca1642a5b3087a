//! Appending over HTTP: shapes of bodies, expected revisions, idempotency, several streams at once, limits.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::{contact, items, key, payloads, pluck, pointers, post_with, restart, start};
use crate::harness::{Reply, Server};

const PATH: &str = "/v1/streams/order-1/events";
const ID: &str = "0193a1b2-0000-7000-8000-000000000001";
const OTHER: &str = "0193a1b2-0000-7000-8000-000000000002";

fn event(n: u64) -> Value {
    json!({"type": "noted", "data": {"n": n}})
}

fn with_id(id: &str, n: u64) -> Value {
    json!({"id": id, "type": "noted", "data": {"n": n}})
}

async fn raw(server: &Server, media: &str, body: impl Into<bytes::Bytes>) -> Reply {
    server.send("POST", PATH, &[("content-type", media)], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_shape_of_body() {
    let server = start().await;
    let one = server.post(PATH, &event(0)).await.expect(201);
    assert_eq!(one.header("location"), Some("/v1/streams/order-1/events?from=0"));
    assert_eq!(one.header("etag"), Some("\"r0\""));
    let body = one.json();
    assert_eq!(one.header("oubliette-position").unwrap(), body["position"].to_string());
    assert_eq!((&body["stream"], &body["first_revision"]), (&json!("order-1"), &json!(0)));
    server.post(PATH, &json!([event(1), event(2)])).await.expect(201);
    let lines = format!("{}\n\n{}\r\n", event(3), event(4));
    assert_eq!(raw(&server, "application/x-ndjson", lines).await.expect(201).json()["last_revision"], 4);
    let cloud = |id: &str, n: u64| {
        json!({"specversion": "1.0", "id": id, "source": "/shop", "type": "noted", "subject": "order-1",
            "correlationid": "c1", "data": {"n": n}})
    };
    raw(&server, "application/cloudevents+json", cloud("a-5", 5).to_string()).await.expect(201);
    let batch = json!([cloud("a-6", 6), cloud("a-7", 7)]).to_string();
    raw(&server, "application/cloudevents-batch+json; charset=utf-8", batch).await.expect(201);
    let wrapped = json!({"expected": {"revision": 7}, "events": [event(8), event(9)]});
    let reply = server.post(PATH, &wrapped).await.expect(201).json();
    assert_eq!(pluck(reply["events"].as_array().unwrap(), "revision"), [8, 9]);
    let stored = items(&server, PATH).await;
    assert_eq!(pluck(&pluck(&stored, "data"), "n"), (0..10).map(Value::from).collect::<Vec<_>>());
    assert_eq!(pluck(&stored, "revision"), (0..10).map(Value::from).collect::<Vec<_>>());
    assert_eq!((&stored[5]["source"], &stored[5]["source_id"]), (&json!("/shop"), &json!("a-5")));
    assert_eq!(stored[5]["correlation_id"], "c1");
    // The same CloudEvent twice is the same event.
    let again = raw(&server, "application/cloudevents+json", cloud("a-5", 5).to_string()).await.expect(200);
    assert_eq!((again.header("idempotent-replayed"), &again.json()["first_revision"]), (Some("true"), &json!(5)));
    let server = restart(server).await;
    assert_eq!(items(&server, PATH).await, stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_none() {
    let server = start().await;
    for (media, body, status) in [
        ("text/plain", "{}", 415),
        ("application/json; charset=latin1", "{}", 415),
        ("application/json", "{", 400),
        ("application/json", r#"{"type":"a","type":"b","data":{}}"#, 400),
        ("application/json", "[]", 422),
        ("application/json", r#"{"events":[]}"#, 422),
        ("application/json", r#"{"events":7}"#, 422),
        ("application/json", r#"{"type":"noted","data":{"n":9007199254740993}}"#, 400),
        ("application/x-ndjson", "", 422),
        ("application/x-ndjson", "{\"type\":\"noted\",\"data\":{}}\n{", 400),
        ("application/cloudevents+json", r#"{"type":"noted","data":{}}"#, 422),
    ] {
        let reply = raw(&server, media, body).await;
        assert_eq!(reply.status.as_u16(), status, "{media} {body}: {}", reply.text());
        assert_eq!(reply.header("content-type"), Some("application/problem+json"));
    }
    let stranger = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "noted", "subject": "order-2"});
    assert_eq!(pointers(&raw(&server, "application/cloudevents+json", stranger.to_string()).await), ["/subject"]);
    server.post("/v1/streams/$system/events", &event(0)).await.expect(400);
    server.get(PATH).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn expected_revisions_by_header_and_by_body() {
    let server = start().await;
    let by_header = |name: &'static str, value: &'static str| {
        let server = &server;
        async move { post_with(server, PATH, &[(name, value)], &event(0)).await }
    };
    let by_body = |expected: Value| {
        let server = &server;
        async move { server.post(PATH, &json!({"expected": expected, "events": [event(0)]})).await }
    };
    let missing = by_header("if-match", "\"r0\"").await.expect(412);
    assert_eq!((missing.code().as_str(), &missing.json()["current"]), ("wrong-expected-revision", &json!("no_stream")));
    assert_eq!(missing.json()["expected"], 0);
    assert_eq!(by_body(json!("exists")).await.expect(409).code(), "wrong-expected-revision");
    by_header("if-match", "*").await.expect(412);
    by_header("if-none-match", "*").await.expect(201);
    assert_eq!(by_header("if-none-match", "*").await.expect(412).json()["current"], 0);
    assert_eq!(by_body(json!("no_stream")).await.expect(409).json()["current"], 0);
    by_body(json!("exists")).await.expect(201);
    by_header("if-match", "*").await.expect(201);
    by_body(json!("any")).await.expect(201);
    by_header("if-match", "\"r3\"").await.expect(201);
    by_header("if-match", "\"r4.e7-abcd\"").await.expect(201);
    by_body(json!({"revision": 5})).await.expect(201);
    assert_eq!(by_body(json!({"revision": 5})).await.expect(409).json()["current"], 6);
    for wrong in [json!({"revision": -1}), json!("nothing"), json!(3), json!({"revision": 1, "x": 1})] {
        assert_eq!(pointers(&by_body(wrong).await.expect(422)), ["/expected"]);
    }
    by_header("if-match", "r6").await.expect(400);
    let both = json!({"expected": {"revision": 6}, "events": [event(0)]});
    let reply = post_with(&server, PATH, &[("if-match", "\"r5\"")], &both).await.expect(400);
    assert_eq!(reply.code(), "conflicting-expectations");
    post_with(&server, PATH, &[("if-match", "\"r6\"")], &both).await.expect(201);
    post_with(&server, PATH, &[("if-match", "\"r6\"")], &both).await.expect(412);
    assert_eq!(payloads(&server, "order-1").await.len(), 8);
    let server = restart(server).await;
    assert_eq!(post_with(&server, PATH, &[("if-match", "\"r6\"")], &event(0)).await.expect(412).json()["current"], 7);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_category_can_demand_an_expected_revision() {
    let server = start().await;
    server.put("/v1/categories/order", &json!({"require_expected": true})).await.expect(200);
    assert_eq!(server.post(PATH, &event(0)).await.expect(428).code(), "precondition-required");
    server.post("/v1/streams/other-1/events", &event(0)).await.expect(201);
    post_with(&server, PATH, &[("if-none-match", "*")], &event(0)).await.expect(201);
    server.post(PATH, &json!({"expected": "any", "events": [event(1)]})).await.expect(201);
    let several = json!({"appends": [{"stream": "order-1", "events": [event(2)]}]});
    server.post("/v1/events", &several).await.expect(428);
    let server = restart(server).await;
    server.post(PATH, &event(0)).await.expect(428);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_id_is_the_same_event() {
    let server = start().await;
    let batch = json!([with_id(ID, 1), with_id(OTHER, 2)]);
    let first = server.post(PATH, &batch).await.expect(201);
    assert_eq!(first.header("idempotent-replayed"), None);
    let again = server.post(PATH, &batch).await.expect(200);
    assert_eq!(again.header("idempotent-replayed"), Some("true"));
    assert_eq!(again.json(), first.json());
    let second = server.post(PATH, &with_id(OTHER, 2)).await.expect(200).json();
    assert_eq!(second["first_revision"], 1);
    // Part of it is new, or the order differs, or one comes twice: no replay, and nothing is stored.
    let partial = json!([with_id(OTHER, 2), with_id("0193a1b2-0000-7000-8000-000000000003", 3)]);
    assert_eq!(server.post(PATH, &partial).await.expect(409).code(), "event-id-conflict");
    server.post(PATH, &json!([with_id(OTHER, 2), with_id(ID, 1)])).await.expect(409);
    server.post(PATH, &json!([with_id(OTHER, 2), event(3)])).await.expect(409);
    let twice = "0193a1b2-0000-7000-8000-000000000004";
    let reply = server.post(PATH, &json!([with_id(twice, 1), with_id(twice, 1)])).await.expect(422);
    assert_eq!((reply.code().as_str(), pointers(&reply)), ("event-id-repeated", vec!["/1/id".to_owned()]));
    assert_eq!(pointers(&server.post(PATH, &with_id("7", 1)).await.expect(422)), ["/id"]);
    // Ids are per stream; a replay is not bothered by the revision that it expected.
    server.post("/v1/streams/order-2/events", &with_id(ID, 1)).await.expect(201);
    let late = json!({"expected": "no_stream", "events": [with_id(ID, 1), with_id(OTHER, 2)]});
    server.post(PATH, &late).await.expect(200);
    assert_eq!(payloads(&server, "order-1").await, [json!({"n": 1}), json!({"n": 2})]);
    let server = restart(server).await;
    let after = server.post(PATH, &batch).await.expect(200);
    assert_eq!((after.header("idempotent-replayed"), after.json()), (Some("true"), first.json()));
    assert_eq!(payloads(&server, "order-1").await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn idempotency_keys() {
    let server = start().await;
    let writer = key(&server, "writer", &json!({"role": "writer"})).await;
    let send = async |server: &Server, who: &str, n: u64| {
        post_with(server, PATH, &[("authorization", who), ("idempotency-key", "k-1")], &event(n)).await
    };
    let first = send(&server, "Bearer dev", 1).await.expect(201);
    let again = send(&server, "Bearer dev", 1).await.expect(200);
    assert_eq!((again.header("idempotent-replayed"), again.json()), (Some("true"), first.json()));
    assert_eq!(send(&server, "Bearer dev", 2).await.expect(422).code(), "idempotency-key-reuse");
    // The same body to another place is another request.
    let elsewhere = post_with(&server, "/v1/streams/order-2/events", &[("idempotency-key", "k-1")], &event(1)).await;
    elsewhere.expect(422);
    assert_eq!(send(&server, &writer, 1).await.expect(201).json()["first_revision"], 1);
    post_with(&server, PATH, &[("idempotency-key", &"k".repeat(256))], &event(1)).await.expect(400);
    let once = &[("idempotency-key", "k-2")];
    let third = event(3);
    let together = join_all((0..16).map(|_| post_with(&server, PATH, once, &third)));
    let replies = together.await;
    assert_eq!(replies.iter().filter(|reply| reply.status == 201).count(), 1);
    assert!(replies.iter().all(|reply| reply.json() == replies[0].json()));
    let server = restart(server).await;
    assert_eq!(send(&server, "Bearer dev", 1).await.expect(200).json(), first.json());
    send(&server, &writer, 2).await.expect(422);
    assert_eq!(payloads(&server, "order-1").await, [json!({"n": 1}), json!({"n": 1}), json!({"n": 3})]);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_streams_all_or_nothing() {
    let server = start().await;
    let append = |stream: &str, expected: Value| json!({"stream": stream, "expected": expected, "events": [event(1)]});
    let both = |expected: Value| json!([append("seat-1", expected.clone()), append("seat-2", expected)]);
    let reply = server.post("/v1/events", &json!({"appends": both(json!("no_stream"))})).await.expect(201).json();
    assert_eq!(pluck(reply["streams"].as_array().unwrap(), "stream"), ["seat-1", "seat-2"]);
    let one_fails = json!({"appends": [append("seat-3", json!("no_stream")), append("seat-1", json!("no_stream"))]});
    let problem = server.post("/v1/events", &one_fails).await.expect(409);
    assert_eq!((&problem.json()["stream"], &problem.json()["current"]), (&json!("seat-1"), &json!(0)));
    server.get("/v1/streams/seat-3/events").await.expect(404);
    let conditional = |condition: Value| {
        let body = json!({"preconditions": [condition], "appends": [append("seat-4", Value::Null)]});
        let server = &server;
        async move { server.post("/v1/events", &body).await }
    };
    let problem = conditional(json!({"stream": "seat-2", "expected": "no_stream"})).await.expect(409);
    assert_eq!((problem.code().as_str(), pointers(&problem)), ("precondition-failed", vec!["/preconditions/0".into()]));
    let none = |filter: Value| json!({"none_matching": filter});
    conditional(none(json!({"category": "seat", "types": ["noted"]}))).await.expect(409);
    conditional(none(json!({"types": ["noted"], "after": reply["position"]}))).await.expect(201);
    conditional(json!({"stream": "seat-2", "expected": {"revision": 0}})).await.expect(201);
    conditional(none(json!({"types": ["never"]}))).await.expect(201);
    for wrong in [none(json!({})), none(json!({"tag": "x"})), json!({"stream": "seat-1"}), json!(7)] {
        assert!(pointers(&conditional(wrong).await.expect(422)).contains(&"/preconditions/0".to_owned()));
    }
    for wrong in [json!({}), json!({"appends": []}), json!({"appends": both(Value::Null), "more": 1}), json!([])] {
        server.post("/v1/events", &wrong).await.expect(422);
    }
    let twice = json!({"appends": [append("seat-5", Value::Null), append("seat-5", Value::Null)]});
    assert_eq!(pointers(&server.post("/v1/events", &twice).await.expect(422)), ["/appends/1/stream"]);
    assert_eq!(payloads(&server, "seat-4").await.len(), 3);
    let server = restart(server).await;
    server.post("/v1/events", &one_fails).await.expect(409);
    server.get("/v1/streams/seat-3/events").await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits() {
    let server = start().await;
    let many = |count: u64| Value::from((0..count).map(event).collect::<Vec<_>>());
    assert_eq!(server.post(PATH, &many(501)).await.expect(413).code(), "batch-too-large");
    let lines = many(501).as_array().unwrap().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(raw(&server, "application/x-ndjson", lines).await.expect(413).code(), "batch-too-large");
    let halves =
        json!({"appends": [{"stream": "order-1", "events": many(250)}, {"stream": "order-2", "events": many(251)}]});
    assert_eq!(server.post("/v1/events", &halves).await.expect(413).code(), "batch-too-large");
    let fat = |kib: usize| json!({"type": "noted", "data": vec!["x".repeat(1000); kib]});
    let problem = server.post(PATH, &json!([event(0), fat(300)])).await.expect(413);
    assert_eq!((problem.code().as_str(), &problem.json()["pointer"]), ("event-too-large", &json!("/1")));
    server.post(PATH, &fat(300)).await.expect(413);
    server.post("/v1/events", &json!({"appends": [{"stream": "order-1", "events": [fat(300)]}]})).await.expect(413);
    assert_eq!(server.post(PATH, &fat(1100)).await.expect(413).code(), "body-too-large");
    server.get(PATH).await.expect(404);
    server.schema("booked", &crate::api::booking()).await;
    let guests = |count: usize| -> Value {
        let guest = |n| json!({"person_id": format!("g{n}"), "name": format!("Guest {n}")});
        json!({"type": "booked", "data": {"nights": 1, "guests": (0..count).map(guest).collect::<Vec<_>>()}})
    };
    assert_eq!(server.post("/v1/streams/booking-1/events", &guests(65)).await.expect(422).code(), "too-many-slots");
    server.post("/v1/streams/booking-1/events", &guests(64)).await.expect(201);
    server.post(PATH, &many(500)).await.expect(201);
    server.post(PATH, &fat(250)).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_wrong_is_said_at_once() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let path = "/v1/streams/contact-1/events";
    let good = json!({"type": "contact-created", "data": {"contact_id": "p1"}});
    let wrong = json!({"type": "contact-created", "data": {"contact_id": "p1", "name": 7, "email": "no", "more": 1}});
    let places = |prefix: &str| {
        ["/data", "/data/email", "/data/name"].iter().map(|at| format!("{prefix}{at}")).collect::<Vec<_>>()
    };
    let problem = server.post(path, &wrong).await.expect(422);
    assert_eq!((problem.code().as_str(), pointers(&problem)), ("schema-violation", places("")));
    let problem = server.post(path, &json!([wrong, good, wrong])).await.expect(422);
    assert_eq!(pointers(&problem), [places("/0"), places("/2")].concat());
    let problem = server.post(path, &json!({"events": [good, wrong]})).await.expect(422);
    assert_eq!(pointers(&problem), places("/events/1"));
    let several =
        json!({"appends": [{"stream": "contact-1", "events": [good]}, {"stream": "contact-2", "events": [wrong]}]});
    assert_eq!(pointers(&server.post("/v1/events", &several).await.expect(422)), places("/appends/1/events/0"));
    let shapeless = json!([5, {"type": 7, "id": "x", "time": "noon"}, {"type": "a b", "data": {}, "more": 1}]);
    let problem = server.post(path, &shapeless).await.expect(422);
    assert_eq!(pointers(&problem), ["/0", "/1/data", "/1/id", "/1/time", "/1/type", "/1/type", "/2", "/2/type"]);
    server.get(path).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_wins_each_revision() {
    let server = start().await;
    server.post(PATH, &event(0)).await.expect(201);
    for revision in 0..4 {
        let race = (0..64).map(|n| {
            let body = json!({"expected": {"revision": revision}, "events": [event(revision * 100 + n)]});
            let server = &server;
            async move { server.post(PATH, &body).await }
        });
        let replies = join_all(race).await;
        let won: Vec<_> = replies.iter().filter(|reply| reply.status == 201).collect();
        assert_eq!(won.len(), 1);
        assert_eq!(won[0].json()["first_revision"], revision + 1);
        assert!(replies.iter().all(|reply| reply.status == 201 || reply.status == 409));
    }
    // Without an expectation everyone gets a place of their own.
    let all = join_all((0..64).map(|n| {
        let server = &server;
        async move { server.post(PATH, &event(n)).await.expect(201).json()["first_revision"].as_u64().unwrap() }
    }));
    let mut revisions = all.await;
    revisions.sort_unstable();
    assert_eq!(revisions, (5..69).collect::<Vec<_>>());
}
