//! Backups of every age of each domain against forgets of every kind: nobody comes back, everybody else stays.
//!
//! A history of seven steps, with a backup of everything before the first and after each. A case puts the three domains
//! back from three moments of it, and says how far the history had come that is to be survived: what was forgotten by
//! then is read nowhere, or nothing personal is until the exported record was imported.

use std::fmt::Write;
use std::path::{Path, PathBuf};

use oubliette::app::restore;
use oubliette::backup::Domain;
use oubliette::backup::sqlite::Replaced;
use oubliette::clock::Clock;
use oubliette::config::Config;
use oubliette::erasure::recovery::Standing;
use oubliette::verify;
use serde_json::json;
use tempfile::TempDir;

use super::{Engine, back_up, config, everything, forget_for, note, put_back, reauthorize, register, start};
use crate::child::copy_dir;
use crate::harness::Server;
use crate::postgres;

const PEOPLE: [&str; 6] = ["ann", "bob", "cat", "dan", "eve", "fay"];
const STEPS: usize = 7;

/// Values, the first step after which they are forgotten, and the moment from which both log and keys have them.
const VALUES: [(&str, usize, usize); 12] = [
    ("ann-name-0", 1, 0),
    ("ann-hobby-0", 1, 0),
    ("bob-name-0", 99, 0),
    ("bob-hobby-0", 2, 0),
    ("cat-name-0", 99, 0),
    ("cat-hobby-0", 3, 0),
    ("cat-hobby-1", 7, 4),
    ("dan-name-0", 99, 0),
    ("dan-hobby-0", 99, 0),
    ("eve-name-0", 5, 0),
    ("eve-name-1", 99, 6),
    ("fay-name-0", 99, 0),
];
/// The number of the last erasure at each moment.
const ERASURES: [u64; STEPS + 1] = [0, 1, 2, 3, 3, 4, 4, 5];

async fn step(server: &Server, step: usize) {
    match step {
        1 => drop(server.forget("ann").await),
        2 => drop(forget_for(server, "bob", "marketing").await.expect(200)),
        3 | STEPS => drop(forget_for(server, "cat", "marketing").await.expect(200)),
        4 => {
            reauthorize(server, "cat", &["marketing"]).await.expect(201);
            note(server, "cat", 20, None, Some("cat-hobby-1")).await.expect(201);
        }
        5 => drop(server.forget("eve").await),
        _ => {
            reauthorize(server, "eve", &[]).await.expect(201);
            note(server, "eve", 21, Some("eve-name-1"), None).await.expect(201);
        }
    }
}

/// What is kept of one moment.
struct Moment {
    events: PathBuf,
    keys: PathBuf,
    keyring: PathBuf,
    record: PathBuf,
}

struct History {
    engine: Engine,
    moments: Vec<Moment>,
    /// Holds the backups; on a server also what is put back.
    dir: TempDir,
}

impl History {
    async fn make(engine: Engine) -> Self {
        let server = start(engine, tempfile::tempdir().unwrap()).await;
        register(&server).await;
        for (n, person) in PEOPLE.iter().enumerate() {
            let (name, hobby) = (format!("{person}-name-0"), format!("{person}-hobby-0"));
            let hobby = matches!(*person, "ann" | "bob" | "cat" | "dan").then_some(hobby.as_str());
            note(&server, person, n as u64, Some(&name), hobby).await.expect(201);
        }
        let mut moments = vec![Self::moment(&server, 0).await];
        for at in 1..=STEPS {
            step(&server, at).await;
            moments.push(Self::moment(&server, at).await);
        }
        let dir = server.stop().await;
        Self { engine, moments, dir }
    }

    async fn moment(server: &Server, at: usize) -> Moment {
        let (events, about) = back_up(server, Domain::Events).await;
        assert_eq!(about["erasure"], ERASURES[at]);
        let (keys, _) = back_up(server, Domain::Keys).await;
        let made = server.post("/v1/backups", &json!({"domain": "record"})).await.expect(201).json();
        let kept = server.path().join(format!("moment-{at}"));
        std::fs::create_dir(&kept).unwrap();
        let (keyring, record) = (kept.join("keyring"), kept.join("record.jsonl"));
        copy_dir(&server.app.config.keyring_dir, &keyring);
        let exported = server.app.config.backup_record_dir.join(made["file"].as_str().unwrap());
        std::fs::copy(exported, &record).unwrap();
        Moment { events, keys, keyring, record }
    }

    /// A store of parts of these moments, without an exported record beside it.
    async fn put_back(&self, case: &Case) -> TempDir {
        let dir = tempfile::tempdir().unwrap();
        if self.engine == Engine::Postgres {
            for name in ["events.dsn", "keys.dsn"] {
                std::fs::copy(self.dir.path().join(name), dir.path().join(name)).unwrap();
            }
        }
        let settings = config(self.engine, dir.path());
        std::fs::create_dir_all(&settings.data_dir).unwrap();
        copy_dir(&self.moments[case.keyring].keyring, &settings.keyring_dir);
        put_back(&settings, Domain::Events, &self.moments[case.events].events, Replaced::Destroy).await.unwrap();
        put_back(&settings, Domain::Keys, &self.moments[case.keys].keys, Replaced::Destroy).await.unwrap();
        dir
    }
}

/// From which moments the parts are, and what had happened when they were lost.
#[derive(Clone, Copy, Debug)]
struct Case {
    events: usize,
    keys: usize,
    keyring: usize,
    lost_at: usize,
}

impl Case {
    fn is_behind(self) -> bool {
        ERASURES[self.events] < ERASURES[self.keys].max(ERASURES[self.keyring])
    }
}

