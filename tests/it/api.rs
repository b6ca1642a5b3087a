//! Short ways of saying what the tests over HTTP say often: keys, pages, restarts, and the schemas they share.

use oubliette::clock::Clock;
use oubliette::config::{Config, SchemaPolicy};
use serde_json::{Value, json};

use crate::harness::{Reply, Server};

/// What `--dev` sets: the key `dev`, and categories that need no schema.
pub fn dev(config: &mut Config) {
    config.dev = true;
    config.schema_policy = SchemaPolicy::Open;
}

/// A server as `--dev` starts it, on an empty directory.
pub async fn start() -> Server {
    Server::with(dev).await
}

/// The same store in a new process, as far as the store can tell.
pub async fn restart(server: Server) -> Server {
    let dir = server.stop().await;
    Server::on(dir, dev, Clock::System).await
}

/// Issues a key and gives the value of its `Authorization` header.
pub async fn key(server: &Server, name: &str, grant: &Value) -> String {
    let mut body = grant.clone();
    body["name"] = name.into();
    let issued = server.post("/v1/api-keys", &body).await.expect(201).json();
    format!("Bearer {}", issued["secret"].as_str().unwrap())
}

/// A GET with another key than `dev`.
pub async fn get_as(server: &Server, key: &str, path: &str) -> Reply {
    server.send("GET", path, &[("authorization", key)], "").await
}

/// A POST of JSON with further headers.
pub async fn post_with(server: &Server, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
    let mut all = vec![("content-type", "application/json")];
    all.extend_from_slice(headers);
    server.send("POST", path, &all, body.to_string()).await
}

/// The items of a page.
pub async fn items(server: &Server, path: &str) -> Vec<Value> {
    list(&server.get(path).await.expect(200).json()["items"])
}

/// The payloads of a stream, oldest first.
pub async fn payloads(server: &Server, stream: &str) -> Vec<Value> {
    items(server, &format!("/v1/streams/{stream}/events")).await.iter().map(|event| event["data"].clone()).collect()
}

/// The elements of an array; none where it is missing.
pub fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

/// One member of each element.
pub fn pluck(list: &[Value], member: &str) -> Vec<Value> {
    list.iter().map(|item| item[member].clone()).collect()
}

/// The pointers of everything a problem says is wrong, sorted.
pub fn pointers(problem: &Reply) -> Vec<String> {
    let errors = problem.json()["errors"].as_array().cloned().unwrap_or_default();
    let mut pointers: Vec<String> = errors.iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect();
    pointers.sort();
    pointers
}

/// A whole schema over properties; `roles` is `x-data-subjects`.
pub fn object(roles: &Value, required: &[&str], properties: &Value) -> Value {
    json!({"type": "object", "additionalProperties": false, "x-data-subjects": roles, "required": required,
        "properties": properties})
}

/// A contact: an id, a name and an e-mail address for two purposes, a city that is nobody's.
pub fn contact() -> Value {
    object(
        &json!({"contact": {"id": "/contact_id"}}),
        &["contact_id"],
        &json!({
            "contact_id": {"type": "string"}, "city": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}},
            "email": {"type": "string", "format": "email", "x-personal-data":
                {"subject": "contact", "category": "contact.email", "purposes": ["general", "marketing"]}},
        }),
    )
}

/// A booking with several guests, each with an id, a name and a diet.
pub fn booking() -> Value {
    object(
        &json!({"guest": {"id": "/guests/*/person_id"}}),
        &["nights", "guests"],
        &json!({"nights": {"type": "integer"}, "guests": {"type": "array", "items": {
            "type": "object", "additionalProperties": false, "required": ["person_id"], "properties": {
                "person_id": {"type": "string"},
                "name": {"type": "string", "x-personal-data": {"subject": "guest", "category": "name"}},
                "diet": {"type": "string", "x-personal-data": {"subject": "guest", "category": "health.diet",
                    "special": true, "placeholder": "unknown"}}}}}}),
    )
}

/// A payment between two people: a name and an account each, a note that is both's.
pub fn payment() -> Value {
    let of = |role: &str, category: &str| {
        json!({"type": "string", "x-personal-data":
        {"subject": role, "category": category, "purposes": ["payments"]}})
    };
    let iban = |role: &str| {
        let mut schema = of(role, "financial.iban");
        schema["x-personal-data"]["placeholder"] = "Deleted due to {article} GDPR request on {date}".into();
        schema
    };
    object(
        &json!({"payer": {"id": "/payer_id"}, "payee": {"id": "/payee_id"}}),
        &["payer_id", "payee_id", "amount_cents"],
        &json!({
            "payer_id": {"type": "string"}, "payee_id": {"type": "string"}, "amount_cents": {"type": "integer"},
            "payer_name": of("payer", "name"), "payer_iban": iban("payer"),
            "payee_name": of("payee", "name"), "payee_iban": iban("payee"),
            "note": {"type": "string", "x-personal-data": {"subjects": ["payer", "payee"], "erase_when": "any",
                "category": "free_text", "purposes": ["payments"]}},
        }),
    )
}
