//! A store of format 1, as it was released: every later build must open it, read it and forget with it.
//!
//! `fixtures/format-1` was written by the ignored test below and is never written again. Its keyring belongs to nothing
//! else.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use oubliette::clock::{Clock, Millis};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::Server;
use crate::nodes::until;

/// A moment after the last event of the fixture.
const WRITTEN: Millis = Millis(1_795_263_410_000);

const FILES: [&str; 5] =
    ["events/events.db", "keys/keys.db", "keyring/store", "keyring/root-00000001.key", "keyring/audit-signing.key"];

fn kept() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/fixtures/format-1")
}

/// A copy with the permissions that a keyring must have and that version control does not keep.
fn copy() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for file in FILES {
        let to = dir.path().join("data").join(file);
        let parent = to.parent().unwrap();
        std::fs::create_dir_all(parent).unwrap();
        std::fs::set_permissions(parent, std::fs::Permissions::from_mode(0o700)).unwrap();
        std::fs::copy(kept().join(file), &to).unwrap();
        std::fs::set_permissions(&to, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    dir
}

fn payments() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["payer_id", "payee_id", "amount_cents"],
        "x-data-subjects": {"payer": {"id": "/payer_id"}, "payee": {"id": "/payee_id"}},
        "properties": {"payer_id": {"type": "string"}, "payee_id": {"type": "string"}, "amount_cents": {"type": "integer"},
            "payer_name": {"type": "string",
                "x-personal-data": {"subject": "payer", "category": "name", "purposes": ["payments", "marketing"]}},
            "note": {"type": "string",
                "x-personal-data": {"subjects": ["payer", "payee"], "erase_when": "any", "category": "free_text"}}}})
}

fn payment(payer: &str, payee: &str, name: &str) -> Value {
    json!({"payer_id": payer, "payee_id": payee, "amount_cents": 4200, "payer_name": name, "note": "for the boat"})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_format_1_still_works() {
    let clock = Clock::manual(WRITTEN);
    let server = Server::on(copy(), |config| config.dev = true, clock.clone()).await;
    let page = server.get("/v1/streams/account-1/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"], payment("p1", "p2", "Ada King"));
    let ada = &page["items"][1];
    assert_eq!(ada["data"]["payer_name"], "[erased]");
    assert_eq!((&ada["data"]["note"], &ada["data"]["payee_id"]), (&json!("[erased]"), &json!("p2")));
    assert_eq!(ada["data"]["amount_cents"], 4200);
    let kept = server.get("/v1/audit/checkpoint").await.expect(200).text();
    assert!(kept.contains("\n8\n"), "the tree has the size it had: {kept}");
    server.forget("p1").await;
    server.append("account-1", "paid", &payment("p4", "p2", "Cy Orr")).await.expect(201);
    let page = server.get("/v1/streams/account-1/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"]["payer_name"], "[erased]");
    assert_eq!(page["items"][2]["data"]["payer_name"], "Cy Orr");
    // What was erased then loses its ciphertext as what is erased now does.
    clock.advance(24 * 60 * 60 * 1000);
    let requests = server.get("/v1/forget-requests").await.expect(200).json();
    let requests = requests["items"].as_array().unwrap();
    assert_eq!(requests.len(), 2);
    for request in requests {
        let path = format!("/v1/forget-requests/{}", request["id"].as_str().unwrap());
        let gone = async || server.get(&path).await.expect(200).json()["deep_erase"].clone();
        until("the ciphertext goes", async || Some(gone().await).filter(|deep| !deep["done_at"].is_null())).await;
        // For payments, for marketing, and the note, which is about two.
        assert_eq!((&gone().await["events"], &gone().await["slots"]), (&json!(1), &json!(3)));
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "writes the fixture of the format that is current; run once per format: cargo test -- --ignored write_the_fixture"]
async fn write_the_fixture() {
    let server = Server::dev().await;
    server.schema("paid", &payments()).await;
    server.append("account-1", "paid", &payment("p1", "p2", "Ada King")).await.expect(201);
    server.append("account-1", "paid", &payment("p3", "p2", "Bob Ray")).await.expect(201);
    server.forget("p3").await;
    let dir = server.stop().await;
    for file in FILES {
        let to = kept().join(file);
        assert!(!to.exists(), "a released format is not written again: {}", to.display());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(dir.path().join("data").join(file), to).unwrap();
    }
}
