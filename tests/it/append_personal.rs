//! Appending personal data over HTTP: marks, policies, the leak guard, forgotten people and their return.

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::{contact, get_as, items, key, list, payloads, pluck, pointers, post_with, restart, start};
use crate::harness::{Reply, Server};

const PATH: &str = "/v1/streams/person-1/events";

async fn append(server: &Server, event: Value) -> Reply {
    server.post(PATH, &event).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leak_guard() {
    let server = start().await;
    let leak = json!([{"type": "noted", "data": {"n": 1}},
        {"type": "noted", "data": {"deep": [{"text": "write to ada@example.org"}]}, "actor": "ada@example.org"}]);
    let guard = async |server: &Server, word: &str| {
        server.put("/v1/categories/person", &json!({"leak_guard": word})).await.expect(200);
        server.post(PATH, &leak).await
    };
    let warned = guard(&server, "warn").await.expect(201).json();
    let warnings = list(&warned["warnings"]);
    assert_eq!(pluck(&warnings, "pointer"), ["/1/data/deep/0/text", "/1/actor"]);
    assert_eq!(pluck(&warnings, "shape"), ["email", "email"]);
    assert_eq!(guard(&server, "off").await.expect(201).json().get("warnings"), None);
    let refused = guard(&server, "reject").await.expect(422);
    assert_eq!(refused.code(), "unmarked-personal-data");
    assert_eq!(pointers(&refused), ["/1/actor", "/1/data/deep/0/text"]);
    assert!(!refused.text().contains("ada@"), "a problem repeats the value");
    server.put("/v1/categories/person", &json!({"leak_guard": "loud"})).await.expect(422);
    let named =
        server.post("/v1/streams/person-DE89370400440532013000/events", &json!({"type": "a", "data": {}})).await;
    assert_eq!(named.expect(422).code(), "identifier-looks-personal");
    // The values that are marked are none of its business.
    let mark = json!({"path": "/email", "subject": "p1"});
    let marked = json!({"type": "noted", "data": {"email": "ada@example.org"}, "personal_data": [mark]});
    append(&server, marked).await.expect(201);
    let server = restart(server).await;
    append(&server, json!({"type": "noted", "data": "ada@example.org"})).await.expect(422);
    assert_eq!(payloads(&server, "person-1").await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_come_with_the_event() {
    let mut server = start().await;
    server.canary("ada.king@example.org");
    server.canary("Countess of Lovelace");
    let email = "ada.king@example.org";
    let placeholder = json!("gone {article}");
    append(
        &server,
        json!({"type": "signup", "data": {"plan": "pro", "email": email, "tags": ["Countess of Lovelace", "x"]},
            "personal_data": [{"path": "/email", "subject": "person:41", "category": "contact.email"},
                {"path": "/tags/0", "subject": "person:41", "placeholder": placeholder}]}),
    )
    .await
    .expect(201);
    let wrapper =
        json!({"$personal": email, "subject": "person:41", "category": "contact.email", "purposes": ["b", "a"]});
    append(&server, json!({"type": "signup", "data": {"plan": "free", "email": wrapper}})).await.expect(201);
    let cloud = json!({"specversion": "1.0", "id": "7", "source": "/s", "type": "signup", "subject": "person-1",
        "data": {"plan": "basic", "email": email, "n": 7}, "personaldata": "/email=person:41 /n=person:41"});
    let media = [("content-type", "application/cloudevents+json")];
    server.send("POST", PATH, &media, cloud.to_string()).await.expect(201);
    let whole = payloads(&server, "person-1").await;
    assert_eq!(whole[0], json!({"plan": "pro", "email": email, "tags": ["Countess of Lovelace", "x"]}));
    assert_eq!(whole[1], json!({"plan": "free", "email": email}));
    assert_eq!(whole[2], json!({"plan": "basic", "email": email, "n": 7}));
    let mut server = restart(server).await;
    server.canary(email);
    assert_eq!(payloads(&server, "person-1").await, whole);
    server.forget("person:41").await;
    let gone = payloads(&server, "person-1").await;
    let at = "erased@redacted.invalid";
    assert_eq!(gone[0], json!({"plan": "pro", "email": at, "tags": ["gone 17(1)(b)", "x"]}));
    assert_eq!(gone[1], json!({"plan": "free", "email": at}));
    assert_eq!(gone[2], json!({"plan": "basic", "email": "[erased]", "n": null}));
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_that_are_refused() {
    let server = start().await;
    let event = |marks: Value| json!({"type": "signup", "data": {"email": "x", "o": {"a": 1}}, "personal_data": marks});
    for (marks, place) in [
        (json!([{"path": "/nothing", "subject": "p"}]), "/personal_data/0/path"),
        (json!([{"path": "", "subject": "p"}]), "/personal_data/0"),
        (json!([{"path": "/email"}]), "/personal_data/0"),
        (json!([{"path": "/email", "subject": "p", "colour": 1}]), "/personal_data/0"),
        (json!([{"path": "/email", "subject": "p", "purposes": ["No Purpose"]}]), "/personal_data/0"),
        (json!({"path": "/email"}), "/personal_data"),
        (json!([{"path": "/o", "subject": "p"}, {"path": "/o/a", "subject": "p"}]), "/data/o/a"),
    ] {
        let problem = append(&server, event(marks)).await.expect(422);
        assert!(pointers(&problem).contains(&place.to_owned()), "{place}: {}", problem.text());
    }
    let misspelt = json!({"type": "signup", "data": {"email": {"$Personal": "x", "subject": "p"}}});
    assert_eq!(append(&server, misspelt).await.expect(422).code(), "personal-mark-invalid");
    let stranger = json!([{"path": "/email", "subject": "ds_00000000000000000000000000000001"}]);
    assert_eq!(append(&server, event(stranger)).await.expect(422).code(), "data-subject-unknown");
    server.get(PATH).await.expect(404);
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_of_categories() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let known = || json!({"type": "contact-created", "data": {"contact_id": "p1", "city": "London"}});
    let marked = || {
        let mut event = known();
        event["personal_data"] = json!([{"path": "/city", "subject": "p1"}]);
        event
    };
    let unknown = || json!({"type": "never-registered", "data": {}});
    let policy = async |word: &str| {
        server.put("/v1/categories/person", &json!({"schema_policy": word})).await.expect(200);
        let mut statuses = Vec::new();
        for event in [known(), marked(), unknown()] {
            statuses.push(append(&server, event).await.status.as_u16());
        }
        statuses
    };
    assert_eq!(policy("open").await, [201, 201, 201]);
    assert_eq!(policy("registered").await, [201, 201, 422]);
    assert_eq!(policy("sealed").await, [201, 422, 422]);
    assert_eq!(append(&server, unknown()).await.code(), "schema-required");
    assert_eq!(append(&server, marked()).await.code(), "in-line-marks-refused");
    let mut version = known();
    version["schema_version"] = 2.into();
    assert_eq!(append(&server, version).await.expect(422).code(), "schema-version-unknown");
    let server = restart(server).await;
    append(&server, unknown()).await.expect(422);
    // Without `--dev` that is how every category begins.
    let dir = server.stop().await;
    let server = Server::on(dir, |config| config.dev = true, oubliette::clock::Clock::System).await;
    server.post("/v1/streams/other-1/events", &unknown()).await.expect(422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forgotten_person_is_refused_until_re_authorised() {
    let mut server = start().await;
    server.canary("Ada King");
    server.schema("contact-created", &contact()).await;
    let event = |name: &str| json!({"type": "contact-created", "data": {"contact_id": "p7", "name": name}});
    append(&server, event("Ada King")).await.expect(201);
    let request = server.forget("p7").await;
    let old = request["data_subject"].as_str().unwrap().to_owned();
    let several = json!([{"type": "contact-created", "data": {"contact_id": "p8", "name": "Bob"}}, event("Ada King")]);
    let refused = server.post(PATH, &several).await.expect(409);
    assert_eq!(
        (refused.code().as_str(), pointers(&refused)),
        ("data-subject-erased", vec!["/1/data/contact_id".into()])
    );
    assert!(!refused.text().contains("p7"), "a problem repeats the id");
    // By the old pseudonym it is the same person.
    let by_ref = json!({"type": "contact-created", "data": {"contact_id": old, "name": "Ada King"}});
    append(&server, by_ref).await.expect(409);
    // Named without personal data: kept, under a pseudonym that leads nowhere.
    let bare = || json!({"type": "contact-created", "data": {"contact_id": "p7", "city": "London"}});
    append(&server, bare()).await.expect(201);
    append(&server, bare()).await.expect(201);
    let mut server = restart(server).await;
    server.canary("Ada King");
    append(&server, event("Ada King")).await.expect(409);
    let stored = payloads(&server, "person-1").await;
    let mut ids = pluck(&stored, "contact_id");
    assert!(ids.iter().all(|id| id.as_str().unwrap().starts_with("ds_")));
    assert_eq!(ids[0], old);
    ids.sort_by_key(ToString::to_string);
    ids.dedup();
    assert_eq!(ids.len(), 3, "the strangers can be linked: {stored:?}");
    // The pseudonym is gone for good: it cannot come back, and nothing under it stops being erased.
    let by_ref = format!("/v1/data-subjects/{old}/reauthorizations");
    for body in [json!({}), json!({"purposes": ["general"]})] {
        let refused = server.post(&by_ref, &body).await;
        assert!(refused.status.is_client_error(), "{}", refused.text());
        let events = items(&server, PATH).await;
        assert_eq!(pluck(&list(&events[0]["redactions"]), "state"), ["erased"]);
    }
    // Coming back: a fresh pseudonym, and the past stays gone.
    let back = server.post("/v1/data-subjects/p7/reauthorizations", &json!({})).await.expect(201).json();
    assert_ne!(back["data_subject"], old);
    append(&server, event("Ada Lovelace")).await.expect(201);
    let now = payloads(&server, "person-1").await;
    assert_eq!(now[..3], stored[..]);
    assert_eq!(now[3], json!({"contact_id": "p7", "name": "Ada Lovelace"}));
    let again = server.post("/v1/data-subjects/p7/reauthorizations", &json!({})).await;
    again.expect(404);
    assert_eq!(payloads(&server, "person-1").await[3]["name"], "Ada Lovelace");
    let server = restart(server).await;
    assert_eq!(payloads(&server, "person-1").await, now);
}

#[tokio::test(flavor = "multi_thread")]
async fn re_authorising_by_body_and_by_purpose() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let event = |id: &str, email: &str| json!({"type": "contact-created", "data": {"contact_id": id, "email": email}});
    let id = "ada@example.org";
    append(&server, event(id, "a@example.org")).await.expect(201);
    server.forget(id).await;
    append(&server, event(id, "b@example.org")).await.expect(409);
    let in_url = server.post("/v1/data-subjects/ada@example.org/reauthorizations", &json!({})).await.expect(422);
    assert_eq!(in_url.code(), "identifier-looks-personal");
    let path = "/v1/data-subjects/-/reauthorizations";
    server.post(path, &json!({})).await.expect(400);
    server.post(path, &json!({"data_subject": "nobody"})).await.expect(404);
    server.post("/v1/data-subjects/p1/reauthorizations", &json!({"data_subject": "p2"})).await.expect(400);
    let writer = key(&server, "writer", &json!({"role": "writer"})).await;
    post_with(&server, path, &[("authorization", &writer)], &json!({"data_subject": id})).await.expect(403);
    server.post(path, &json!({"data_subject": id})).await.expect(201);
    append(&server, event(id, "b@example.org")).await.expect(201);
    // One purpose of two.
    append(&server, event("p9", "c@example.org")).await.expect(201);
    let scope = json!({"data_subject": "p9", "scope": {"purposes": ["marketing"]}});
    post_with(&server, "/v1/forget", &[("prefer", "wait=30")], &scope).await.expect(200);
    append(&server, event("p9", "d@example.org")).await.expect(409);
    let other = json!({"type": "contact-created", "data": {"contact_id": "p9", "name": "Ada"}});
    append(&server, other).await.expect(201);
    let server = restart(server).await;
    append(&server, event("p9", "d@example.org")).await.expect(409);
    server.post("/v1/data-subjects/p9/reauthorizations", &json!({"purposes": ["marketing"]})).await.expect(201);
    append(&server, event("p9", "d@example.org")).await.expect(201);
    let emails = pluck(&payloads(&server, "person-1").await, "email");
    assert_eq!(emails[0], "erased@redacted.invalid");
    assert_eq!(emails[1], "b@example.org");
    assert_eq!(emails[4], "d@example.org");
    // What was sealed for marketing before is not readable for marketing again.
    let grant = json!({"role": "pii_reader", "purposes": ["marketing"]});
    let marketing = key(&server, "marketing", &grant).await;
    let seen = get_as(&server, &marketing, PATH).await.expect(200).json();
    assert_eq!(pluck(&pluck(&list(&seen["items"]), "data"), "email")[2], "withheld@redacted.invalid");
    assert_eq!(pluck(&pluck(&list(&seen["items"]), "data"), "email")[4], "d@example.org");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_person_gets_one_pseudonym() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let first = (0..64).map(|n| {
        let event = json!({"type": "contact-created", "data": {"contact_id": "p1", "name": format!("Ada {n}")}});
        let server = &server;
        async move { server.post(&format!("/v1/streams/person-{}/events", n % 8), &event).await.expect(201) }
    });
    join_all(first).await;
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let seen = list(&get_as(&server, &reader, "/v1/events").await.expect(200).json()["items"]);
    let mut ids = pluck(&pluck(&seen, "data"), "contact_id");
    assert_eq!(ids.len(), 64);
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert!(ids[0].as_str().unwrap().starts_with("ds_"));
    let mut names = pluck(&pluck(&items(&server, "/v1/events").await, "data"), "name");
    names.sort_by_key(ToString::to_string);
    names.dedup();
    assert_eq!(names.len(), 64);
    assert_eq!(server.forget("p1").await["verification"], json!({"events": 64, "tried": 64, "opened": 0}));
}
