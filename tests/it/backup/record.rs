//! The exported record: what is believed, and what it brings back.

use std::path::{Path, PathBuf};

use oubliette::app::restore;
use oubliette::backup::Domain;
use oubliette::backup::sqlite::Replaced;
use oubliette::clock::Clock;
use oubliette::erasure::recovery::Standing;
use serde_json::{Value, json};

use super::{Engine, back_up, config, everything, forget_for, note, put_back, reauthorize, register, start};
use crate::harness::Server;

/// The record as the server exported it, once it has this many entries, all of them complete.
async fn exported(server: &Server, entries: u64) -> PathBuf {
    let made = server.post("/v1/backups", &json!({"domain": "record"})).await.expect(201).json();
    assert_eq!(made["erasure"], entries, "{made}");
    server.app.config.backup_record_dir.join(made["file"].as_str().unwrap())
}

fn keep(path: &Path, dir: &Path) -> PathBuf {
    let kept = dir.join(format!("kept-{}", path.file_name().unwrap().to_str().unwrap()));
    std::fs::copy(path, &kept).unwrap();
    kept
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_exports_after_every_erasure() {
    let server = start(Engine::Files, tempfile::tempdir().unwrap()).await;
    register(&server).await;
    note(&server, "ann", 1, Some("Ann Canary"), None).await.expect(201);
    note(&server, "bob", 2, Some("Bob Canary"), Some("chess")).await.expect(201);
    server.forget("ann").await;
    forget_for(&server, "bob", "marketing").await.expect(200);
    let dir = &server.app.config.backup_record_dir;
    let complete = || {
        let path = std::fs::read_dir(dir)
            .ok()?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.to_string_lossy().ends_with("jsonl"))?;
        let text = std::fs::read_to_string(path).ok()?;
        (text.lines().count() == 4 && !text.contains("\"completed_at\":null")).then_some(text)
    };
    let mut text = None;
    for _ in 0..200 {
        text = complete();
        if text.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let text = text.expect("exported in time");
    for personal in ["ann", "bob", "Canary", "chess"] {
        assert!(!text.contains(personal), "{personal} in {text}");
    }
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&lines[1]["number"], &lines[1]["scope"]), (&json!(1), &json!("*")));
    assert_eq!((&lines[2]["scope"], &lines[2]["generations"]), (&json!("marketing"), &json!([["marketing", 0]])));
    assert_eq!(lines[3]["entries"], 2);
}

