//! People found by natural key, over HTTP: a CRM whose contacts have no id but an account and a name.

use std::sync::Arc;

use oubliette::clock::Clock;
use oubliette::event::SubjectRef;
use oubliette::read::roles;
use oubliette::sealing::meta::Meta;
use serde_json::{Value, json};

use crate::api::{get_as, items, key, list, object, payloads, pluck, pointers, post_with, restart, start};
use crate::faulty::{Fault, Faulty, Method, Rate};
use crate::harness::{Reply, Server};

fn mark(category: &str) -> Value {
    json!({"type": "string", "x-personal-data": {"subject": "contact", "category": category}})
}

fn crm(roles: &Value, required: &[&str], more: &Value) -> Value {
    let mut properties = json!({"account_id": {"type": "string"}, "contact_name": mark("name")});
    properties.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    object(roles, required, &properties)
}

fn by_name() -> Value {
    json!({"contact": {"resolve": ["/account_id", "/contact_name"]}})
}

/// Three types of events that mean the same people.
async fn crm_server() -> Server {
    let mut server = start().await;
    for name in ["Ada King", "Ada Byron", "Ada Lovelace", "Bob Ray", "ada@example.org"] {
        server.canary(name);
    }
    schemas(&server).await;
    server
}

async fn schemas(server: &Server) {
    let both = ["account_id", "contact_name"];
    server.schema("contact-created", &crm(&by_name(), &[], &json!({"email": mark("contact.email")}))).await;
    let mut renaming = by_name();
    renaming["contact"]["also"] = json!(["/account_id", "/new_name"]);
    let edited = json!({"new_name": mark("name"), "stage": {"type": "string"}});
    server.schema("contact-edited", &crm(&renaming, &both, &edited)).await;
    server.schema("interaction-noted", &crm(&by_name(), &both, &json!({"minutes": {"type": "integer"}}))).await;
}

fn created(name: &str) -> Value {
    json!({"account_id": "a1", "contact_name": name, "email": "ada@example.org"})
}

fn renamed(name: &str, new: &str) -> Value {
    json!({"account_id": "a1", "contact_name": name, "new_name": new})
}

fn noted(name: &str, minutes: u32) -> Value {
    json!({"account_id": "a1", "contact_name": name, "minutes": minutes})
}

/// The contact's pseudonym in every event of a stream.
async fn contacts(server: &Server, stream: &str) -> Vec<String> {
    let events = items(server, &format!("/v1/streams/{stream}/events")).await;
    events.iter().map(|event| event["subjects"]["contact"].as_str().unwrap_or_default().to_owned()).collect()
}

async fn lookup(server: &Server, role: &str, values: Value) -> Reply {
    let body = json!({"natural_key": {"role": role, "values": values}});
    server.post("/v1/data-subjects/lookups", &body).await
}

