//! Reading personal data over HTTP: what is shown to whom, what stands there when it is gone, and who is told.

use serde_json::{Value, json};

use crate::api::{
    booking, contact, get_as, items, key, list, object, payloads, payment, pluck, post_with, restart, start,
};
use crate::harness::Server;

async fn seen_by(server: &Server, key: &str, stream: &str) -> Vec<Value> {
    list(&get_as(server, key, &format!("/v1/streams/{stream}/events")).await.expect(200).json()["items"])
}

fn profile() -> Value {
    let mark = |schema: Value| {
        let mut schema = schema;
        schema["x-personal-data"] = json!({"subject": "person", "category": "profile"});
        schema
    };
    object(
        &json!({"person": {"id": "/id"}}),
        &["id", "name"],
        &json!({
            "id": {"type": "string"}, "public": {"type": "string"},
            "name": mark(json!({"type": "string"})),
            "age": mark(json!({"type": ["integer", "null"]})),
            "member": mark(json!({"type": ["boolean", "null"]})),
            "nick": mark(json!({"type": ["string", "null"]})),
            "tags": mark(json!({"type": "array", "items": {"type": "string"}})),
            "address": mark(json!({"type": "object", "properties": {"city": {"type": "string"}}})),
            "pets": {"type": "array", "items": mark(json!({"type": ["string", "null"]}))},
        }),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn modes_of_redaction() {
    let mut server = start().await;
    server.canary("Ada King");
    server.canary("Rex the dog");
    server.schema("profile", &profile()).await;
    let data = json!({"id": "p1", "public": "x", "name": "Ada King", "age": 36, "member": true, "nick": "al",
        "tags": ["a", "b"], "address": {"city": "London"}, "pets": ["Rex the dog", "Tom"]});
    server.append("person-1", "profile", &data).await.expect(201);
    let request = server.forget("p1").await;
    let subject = request["data_subject"].as_str().unwrap().to_owned();
    let server = restart(server).await;
    let path = "/v1/streams/person-1/events";
    let read = async |mode: &str| items(&server, &format!("{path}?redaction={mode}")).await[0].clone();
    let typed = read("typed").await;
    assert_eq!(
        typed["data"],
        json!({"id": subject, "public": "x", "name": "[erased]", "age": null, "member": null, "nick": "[erased]",
            "tags": [], "address": {}, "pets": ["[erased]", "[erased]"]})
    );
    let marker = read("marker").await;
    let at = json!({"$redacted": {"state": "erased", "request": request["id"]}});
    assert_eq!((&marker["data"]["name"], &marker["data"]["pets"]), (&at, &json!([at, at])));
    let null = read("null").await;
    assert_eq!((&null["data"]["tags"], &null["data"]["pets"]), (&Value::Null, &json!([null, null])));
    let omit = read("omit").await;
    assert_eq!(omit["data"], json!({"id": subject, "public": "x", "pets": [null, null]}));
    for event in [&typed, &marker, &null, &omit] {
        let redactions = list(&event["redactions"]);
        let paths =
            ["address", "age", "member", "name", "nick", "pets/0", "pets/1", "tags"].map(|p| format!("/data/{p}"));
        assert_eq!(pluck(&redactions, "path"), paths);
        for redaction in redactions {
            assert_eq!((&redaction["state"], &redaction["subject"]), (&json!("erased"), &json!(subject)));
            assert_eq!((&redaction["basis"], &redaction["request"]), (&json!("gdpr:A17-1-b"), &request["id"]));
            assert!(redaction["at"].is_string());
        }
    }
    assert_eq!(items(&server, path).await[0], typed);
    server.get(&format!("{path}?redaction=hidden")).await.expect(400);
}

#[tokio::test(flavor = "multi_thread")]
async fn falsy_values_survive() {
    let server = start().await;
    server.schema("profile", &profile()).await;
    let data = json!({"id": "p1", "public": "", "name": "", "age": 0, "member": false, "nick": null, "tags": [],
        "address": {}, "pets": [null, ""]});
    server.append("person-1", "profile", &data).await.expect(201);
    assert_eq!(payloads(&server, "person-1").await[0], data);
    assert_eq!(items(&server, "/v1/streams/person-1/events").await[0].get("redactions"), None);
    let server = restart(server).await;
    assert_eq!(payloads(&server, "person-1").await[0], data);
    server.forget("p1").await;
    let gone = items(&server, "/v1/streams/person-1/events").await;
    assert_eq!(list(&gone[0]["redactions"]).len(), 8);
    assert_eq!(gone[0]["data"]["nick"], "[erased]");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_guest_of_several() {
    let mut server = start().await;
    server.canary("Grace Hopper");
    server.schema("booked", &booking()).await;
    let data = json!({"nights": 2, "guests": [
        {"person_id": "p1", "name": "Ada King", "diet": "vegan"},
        {"person_id": "p2", "name": "Grace Hopper", "diet": "halal"},
        {"person_id": "p1", "name": "Ada Again"},
        {"person_id": "p3"}]});
    server.append("booking-1", "booked", &data).await.expect(201);
    assert_eq!(payloads(&server, "booking-1").await[0], data);
    let subject = server.forget("p2").await["data_subject"].clone();
    let server = restart(server).await;
    let mut expected = data.clone();
    expected["guests"][1] = json!({"person_id": subject, "name": "[erased]", "diet": "unknown"});
    assert_eq!(payloads(&server, "booking-1").await[0], expected);
    // Another booking of the others is taken, one of hers is not.
    server.append("booking-2", "booked", &json!({"nights": 1, "guests": [data["guests"][0]]})).await.expect(201);
    server.append("booking-2", "booked", &json!({"nights": 1, "guests": [data["guests"][1]]})).await.expect(409);
    let ada = server.forget("p1").await["data_subject"].clone();
    let last = payloads(&server, "booking-1").await[0].clone();
    assert_eq!(last["guests"][0], json!({"person_id": ada, "name": "[erased]", "diet": "unknown"}));
    assert_eq!(last["guests"][2], json!({"person_id": ada, "name": "[erased]"}));
    assert_eq!(last["guests"][3], json!({"person_id": "p3"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn values_of_two_people() {
    let server = start().await;
    let field = |when: &str| json!({"type": "string", "x-personal-data": {"subjects": ["a", "b"], "erase_when": when}});
    let schema = object(
        &json!({"a": {"id": "/a"}, "b": {"id": "/b"}}),
        &[],
        &json!({"a": {"type": "string"}, "b": {"type": "string"}, "any": field("any"), "all": field("all")}),
    );
    server.schema("met", &schema).await;
    for (stream, a, b) in [("meeting-1", "p1", "p2"), ("meeting-2", "p3", "p4"), ("meeting-3", "p5", "p5")] {
        let data = json!({"a": a, "b": b, "any": "joint words", "all": "either's words"});
        server.append(stream, "met", &data).await.expect(201);
        assert_eq!(payloads(&server, stream).await[0], data);
    }
    let shown = async |server: &Server, stream: &str| {
        let data = payloads(server, stream).await[0].clone();
        (data["any"].as_str().unwrap().to_owned(), data["all"].as_str().unwrap().to_owned())
    };
    let pair = |any: &str, all: &str| (any.to_owned(), all.to_owned());
    server.forget("p2").await;
    server.forget("p3").await;
    let server = restart(server).await;
    assert_eq!(shown(&server, "meeting-1").await, pair("[erased]", "either's words"));
    assert_eq!(shown(&server, "meeting-2").await, pair("[erased]", "either's words"));
    server.forget("p1").await;
    assert_eq!(shown(&server, "meeting-1").await, pair("[erased]", "[erased]"));
    assert_eq!(shown(&server, "meeting-3").await, pair("joint words", "either's words"));
    server.forget("p5").await;
    assert_eq!(shown(&server, "meeting-3").await, pair("[erased]", "[erased]"));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_purpose_of_two() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let data = json!({"contact_id": "p1", "name": "Ada King", "email": "ada@example.org"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let grant = |purposes: &[&str]| json!({"role": "pii_reader", "purposes": purposes});
    let general = key(&server, "general", &grant(&["general"])).await;
    let marketing = key(&server, "marketing", &grant(&["marketing"])).await;
    let email = async |server: &Server, key: &str| seen_by(server, key, "contact-1").await[0]["data"]["email"].clone();
    assert_eq!(email(&server, &marketing).await, "ada@example.org");
    let scope = json!({"data_subject": "p1", "scope": {"purposes": ["marketing"]}});
    let done = post_with(&server, "/v1/forget", &[("prefer", "wait=30")], &scope).await.expect(200).json();
    assert_eq!((&done["status"], &done["scope"]), (&json!("completed"), &json!({"purposes": ["marketing"]})));
    let server = restart(server).await;
    assert_eq!(email(&server, &general).await, "ada@example.org");
    assert_eq!(email(&server, &marketing).await, "withheld@redacted.invalid");
    assert_eq!(payloads(&server, "contact-1").await[0], data);
    let state = seen_by(&server, &marketing, "contact-1").await[0]["redactions"].clone();
    let mut states = pluck(&list(&state), "state");
    states.sort_by_key(ToString::to_string);
    assert_eq!(states.len(), 2, "{state}");
    server.forget("p1").await;
    assert_eq!(email(&server, &general).await, "erased@redacted.invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sealed_subtree() {
    let mut server = start().await;
    server.canary("12 St James Square");
    server.canary("Babbage & Sons");
    let schema = object(
        &json!({"p": {"id": "/id"}}),
        &["id", "address"],
        &json!({"id": {"type": "string"}, "address": {"type": "object", "required": ["lines"], "properties":
            {"lines": {"type": "array"}, "geo": {"type": "object"}},
            "x-personal-data": {"subject": "p", "category": "address", "placeholder": {"lines": []}}}}),
    );
    server.schema("moved", &schema).await;
    let data = json!({"id": "p1", "address": {"lines": ["12 St James Square", {"care of": ["Babbage & Sons"]}],
        "geo": {"lat": 51.5, "ü/~": [null, false, 0]}}});
    server.append("person-1", "moved", &data).await.expect(201);
    assert_eq!(payloads(&server, "person-1").await[0], data);
    let mut server = restart(server).await;
    server.canary("12 St James Square");
    assert_eq!(payloads(&server, "person-1").await[0], data);
    server.forget("p1").await;
    let gone = items(&server, "/v1/streams/person-1/events").await[0].clone();
    assert_eq!(gone["data"]["address"], json!({"lines": []}));
    assert_eq!(pluck(&list(&gone["redactions"]), "path"), ["/data/address"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_sees_what() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    server.schema("paid", &payment()).await;
    let contact = json!({"contact_id": "p1", "name": "Ada King", "email": "ada@example.org", "city": "London"});
    server.append("mixed-1", "contact-created", &contact).await.expect(201);
    let paid = json!({"payer_id": "p1", "payee_id": "p2", "amount_cents": 42, "payer_name": "Ada", "note": "thanks"});
    server.append("mixed-1", "paid", &paid).await.expect(201);
    let path = "/v1/streams/mixed-1/events";
    for role in ["reader", "writer", "auditor", "dpo"] {
        let key = key(&server, role, &json!({"role": role})).await;
        let seen = seen_by(&server, &key, "mixed-1").await;
        let id = seen[0]["data"]["contact_id"].as_str().unwrap();
        assert!(id.starts_with("ds_"), "{role}");
        assert_eq!(seen[1]["data"]["payer_id"], id, "the same person has one pseudonym");
        assert_eq!((&seen[0]["data"]["name"], &seen[0]["data"]["city"]), (&json!("[withheld]"), &json!("London")));
        let states = pluck(&list(&seen[0]["redactions"]), "state");
        assert_eq!(states, ["withheld", "withheld"]);
        assert!(!seen[1].to_string().contains("thanks") && !seen[1].to_string().contains("\"p2\""));
    }
    let admin = key(&server, "admin", &json!({"role": "admin"})).await;
    get_as(&server, &admin, path).await.expect(403);
    server.send("GET", path, &[("authorization", "Bearer nobody")], "").await.expect(401);
    let pays = key(&server, "pays", &json!({"role": "pii_reader", "purposes": ["payments"]})).await;
    let seen = seen_by(&server, &pays, "mixed-1").await;
    assert_eq!(seen[1]["data"], paid);
    assert_eq!((&seen[0]["data"]["contact_id"], &seen[0]["data"]["name"]), (&json!("p1"), &json!("[withheld]")));
    for purpose in ["general", "nothing"] {
        let headers = [("authorization", pays.as_str()), ("oubliette-purpose", purpose)];
        let refused = server.send("GET", path, &headers, "").await.expect(403);
        assert_eq!(refused.code(), "purpose-not-permitted");
    }
    let narrowed = server.send("GET", path, &[("oubliette-purpose", "marketing")], "").await.expect(200).json();
    assert_eq!(narrowed["items"][0]["data"]["email"], "ada@example.org");
    assert_eq!(
        (&narrowed["items"][0]["data"]["name"], &narrowed["items"][1]["data"]["note"]),
        (&json!("[withheld]"), &json!("[withheld]"))
    );
    // An officer sees values only with a reason, and only for purposes that were granted.
    let officer = key(&server, "officer", &json!({"role": "dpo", "purposes": ["general"]})).await;
    assert_eq!(seen_by(&server, &officer, "mixed-1").await[0]["data"]["name"], "[withheld]");
    let headers = [("authorization", officer.as_str()), ("oubliette-reason", "access request 7")];
    let with_reason = server.send("GET", path, &headers, "").await.expect(200).json();
    assert_eq!(with_reason["items"][0]["data"], contact);
    assert_eq!(with_reason["items"][1]["data"]["note"], "[withheld]");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_personal_read_is_logged() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let data = json!({"contact_id": "p1", "name": "Ada King", "email": "ada@example.org"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let log = async |server: &Server| items(server, "/v1/audit/access-log").await;
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let subject = seen_by(&server, &reader, "contact-1").await[0]["data"]["contact_id"].as_str().unwrap().to_owned();
    assert_eq!(log(&server).await.len(), 0, "nothing personal was shown");
    let pii = key(&server, "pii", &json!({"role": "pii_reader", "purposes": ["general"]})).await;
    let headers = [("authorization", pii.as_str()), ("oubliette-reason", "ticket 7")];
    let reply = server.send("GET", "/v1/streams/contact-1/events", &headers, "").await.expect(200);
    let entries = log(&server).await;
    let mut purposes = pluck(&entries, "purpose");
    purposes.sort_by_key(ToString::to_string);
    assert_eq!(purposes, ["$identity", "general"]);
    for entry in &entries {
        assert_eq!((&entry["data_subject"], &entry["reason"]), (&json!(subject), &json!("ticket 7")));
        assert_eq!(entry["route"], "/v1/streams/{stream}/events");
        assert_eq!(entry["request_id"], reply.header("x-request-id").unwrap());
        assert!(entry["actor"].as_str().unwrap().starts_with("key:ak_"));
    }
    let fields = entries.iter().find(|entry| entry["purpose"] == "general").unwrap()["fields"].clone();
    assert_eq!(fields, 2);
    // By person, and as lines and live too.
    let path = format!("/v1/audit/access-log?data_subject={subject}");
    server.send("GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await.expect(200);
    assert_eq!(items(&server, &path).await.len(), 5, "general, marketing and identity by the key dev");
    let other = "/v1/audit/access-log?data_subject=ds_00000000000000000000000000000001";
    assert_eq!(items(&server, other).await.len(), 0);
    get_as(&server, &pii, &path).await.expect(403);
    let officer = key(&server, "officer", &json!({"role": "dpo"})).await;
    get_as(&server, &officer, &path).await.expect(200);
    get_as(&server, &officer, "/v1/audit/access-log").await.expect(403);
    server.forget("p1").await;
    let count = items(&server, &path).await.len();
    items(&server, "/v1/streams/contact-1/events").await;
    assert_eq!(items(&server, &path).await.len(), count, "placeholders are no personal data");
    let server = restart(server).await;
    let kept = items(&server, &path).await;
    assert!(kept.len() >= count && !Value::from(kept).to_string().contains("Ada"));
}
