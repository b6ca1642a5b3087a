//! Forgetting, through the API: requests and what they do, races, removal of ciphertext, copies and restored parts.

mod copies;
mod deep;
mod races;
mod requests;

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::harness::{Reply, Server};

/// A payment between two people: values of one, of one for two purposes, of both jointly.
pub async fn register(server: &Server) {
    let own = |role: &str, purposes: Value| json!({"type": "string", "x-personal-data": {"subject": role, "category": "name", "purposes": purposes}});
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["payer_id", "payee_id"],
        "x-data-subjects": {"payer": {"id": "/payer_id"}, "payee": {"id": "/payee_id"}},
        "properties": {"payer_id": {"type": "string"}, "payee_id": {"type": "string"}, "amount": {"type": "integer"},
            "payer_name": own("payer", json!(["payments", "marketing"])),
            "iban": own("payer", json!(["payments"])),
            "payee_name": own("payee", json!(["payments"])),
            "note": {"type": "string", "x-personal-data":
                {"subjects": ["payer", "payee"], "category": "note", "purposes": ["payments"]}}}});
    server.schema("payment-made", &schema).await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {"contact_id": {"type": "string"}, "seen": {"type": "integer"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    server.schema("contact-created", &schema).await;
    server.schema("counted", &json!({"type": "object"})).await;
}

/// A payment in `stream`. Every personal value has its owner's name in it.
pub async fn pay(server: &Server, stream: &str, payer: &str, payee: &str) {
    let data = json!({"payer_id": payer, "payee_id": payee, "amount": 4200, "payer_name": format!("{payer} Payer"),
        "iban": format!("{payer} Account"), "payee_name": format!("{payee} Payee"),
        "note": format!("{payer} owes {payee}")});
    server.append(stream, "payment-made", &data).await.expect(201);
}

/// A contact with a name.
pub async fn contact(server: &Server, person: &str, name: &str) -> Reply {
    let data = json!({"contact_id": person, "name": name});
    server.append(&format!("contact-{person}"), "contact-created", &data).await
}

/// The payload of the last event of a stream.
pub async fn last(server: &Server, stream: &str) -> Value {
    let path = format!("/v1/streams/{stream}/events?direction=backward&limit=1");
    server.get(&path).await.expect(200).json()["items"][0].clone()
}

/// Opens a request for a whole person.
pub async fn open(server: &Server, person: &str) -> Value {
    server.post("/v1/forget-requests", &json!({"data_subject": person})).await.expect(201).json()
}

/// Approves a request with a digest.
pub async fn approve(server: &Server, id: &Value, digest: &Value) -> Reply {
    let path = format!("/v1/forget-requests/{}/approvals", id.as_str().expect("an id"));
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    server.send("POST", &path, &headers, json!({"preview_digest": digest}).to_string()).await
}

/// Issues an API key and gives the value of its `authorization` header.
pub async fn key(server: &Server, name: &str, grant: Value) -> String {
    let mut wish = grant;
    wish["name"] = json!(name);
    let issued = server.post("/v1/api-keys", &wish).await.expect(201).json();
    format!("Bearer {}", issued["secret"].as_str().expect("a secret"))
}

/// A request as the holder of a key.
pub async fn as_key(server: &Server, key: &str, method: &str, path: &str, body: Option<&Value>) -> Reply {
    let mut headers = vec![("authorization", key), ("content-type", "application/json")];
    if method == "POST" {
        headers.push(("prefer", "wait=30"));
    }
    let body = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    server.send(method, path, &headers, body).await
}