async fn found(server: &Server, name: &str) -> String {
    let reply = lookup(server, "contact", json!(["a1", name])).await.expect(200).json();
    reply["data_subject"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_contact_is_forgotten_under_every_name() {
    let server = crm_server().await;
    server.append("contact-1", "contact-created", &created("Ada King")).await.expect(201);
    server.append("contact-1", "contact-edited", &renamed("Ada King", "Ada Byron")).await.expect(201);
    server.append("contact-1", "interaction-noted", &noted("Ada Byron", 5)).await.expect(201);
    server.append("contact-1", "interaction-noted", &noted("Ada King", 7)).await.expect(201);
    server.append("contact-2", "contact-created", &created("Bob Ray")).await.expect(201);
    let people = contacts(&server, "contact-1").await;
    assert!(SubjectRef::parse(&people[0]).is_some() && people.iter().all(|one| *one == people[0]), "{people:?}");
    assert_eq!(payloads(&server, "contact-1").await[1], renamed("Ada King", "Ada Byron"));
    let server = restart(server).await;
    server.append("contact-1", "interaction-noted", &noted("Ada Byron", 9)).await.expect(201);
    assert_eq!(contacts(&server, "contact-1").await, vec![people[0].clone(); 5]);
    // The pseudonym goes through the whole log as a filter does.
    let all = items(&server, &format!("/v1/events?data_subject={}", people[0])).await;
    assert_eq!(all.len(), 5);
    assert_eq!(found(&server, "Ada King").await, people[0]);
    assert_eq!(found(&server, "Ada Byron").await, people[0]);
    let done = server.forget(&people[0]).await;
    assert_eq!(done["verification"], json!({"events": 5, "tried": 5, "opened": 0}));
    assert_eq!(done["destroyed"]["external_id_removed"], false);
    for _ in 0..2 {
        let again = server.post("/v1/forget", &json!({"data_subject": people[0]})).await.expect(409);
        assert_eq!(again.code(), "data-subject-erased");
    }
    for name in ["Ada King", "Ada Byron"] {
        lookup(&server, "contact", json!(["a1", name])).await.expect(404);
    }
    let server = restart(server).await;
    // The same rows, nameless.
    assert_eq!(contacts(&server, "contact-1").await, vec![people[0].clone(); 5]);
    let erased = &payloads(&server, "contact-1").await;
    assert_eq!(erased[0], json!({"account_id": "a1", "contact_name": "[erased]", "email": "[erased]"}));
    assert_eq!(erased[1], renamed("[erased]", "[erased]"));
    assert_eq!(erased[2], noted("[erased]", 5));
    assert_eq!(payloads(&server, "contact-2").await[0], created("Bob Ray"));
    // Who has the name now may be somebody else.
    server.append("contact-3", "interaction-noted", &noted("Ada Byron", 1)).await.expect(201);
    server.append("contact-3", "contact-created", &created("Ada King")).await.expect(201);
    let new = contacts(&server, "contact-3").await;
    assert!(new[0] != people[0] && new[1] != people[0] && new[0] != new[1], "{new:?}");
    assert_eq!(payloads(&server, "contact-3").await[0], noted("Ada Byron", 1));
    assert_eq!(contacts(&server, "contact-1").await, vec![people[0].clone(); 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn order_within_a_request() {
    let server = crm_server().await;
    let event = |event_type: &str, data: Value| json!({"type": event_type, "data": data});
    let batch = json!([
        event("contact-created", created("Ada King")),
        event("contact-edited", renamed("Ada King", "Ada Byron")),
        event("interaction-noted", noted("Ada Byron", 1)),
        event("contact-edited", renamed("Ada Byron", "Ada Lovelace")),
        event("interaction-noted", noted("Ada Lovelace", 1)),
    ]);
    server.post("/v1/streams/contact-1/events", &batch).await.expect(201);
    let several = json!({"appends": [
        {"stream": "contact-2", "events": [event("contact-edited", renamed("Bob Ray", "Bob Roy"))]},
        {"stream": "contact-3", "events": [event("interaction-noted", noted("Bob Roy", 1))]}]});
    server.post("/v1/events", &several).await.expect(201);
    let ada = contacts(&server, "contact-1").await;
    assert_eq!(ada, vec![ada[0].clone(); 5]);
    let bob = contacts(&server, "contact-2").await;
    assert_eq!(bob, contacts(&server, "contact-3").await);
    assert_ne!(bob[0], ada[0]);
    // An event that changes other things only, and one that "renames" to the same name.
    let other = json!({"account_id": "a1", "contact_name": "Ada Lovelace", "stage": "won"});
    server.append("contact-1", "contact-edited", &other).await.expect(201);
    server.append("contact-1", "contact-edited", &renamed("Ada King", "Ada King")).await.expect(201);
    assert_eq!(contacts(&server, "contact-1").await, vec![ada[0].clone(); 7]);
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_are_missing_or_none() {
    let server = crm_server().await;
    let send = async |data: Value| server.append("contact-1", "contact-created", &data).await.expect(422);
    let reply = send(json!({"email": "ada@example.org"})).await;
    assert_eq!((reply.code().as_str(), pointers(&reply)), ("data-subject-missing", two("account_id", "contact_name")));
    let reply = send(json!({"account_id": "a1"})).await;
    assert_eq!(pointers(&reply), ["/data/contact_name"]);
    let reply = send(json!({"account_id": "x".repeat(5000), "contact_name": "Ada King"})).await;
    assert_eq!((reply.code().as_str(), pointers(&reply)), ("subject-id-invalid", vec!["/data/account_id".to_owned()]));
    assert!(!reply.text().contains("Ada King"));
    let loose = json!({"type": "object",
        "x-data-subjects": {"p": {"resolve": ["/o/a", "/b"], "also": ["/o/c", "/d"]}},
        "properties": {"o": {"type": "object", "properties": {"a": {}, "c": {}}}, "b": {}, "d": {},
            "n": {"type": "string", "x-personal-data": {"subject": "p"}}}});
    server.schema("loose", &loose).await;
    let loose = async |data: Value| server.append("loose-1", "loose", &data).await;
    for data in [json!({"o": {"a": 1}, "b": []}), json!({"o": {"a": 1}, "b": {}, "n": "Ada King"})] {
        let reply = loose(data).await.expect(422);
        assert_eq!((reply.code().as_str(), pointers(&reply)), ("subject-id-type", vec!["/data/b".to_owned()]));
    }
    let reply = loose(json!({"o": {"a": 1, "c": null}, "b": null, "n": "Ada King"})).await.expect(422);
    assert_eq!(pointers(&reply), ["/data/b"]);
    for half in [json!({"o": {"a": 1, "c": 2}, "b": true}), json!({"o": {"a": 1, "c": 2}, "b": true, "d": null})] {
        assert_eq!(pointers(&loose(half).await.expect(422)), ["/data/d"]);
    }
    // Numbers and truth values are parts like texts, and are not texts.
    for data in [
        json!({"o": {"a": 1}, "b": true, "n": "Ada King"}),
        json!({"o": {"a": 1.0, "c": null}, "b": true, "d": null}),
        json!({"o": {"a": 1, "c": "x"}, "b": true, "d": 2.5}),
        json!({"o": {"a": "x"}, "b": 2.5}),
        json!({"o": {"a": "1"}, "b": true}),
    ] {
        loose(data).await.expect(201);
    }
    let events = items(&server, "/v1/streams/loose-1/events").await;
    let people: Vec<&Value> = events.iter().map(|event| &event["subjects"]["p"]).collect();
    assert!(people[..4].iter().all(|one| *one == people[0]) && people[4] != people[0], "{people:?}");
    assert_eq!(lookup(&server, "p", json!([1, true])).await.expect(200).json()["data_subject"], *people[0]);
}

fn two(a: &str, b: &str) -> Vec<String> {
    vec![format!("/data/{a}"), format!("/data/{b}")]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_another_is_refused() {
    let server = crm_server().await;
    server.append("contact-1", "contact-created", &created("Ada King")).await.expect(201);
    server.append("contact-2", "contact-created", &created("Bob Ray")).await.expect(201);
    let event = |data: Value| json!({"type": "contact-edited", "data": data});
    for _ in 0..2 {
        let several = json!([event(renamed("Ada King", "Ada Byron")), event(renamed("Ada King", "Bob Ray"))]);
        let reply = server.post("/v1/streams/contact-1/events", &several).await.expect(409);
        assert_eq!(
            (reply.code().as_str(), pointers(&reply)),
            ("natural-key-taken", vec!["/1/data/new_name".to_owned()])
        );
        assert!(!reply.text().contains("Bob Ray"));
    }
    let page = server.get("/problems/natural-key-taken").await.expect(200).text();
    assert!(page.contains("409"), "{page}");
    assert_eq!(contacts(&server, "contact-1").await.len(), 1);
    // After the other is forgotten the name is free.
    let bob = contacts(&server, "contact-2").await;
    server.forget(&bob[0]).await;
    server.append("contact-1", "contact-edited", &renamed("Ada King", "Bob Ray")).await.expect(201);
    let ada = contacts(&server, "contact-1").await;
    assert_eq!(ada[0], ada[1]);
    assert_eq!(contacts(&server, "contact-2").await, bob);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_mean_one_person() {
    let server = Arc::new(crm_server().await);
    let tasks: Vec<_> = (0..32)
        .map(|n| {
            let server = Arc::clone(&server);
            tokio::spawn(async move {
                let stream = format!("contact-{n}");
                server.append(&stream, "contact-created", &created("Ada King")).await.expect(201);
                contacts(&server, &stream).await.remove(0)
            })
        })
        .collect();
    let mut people = Vec::new();
    for task in tasks {
        people.push(task.await.unwrap());
    }
    people.dedup();
    assert_eq!(people.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn looking_up_by_natural_key() {
    let server = crm_server().await;
    server.append("contact-1", "contact-created", &created("Ada King")).await.expect(201);
    let ada = contacts(&server, "contact-1").await.remove(0);
    let path = "/v1/data-subjects/lookups";
    let body = json!({"natural_key": {"role": "contact", "values": ["a1", "Ada King"]}});
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let pii = key(&server, "pii", &json!({"role": "pii_reader", "purposes": ["general"]})).await;
    post_with(&server, path, &[("authorization", &reader)], &body).await.expect(403);
    let reply = post_with(&server, path, &[("authorization", &pii)], &body).await.expect(200).json();
    assert_eq!(reply, json!({"data_subject": ada}));
    let log = server.get(&format!("/v1/audit/access-log?data_subject={ada}")).await.expect(200).json();
    let seen = list(&log["items"]);
    assert!(pluck(&seen, "purpose").contains(&json!("$identity")), "{log}");
    for (values, status) in [
        (json!(["a1", "Ada"]), 404),
        (json!(["Ada King", "a1"]), 404),
        (json!(["a1"]), 404),
        (json!([]), 400),
        (json!(["a1", null]), 400),
        (json!(vec!["a"; 9]), 400),
        (json!("Ada King"), 422),
    ] {
        let reply = lookup(&server, "contact", values).await.expect(status);
        assert!(!reply.text().contains("Ada"));
    }
    lookup(&server, "guest", json!(["a1", "Ada King"])).await.expect(404);
    let both = json!({"data_subject": "x", "natural_key": body["natural_key"]});
    for wrong in [both, json!({}), json!({"natural_key": {"role": "contact"}})] {
        assert_eq!(server.post(path, &wrong).await.expect(422).code(), "invalid-body");
    }
    // Readers without a purpose see who belongs together, not who they are.
    let event = get_as(&server, &reader, "/v1/streams/contact-1/events").await.expect(200).json()["items"][0].clone();
    assert_eq!((&event["subjects"]["contact"], &event["data"]["contact_name"]), (&json!(ada), &json!("[withheld]")));
    assert_eq!(event["redactions"][0]["state"], "withheld");
}

/// Between the fence and the destruction the name still leads to the forgotten person: nothing is shown or stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_person_is_not_keyed_anew() {
    let mut faulty = None;
    let front = |keystore| {
        let front = Arc::new(Faulty::new(keystore, 1));
        faulty = Some(Arc::clone(&front));
        front as Arc<dyn oubliette::keystore::Keystore>
    };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::behind(dir, crate::api::dev, Clock::System, front).await;
    let faulty = faulty.unwrap();
    server.canary("Ada King");
    schemas(&server).await;
    server.append("contact-1", "contact-created", &created("Ada King")).await.expect(201);
    let ada = contacts(&server, "contact-1").await.remove(0);
    faulty.fail(Method::Destroy, Fault::Before, Rate::OneIn(1));
    let forgetting = server.post("/v1/forget", &json!({"data_subject": ada})).await.expect(202).json();
    lookup(&server, "contact", json!(["a1", "Ada King"])).await.expect(404);
    for event_type in ["interaction-noted", "contact-created"] {
        let data = if event_type == "contact-created" { created("Ada King") } else { noted("Ada King", 1) };
        let refused = server.append("contact-2", event_type, &data).await.expect(409);
        assert_eq!(refused.code(), "data-subject-erased");
    }
    faulty.heal();
    let path = format!("/v1/forget-requests/{}", forgetting["id"].as_str().unwrap());
    let done = server.send("GET", &path, &[("prefer", "wait=30")], "").await.expect(200).json();
    assert_eq!(done["status"], "completed");
    server.append("contact-2", "interaction-noted", &noted("Ada King", 1)).await.expect(201);
    assert_ne!(contacts(&server, "contact-2").await[0], ada);
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_whom_no_event_names_can_be_forgotten() {
    let server = crm_server().await;
    let body = json!({"type": "contact-created", "data": created("Ada King")}).to_string();
    let headers = [("content-type", "application/json"), ("if-match", "\"r7\"")];
    server.send("POST", "/v1/streams/contact-1/events", &headers, body).await.expect(412);
    let ada = found(&server, "Ada King").await;
    server.forget(&ada).await;
    lookup(&server, "contact", json!(["a1", "Ada King"])).await.expect(404);
    let never = SubjectRef([7; 16]).to_string();
    server.post("/v1/forget", &json!({"data_subject": never})).await.expect(404);
}

/// An event may name people in both ways; what is about several is nobody's once one of them is forgotten.
#[tokio::test(flavor = "multi_thread")]
async fn beside_people_with_ids() {
    let server = crm_server().await;
    let mut schema = crm(
        &json!({"agent": {"id": "/agent_id"}, "contact": by_name()["contact"], "guest": {"id": "/guests/*"}}),
        &[],
        &json!({"agent_id": {"type": "string"}, "guests": {"type": "array", "items": {"type": "string"}}}),
    );
    schema["properties"]["note"] =
        json!({"type": "string", "x-personal-data": {"subjects": ["agent", "contact"], "erase_when": "any"}});
    server.schema("called", &schema).await;
    let data = json!({"agent_id": "u7", "account_id": "a1", "contact_name": "Ada King", "note": "with Ada King",
        "guests": ["g1", "g2"]});
    server.append("call-1", "called", &data).await.expect(201);
    assert_eq!(payloads(&server, "call-1").await[0], data);
    let ada = contacts(&server, "call-1").await.remove(0);
    let page = server.app.log.audit_rows(oubliette::event::Position(0), 100).await.unwrap();
    let stored = &page.iter().find(|row| row.event.event_type.as_str() == "called").unwrap().event;
    let version = server.app.registry.version("called", stored.schema_version);
    let public: Value = serde_json::from_str(&stored.public).unwrap();
    let named = roles(version.as_deref(), &Meta::parse(&stored.meta).unwrap(), &public);
    assert_eq!(named["contact"], [SubjectRef::parse(&ada).unwrap()]);
    assert_eq!((named["agent"].len(), named["guest"].len(), named.len()), (1, 2, 3));
    assert!(named["guest"][0] != named["guest"][1] && !named["guest"].contains(&named["agent"][0]));
    server.forget(&ada).await;
    let left = &payloads(&server, "call-1").await[0];
    assert_eq!(
        (&left["note"], &left["agent_id"], &left["contact_name"]),
        (&json!("[erased]"), &json!("u7"), &json!("[erased]"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn natural_keys_in_schemas() {
    let server = start().await;
    let both = ["account_id", "contact_name"];
    let path = "/v1/schemas/contact-edited/versions";
    let schema = |roles: Value| crm(&roles, &both, &json!({"new_name": mark("name"), "person_id": {"type": "string"}}));
    server.schema("contact-edited", &schema(by_name())).await;
    // A further key may be added freely; then it may not go, nor may anybody be found in another way.
    let mut further = by_name();
    further["contact"]["also"] = json!(["/account_id", "/new_name"]);
    server.post(path, &schema(further.clone())).await.expect(201);
    for roles in [
        by_name(),
        json!({"contact": {"resolve": ["/contact_name"]}}),
        json!({"contact": {"resolve": ["/contact_name", "/account_id"], "also": ["/new_name", "/account_id"]}}),
        json!({"contact": {"id": "/person_id"}}),
    ] {
        let refused = server.post(path, &schema(roles)).await.expect(409);
        assert_eq!(refused.code(), "privacy-acknowledgement-required");
    }
    let renamed: Value =
        serde_json::from_str(&schema(further).to_string().replace("\"contact\"", "\"person\"")).unwrap();
    assert_eq!(server.post(path, &renamed).await.expect(409).code(), "privacy-acknowledgement-required");
    for (roles, code) in [
        (json!({"contact": {"resolve": ["/contact_name"], "id": "/person_id"}}), "subject-roles-invalid"),
        (json!({"contact": {"resolve": ["/nobody"]}}), "subject-id-unknown"),
    ] {
        let refused = server.post("/v1/schemas/other/versions", &schema(roles)).await.expect(422);
        assert_eq!(refused.code(), code);
    }
}
