//! Processes that die in the middle of a backup, a restore and an import: what is there afterwards is whole, or is not
//! taken for anything, and the command is repeated.

use std::path::{Path, PathBuf};
use std::process::Output;

use oubliette::backup::Manifest;
use oubliette::crash::BACKUP_POINTS;
use serde_json::{Value, json};

use super::post;
use crate::child::{Child, copy_dir, oubliette, serve};

const NAME: &str = "Ann Canary";

fn command(dir: &Path, crash: Option<&str>, arguments: &[&str]) -> Output {
    let data = dir.join("data").display().to_string();
    let mut command = oubliette(dir, &[arguments, &["--data-dir", &data]].concat());
    if let Some(point) = crash {
        command.env("OUBLIETTE_CRASH_AT", point);
    }
    command.output().expect("the binary runs")
}

fn done(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn was_killed(output: &Output) -> bool {
    use std::os::unix::process::ExitStatusExt;
    output.status.signal() == Some(9)
}

/// A store with somebody in it.
fn store(dir: &Path) -> Child {
    let child = Child::dev(dir);
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["person_id"],
        "x-data-subjects": {"person": {"id": "/person_id"}},
        "properties": {"person_id": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "person", "category": "name"}}}});
    post(child.address, "/v1/schemas/person-noted/versions", &schema);
    for person in ["ann", "dan"] {
        let event = json!({"type": "person-noted", "data": {"person_id": person, "name": format!("{NAME} {person}")}});
        post(child.address, "/v1/streams/person-1/events", &event);
    }
    child
}

fn events(child: &Child) -> String {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let headers = [("authorization", "Bearer dev")];
    for _ in 0..20 {
        let asked = crate::harness::try_send(child.address, "GET", "/v1/events", &headers, Default::default());
        if let Ok(reply) = runtime.block_on(asked) {
            return reply.text();
        }
    }
    panic!("no answer");
}

/// Every backup that can be seen is whole.
fn whole(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for (name, domain) in
        [("backup-events", oubliette::backup::Domain::Events), ("backup-keys", oubliette::backup::Domain::Keys)]
    {
        for entry in std::fs::read_dir(dir.join("data").join(name)).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|ending| ending == "db") {
                let manifest = Manifest::read(&path, domain).expect("a backup has its manifest");
                let (bytes, sha256) = oubliette::durable::measure(&path).unwrap();
                assert_eq!((bytes, hex::encode(sha256)), (manifest.bytes, manifest.sha256));
                found.push(path);
            }
        }
    }
    found
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_while_a_backup_is_made() {
    for domain in ["events", "keys"] {
        for point in [
            "backup.copied",
            "durable.before-rename:1",
            "durable.before-rename:2",
            "durable.after-rename:1",
            "durable.after-rename:2",
        ] {
            let dir = tempfile::tempdir().unwrap();
            assert!(store(dir.path()).stop().success());
            assert!(was_killed(&command(dir.path(), Some(point), &["backup", domain])), "{point} was never reached");
            let before = whole(dir.path()).len();
            assert_eq!(before, usize::from(point == "durable.after-rename:2"), "{point}");
            let made = done(&command(dir.path(), None, &["backup", domain]));
            assert_eq!(whole(dir.path()).len(), before + 1);
            // Nothing is left but backups and their manifests.
            let left = std::fs::read_dir(dir.path().join(format!("data/backup-{domain}"))).unwrap().count();
            assert_eq!(left, 2 * (before + 1), "{domain} {point}: {made}");
            let found = crate::harness::scan(dir.path(), &[NAME.to_owned()]);
            assert!(found.is_empty(), "{found:?}");
        }
    }
}

