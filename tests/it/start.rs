//! Starting and stopping the real binary: what a first start makes, what a start refuses, what a stop finishes.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::body::Bytes;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::{Child, Refusal, copy_dir, oubliette, serve};
use crate::harness::{Reply, send, try_send};

/// A stopped `--dev` store.
fn store() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    assert!(Child::dev(dir.path()).stop().success());
    dir
}

/// Every path under a directory and the length of every file, but for those in which SQLite works.
fn listing(dir: &Path) -> BTreeSet<(PathBuf, u64)> {
    let mut all = BTreeSet::new();
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            all.extend(listing(&path));
            all.insert((path, 0));
        } else if !path.to_string_lossy().ends_with("-wal") && !path.to_string_lossy().ends_with("-shm") {
            all.insert((path, entry.metadata().unwrap().len()));
        }
    }
    all
}

/// A start that must be refused, without making or changing anything.
#[track_caller]
fn refused(dir: &Path, about: &[&str]) -> Refusal {
    let before = listing(dir);
    let refusal = Child::start(serve(dir, &["--dev"], &[])).err().expect("it must not start");
    assert_eq!(refusal.status.code(), Some(1), "{refusal:?}");
    assert!(!refusal.said.contains("Listening"), "{refusal:?}");
    for word in about {
        assert!(refusal.complained.contains(word), "{word:?} is not in {:?}", refusal.complained);
    }
    let after = listing(dir);
    let made: Vec<_> = after.symmetric_difference(&before).collect();
    assert!(made.is_empty(), "a refused start changed {made:?}");
    refusal
}

async fn get(child: &Child, path: &str, key: &str) -> Reply {
    let authorization = format!("Bearer {key}");
    send(child.address, "GET", path, &[("authorization", &authorization)], Bytes::new()).await
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

fn chmod(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn the_first_start_makes_everything_and_tells_the_key_once() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::start(serve(dir.path(), &[], &[])).unwrap();
    let data = dir.path().join("data");
    for (name, file) in [("events", "events.db"), ("keys", "keys.db"), ("keyring", "root-00000001.key")] {
        assert_eq!(mode(&data.join(name)), 0o700, "{name}");
        assert!(data.join(name).join(file).exists(), "{file}");
        assert!(child.said.contains(&data.join(name).display().to_string()), "{}", child.said);
    }
    for file in ["store", "root-00000001.key", "audit-signing.key"] {
        assert_eq!(mode(&data.join("keyring").join(file)), 0o600, "{file}");
    }
    let key = child.said.split("shown this once").nth(1).unwrap().split_whitespace().find(|word| word.len() > 40);
    let key = key.unwrap_or_else(|| panic!("no key in {}", child.said)).to_owned();
    get(&child, "/v1/api-keys", &key).await.expect(200);
    get(&child, "/v1/api-keys", "dev").await.expect(401);
    assert_eq!(get(&child, "/v1/events", &key).await.expect(403).code(), "forbidden", "an admin reads no events");
    assert!(child.stop().success());

    let child = Child::start(serve(dir.path(), &[], &[])).unwrap();
    assert!(!child.said.contains("shown this once") && !child.said.contains("Created"), "{}", child.said);
    get(&child, "/v1/api-keys", &key).await.expect(200);
    assert!(child.stop().success());
    let found = crate::harness::scan(&data, &[key]);
    assert!(found.is_empty(), "the key itself is stored: {found:?}");
}

#[test]
fn dev_says_so_loudly_and_prints_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::dev(dir.path());
    assert!(child.said.contains("--dev") && child.said.contains("Never in production"), "{}", child.said);
    assert!(!child.said.contains("shown this once"));
}

#[test]
fn one_process_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let first = Child::dev(dir.path());
    let second = Child::start(serve(dir.path(), &["--dev"], &[])).err().expect("it must not start");
    assert_eq!(second.status.code(), Some(1));
    assert!(second.complained.contains("another process is already running on"), "{}", second.complained);
    assert!(first.stop().success());
    assert!(Child::dev(dir.path()).stop().success());
}

#[test]
fn a_part_that_is_missing_is_never_made_anew() {
    for (gone, name) in [("events", "the event log"), ("keys", "the keystore"), ("keyring", "the keyring")] {
        let dir = store();
        std::fs::rename(dir.path().join("data").join(gone), dir.path().join("elsewhere")).unwrap();
        let path = dir.path().join("data").join(gone).display().to_string();
        refused(dir.path(), &[name, "does not", &path]);
        std::fs::rename(dir.path().join("elsewhere"), dir.path().join("data").join(gone)).unwrap();
        assert!(Child::dev(dir.path()).stop().success(), "restored, it starts");
    }
}

#[test]
fn parts_of_different_stores_are_refused() {
    for (part, about) in [
        ("keyring", "the event log belongs to store"),
        ("events", "the event log belongs to store"),
        ("keys", "the keystore belongs to another store"),
    ] {
        let (dir, other) = (store(), store());
        std::fs::remove_dir_all(dir.path().join("data").join(part)).unwrap();
        copy_dir(&other.path().join("data").join(part), &dir.path().join("data").join(part));
        refused(dir.path(), &[about]);
    }
    // The keyring's name is that of the store, its root is not.
    let (dir, other) = (store(), store());
    let root = "data/keyring/root-00000001.key";
    std::fs::copy(other.path().join(root), dir.path().join(root)).unwrap();
    refused(dir.path(), &["the keyring does not open this keystore"]);
}

