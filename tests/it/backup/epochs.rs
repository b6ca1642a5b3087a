//! Keystores put back that are older than an epoch: what is said of backups stays true of those from the time that was lost.

use oubliette::backup::Domain;
use oubliette::backup::sqlite::Replaced;
use oubliette::clock::{Clock, Millis};
use oubliette::erasure::epoch::Epochs;

use super::{Engine, back_up, config, note, put_back, register, start_at};

const DAY: i64 = 24 * 60 * 60 * 1000;

async fn settled(epochs: &Epochs) {
    while epochs.advance().await.unwrap() {}
}

async fn a_lost_epoch(engine: Engine) {
    let clock = Clock::manual(Millis(1_800_000_000_000));
    let server = start_at(engine, tempfile::tempdir().unwrap(), clock.clone()).await;
    register(&server).await;
    for (n, person) in ["ann", "ben", "cat"].into_iter().enumerate() {
        note(&server, person, n as u64, Some("Somebody"), None).await.expect(201);
    }
    let (early, _) = back_up(&server, Domain::Keys).await;
    clock.advance(2 * DAY);
    server.forget("ann").await;
    settled(&server.app.epochs).await;
    // Under the second root, with the keys of somebody who is forgotten only afterwards.
    let (_, late) = back_up(&server, Domain::Keys).await;
    assert_eq!(late["epochs"], serde_json::json!([2]));
    server.forget("ben").await;
    let dir = server.stop().await;
    put_back(&config(engine, dir.path()), Domain::Keys, &early, Replaced::Destroy).await.unwrap();
    let server = start_at(engine, dir, clock.clone()).await;
    let root = server.app.config.keyring_dir.join("root-00000002.key");
    for day in 0..12 {
        settled(&server.app.epochs).await;
        let effective = server.app.epochs.status().await.unwrap().effective_erasure();
        assert!(effective < 2 || !root.exists(), "day {day}: the late backup opens, and is said not to");
        clock.advance(DAY);
    }
    assert!(!root.exists(), "the late backup opens for ever");
    assert_eq!(server.app.epochs.status().await.unwrap().effective_erasure(), 2);
    drop(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_from_an_epoch_that_was_lost_forget_too() {
    for engine in Engine::all() {
        a_lost_epoch(engine).await;
    }
}

/// A copy of the keyring from before a root was destroyed, put in its place.
async fn an_old_keyring(engine: Engine) {
    let clock = Clock::manual(Millis(1_800_000_000_000));
    let server = start_at(engine, tempfile::tempdir().unwrap(), clock.clone()).await;
    register(&server).await;
    note(&server, "ann", 1, Some("Somebody"), None).await.expect(201);
    let root = server.app.config.keyring_dir.join("root-00000001.key");
    let kept = server.path().join("kept.key");
    std::fs::copy(&root, &kept).unwrap();
    server.app.epochs.rotate().await.unwrap();
    for _ in 0..2 {
        settled(&server.app.epochs).await;
        clock.advance(8 * DAY);
    }
    assert!(server.app.epochs.status().await.unwrap().epochs[0].destroyed.is_some() && !root.exists());
    let dir = server.stop().await;
    std::fs::rename(&kept, &root).unwrap();
    let server = start_at(engine, dir, clock).await;
    server.app.epochs.status().await.unwrap();
    assert!(!root.exists());
    drop(server.stop().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_came_back_is_destroyed_again() {
    for engine in Engine::all() {
        an_old_keyring(engine).await;
    }
}
