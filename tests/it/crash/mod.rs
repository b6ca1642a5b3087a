//! Servers that die: killed at every named point of an append and a forget, at any time, and while being made.
//!
//! The points exist in debug builds only, so the suite that uses them does too.

mod check;
mod deep;
mod epochs;
pub mod ledger;

use std::cell::RefCell;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use oubliette::crash::{POINTS, START_POINTS};
use serde_json::json;
use tempfile::TempDir;

use crate::child::{Child, copy_dir, serve};
use crate::harness::scan;
use crate::postgres;
use ledger::{Ledger, PERSON, Random, VALUE};

/// Servers that run side by side.
const LANES: usize = 3;

/// A store with a schema and nothing else, to begin every case with.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let dir = TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        prepare(dir.path());
        dir
    });
    dir.path()
}

/// A store with a schema, and then stopped.
fn prepare(dir: &Path) {
    let child = Child::dev(dir);
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name", "tag"],
            "x-data-subjects": {"contact": {"id": "/contact_id"}},
            "properties": {"contact_id": {"type": "string"}, "tag": {"type": "integer"},
                "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    let path = "/v1/schemas/contact-noted/versions";
    block_on(ledger::post(child.address, path, &schema)).expect("an answer").expect(201);
    assert!(child.stop().success());
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// What holds the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Engine {
    Files,
    Postgres,
}

fn fresh(engine: Engine) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary directory");
    match engine {
        Engine::Files => copy_dir(template(), dir.path()),
        Engine::Postgres => {
            postgres::place_dir(dir.path());
            prepare(dir.path());
        }
    }
    dir
}

/// Which passage of a point kills: appends pass theirs often, forgets theirs once or a few times.
fn passage(point: &str, random: &mut Random) -> u64 {
    match point {
        "append.sealed" | "append.before-reply" | "log.before-insert" | "log.before-commit" | "log.after-commit" => {
            1 + random.below(40)
        }
        "append.queued" => 1 + random.below(8),
        "keys.before-commit" | "keys.after-commit" => 1 + random.below(5),
        _ => 1 + random.below(3),
    }
}

/// Dies at a passage of a point, is started again, and must have kept every promise.
fn case(engine: Engine, point: &str, seed: u64) {
    let mut random = Random::new(seed);
    let at = format!("{point}:{}", passage(point, &mut random));
    let dir = fresh(engine);
    let ledger = RefCell::default();
    let mut child = Child::start(serve(dir.path(), &["--dev"], &[("OUBLIETTE_CRASH_AT", &at)])).expect("it starts");
    let died = block_on(ledger::drive(child.address, &ledger, seed, Duration::from_secs(40)));
    assert!(died && child.was_killed(), "{at} was never reached");
    drop(child);
    nothing_in_clear(dir.path());
    let mut ledger = ledger.into_inner();
    let child = Child::dev(dir.path());
    block_on(check::check(child.address, &mut ledger));
    assert!(child.stop().success());
    nothing_in_clear(dir.path());
}

fn nothing_in_clear(dir: &Path) {
    let values = [VALUE.to_owned(), PERSON.to_owned()];
    let mut found = scan(dir, &values);
    for dsn in ["events.dsn", "keys.dsn"].iter().filter_map(|name| std::fs::read_to_string(dir.join(name)).ok()) {
        found.extend(scan(&postgres::files(&dsn), &values));
    }
    assert!(found.is_empty(), "clear values in files: {found:?}");
}

