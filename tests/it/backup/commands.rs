//! The commands, as they are typed: with a server, without one, and what they refuse.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use super::Engine;
use super::post;
use crate::child::{Child, oubliette};
use crate::postgres;

fn run(dir: &Path, server: Option<&Child>, arguments: &[&str]) -> Output {
    let mut command = oubliette(dir, arguments);
    for (file, variable) in [("events.dsn", "OUBLIETTE_EVENTS_DSN"), ("keys.dsn", "OUBLIETTE_KEYS_DSN")] {
        if let Ok(dsn) = std::fs::read_to_string(dir.join(file)) {
            command.env(variable, dsn);
        }
    }
    if let Some(server) = server {
        command.env("OUBLIETTE_SERVER", format!("http://{}", server.address)).env("OUBLIETTE_API_KEY", "dev");
    }
    command.output().expect("the binary runs")
}

fn done(output: &Output) -> Value {
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complained}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {:?} {complained}", output.stdout))
}

fn refused(output: &Output, code: i32, about: &str) {
    let complained = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{complained}");
    assert!(complained.contains(about), "{complained}");
}

#[test]
fn a_store_goes_and_comes_back_by_commands_alone() {
    for engine in Engine::all() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path();
        if engine == Engine::Postgres {
            postgres::place_dir(at);
        }
        let data = at.join("data").display().to_string();
        let child = Child::dev(at);
        let event = json!({"type": "counted", "data": {"n": 1}});
        post(child.address, "/v1/streams/count-1/events", &event);
        let events = done(&run(at, Some(&child), &["backup", "events"]));
        let keys = done(&run(at, Some(&child), &["backup", "keys"]));
        let record = done(&run(at, Some(&child), &["backup", "record"]));
        assert_eq!(
            (&events["domain"], &keys["domain"], &record["erasure"]),
            (&json!("events"), &json!("keys"), &json!(0))
        );
        let listed = run(at, Some(&child), &["backup", "ls"]);
        assert_eq!(String::from_utf8_lossy(&listed.stdout).lines().count(), 2);
        post(child.address, "/v1/streams/count-1/events", &event);
        let file = at.join("data/backup-events").join(events["file"].as_str().unwrap()).display().to_string();
        let from = ["--from", file.as_str(), "--data-dir", data.as_str()];
        refused(&run(at, None, &[&["restore", "events", "--replace"], &from[..]].concat()), 1, "already running");
        refused(&run(at, None, &["backup", "keys", "--data-dir", &data]), 1, "already running");
        assert!(child.stop().success());
        refused(&run(at, None, &[&["restore", "events"], &from[..]].concat()), 1, "--replace");
        let restored = done(&run(at, None, &[&["restore", "events", "--replace"], &from[..]].concat()));
        assert!(restored["aside"].is_string(), "{restored}");
        let offline = done(&run(at, None, &["backup", "events", "--data-dir", &data]));
        assert_eq!(offline["next_position"], events["next_position"]);
        done(&run(at, None, &["backup", "record", "--data-dir", &data]));
        let keys = done(&run(at, None, &["backup", "keys", "--data-dir", &data]));
        let file = at.join("data/backup-keys").join(keys["file"].as_str().unwrap()).display().to_string();
        let from = ["--from", file.as_str(), "--data-dir", data.as_str()];
        done(&run(at, None, &[&["restore", "keys", "--destroy-replaced"], &from[..]].concat()));
        let child = Child::dev(at);
        let made = post(child.address, "/v1/streams/count-1/events", &event);
        assert_eq!(made["first_revision"].as_u64().or(made["revision"].as_u64()), Some(1), "{made}");
        assert!(child.stop().success());
    }
}

#[test]
fn one_directory_for_backups_of_both_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = crate::child::serve(dir.path(), &["--dev"], &[]);
    command
        .env("OUBLIETTE_BACKUP_KEYS_DIR", dir.path().join("b/keys"))
        .env("OUBLIETTE_BACKUP_EVENTS_DIR", dir.path().join("b"));
    let refusal = Child::start(command).err().expect("it must not start");
    assert!(refusal.complained.contains("backup_keys_dir is in one directory with backup_events_dir"), "{refusal:?}");
    assert!(!dir.path().join("data").exists());
}

/// A program that is not there is named, with what to do.
#[test]
fn without_the_programs_of_postgres_a_backup_says_so() {
    if postgres::cluster().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    postgres::place_dir(dir.path());
    assert!(Child::dev(dir.path()).stop().success());
    let data = dir.path().join("data").display().to_string();
    let mut command = oubliette(dir.path(), &["backup", "events", "--data-dir", &data]);
    for (file, variable) in [("events.dsn", "OUBLIETTE_EVENTS_DSN"), ("keys.dsn", "OUBLIETTE_KEYS_DSN")] {
        command.env(variable, std::fs::read_to_string(dir.path().join(file)).unwrap());
    }
    let bin = dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    refused(&command.env("PATH", &bin).output().unwrap(), 1, "pg_dump is not in the path");
    std::fs::write(bin.join("pg_dump"), "#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.1'\n").unwrap();
    std::fs::set_permissions(bin.join("pg_dump"), std::fs::Permissions::from_mode(0o755)).unwrap();
    refused(&command.output().unwrap(), 1, "pg_dump is of version 9, the server of");
    let left: Vec<_> =
        std::fs::read_dir(dir.path().join("data/backup-events")).into_iter().flatten().flatten().collect();
    assert!(left.iter().all(|entry| entry.file_name().to_string_lossy().ends_with(".unfinished")), "{left:?}");
}
