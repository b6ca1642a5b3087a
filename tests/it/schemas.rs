//! Schemas and categories over HTTP: versions, compatibility, privacy, the inventory; all of it there after a restart.

use serde_json::{Value, json};

use crate::api::{contact, key, list, object, payment, pluck, pointers, post_with, restart, start};
use crate::harness::{Reply, Server};

const VERSIONS: &str = "/v1/schemas/contact-created/versions";

async fn register(server: &Server, schema: &Value) -> Reply {
    server.post(VERSIONS, schema).await
}

/// The contact with another member.
fn with(name: &str, schema: Value) -> Value {
    let mut new = contact();
    new["properties"][name] = schema;
    new
}

/// The contact without protection of the name.
fn unprotected() -> Value {
    let mut new = contact();
    new["properties"]["name"] = json!({"type": "string"});
    new
}

#[tokio::test(flavor = "multi_thread")]
async fn versions() {
    let server = start().await;
    let first = register(&server, &contact()).await.expect(201);
    assert_eq!(first.header("location"), Some("/v1/schemas/contact-created/versions/1"));
    assert_eq!(first.json(), json!({"event_type": "contact-created", "version": 1}));
    assert_eq!(register(&server, &contact()).await.expect(200).json(), first.json());
    let second = with("nick", json!({"type": "string"}));
    assert_eq!(register(&server, &second).await.expect(201).json()["version"], 2);
    let server = restart(server).await;
    assert_eq!(register(&server, &second).await.expect(200).json()["version"], 2);
    let show = async |version: &str| server.get(&format!("{VERSIONS}/{version}")).await;
    assert_eq!(show("1").await.expect(200).json()["schema"], contact());
    let latest = show("latest").await.expect(200).json();
    assert_eq!((&latest["version"], &latest["schema"], &latest["deprecated"]), (&json!(2), &second, &json!(false)));
    for (version, status) in [("3", 404), ("0", 404), ("x", 400)] {
        show(version).await.expect(status);
    }
    server.get("/v1/schemas/never/versions/1").await.expect(404);
    server.get("/v1/schemas/never").await.expect(404);
    server.get("/v1/schemas/a%20b").await.expect(400);
    let summary = json!({"event_type": "contact-created", "latest": 2, "deprecated": [], "personal": true,
        "compatibility": "BACKWARD_TRANSITIVE"});
    assert_eq!(server.get("/v1/schemas/contact-created").await.expect(200).json(), summary);
    assert_eq!(list(&server.get("/v1/schemas").await.expect(200).json()["items"]), [summary]);
    // Events keep the version that they were validated against.
    let data = json!({"contact_id": "p1", "nick": "al"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let old = json!({"type": "contact-created", "schema_version": 1, "data": data});
    server.post("/v1/streams/contact-1/events", &old).await.expect(422);
    let event = &crate::api::items(&server, "/v1/streams/contact-1/events").await[0];
    assert_eq!(event["schema_version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_at_once_get_one_version_each() {
    let server = start().await;
    let schemas: Vec<Value> = (0..8).map(|n| with(&format!("nick{n}"), json!({"type": "string"}))).collect();
    server.put("/v1/schemas/contact-created/settings", &json!({"compatibility": "NONE"})).await.expect(200);
    let replies = futures_util::future::join_all(schemas.iter().map(|schema| register(&server, schema))).await;
    let mut versions: Vec<u64> = Vec::new();
    for (reply, schema) in replies.iter().zip(&schemas) {
        match reply.status.as_u16() {
            201 => {
                let version = reply.json()["version"].as_u64().unwrap();
                let stored = server.get(&format!("{VERSIONS}/{version}")).await.expect(200).json();
                assert_eq!(stored["schema"], *schema);
                versions.push(version);
            }
            _ => assert_eq!(reply.code(), "raced", "{}", reply.text()),
        }
    }
    versions.sort_unstable();
    assert_eq!(versions, (1..=versions.len() as u64).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn incompatible_versions() {
    let server = start().await;
    register(&server, &contact()).await.expect(201);
    let mut stricter = contact();
    stricter["required"] = json!(["contact_id", "city"]);
    let problem = register(&server, &stricter).await.expect(409);
    let report = problem.json()["report"].clone();
    assert_eq!((problem.code().as_str(), &report["compatible"]), ("incompatible-schema", &json!(false)));
    assert_eq!(report["mode"], "BACKWARD_TRANSITIVE");
    assert_eq!(report["checked"]["versions"], 1);
    assert_eq!(pluck(&list(&report["errors"]), "rule"), ["required-added"]);
    assert!(report["errors"][0]["hint"].is_string() && report["errors"][0]["pointer"].is_string());
    // A dry run says the same and changes nothing.
    let checks = "/v1/schemas/contact-created/checks";
    assert_eq!(server.post(checks, &stricter).await.expect(200).json(), report);
    let fine = server.post(checks, &with("nick", json!({"type": "string"}))).await.expect(200).json();
    assert_eq!((&fine["compatible"], &fine["version"], &fine["unchanged"]), (&json!(true), &json!(2), &json!(false)));
    assert_eq!(server.post(checks, &contact()).await.expect(200).json()["unchanged"], true);
    server.get(&format!("{VERSIONS}/2")).await.expect(404);
    let settings = "/v1/schemas/contact-created/settings";
    server.put(settings, &json!({"compatibility": "SIDEWAYS"})).await.expect(422);
    server.put(settings, &json!({"compatibility": "FULL", "more": 1})).await.expect(422);
    server.put(settings, &json!({"compatibility": "FULL"})).await.expect(200);
    register(&server, &with("nick", json!({"type": "string"}))).await.expect(409);
    server.put(settings, &json!({"compatibility": "NONE"})).await.expect(200);
    let server = restart(server).await;
    assert_eq!(server.get("/v1/schemas/contact-created").await.expect(200).json()["compatibility"], "NONE");
    assert_eq!(register(&server, &stricter).await.expect(201).json()["version"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn stored_events_have_a_say() {
    let server = start().await;
    let mut broken = Vec::new();
    for n in 0..6 {
        let data = if n % 2 == 0 { json!({"n": n}) } else { json!({"n": format!("secret {n}")}) };
        let reply = server.append("order-1", "counted", &data).await.expect(201).json();
        if n % 2 == 1 {
            broken.push(reply["position"].clone());
        }
    }
    server.append("order-1", "else", &json!({"n": "x"})).await.expect(201);
    let schema = object(&json!({}), &["n"], &json!({"n": {"type": "integer"}}));
    let path = "/v1/schemas/counted/versions";
    let problem = server.post(path, &schema).await.expect(409);
    let report = problem.json()["report"].clone();
    assert_eq!(problem.code(), "incompatible-schema");
    assert_eq!(pluck(&list(&report["breaks"]), "position"), broken);
    assert_eq!((&report["broken_events"], &report["checked"]["stored_events"]), (&json!(3), &json!(6)));
    assert_eq!(report["breaks"][0]["pointer"], "/data/n");
    assert!(!problem.text().contains("secret"), "a report repeats a value");
    let check = server.post("/v1/schemas/counted/checks", &schema).await.expect(200).json();
    assert_eq!((&check["compatible"], &check["breaks"]), (&json!(false), &report["breaks"]));
    let server = restart(server).await;
    server.post(path, &schema).await.expect(409);
    let wider = object(&json!({}), &["n"], &json!({"n": {"type": ["integer", "string"]}}));
    server.post(path, &wider).await.expect(201);
    // Erased events are valid under the schema that shows their placeholders.
    server.schema("contact-created", &contact()).await;
    let data = json!({"contact_id": "p1", "name": "Ada King", "email": "ada@example.org"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    server.forget("p1").await;
    let report = server.post("/v1/schemas/contact-created/checks", &with("x", json!({"type": "string"}))).await;
    let report = report.expect(200).json();
    assert_eq!((&report["compatible"], &report["checked"]["stored_events"]), (&json!(true), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn less_protection_needs_the_officer() {
    let server = start().await;
    let admin = key(&server, "admin", &json!({"role": "admin"})).await;
    let officer = key(&server, "officer", &json!({"role": "dpo"})).await;
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let by = async |who: &str, query: &str, schema: &Value| {
        post_with(&server, &format!("{VERSIONS}{query}"), &[("authorization", who)], schema).await
    };
    by(&reader, "", &contact()).await.expect(403);
    by(&officer, "", &contact()).await.expect(403);
    by(&admin, "", &contact()).await.expect(201);
    let mut repointed = contact();
    repointed["properties"]["email"]["x-personal-data"]["purposes"] = json!(["general"]);
    for schema in [unprotected(), repointed] {
        let refused = by(&admin, "", &schema).await.expect(409);
        assert_eq!(refused.code(), "privacy-acknowledgement-required");
        assert_eq!(pointers(&refused).len(), 1);
        assert_eq!(by(&admin, "?acknowledge_privacy=true", &schema).await.expect(403).code(), "forbidden");
    }
    by(&admin, "?acknowledge_privacy=maybe", &unprotected()).await.expect(400);
    server.get(&format!("{VERSIONS}/2")).await.expect(404);
    by(&officer, "?acknowledge_privacy=true", &unprotected()).await.expect(201);
    // More protection needs nobody's acknowledgement.
    by(&admin, "", &contact()).await.expect(201);
    by(&reader, "/1/deprecation", &json!({})).await.expect(403);
}

#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_are_refused() {
    let server = start().await;
    let personal = |schema: Value, mark: Value| {
        let mut schema = schema;
        schema["x-personal-data"] = mark;
        object(&json!({"p": {"id": "/id"}}), &["id"], &json!({"id": {"type": "string"}, "v": schema}))
    };
    let of = |placeholder: Value| json!({"subject": "p", "placeholder": placeholder});
    for (schema, code) in [
        (personal(json!({"type": "string", "minLength": 9}), of(json!("gone"))), "placeholder-invalid"),
        (personal(json!({"type": "integer"}), of(json!("gone"))), "placeholder-invalid"),
        (personal(json!({"type": "string", "maxLength": 6}), of(json!("{category}{date}"))), "placeholder-invalid"),
        (personal(json!({"type": "integer"}), json!({"subject": "p"})), "placeholder-required"),
        (personal(json!({"type": "string"}), json!({"subject": "q"})), "subject-role-unknown"),
        (personal(json!({"type": "string"}), json!({"subject": "p", "colour": 1})), "personal-mark-invalid"),
        (json!({"type": "object", "properties": {"a": {"type": 7}}}), "schema-invalid"),
    ] {
        let problem = register(&server, &schema).await.expect(422);
        assert_eq!(problem.code(), code, "{}", problem.text());
        assert!(!pointers(&problem).is_empty());
        server.post("/v1/schemas/contact-created/checks", &schema).await.expect(422);
    }
    server.send("POST", VERSIONS, &[("content-type", "application/json")], "{").await.expect(400);
    server.get(&format!("{VERSIONS}/1")).await.expect(404);
    register(&server, &personal(json!({"type": "integer"}), of(json!(0)))).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn deprecation() {
    let server = start().await;
    register(&server, &contact()).await.expect(201);
    let second = with("nick", json!({"type": "string"}));
    register(&server, &second).await.expect(201);
    let append = async |server: &Server| {
        let data = json!({"contact_id": "p1"});
        server.append("contact-1", "contact-created", &data).await.expect(201);
        crate::api::items(server, "/v1/streams/contact-1/events?direction=backward").await[0]["schema_version"].clone()
    };
    assert_eq!(append(&server).await, 2);
    let path = format!("{VERSIONS}/2/deprecation");
    server.post(&path, &json!({})).await.expect(204);
    server.post(&path, &json!({})).await.expect(204);
    server.post(&format!("{VERSIONS}/3/deprecation"), &json!({})).await.expect(404);
    assert_eq!(append(&server).await, 1);
    let server = restart(server).await;
    assert_eq!(append(&server).await, 1);
    assert_eq!(server.get(&format!("{VERSIONS}/2")).await.expect(200).json()["deprecated"], true);
    assert_eq!(server.get("/v1/schemas/contact-created").await.expect(200).json()["deprecated"], json!([2]));
    // Whoever names it may still use it.
    let named = json!({"type": "contact-created", "schema_version": 2, "data": {"contact_id": "p1", "nick": "al"}});
    server.post("/v1/streams/contact-1/events", &named).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inventory() {
    let server = start().await;
    assert_eq!(server.get("/v1/personal-data").await.expect(200).json()["items"], json!([]));
    server.schema("contact-created", &contact()).await;
    server.schema("paid", &payment()).await;
    let items = list(&server.get("/v1/personal-data").await.expect(200).json()["items"]);
    let of = |event_type: &str| items.iter().filter(|i| i["event_type"] == event_type).cloned().collect::<Vec<_>>();
    let mut places = pluck(&of("contact-created"), "pointer");
    places.sort_by_key(ToString::to_string);
    assert_eq!(places, ["/email", "/name"]);
    let email = of("contact-created").into_iter().find(|item| item["pointer"] == "/email").unwrap();
    assert_eq!(
        email,
        json!({"event_type": "contact-created", "version": 1, "pointer": "/email", "category": "contact.email",
            "special": false, "purposes": ["general", "marketing"], "placeholder": "{state}@redacted.invalid",
            "roles": ["contact"], "erase_when": "any"})
    );
    let note = of("paid").into_iter().find(|item| item["pointer"] == "/note").unwrap();
    assert_eq!(note["roles"], json!(["payee", "payer"]));
    let server = restart(server).await;
    assert_eq!(list(&server.get("/v1/personal-data").await.expect(200).json()["items"]), items);
}

#[tokio::test(flavor = "multi_thread")]
async fn categories() {
    let server = start().await;
    let path = "/v1/categories/person";
    let defaults = server.get(path).await.expect(200).json();
    assert_eq!(defaults["settings"]["schema_policy"], "open");
    let wish = json!({"schema_policy": "registered", "leak_guard": "reject", "require_expected": true,
        "placeholders": {"name": "someone"}});
    assert_eq!(server.put(path, &wish).await.expect(200).json()["settings"], wish);
    assert_eq!(server.get(path).await.expect(200).json()["settings"], wish);
    let listed = list(&server.get("/v1/categories").await.expect(200).json()["items"]);
    assert_eq!(listed, [json!({"category": "person", "settings": wish})]);
    for bad in [json!({"colour": 1}), json!({"schema_policy": "shut"}), json!([])] {
        server.put(path, &bad).await.expect(422);
    }
    server.put("/v1/categories/a-b", &wish).await.expect(400);
    server.put("/v1/categories/$system", &wish).await.expect(400);
    let server = restart(server).await;
    assert_eq!(server.get(path).await.expect(200).json()["settings"], wish);
    // A kind of data has its placeholder by category.
    server.put(path, &json!({"placeholders": {"name": "someone"}})).await.expect(200);
    let marked = json!({"type": "signup", "data": {"name": "Ada King"},
        "personal_data": [{"path": "/name", "subject": "p1", "category": "name"}]});
    server.post("/v1/streams/person-1/events", &marked).await.expect(201);
    server.forget("p1").await;
    assert_eq!(crate::api::payloads(&server, "person-1").await, [json!({"name": "someone"})]);
}
