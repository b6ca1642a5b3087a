//! Copies made while the store is in use: whole, consistent, private, without what was destroyed, gone in time.

use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use oubliette::backup::sqlite::Replaced;
use oubliette::backup::{Domain, Manifest};
use oubliette::clock::{Clock, Millis};
use serde_json::{Value, json};

use super::{Engine, back_up, config, everything, forget_for, note, put_back, register, start, start_at};
use crate::harness::send;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_is_made_while_the_store_is_in_use_and_put_back() {
    for engine in Engine::all() {
        let mut server = start(engine, tempfile::tempdir().unwrap()).await;
        server.canary("Dana Canary Scott");
        register(&server).await;
        note(&server, "dan", 1, Some("Dana Canary Scott"), None).await.expect(201);
        // Somebody appends all the time.
        let going = Arc::new(AtomicBool::new(true));
        let (address, on) = (server.address, Arc::clone(&going));
        let busy = tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            let headers = [("authorization", "Bearer dev"), ("content-type", "application/json")];
            for n in 0.. {
                if !on.load(Ordering::SeqCst) {
                    return (n, longest);
                }
                let data = json!({"person_id": format!("p{n}"), "n": 100 + n, "name": format!("Name {n}")});
                let body = json!({"type": "person-noted", "data": data}).to_string();
                let began = std::time::Instant::now();
                let reply =
                    send(address, "POST", &format!("/v1/streams/person-p{n}/events"), &headers, body.into()).await;
                longest = longest.max(began.elapsed());
                reply.expect(201);
            }
            unreachable!()
        });
        tokio::time::sleep(Duration::from_millis(150)).await;
        let (keys, about_keys) = back_up(&server, Domain::Keys).await;
        // Keys that come after their backup are lost with it: what the log knows then, the keys must know.
        let (events, about_events) = back_up(&server, Domain::Events).await;
        let (later_keys, _) = back_up(&server, Domain::Keys).await;
        going.store(false, Ordering::SeqCst);
        let (appended, longest) = busy.await.unwrap();
        assert!(
            appended > 10 && longest < Duration::from_secs(10),
            "{engine:?}: {appended} appends, one took {longest:?}"
        );
        for (path, about) in [(&keys, &about_keys), (&events, &about_events)] {
            let metadata = std::fs::metadata(path).unwrap();
            assert_eq!(metadata.mode() & 0o777, 0o600, "{engine:?} {}", path.display());
            assert_eq!(about["bytes"], metadata.len());
            assert_eq!(about["sha256"], hex::encode(oubliette::durable::measure(path).unwrap().1));
        }
        assert!(about_events["next_position"].as_u64().unwrap() > 1, "{about_events}");
        assert!(about_keys["expires_at"].is_string() && about_events["expires_at"].is_null(), "{about_keys}");
        assert_eq!(about_keys["epochs"], json!([1]));
        let listed = server.get("/v1/backups").await.expect(200).json();
        assert_eq!(listed["items"].as_array().unwrap().len(), 3, "{listed}");
        for dir in [events.parent().unwrap(), keys.parent().unwrap()] {
            let odd = std::fs::read_dir(dir).unwrap().flatten().map(|entry| entry.file_name());
            let odd: Vec<_> = odd.filter(|name| !name.to_string_lossy().contains("Z.")).collect();
            assert!(odd.is_empty(), "{engine:?}: {odd:?}");
        }
        let dir = server.stop().await;
        let settings = config(engine, dir.path());
        let refused = put_back(&settings, Domain::Events, &events, Replaced::Refuse).await.unwrap_err();
        assert!(refused.to_string().contains("--replace"), "{refused}");
        let done = put_back(&settings, Domain::Events, &events, Replaced::Aside).await.unwrap();
        assert!(done.aside.is_some());
        put_back(&settings, Domain::Keys, &later_keys, Replaced::Destroy).await.unwrap();
        let server = start(engine, dir).await;
        let head = server.app.log.head().await.unwrap().next.0;
        assert_eq!(json!(head), about_events["next_position"], "{engine:?}");
        // Stopping verifies the whole store: every slot opens.
        assert!(everything(&server, &["dan"]).await.contains("Dana Canary Scott"));
        note(&server, "dan", 2, Some("Dana Canary Scott"), None).await.expect(201);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_keys_has_no_byte_of_a_destroyed_one() {
    let server = start(Engine::Files, tempfile::tempdir().unwrap()).await;
    register(&server).await;
    for n in 0..40 {
        note(&server, &format!("p{n}"), n, Some("A Name"), Some("A hobby")).await.expect(201);
    }
    let (before, _) = back_up(&server, Domain::Keys).await;
    for n in 0..20 {
        server.forget(&format!("p{n}")).await;
    }
    forget_for(&server, "p30", "marketing").await.expect(200);
    let (after, about) = back_up(&server, Domain::Keys).await;
    assert_eq!(about["erasure"], 21);
    let wrapped = |path: &std::path::Path| -> Vec<Vec<u8>> {
        let connection = rusqlite::Connection::open(path).unwrap();
        let mut rows = connection.prepare("select wrapped from key_slots where wrapped <> zeroblob(88)").unwrap();
        rows.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    };
    let (old, now) = (wrapped(&before), wrapped(&after));
    let bytes = std::fs::read(&after).unwrap();
    let destroyed: Vec<_> = old.iter().filter(|key| !now.contains(key)).collect();
    // Two keys and that of the external id each, and one.
    assert_eq!(destroyed.len(), 20 * 3 + 1);
    for key in destroyed {
        // The nonce and what follows are random: any part of it would be a remainder.
        assert!(!bytes.windows(24).any(|window| window == &key[28..52]), "a destroyed key is in the copy");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_backups_go_when_their_time_is_over_and_events_stay() {
    let clock = Clock::manual(Millis(1_790_000_000_000));
    let server = start_at(Engine::Files, tempfile::tempdir().unwrap(), clock.clone()).await;
    register(&server).await;
    note(&server, "dan", 1, Some("Dana"), None).await.expect(201);
    let (keys, _) = back_up(&server, Domain::Keys).await;
    clock.advance(1000);
    let (events, _) = back_up(&server, Domain::Events).await;
    clock.advance(6 * 24 * 3_600_000);
    let (younger, _) = back_up(&server, Domain::Keys).await;
    assert!(server.app.backups.sweep().unwrap().is_empty());
    clock.advance(25 * 3_600_000);
    let expired = |listed: &Value| -> Vec<bool> {
        listed["items"].as_array().unwrap().iter().map(|item| item["expired"].as_bool().unwrap()).collect()
    };
    assert_eq!(expired(&server.get("/v1/backups").await.expect(200).json()), [true, false, false]);
    assert_eq!(server.app.backups.sweep().unwrap(), [keys.file_name().unwrap().to_str().unwrap()]);
    assert!(!keys.exists() && !Manifest::beside(&keys).exists());
    assert!(younger.exists() && events.exists());
    assert_eq!(expired(&server.get("/v1/backups").await.expect(200).json()), [false, false]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_damaged_foreign_or_out_of_time_is_not_put_back() {
    for engine in Engine::all() {
        let server = start(engine, tempfile::tempdir().unwrap()).await;
        register(&server).await;
        note(&server, "dan", 1, Some("Dana"), None).await.expect(201);
        let (events, _) = back_up(&server, Domain::Events).await;
        let (keys, _) = back_up(&server, Domain::Keys).await;
        let dir = server.stop().await;
        let settings = config(engine, dir.path());
        let refusal = async |domain, from: &std::path::Path| {
            put_back(&settings, domain, from, Replaced::Aside).await.unwrap_err().to_string()
        };
        // The other domain's.
        assert!(refusal(Domain::Keys, &events).await.contains("no manifest of a backup of keys"));
        // A byte.
        let good = std::fs::read(&events).unwrap();
        let mut bad = good.clone();
        bad[good.len() / 2] ^= 1;
        std::fs::write(&events, &bad).unwrap();
        assert!(refusal(Domain::Events, &events).await.contains("damaged or cut off"));
        std::fs::write(&events, &good[..good.len() - 1]).unwrap();
        assert!(refusal(Domain::Events, &events).await.contains("damaged or cut off"));
        std::fs::write(&events, &good).unwrap();
        // Without its manifest.
        let manifest = Manifest::beside(&keys);
        std::fs::rename(&manifest, dir.path().join("elsewhere")).unwrap();
        assert!(refusal(Domain::Keys, &keys).await.contains("without it nobody knows"));
        // Of a root that is gone.
        let text = std::fs::read_to_string(dir.path().join("elsewhere")).unwrap();
        let mut value: Value = serde_json::from_str(&text).unwrap();
        value["epochs"] = json!([1, 7]);
        std::fs::write(&manifest, value.to_string()).unwrap();
        assert!(refusal(Domain::Keys, &keys).await.contains("the root key of epoch 7 is gone"));
        std::fs::write(&manifest, text).unwrap();
        // Of another store.
        let other = start(engine, tempfile::tempdir().unwrap()).await;
        let elsewhere = other.stop().await;
        let foreign = put_back(&config(engine, elsewhere.path()), Domain::Keys, &keys, Replaced::Aside).await;
        assert!(foreign.unwrap_err().to_string().contains("another store"));
        // Nothing was touched.
        let server = start(engine, dir).await;
        let running = put_back(&server.app.config, Domain::Keys, &keys, Replaced::Aside).await.unwrap_err();
        assert!(running.to_string().contains("already running"), "{running}");
        assert!(everything(&server, &["dan"]).await.contains("Dana"));
    }
}