/// What can be computed again is not reported as if history were lost.
#[test]
fn a_damaged_file_of_projections_is_not_taken_for_the_log() {
    let dir = store();
    let path = dir.path().join("data/events/projections.db");
    std::fs::write(&path, vec![0x5a; 9000]).unwrap();
    let refusal = refused(dir.path(), &["the file of projections does not open", "remove", "projections.db"]);
    assert!(!refusal.complained.contains("event log"), "{refusal:?}");
    std::fs::remove_file(&path).unwrap();
    assert!(Child::start(serve(dir.path(), &["--dev"], &[])).is_ok());
}

#[test]
fn a_keyring_that_others_can_read_is_refused() {
    let dir = store();
    let keyring = dir.path().join("data/keyring");
    for (name, bad, good) in [
        ("", 0o755, 0o700),
        ("store", 0o644, 0o600),
        ("root-00000001.key", 0o644, 0o600),
        ("audit-signing.key", 0o640, 0o600),
    ] {
        let path = if name.is_empty() { keyring.clone() } else { keyring.join(name) };
        chmod(&path, bad);
        refused(dir.path(), &[&path.display().to_string(), &format!("{bad:04o}"), "others than its owner"]);
        chmod(&path, good);
    }
    assert!(Child::dev(dir.path()).stop().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_finishes_what_was_begun() {
    let dir = tempfile::tempdir().unwrap();
    let child = Child::dev(dir.path());
    let address = child.address;
    let lanes: Vec<_> = (0..4u64)
        .map(|lane| {
            tokio::spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0u64.. {
                    let tag = lane * 1_000_000 + number;
                    let body = json!({"type": "counted", "data": {"tag": tag}}).to_string();
                    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json")];
                    let path = format!("/v1/streams/count-{lane}/events");
                    match try_send(address, "POST", &path, &headers, Bytes::from(body)).await {
                        Ok(reply) if reply.status.as_u16() == 201 => acknowledged.push(tag),
                        Ok(reply) => assert_eq!(reply.code(), "stopping", "{}", reply.text()),
                        Err(_) => break,
                    }
                }
                acknowledged
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(400)).await;
    assert_eq!(tokio::task::block_in_place(|| child.stop()).code(), Some(0));
    let mut acknowledged = BTreeSet::new();
    for lane in lanes {
        acknowledged.extend(lane.await.unwrap());
    }
    assert!(acknowledged.len() > 4, "there was traffic");
    let child = Child::dev(dir.path());
    let headers = [("authorization", "Bearer dev"), ("accept", "application/x-ndjson")];
    let text = send(child.address, "GET", "/v1/events", &headers, Bytes::new()).await.expect(200).text();
    let stored: BTreeSet<u64> =
        text.lines().filter_map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["tag"].as_u64()).collect();
    assert!(acknowledged.is_subset(&stored), "acknowledged events are lost");
}

#[test]
fn an_interrupt_stops_it_too() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Child::dev(dir.path());
    child.signal(Signal::INT);
    assert_eq!(child.ended(Duration::from_secs(30)).unwrap().code(), Some(0));
}

#[test]
fn settings_nobody_knows_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let flag = Child::start(serve(dir.path(), &["--lissten", "x"], &[])).err().unwrap();
    assert_eq!(flag.status.code(), Some(2));
    assert!(flag.complained.contains("--lissten"), "{}", flag.complained);
    let variable = Child::start(serve(dir.path(), &[], &[("OUBLIETTE_LISSTEN", "secret-text")])).err().unwrap();
    assert_eq!(variable.status.code(), Some(1));
    assert!(variable.complained.contains("OUBLIETTE_LISTEN"), "the nearest name: {}", variable.complained);
    assert!(!variable.complained.contains("secret-text"), "values are not repeated");
    std::fs::write(dir.path().join("oubliette.toml"), "lissten = \"127.0.0.1:1\"\n").unwrap();
    let file = Child::start(serve(dir.path(), &[], &[])).err().unwrap();
    assert_eq!(file.status.code(), Some(1));
    assert!(file.complained.contains("lissten is not a setting; did you mean \"listen\"?"), "{}", file.complained);
    assert!(!dir.path().join("data").exists(), "nothing was made");
}

#[test]
fn check_shows_every_setting_and_what_is_unsafe() {
    let dir = tempfile::tempdir().unwrap();
    let output = oubliette(dir.path(), &["check", "--listen", "0.0.0.0:7017", "--dev"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let rows: Vec<Value> =
        String::from_utf8(output.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let row = |name: &str| rows.iter().find(|row| row["setting"] == name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(row("listen")["value"], "0.0.0.0:7017");
    assert_eq!(row("listen")["source"], "--listen");
    assert_eq!(row("readers")["source"], "OUBLIETTE_READERS");
    assert_eq!(row("limits.body_bytes")["source"], "default");
    for name in ["dev", "listen", "schema_policy", "keyring_dir"] {
        assert!(!row(name)["unsafe"].as_array().unwrap().is_empty(), "{name} is unsafe");
    }
    assert!(row("lease")["unsafe"].as_array().unwrap().is_empty());
    assert!(!dir.path().join("oubliette-data").exists(), "looking makes nothing");
}