/// Runs every case on a few threads; every failure is told with its point and seed.
fn run_all(engine: Engine, cases: Vec<(&'static str, u64)>) {
    side_by_side(engine, cases, |point, seed| case(engine, point, seed));
}

fn side_by_side(engine: Engine, cases: Vec<(&'static str, u64)>, case: impl Fn(&'static str, u64) + Sync) {
    let waiting = Mutex::new(cases);
    let failed = Mutex::new(Vec::new());
    if engine == Engine::Files {
        template();
    }
    let run = |point, seed| std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case(point, seed)));
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((point, seed)) = { waiting.lock().expect("no panic inside").pop() } {
                    if let Err(panic) = run(point, seed) {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        failed.lock().expect("no panic inside").push((point, seed, text));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic inside");
    assert!(failed.is_empty(), "{} cases failed: {failed:#?}", failed.len());
}

fn seeds(count: u64) -> Vec<(&'static str, u64)> {
    (0..count).flat_map(|seed| POINTS.iter().map(move |point| (*point, seed + 1))).collect()
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_point() {
    run_all(Engine::Files, seeds(5));
}

#[test]
#[ignore = "the long tier: 50 seeds for every point"]
fn killed_at_every_point_many_times() {
    run_all(Engine::Files, seeds(50));
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_at_every_point_on_postgres() {
    if postgres::cluster().is_some() {
        run_all(Engine::Postgres, seeds(1));
    }
}

#[test]
#[ignore = "the long tier: 20 seeds for every point"]
fn killed_at_every_point_on_postgres_many_times() {
    if postgres::cluster().is_some() {
        run_all(Engine::Postgres, seeds(20));
    }
}

#[test]
fn killed_at_any_time_again_and_again() {
    again_and_again(&fresh(Engine::Files));
}

#[test]
fn killed_at_any_time_again_and_again_on_postgres() {
    if postgres::cluster().is_some() {
        again_and_again(&fresh(Engine::Postgres));
    }
}

fn again_and_again(dir: &TempDir) {
    let mut random = Random::new(2);
    let ledger = RefCell::<Ledger>::default();
    for round in 0..10 {
        let mut child = Child::dev(dir.path());
        let address = child.address;
        let after = Duration::from_millis(20 + random.below(600));
        let killer = std::thread::spawn(move || {
            std::thread::sleep(after);
            child.kill();
        });
        block_on(ledger::drive(address, &ledger, 100 + round, Duration::from_secs(40)));
        killer.join().expect("killed");
        nothing_in_clear(dir.path());
        let child = Child::dev(dir.path());
        block_on(check::check(child.address, &mut ledger.borrow_mut()));
        assert!(child.stop().success());
    }
    nothing_in_clear(dir.path());
}

/// A first start that dies leaves a store, nothing, or something that the next start refuses, saying what to remove.
fn after_a_broken_first_start(dir: &Path, about: &str) {
    let refusal = match Child::start(serve(dir, &["--dev"], &[])) {
        Ok(child) => return assert!(child.stop().success(), "{about}"),
        Err(refusal) => refusal,
    };
    assert_eq!(refusal.status.code(), Some(1), "{about}: {refusal:?}");
    let complaint = &refusal.complained;
    assert!(complaint.contains("if a first start was interrupted"), "{about}: {complaint}");
    // What the message says to remove is what stands in the way.
    for (name, path) in
        [("the keystore", "data/keys"), ("the keyring", "data/keyring"), ("the event log", "data/events")]
    {
        let present = complaint.split(" exists but ").next().expect("a first part");
        if present.contains(name) {
            std::fs::remove_dir_all(dir.join(path)).expect("it is there");
        }
    }
    let child = Child::dev(dir);
    assert!(child.stop().success(), "{about}");
}

/// On a server what stands in the way is a schema; the message names it.
#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_while_being_made_on_postgres() {
    if postgres::cluster().is_none() {
        return;
    }
    for point in START_POINTS.iter().filter(|point| **point != "create.log-unnamed") {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let [_, keys] = postgres::place_dir(dir.path());
        let died = Child::start(serve(dir.path(), &["--dev"], &[("OUBLIETTE_CRASH_AT", point)]));
        assert!(died.is_err(), "{point} was never reached");
        if let Err(refusal) = Child::start(serve(dir.path(), &["--dev"], &[])) {
            let complaint = &refusal.complained;
            assert!(complaint.contains("if a first start was interrupted"), "{point}: {complaint}");
            let present = complaint.split(" exists but ").next().expect("a first part");
            if present.contains("the keyring") {
                std::fs::remove_dir_all(dir.path().join("data/keyring")).expect("it is there");
            }
            if present.contains("schema oubliette_keys") {
                postgres::execute(&keys, "drop schema oubliette_keys cascade").expect("it is there");
            }
            assert!(Child::dev(dir.path()).stop().success(), "{point}");
        }
    }
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[test]
fn killed_while_being_made() {
    for point in START_POINTS {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let died = Child::start(serve(dir.path(), &["--dev"], &[("OUBLIETTE_CRASH_AT", point)]));
        assert!(died.is_err(), "{point} was never reached");
        after_a_broken_first_start(dir.path(), point);
    }
    let mut random = Random::new(3);
    for _ in 0..12 {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let mut process = serve(dir.path(), &["--dev"], &[]).spawn().expect("it runs");
        let after = Duration::from_millis(random.below(120));
        std::thread::sleep(after);
        let _ = process.kill();
        let _ = process.wait();
        after_a_broken_first_start(dir.path(), &format!("{after:?}"));
    }
}
