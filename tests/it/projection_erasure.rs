//! What a forget does to rows, at its own place in the log: a rebuild, which knows of later forgets already, does the same.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::start;
use crate::harness::Server;

/// One text for two purposes, one for one of them, and a public one.
fn schema() -> Value {
    let text = |purposes: &[&str]| json!({"type": "string", "x-personal-data": {"subject": "person", "category": "name", "purposes": purposes}});
    json!({"type": "object", "additionalProperties": false, "required": ["at", "person"],
        "x-data-subjects": {"person": {"id": "/person"}},
        "properties": {"at": {"type": "string"}, "person": {"type": "string"}, "city": {"type": "string"},
            "wide": text(&["billing", "marketing"]), "narrow": text(&["marketing"])}})
}

async fn setup() -> Server {
    let server = start().await;
    server.schema("seen", &schema()).await;
    let definition = json!({"projection": "places", "version": 1, "from": {"types": ["seen", "moved", "cleared"]},
        "key": {"at": "data.at"}, "columns": {"wide": "string", "narrow": "string", "times": {"type": "int", "default": 0}},
        "handle": {
            "seen": {"upsert": {"wide": "data.wide"}, "increment": {"times": 1}},
            "cleared": {"update": {"wide": "'nobody'"}},
            "moved": {"update": {"narrow": "'moved'"}, "increment": {"times": 1}}},
        "on_erasure": "delete_row"});
    server.put("/v1/projections/places", &definition).await.expect(201);
    server
}

async fn rows(server: &Server) -> Value {
    let head = *server.app.log.watch().borrow() - 1;
    let path = format!("/v1/projections/places/rows?at_least={head}");
    server.send("GET", &path, &[("prefer", "wait=20")], "").await.expect(200).json()["items"].clone()
}

async fn rebuilt(server: &Server) -> Value {
    let generation = async || server.app.projections.get("places").await.unwrap().live.unwrap().generation.id;
    let before = generation().await;
    server.post("/v1/projections/places/rebuilds", &json!({})).await.expect(202);
    let deadline = Instant::now() + Duration::from_secs(20);
    while generation().await == before {
        assert!(Instant::now() < deadline, "the rebuild does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rows(server).await
}

async fn forget_purpose(server: &Server, person: &str, purpose: &str) {
    let body = json!({"data_subject": person, "scope": {"purposes": [purpose]}}).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    server.send("POST", "/v1/forget", &headers, body).await.expect(200);
}

/// A forget of one purpose leaves a row that can be read for another; that all of it is forgotten later changes nothing
/// about what happened in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_forget_does_not_reach_back() {
    let server = setup().await;
    server.append("s-1", "seen", &json!({"at": "x", "person": "ada", "wide": "Ada Lovelace"})).await.expect(201);
    forget_purpose(&server, "ada", "marketing").await;
    // Kept: still readable for billing. Now it is nobody's any more, and outlives her.
    server.append("s-1", "cleared", &json!({"at": "x"})).await.expect(201);
    server.forget("ada").await;
    server.append("s-1", "moved", &json!({"at": "x"})).await.expect(201);
    let kept = rows(&server).await;
    assert_eq!((&kept[0]["wide"], &kept[0]["times"]), (&json!("nobody"), &json!(2)), "{kept}");
    assert_eq!(rebuilt(&server).await, kept);
}

/// Purposes that go one after another: the row goes with the last of them, as it does in a rebuild.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_goes_with_the_last_purpose() {
    let server = setup().await;
    server.append("s-1", "seen", &json!({"at": "x", "person": "ada", "wide": "Ada Lovelace"})).await.expect(201);
    server.append("s-2", "seen", &json!({"at": "y", "person": "bob", "wide": "Bob Ray"})).await.expect(201);
    forget_purpose(&server, "ada", "marketing").await;
    server.append("s-1", "moved", &json!({"at": "x"})).await.expect(201);
    assert_eq!(rows(&server).await.as_array().unwrap().len(), 2);
    forget_purpose(&server, "ada", "billing").await;
    server.append("s-1", "moved", &json!({"at": "x"})).await.expect(201);
    let left = rows(&server).await;
    assert_eq!((left.as_array().unwrap().len(), &left[0]["at"]), (1, &json!("y")), "{left}");
    assert_eq!(rebuilt(&server).await, left);
}

/// A purpose that came back and went again: what is of the time between stays until then, in a rebuild too.
#[tokio::test(flavor = "multi_thread")]
async fn a_purpose_that_came_back_keeps_its_rows_until_it_goes_again() {
    let server = setup().await;
    let seen = json!({"at": "x", "person": "ada", "wide": "Ada Lovelace"});
    server.append("s-1", "seen", &seen).await.expect(201);
    forget_purpose(&server, "ada", "marketing").await;
    let back = json!({"purposes": ["marketing"]});
    server.post("/v1/data-subjects/ada/reauthorizations", &back).await.expect(201);
    server.append("s-1", "seen", &seen).await.expect(201);
    forget_purpose(&server, "ada", "billing").await;
    // Still there, for marketing.
    server.append("s-1", "cleared", &json!({"at": "x"})).await.expect(201);
    forget_purpose(&server, "ada", "marketing").await;
    server.append("s-1", "moved", &json!({"at": "x"})).await.expect(201);
    let kept = rows(&server).await;
    assert_eq!(kept[0]["times"], 3, "{kept}");
    assert_eq!(rebuilt(&server).await, kept);
}
