//! Epochs of root keys in a whole server: asked for, by the clock, and what the log and the interfaces say of them.

use oubliette::clock::{Clock, Millis};
use oubliette::erasure::epoch::Epochs;
use serde_json::{Value, json};

use crate::child::oubliette;
use crate::harness::Server;

const DAY: i64 = 24 * 60 * 60 * 1000;

fn contact(id: &str, name: &str) -> Value {
    json!({"contact_id": id, "name": name})
}

async fn server(clock: &Clock) -> Server {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::on(dir, |config| config.dev = true, clock.clone()).await;
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {"contact_id": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    server.schema("contact-noted", &schema).await;
    for (id, name) in [("p1", "Ada Lovelace King"), ("p2", "Grace Brewster Hopper")] {
        server.append("contact-1", "contact-noted", &contact(id, name)).await.expect(201);
    }
    server
}

/// Waits until the job has nothing to do at this time.
async fn settled(epochs: &Epochs) {
    let mut ticks = epochs.ticks();
    loop {
        while epochs.advance().await.unwrap() {}
        ticks.borrow_and_update();
        // The server's own task may have taken the last step; once more, and nothing was there to take.
        if !epochs.advance().await.unwrap() {
            return;
        }
    }
}

async fn said(server: &Server) -> Vec<(String, Value)> {
    let reply = server.get("/v1/streams/$epochs/events").await;
    if reply.status.as_u16() == 404 {
        return Vec::new();
    }
    let page = reply.expect(200).json();
    let items = page["items"].as_array().unwrap().iter();
    items.map(|event| (event["type"].as_str().unwrap().to_owned(), event["data"].clone())).collect()
}

async fn names(server: &Server) -> Vec<Value> {
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).json();
    page["items"].as_array().unwrap().iter().map(|event| event["data"]["name"].clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_begins_by_the_clock_when_somebody_was_forgotten() {
    let clock = Clock::manual(Millis(1_800_000_000_000));
    let mut server = server(&clock).await;
    server.canary("Ada Lovelace King");
    server.canary("Grace Brewster Hopper");
    let epochs = server.app.epochs.clone();
    clock.advance(40 * DAY);
    settled(&epochs).await;
    assert_eq!(epochs.status().await.unwrap().epochs.len(), 1, "nobody was forgotten");
    server.forget("p1").await;
    settled(&epochs).await;
    let keys = server.get("/v1/keys").await.expect(200).json();
    assert_eq!((&keys["epoch"], &keys["epochs"][0]["state"]), (&json!(2), &json!("restore-only")));
    assert_eq!(keys["backups"], json!({"bound": "P8D", "epoch": "P1D", "horizon": "P7D", "effective_erasure": 0}));
    // Within the epoch nothing begins, whoever is forgotten.
    server.append("contact-1", "contact-noted", &contact("p3", "Mary Fairfax")).await.expect(201);
    server.forget("p3").await;
    settled(&epochs).await;
    assert_eq!(epochs.status().await.unwrap().epochs.len(), 2);
    clock.advance(DAY);
    settled(&epochs).await;
    assert_eq!(epochs.status().await.unwrap().newest().unwrap().epoch, 3);
    clock.advance(6 * DAY);
    settled(&epochs).await;
    clock.advance(DAY);
    settled(&epochs).await;
    let status = epochs.status().await.unwrap();
    assert_eq!((status.effective_erasure(), status.epochs.len()), (2, 3));
    let facts = said(&server).await;
    let kinds: Vec<(&str, u64)> =
        facts.iter().map(|(kind, data)| (kind.as_str(), data["epoch"].as_u64().unwrap())).collect();
    assert_eq!(kinds, [("epoch-finished", 2), ("epoch-finished", 3), ("root-destroyed", 1), ("root-destroyed", 2)]);
    assert_eq!((&facts[2].1["effective_erasure"], &facts[3].1["effective_erasure"]), (&json!(1), &json!(2)));
    assert_eq!(names(&server).await, ["[erased]", "Grace Brewster Hopper", "[erased]"]);
    // Everything is there again after a restart, from what the keyring has left.
    let dir = server.stop().await;
    let server = Server::on(dir, |config| config.dev = true, clock.clone()).await;
    assert_eq!(names(&server).await, ["[erased]", "Grace Brewster Hopper", "[erased]"]);
    assert_eq!(said(&server).await.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_can_be_asked_for_and_watched() {
    let clock = Clock::manual(Millis(1_800_000_000_000));
    let server = server(&clock).await;
    server.get("/v1/keys/rotations/1").await.expect(404);
    server.get("/v1/keys/rotations/x").await.expect(404);
    let begun = server.send("POST", "/v1/keys/rotations", &[], "").await.expect(202);
    assert_eq!(begun.header("location"), Some("/v1/keys/rotations/2"));
    assert_eq!(begun.json()["epoch"], 2);
    settled(&server.app.epochs).await;
    let done = server.get("/v1/keys/rotations/2").await.expect(200).json();
    assert_eq!((&done["status"], &done["shards"]["left"]), (&json!("finished"), &json!(0)));
    assert_eq!((&done["shards"]["rekeyed"], &done["backups_effective"]), (&json!(0), &json!(false)));
    assert!(done["earlier_root_destroy_due"].is_string() && done["files_rewritten"] == true);
    assert_eq!(names(&server).await, ["Ada Lovelace King", "Grace Brewster Hopper"]);
    // The same from the command line, to its end.
    let dir = tempfile::tempdir().unwrap();
    let address = format!("http://{}", server.address);
    let run = |arguments: &[&str]| {
        let mut command = oubliette(dir.path(), arguments);
        command.env("OUBLIETTE_SERVER", &address).env("OUBLIETTE_API_KEY", "dev");
        tokio::task::block_in_place(|| command.output()).unwrap()
    };
    let rotated = run(&["keys", "rotate", "--output", "json"]);
    assert!(rotated.status.success(), "{}", String::from_utf8_lossy(&rotated.stderr));
    let rotated: Value = serde_json::from_slice(&rotated.stdout).unwrap();
    assert_eq!((&rotated["epoch"], &rotated["status"]), (&json!(3), &json!("finished")));
    let status = run(&["keys", "status", "--output", "json"]);
    let status: Value = serde_json::from_slice(&status.stdout).unwrap();
    let states: Vec<&str> =
        status["epochs"].as_array().unwrap().iter().map(|epoch| epoch["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["restore-only", "restore-only", "current"]);
}