/// An old log, everything else of today: sealed; with the record imported everybody is forgotten again, under the same
/// numbers, and the store serves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_record_forgets_everybody_again() {
    for engine in Engine::all() {
        let server = start(engine, tempfile::tempdir().unwrap()).await;
        register(&server).await;
        for (n, person) in ["ann", "bob", "cat", "dan"].iter().enumerate() {
            let (name, hobby) = (format!("{person}-name"), format!("{person}-hobby"));
            note(&server, person, n as u64, Some(&name), Some(&hobby)).await.expect(201);
        }
        // Asked for before the backup, approved after it.
        let waiting = server.post("/v1/forget-requests", &json!({"data_subject": "cat"})).await.expect(201).json();
        let (old, _) = back_up(&server, Domain::Events).await;
        server.forget("ann").await;
        forget_for(&server, "bob", "marketing").await.expect(200);
        let path = format!("/v1/forget-requests/{}/approvals", waiting["id"].as_str().unwrap());
        let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
        let digest = json!({"preview_digest": waiting["preview"]["digest"]}).to_string();
        server.send("POST", &path, &headers, digest).await.expect(200);
        let rows = server.app.log.erasures(0, 10).await.unwrap();
        let record = exported(&server, 3).await;
        let dir = server.stop().await;
        let record = keep(&record, dir.path());
        let settings = config(engine, dir.path());
        put_back(&settings, Domain::Events, &old, Replaced::Aside).await.unwrap();
        let server = start(engine, dir).await;
        assert!(!server.app.is_level());
        let all = everything(&server, &["ann", "bob", "cat", "dan"]).await;
        assert!(!all.contains("-name") && !all.contains("-hobby") && all.contains("erasure-record-behind"), "{all}");
        for (method, path, body) in [
            ("POST", "/v1/forget", json!({"data_subject": "dan"})),
            ("POST", "/v1/forget-requests", json!({"data_subject": "dan"})),
            ("POST", path.as_str(), json!({"preview_digest": waiting["preview"]["digest"]})),
            ("POST", "/v1/data-subjects/bob/reauthorizations", json!({"purposes": ["marketing"]})),
            ("POST", "/v1/data-subjects/lookups", json!({"data_subject": "dan"})),
            ("POST", "/v1/backups", json!({"domain": "record"})),
        ] {
            let reply = server.send(method, path, &[("content-type", "application/json")], body.to_string()).await;
            assert_eq!(reply.expect(503).code(), "erasure-record-behind", "{path}");
        }
        assert_eq!(server.get("/readyz?verbose").await.expect(503).json()["checks"]["erasure_record"], "behind");
        let dir = server.stop().await;
        let done = restore::import_record(&settings, &Clock::System, &record).await.unwrap();
        assert_eq!(done.entries, 3);
        assert!(matches!(done.standing, Standing::Level { .. }), "{done:?}");
        // Once is enough.
        assert_eq!(restore::import_record(&settings, &Clock::System, &record).await.unwrap().entries, 0);
        let server = start(engine, dir).await;
        assert!(server.app.is_level());
        let again = server.app.log.erasures(0, 10).await.unwrap();
        for (one, other) in rows.iter().zip(&again) {
            assert_eq!(
                (one.number, one.digest, &one.request, one.fenced),
                (other.number, other.digest, &other.request, other.fenced)
            );
        }
        let all = everything(&server, &["ann", "bob", "cat", "dan"]).await;
        for gone in ["ann-name", "ann-hobby", "bob-hobby", "cat-name", "cat-hobby"] {
            assert!(!all.contains(gone), "{engine:?}: {gone}");
        }
        for alive in ["bob-name", "dan-name", "dan-hobby"] {
            assert!(all.contains(alive), "{engine:?}: {alive}");
        }
        // The worker brings them to their end again; the next number is the next.
        for row in &rows {
            let path = format!("/v1/forget-requests/{}", row.request);
            let done = server.send("GET", &path, &[("prefer", "wait=20")], "").await.expect(200).json();
            assert_eq!(done["status"], "completed", "{done}");
        }
        server.forget("dan").await;
        assert_eq!(server.app.log.erasures(3, 10).await.unwrap()[0].number, 4);
        assert_eq!(note(&server, "ann", 9, Some("ann-again"), None).await.expect(409).code(), "data-subject-erased");
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_is_forged_cut_moved_or_foreign_is_refused() {
    let server = start(Engine::Files, tempfile::tempdir().unwrap()).await;
    register(&server).await;
    for (n, person) in ["ann", "bob", "cat"].iter().enumerate() {
        note(&server, person, n as u64, Some("A name"), Some("A hobby")).await.expect(201);
    }
    let (old, _) = back_up(&server, Domain::Events).await;
    server.forget("ann").await;
    let early = std::fs::read_to_string(exported(&server, 1).await).unwrap();
    forget_for(&server, "bob", "marketing").await.expect(200);
    server.forget("cat").await;
    let path = exported(&server, 3).await;
    let text = std::fs::read_to_string(&path).unwrap();
    let dir = server.stop().await;
    // Without the one beside the store, so that only keyring and keystore are witnesses.
    std::fs::remove_file(&path).unwrap();
    let settings = config(Engine::Files, dir.path());
    put_back(&settings, Domain::Events, &old, Replaced::Aside).await.unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let joined = |lines: &[&str]| lines.iter().flat_map(|line| [*line, "\n"]).collect::<String>();
    let other_subject = lines[2].replacen("ds_", "ds_f", 1);
    let stranger = start(Engine::Files, tempfile::tempdir().unwrap()).await;
    register(&stranger).await;
    let foreign = std::fs::read_to_string(exported(&stranger, 0).await).unwrap();
    let cases = [
        ("no end", joined(&lines[..4])),
        ("nothing", String::new()),
        ("half a line", text[..text.len() - 40].to_owned()),
        ("an entry less", joined(&[lines[0], lines[1], lines[2], lines[4]])),
        ("another order", joined(&[lines[0], lines[2], lines[1], lines[3], lines[4]])),
        ("another basis", text.replacen("gdpr:A17-1-b", "gdpr:A17-1-d", 1)),
        ("another scope", text.replacen("\"scope\":\"marketing\"", "\"scope\":\"general\"", 1)),
        ("another reach", text.replacen("[\"marketing\",0]", "[\"marketing\",5]", 1)),
        ("another person", joined(&[lines[0], lines[1], &other_subject, lines[3], lines[4]])),
        ("something after the end", text.clone() + lines[1] + "\n"),
        ("another signature", text.replacen("\"signature\":\"", "\"signature\":\"00", 1)),
        (
            "the end of another",
            joined(&[lines[0], lines[1], early.lines().last().unwrap()]).replacen("\"entries\":1", "\"entries\":2", 1),
        ),
        ("another store's", foreign),
        ("an older one", early.clone()),
    ];
    let file = dir.path().join("case.jsonl");
    let before = std::fs::read(settings.events_db()).unwrap();
    for (what, text) in cases {
        std::fs::write(&file, text).unwrap();
        let refused = restore::import_record(&settings, &Clock::System, &file).await;
        assert!(refused.is_err(), "{what}: {refused:?}");
    }
    let after = rusqlite::Connection::open(settings.events_db()).unwrap();
    let count: i64 = after.query_row("select count(*) from erasures", [], |row| row.get(0)).unwrap();
    assert_eq!(count, 0);
    drop((after, before));
    std::fs::write(&file, text).unwrap();
    assert_eq!(restore::import_record(&settings, &Clock::System, &file).await.unwrap().entries, 3);
    start(Engine::Files, dir).await.stop().await;
}

/// All three stores from before an erasure: only the exported record remembers, and it is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_exported_record_is_a_witness() {
    let server = start(Engine::Files, tempfile::tempdir().unwrap()).await;
    register(&server).await;
    note(&server, "ann", 1, Some("ann-name"), None).await.expect(201);
    let dir = server.stop().await;
    let before = tempfile::tempdir().unwrap();
    crate::child::copy_dir(&dir.path().join("data"), &before.path().join("data"));
    let server = start(Engine::Files, dir).await;
    server.forget("ann").await;
    let record = exported(&server, 1).await;
    let settings = config(Engine::Files, before.path());
    std::fs::create_dir_all(&settings.backup_record_dir).unwrap();
    std::fs::copy(&record, settings.backup_record_dir.join(record.file_name().unwrap())).unwrap();
    server.stop().await;
    let server = start(Engine::Files, before).await;
    assert!(!server.app.is_level());
    assert!(!everything(&server, &["ann"]).await.contains("ann-name"));
    let dir = server.stop().await;
    // What stands there is not overwritten by the old log.
    let path = settings.backup_record_dir.join(record.file_name().unwrap());
    assert!(restore::export_record(&settings, &Clock::System).await.is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 3);
    restore::import_record(&settings, &Clock::System, &path).await.unwrap();
    let server = start(Engine::Files, dir).await;
    assert!(server.app.is_level() && !everything(&server, &["ann"]).await.contains("ann-name"));
}