/// After a crash the old store starts, or the new one, or none that says so; and the command can be repeated.
#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_while_a_backup_is_put_back() {
    for (domain, flag) in [("events", "--replace"), ("keys", "--replace"), ("keys", "--destroy-replaced")] {
        for point in ["restore.before-aside", "restore.aside", "durable.before-rename", "durable.after-rename"] {
            let dir = tempfile::tempdir().unwrap();
            assert!(store(dir.path()).stop().success());
            let made = done(&command(dir.path(), None, &["backup", domain]));
            let file = dir.path().join(format!("data/backup-{domain}")).join(made["file"].as_str().unwrap());
            let arguments = ["restore", domain, flag, "--from", file.to_str().unwrap()];
            assert!(was_killed(&command(dir.path(), Some(point), &arguments)), "{point} was never reached");
            match Child::start(serve(dir.path(), &["--dev"], &[])) {
                Ok(child) => {
                    assert!(matches!(point, "restore.before-aside" | "durable.after-rename"), "{domain} {point}");
                    assert!(events(&child).contains(NAME));
                    assert!(child.stop().success());
                }
                Err(refusal) => {
                    assert!(matches!(point, "restore.aside" | "durable.before-rename"), "{domain} {point}");
                    assert!(refusal.complained.contains("They belong together"), "{refusal:?}");
                }
            }
            done(&command(dir.path(), None, &arguments));
            let child = Child::dev(dir.path());
            assert!(events(&child).contains(NAME), "{domain} {flag} {point}");
            assert!(child.stop().success());
        }
    }
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_while_a_record_is_imported() {
    let template = tempfile::tempdir().unwrap();
    let child = store(template.path());
    let post = |path: &str, body: &Value| post(child.address, path, body);
    for n in 0..3 {
        let event = json!({"type": "person-noted", "data": {"person_id": format!("gone-{n}"), "name": NAME}});
        post("/v1/streams/person-2/events", &event);
    }
    let old = post("/v1/backups", &json!({"domain": "events"}));
    for n in 0..3 {
        post("/v1/forget", &json!({"data_subject": format!("gone-{n}")}));
    }
    let record = post("/v1/backups", &json!({"domain": "record"}));
    assert!(child.stop().success());
    let points = [
        "restore.before-import",
        "log.before-insert:1",
        "log.before-commit:2",
        "log.after-commit:2",
        "restore.imported-one:1",
        "restore.imported-one:2",
        "keyring.before-record",
    ];
    for point in points {
        let dir = tempfile::tempdir().unwrap();
        copy_dir(&template.path().join("data"), &dir.path().join("data"));
        let data = dir.path().join("data");
        let file = data.join("backup-events").join(old["file"].as_str().unwrap());
        done(&command(dir.path(), None, &["restore", "events", "--replace", "--from", file.to_str().unwrap()]));
        let file = data.join("erasure-record").join(record["file"].as_str().unwrap());
        let arguments = ["restore", "record", "--from", file.to_str().unwrap()];
        let killed = was_killed(&command(dir.path(), Some(point), &arguments));
        // The keyring remembers already.
        assert_eq!(killed, point != "keyring.before-record", "{point}");
        if killed {
            // As behind as before, or as level as it will be: never in between with something to read.
            let child = Child::dev(dir.path());
            let text = events(&child);
            assert!(text.contains("erasure-record-behind") && !text.contains(NAME), "{point}: {text}");
            assert!(child.stop().success());
            done(&command(dir.path(), None, &arguments));
        }
        let child = Child::dev(dir.path());
        let text = events(&child);
        assert_eq!(text.matches(NAME).count(), 2, "{point}: {text}");
        assert!(child.stop().success());
    }
}

/// No point is left out.
#[test]
fn every_point_has_a_case() {
    let here = include_str!("crashes.rs");
    assert!(BACKUP_POINTS.iter().all(|point| here.matches(&format!("\"{point}")).count() > 0));
}

/// Destroyed and said so, not yet completed; then older keys are put back. Nothing was sealed for the person, so no slot tells
/// the verification that their id is known again.
#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn keys_put_back_between_destruction_and_completion_are_destroyed_again() {
    let dir = tempfile::tempdir().unwrap();
    let child = store(dir.path());
    let event = json!({"type": "person-noted", "data": {"person_id": "eve"}});
    post(child.address, "/v1/streams/person-1/events", &event);
    assert!(child.stop().success());
    let made = done(&command(dir.path(), None, &["backup", "keys"]));
    let file = dir.path().join("data/backup-keys").join(made["file"].as_str().unwrap());
    let crash = [("OUBLIETTE_CRASH_AT", "forget.after-destroyed-event")];
    let mut child = Child::start(serve(dir.path(), &["--dev"], &crash)).expect("it starts");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json"), ("prefer", "wait=30")];
    let body = json!({"data_subject": "eve"}).to_string();
    let cut_off = crate::harness::try_send(child.address, "POST", "/v1/forget", &headers, body.into());
    assert!(runtime.block_on(cut_off).is_err());
    assert!(child.ended(std::time::Duration::from_secs(20)).is_some());
    drop(child);
    done(&command(dir.path(), None, &["restore", "keys", "--destroy-replaced", "--from", file.to_str().unwrap()]));
    let child = Child::start(serve(dir.path(), &["--dev"], &[])).expect("it starts again");
    let path = "/v1/forget-requests?status=completed";
    for _ in 0..200 {
        let asked = crate::harness::send(child.address, "GET", path, &headers, Default::default());
        if !runtime.block_on(asked).json()["items"].as_array().unwrap().is_empty() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(child.stop().success());
    let keys = rusqlite::Connection::open(dir.path().join("data/keys/keys.db")).unwrap();
    let count = |sql: &str| keys.query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap();
    assert_eq!((count("select count(*) from subjects"), count("select count(*) from person_tombstones")), (2, 1));
}
