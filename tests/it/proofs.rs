//! The log as a transparency log: proofs of any size, tiles, and that neither forgetting nor a restart changes what was
//! proven.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use oubliette::audit::checkpoint::{self, Checkpoint};
use oubliette::audit::proof;
use oubliette::audit::tree::Tree;
use oubliette::merkle::{self, Hash};
use serde_json::{Value, json};

use crate::api;
use crate::harness::Server;
use crate::store::{Store, event, events_path, open_log};

/// Appends counted events, `count` of them, a hundred at a time.
async fn grow(server: &Server, count: usize) {
    for first in (0..count).step_by(100) {
        let events: Vec<Value> =
            (first..count.min(first + 100)).map(|n| json!({"type": "counted", "data": {"n": n}})).collect();
        server.post("/v1/streams/count-1/events", &json!(events)).await.expect(201);
    }
}

async fn vkey(server: &Server) -> String {
    server.get("/.well-known/oubliette-audit-keys").await.expect(200).text().trim().to_owned()
}

async fn signed(server: &Server, path: &str) -> Checkpoint {
    let note = server.get(path).await.expect(200).text();
    checkpoint::verify(&note, &vkey(server).await).unwrap()
}

/// Every leaf of the log, read as tiles.
async fn leaves(server: &Server, size: u64) -> Vec<Hash> {
    let bytes = tile_bytes(server, "0", size).await;
    bytes.as_chunks::<32>().0.to_vec()
}