/// A purpose that was re-authorised after the backup of the log: neither it nor a later forget of it is a way around.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keystore_that_knows_of_a_later_re_authorisation() {
    for engine in Engine::all() {
        let server = start(engine, tempfile::tempdir().unwrap()).await;
        register(&server).await;
        note(&server, "cat", 1, Some("cat-name"), Some("cat-first")).await.expect(201);
        forget_for(&server, "cat", "marketing").await.expect(200);
        let (old, _) = back_up(&server, Domain::Events).await;
        reauthorize(&server, "cat", &["marketing"]).await.expect(201);
        note(&server, "cat", 2, None, Some("cat-second")).await.expect(201);
        let dir = server.stop().await;
        put_back(&config(engine, dir.path()), Domain::Events, &old, Replaced::Aside).await.unwrap();
        let server = start(engine, dir).await;
        assert!(server.app.is_level(), "nobody was forgotten since");
        let refused = note(&server, "cat", 3, None, Some("cat-third")).await.expect(409);
        assert_eq!(refused.code(), "data-subject-erased", "this log knows of no re-authorisation");
        reauthorize(&server, "cat", &["marketing"]).await.expect(201);
        note(&server, "cat", 3, None, Some("cat-third")).await.expect(201);
        assert!(everything(&server, &["cat"]).await.contains("cat-third"));
        let done = forget_for(&server, "cat", "marketing").await.expect(200).json();
        assert_eq!(done["verification"]["opened"], 0);
        let all = everything(&server, &["cat"]).await;
        assert!(!all.contains("cat-third") && all.contains("cat-name"), "{all}");
        note(&server, "cat", 4, None, Some("cat-fourth")).await.expect(409);
        server.stop().await;
    }
}