fn cases() -> Vec<Case> {
    let mut all = Vec::new();
    for lost_at in [6, STEPS] {
        let now = Case { events: lost_at, keys: lost_at, keyring: lost_at, lost_at };
        for at in 0..=lost_at {
            all.push(Case { events: at, ..now });
            all.push(Case { keys: at, ..now });
            all.push(Case { keyring: at, ..now });
        }
        for (events, keys) in [(0, 1), (1, 0), (2, 4), (4, 2), (3, 3), (5, 3), (3, 5), (6, 4), (1, 6), (6, 1), (4, 5)] {
            all.push(Case { events, keys, ..now });
        }
        for (keys, keyring) in [(0, 0), (3, 1), (4, 2), (5, 5), (2, 6)] {
            all.push(Case { keys, keyring, ..now });
        }
    }
    all
}

/// What is wrong with a store that serves, all forgets of the case's history having to hold.
async fn faults(server: &Server, case: Case) -> String {
    let mut wrong = String::new();
    let text = everything(server, &PEOPLE).await;
    for (value, gone_at, since) in VALUES {
        let there = text.contains(value);
        let gone = case.lost_at >= gone_at;
        // A key that is younger than its backup is lost: its values are unavailable, not erased, and not there.
        let expected = !gone && case.events >= since && case.keys >= since;
        if there != expected {
            writeln!(wrong, "{value} is {}", if there { "there" } else { "not there" }).unwrap();
        }
    }
    let gone = [("ann", 1, true), ("eve", 5, case.lost_at < 6 || case.keys < 6)];
    for (person, step, out) in gone {
        let look = server.post("/v1/data-subjects/lookups", &json!({"data_subject": person})).await.status.as_u16();
        if case.lost_at >= step && out && look != 404 {
            writeln!(wrong, "{person} is found: {look}").unwrap();
        }
    }
    for (person, step) in [("ann", 1), ("bob", 2)] {
        let again = note(server, person, 90, None, Some("again")).await.status.as_u16();
        if case.lost_at >= step && again != 409 {
            writeln!(wrong, "{person} is keyed again: {again}").unwrap();
        }
    }
    let alive = note(server, "dan", 91, Some("dan-name-9"), Some("dan-hobby-9")).await.status.as_u16();
    if alive != 201 {
        writeln!(wrong, "dan cannot go on: {alive}").unwrap();
    }
    let log = server.app.log.as_ref();
    // The worker ends what was made again.
    for row in log.erasures(0, 100).await.unwrap() {
        let path = format!("/v1/forget-requests/{}", row.request);
        let done = server.send("GET", &path, &[("prefer", "wait=20")], "").await.json();
        if done["status"] != "completed" {
            writeln!(wrong, "{}: {}", row.request, done["status"]).unwrap();
        }
    }
    let keystore = server.app.keys.keystore();
    let options = verify::Options::default();
    let report = verify::verify(log, Some(keystore.as_ref()), Some(&server.app.registry), &options).await.unwrap();
    for finding in report.findings {
        let lost = case.keys < 6 && case.events > case.keys;
        if !(lost && format!("{finding:?}").contains("KeyUnknown")) {
            writeln!(wrong, "{finding:?}").unwrap();
        }
    }
    wrong
}

async fn check(history: &History, case: Case) -> String {
    let mut wrong = String::new();
    let mut dir = history.put_back(&case).await;
    let mut server = start(history.engine, dir).await;
    server.damaged = true;
    if server.app.is_level() == case.is_behind() {
        writeln!(wrong, "level is {}", server.app.is_level()).unwrap();
    }
    if !server.app.is_level() {
        let text = everything(&server, &PEOPLE).await;
        if VALUES.iter().any(|(value, ..)| text.contains(value)) || !text.contains("erasure-record-behind") {
            writeln!(wrong, "personal values although it is behind").unwrap();
        }
        dir = server.stop().await;
        let settings: Config = config(history.engine, dir.path());
        // One that is older than what is remembered is of no use; that of the moment of the loss is.
        let early: &Path = &history.moments[case.events].record;
        if restore::import_record(&settings, &Clock::System, early).await.is_ok() {
            writeln!(wrong, "an older record is taken").unwrap();
        }
        let record = &history.moments[case.lost_at].record;
        let done = restore::import_record(&settings, &Clock::System, record).await;
        if !done.as_ref().is_ok_and(|done| matches!(done.standing, Standing::Level { .. })) {
            writeln!(wrong, "import: {done:?}").unwrap();
        }
        server = start(history.engine, dir).await;
        server.damaged = true;
    }
    // Nobody remembers what only the lost part knew.
    if ERASURES[case.events] == ERASURES[case.lost_at] || case.is_behind() {
        wrong += &faults(&server, case).await;
    }
    drop(server.stop().await);
    wrong
}

async fn every(engine: Engine, nth: usize) {
    let history = History::make(engine).await;
    let mut wrong = String::new();
    for case in cases().into_iter().step_by(nth) {
        let found = check(&history, case).await;
        if !found.is_empty() {
            writeln!(wrong, "{case:?}\n{found}").unwrap();
        }
    }
    assert!(wrong.is_empty(), "{engine:?}\n{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_back() {
    every(Engine::Files, 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_comes_back_on_postgres() {
    if postgres::cluster().is_some() {
        every(Engine::Postgres, 3).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the long tier: every case on the server"]
async fn nobody_comes_back_on_postgres_in_every_case() {
    if postgres::cluster().is_some() {
        every(Engine::Postgres, 1).await;
    }
}