/// The hashes of a level of tiles, or all entries.
async fn tile_bytes(server: &Server, level: &str, hashes: u64) -> Vec<u8> {
    let mut all = Vec::new();
    for (number, first) in (0..hashes).step_by(256).enumerate() {
        let width = (hashes - first).min(256);
        let partial = if width < 256 { format!(".p/{width}") } else { String::new() };
        let tile = server.get(&format!("/v1/audit/log/tile/{level}/{number:03}{partial}")).await.expect(200);
        assert_eq!(tile.header("content-type"), Some("application/octet-stream"));
        all.extend_from_slice(&tile.body);
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn every_proof_holds_at_every_size() {
    let server = api::start().await;
    grow(&server, 700).await;
    let key = vkey(&server).await;
    let now = signed(&server, "/v1/audit/checkpoint").await;
    let all = leaves(&server, now.size).await;
    assert_eq!(merkle::root_of(&all), now.root);
    for size in [1, 2, 255, 256, 257, 511, 512, 513, 700, now.size] {
        for entry in [0, 1, 128, 255, 256, 300, 511, 600, size - 1].into_iter().filter(|entry| *entry < size) {
            let path = format!("/v1/audit/proofs/inclusion?entry={entry}&size={size}");
            let text = server.get(&path).await.expect(200).text();
            let (index, at) = proof::verify(&text, &all[entry as usize], &key).unwrap();
            assert_eq!((index, at.size, at.root), (entry, size, merkle::root_of(&all[..size as usize])));
        }
        for first in [0, 1, 100, 256, 512, size].into_iter().filter(|first| *first <= size) {
            let path = format!("/v1/audit/proofs/consistency?from={first}&to={size}");
            consistent(&server.get(&path).await.expect(200).json(), &merkle::root_of(&all[..first as usize]), &key);
        }
    }
    let nothing = server.get("/v1/audit/proofs/consistency?from=0&to=0").await.expect(200).json();
    consistent(&nothing, &merkle::empty_root(), &key);
    let present = server.get("/v1/audit/proofs/inclusion?entry=0").await.expect(200).text();
    assert_eq!(proof::verify(&present, &all[0], &key).unwrap().1, now);
}

fn consistent(answer: &Value, old: &Hash, key: &str) {
    let hashes = answer["hashes"].as_array().unwrap().iter().map(|hash| BASE64.decode(hash.as_str().unwrap()).unwrap());
    let hashes: Vec<Hash> = hashes.map(|hash| hash.try_into().unwrap()).collect();
    let new = checkpoint::verify(answer["checkpoint"].as_str().unwrap(), key).unwrap();
    let from = answer["from"].as_u64().unwrap();
    assert_eq!(new.size, answer["to"].as_u64().unwrap());
    merkle::verify_consistency((from, old), (new.size, &new.root), &hashes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tiles_hold_the_tree_and_entries_its_leaves() {
    let server = api::start().await;
    grow(&server, 600).await;
    let now = signed(&server, "/v1/audit/log/checkpoint").await;
    let all = leaves(&server, now.size).await;
    let above = tile_bytes(&server, "1", now.size >> 8).await;
    let roots: Vec<Hash> = all.as_chunks::<256>().0.iter().map(|tile| merkle::root_of(tile)).collect();
    assert_eq!((above, roots.len()), (roots.concat(), 2));
    let entries = tile_bytes(&server, "entries", now.size).await;
    let (mut rest, mut found) = (entries.as_slice(), Vec::new());
    while let Some((length, more)) = rest.split_first_chunk::<2>() {
        let (entry, more) = more.split_at(usize::from(u16::from_be_bytes(*length)));
        found.push(merkle::leaf_hash(entry));
        rest = more;
    }
    assert_eq!(found, all);
    let whole = server.get("/v1/audit/log/tile/0/000").await.expect(200);
    assert_eq!(whole.header("cache-control"), Some("private, max-age=31536000, immutable"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_in_the_log_is_refused() {
    let server = api::start().await;
    grow(&server, 3).await;
    let size = signed(&server, "/v1/audit/checkpoint").await.size;
    for path in ["0/000", "0/000.p/200", "1/000.p/1", "0/001.p/1", "9/000", "0/0", "entries/000", "a", "0/x999/999"] {
        server.get(&format!("/v1/audit/log/tile/{path}")).await.expect(404);
    }
    let (beyond, wrong) = (format!("entry=0&size={}", size + 1), format!("entry={size}"));
    for query in [beyond.as_str(), wrong.as_str(), "", "entry=-1", "entry=x", "entry=0&size=0", "entry=0&more=1"] {
        server.get(&format!("/v1/audit/proofs/inclusion?{query}")).await.expect(400);
    }
    for query in ["", "from=3&to=2", "from=0&to=99", "from=99"] {
        server.get(&format!("/v1/audit/proofs/consistency?{query}")).await.expect(400);
    }
    let nobody = [("authorization", "Bearer none")];
    for path in ["/v1/audit/log/tile/0/000.p/1", "/v1/audit/log/checkpoint", "/v1/audit/proofs/consistency?from=0"] {
        server.send("GET", path, &nobody, "").await.expect(401);
    }
    server.send("POST", "/v1/audit/log/checkpoint", &[], "").await.expect(405);
}

/// A thousand proofs, taken before people are forgotten and their ciphertext is removed, hold afterwards: against their own checkpoint, and the log of then
/// is a beginning of the log of now.
#[tokio::test(flavor = "multi_thread")]
async fn neither_forgetting_nor_deep_erase_changes_a_proof() {
    let server = Server::with(|config| {
        api::dev(config);
        config.deep_erase_after = Duration::ZERO;
    })
    .await;
    crate::erasure::register(&server).await;
    for person in 0..40 {
        for _ in 0..20 {
            crate::erasure::pay(&server, &format!("account-{person}"), &format!("p{person}"), "shop").await;
        }
    }
    grow(&server, 300).await;
    let key = vkey(&server).await;
    let before = signed(&server, "/v1/audit/checkpoint").await;
    let all = leaves(&server, before.size).await;
    let mut taken = Vec::new();
    for entry in 0..1000 {
        let path = format!("/v1/audit/proofs/inclusion?entry={entry}&size={}", before.size - entry % 7);
        taken.push(server.get(&path).await.expect(200).text());
    }
    for person in 0..10 {
        let id = server.forget(&format!("p{person}")).await["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/forget-requests/{id}");
        while server.get(&path).await.expect(200).json()["deep_erase"]["done_at"].is_null() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    let server = api::restart(server).await;
    assert_eq!(vkey(&server).await, key);
    let after = signed(&server, "/v1/audit/checkpoint").await;
    assert!(after.size > before.size);
    assert_eq!(leaves(&server, before.size).await, all);
    for (entry, text) in taken.iter().enumerate() {
        let (index, _) = proof::verify(text, &all[entry], &key).unwrap();
        assert_eq!(index, entry as u64);
        let path = format!("/v1/audit/proofs/inclusion?entry={entry}&size={}", before.size - index % 7);
        assert_eq!(server.get(&path).await.expect(200).text(), *text, "the same proof again");
    }
    let path = format!("/v1/audit/proofs/consistency?from={}", before.size);
    consistent(&server.get(&path).await.expect(200).json(), &before.root, &key);
}

/// A store of an older version keeps no inner nodes of what it has: they are computed.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_that_were_not_kept_are_computed() {
    let store = Store::new();
    for n in 0..700 {
        store.append("note-1", event("noted", json!({"n": n}))).await;
    }
    let tree = Tree::of(store.log.clone());
    let head = store.log.head().await.unwrap();
    let proofs = |tree: Tree| async move {
        let mut found = Vec::new();
        for index in (0..700).step_by(99) {
            found.push(tree.inclusion(index, 700).await.unwrap().unwrap());
        }
        found
    };
    assert_eq!(tree.root(700).await.unwrap(), head.frontier.root());
    let kept = proofs(tree).await;
    let numbers: Vec<u64> = store.log.hashes(8, 0, 10).await.unwrap().iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [0, 1]);
    store.log.close().await;
    let path = events_path(store.dir.path());
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection.execute_batch("drop trigger tree_stay; delete from tree where number = 0").unwrap();
    connection.close().unwrap();
    let log = open_log(&path);
    let tree = Tree::of(log);
    assert_eq!(tree.root(700).await.unwrap(), head.frontier.root());
    assert_eq!(proofs(tree).await, kept);
}
