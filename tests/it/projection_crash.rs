//! Projections of a server that is killed at each of their crash points, while it appends, emits, forgets and swaps.
//!
//! After the restart: rows are what a fold of the log makes of it, every due event is there exactly once, and the swap is
//! done or not, nothing between. The points exist in debug builds only, so this does too.
#![cfg(debug_assertions)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use oubliette::clock::Clock;
use oubliette::crash::PROJECTION_POINTS;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::child::{Child, copy_dir, serve};
use crate::harness::{Reply, scan, try_send};
use crate::postgres::{copy_place, files, on_postgres, place_dir};

const JSON: (&str, &str) = ("content-type", "application/json");
const JOBS: u64 = 24;
const PEOPLE: u64 = 4;
/// In every personal value; nowhere in a file in clear.
const VALUE: &str = "Wilhelmina Ashgrove";
/// Servers that run side by side.
const LANES: usize = 2;
/// Within this a projection has caught up.
const PATIENCE: Duration = Duration::from_secs(40);

/// A to-do list whose entries go off, and count how often they did.
fn definition(version: u32) -> Value {
    let mut columns = json!({"send_at": "timestamp", "name": "string", "names": "list<string>", "gone_off": {"type": "int", "default": 0}});
    if version > 1 {
        columns["loud"] = json!({"type": "string", "derive": "upper(row.name)"});
    }
    json!({"projection": "jobs", "version": version, "from": {"types": ["job-noted", "job-due"]}, "key": {"job": "data.job"},
        "columns": columns,
        "handle": {
            "job-noted": {"upsert": {"send_at": "data.at", "name": "data.name"}, "append": {"names": "data.name"}},
            "job-due": {"increment": {"gone_off": 1}}},
        "due": {"at": "send_at", "emit": {"type": "job-due", "stream": "'due-' + key.job", "data": {"job": "key.job"}}},
        "history": "P30D"})
}

/// A store with a schema, the first definition and a few rows, to begin every case with.
fn template() -> &'static Path {
    static TEMPLATE: OnceLock<TempDir> = OnceLock::new();
    let dir = TEMPLATE.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a temporary directory");
        if on_postgres() {
            place_dir(dir.path());
        }
        let child = Child::dev(dir.path());
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["job", "person", "at", "name"],
            "x-data-subjects": {"person": {"id": "/person"}},
            "properties": {"job": {"type": "string"}, "person": {"type": "string"},
                "at": {"type": "string", "format": "date-time"},
                "name": {"type": "string", "x-personal-data": {"subject": "person", "category": "name"}}}});
        block_on(async {
            let path = "/v1/schemas/job-noted/versions";
            call(child.address, "POST", path, &schema).await.expect("an answer").expect(201);
            call(child.address, "PUT", "/v1/projections/jobs", &definition(1)).await.expect("an answer").expect(201);
        });
        assert!(child.stop().success());
        dir
    });
    dir.path()
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// A request of JSON as `dev`; `None` when the connection broke.
async fn call(address: SocketAddr, method: &str, path: &str, body: &Value) -> Option<Reply> {
    let headers = [("authorization", "Bearer dev"), JSON, ("prefer", "wait=20")];
    let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
    try_send(address, method, path, &headers, body).await.ok()
}

async fn get(address: SocketAddr, path: &str) -> Value {
    call(address, "GET", path, &Value::Null).await.expect("the server lives").expect(200).json()
}

/// What the client wants to have happened. Everything can be repeated.
struct Wishes {
    /// Job, visit, time, person.
    events: Vec<(u64, u64, String, u64)>,
    forgotten: Vec<u64>,
    /// Jobs of which an event was acknowledged.
    acknowledged: BTreeSet<String>,
}

impl Wishes {
    fn new(seed: u64) -> Self {
        let now = Clock::System.now().0;
        let mut events = Vec::new();
        for job in 0..JOBS {
            // Some go off at once, some a moment later; one in six not in our time.
            let later = [0, 40, 150, 300, -1000, 86_400_000][usize::try_from((job + seed) % 6).expect("small")];
            let at = oubliette::clock::Millis(now + later).rfc3339();
            // Looked at again after it may have gone off: the same time goes off once.
            events.push((job, 0, at.clone(), (job + seed) % PEOPLE));
            events.push((job, 1, at, (job * 3 + seed) % PEOPLE));
        }
        events.sort_by_key(|(job, visit, ..)| job + visit * 7);
        Self { events, forgotten: Vec::new(), acknowledged: BTreeSet::new() }
    }

    /// Does it all, in order; `None` when the server died.
    async fn pursue(&mut self, address: SocketAddr, pace: Duration) -> Option<()> {
        for (number, (job, visit, at, person)) in self.events.clone().into_iter().enumerate() {
            let who = format!("p{person}");
            if !self.forgotten.contains(&person) {
                let id =
                    uuid::Uuid::from_u128(u128::from(job) << 8 | u128::from(visit) | 0x5000_0000 << 64).to_string();
                let name = format!("{VALUE} {job}/{visit}");
                let data = json!({"job": format!("j{job}"), "person": who, "at": at, "name": name});
                let event = json!({"type": "job-noted", "id": id, "data": data});
                let stored = call(address, "POST", &format!("/v1/streams/job-{job}/events"), &event).await?;
                // Stored before the person was forgotten, or never.
                if stored.status.is_success() {
                    self.acknowledged.insert(format!("j{job}"));
                } else {
                    assert_eq!(stored.code(), "data-subject-erased");
                }
                tokio::time::sleep(pace).await;
            }
            let forget = [(20, 0), (38, 1)].into_iter().find(|(at, _)| *at == number);
            if let Some((_, person)) = forget {
                let body = json!({"data_subject": format!("p{person}")});
                let done = call(address, "POST", "/v1/forget", &body).await?;
                assert!(done.status.is_success() || done.status == 404 || done.status == 409, "{}", done.text());
                self.forgotten.push(person);
            }
            if number == 30 {
                call(address, "PUT", "/v1/projections/jobs", &definition(2)).await?;
            }
        }
        Some(())
    }
}

/// Dies at a passage of a point, is started again, and everything is as if it had not.
fn case(point: &str, passage: u64) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    copy_dir(template(), dir.path());
    for part in ["events", "keys"] {
        copy_place(part, template(), dir.path());
    }
    let at = format!("{point}:{passage}");
    let mut wishes = Wishes::new(passage);
    match Child::start(serve(dir.path(), &["--dev"], &[("OUBLIETTE_CRASH_AT", &at)])) {
        Ok(mut child) => {
            block_on(wishes.pursue(child.address, Duration::from_millis(4)));
            assert!(child.was_killed(), "{at} was never reached");
        }
        // What the log had before is handled while the server still starts.
        Err(refusal) => assert_eq!(refusal.status.signal(), Some(9), "{refusal:?}"),
    }
    nothing_in_clear(dir.path());
    let child = Child::dev(dir.path());
    block_on(async {
        // Half done is either done or not: the version that answers is whole.
        let version = get(child.address, "/v1/projections/jobs/status").await["version"].clone();
        assert!(version == 1 || version == 2 || version.is_null(), "{version}");
        wishes.forgotten.clear();
        wishes.pursue(child.address, Duration::ZERO).await.expect("the server lives");
        check(child.address, &wishes).await;
    });
    assert!(child.stop().success());
    nothing_in_clear(dir.path());
}

async fn check(address: SocketAddr, wishes: &Wishes) {
    let began = Instant::now();
    let due = loop {
        let (jobs, due) = jobs(address).await;
        assert!(wishes.acknowledged.is_subset(&jobs), "{:?} of {jobs:?}", wishes.acknowledged);
        let status = get(address, "/v1/projections/jobs/status").await;
        let found = due_events(address).await;
        if status["version"] == 2 && status["rebuild"].is_null() && found.len() >= due.len() {
            break due;
        }
        assert!(began.elapsed() < PATIENCE, "{status}\n{found:?}\nof {due:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    // Nothing comes late.
    tokio::time::sleep(Duration::from_millis(400)).await;
    once(&due_events(address).await, &due);
    let rows = rows(address).await;
    for row in rows["items"].as_array().expect("rows") {
        let job = row["job"].as_str().expect("a job");
        assert_eq!(row["gone_off"], u64::from(due.contains(job)), "{row}");
        let names = row["names"].as_array().expect("a list");
        assert!(!names.is_empty() && names.len() <= 2, "handled twice or never: {row}");
    }
    assert_eq!(get(address, "/v1/projections/jobs/status").await["parked"], 0);
    // A fold of the whole log, in one go, gives the same.
    call(address, "POST", "/v1/projections/jobs/rebuilds", &Value::Null).await.expect("it lives").expect(202);
    let began = Instant::now();
    while !get(address, "/v1/projections/jobs/status").await["rebuild"].is_null() {
        assert!(began.elapsed() < PATIENCE, "the rebuild does not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let again = self::rows(address).await;
    assert_eq!(rows["items"], again["items"]);
    tokio::time::sleep(Duration::from_millis(400)).await;
    once(&due_events(address).await, &due);
}

/// Every job of these went off once, and no other.
fn once(found: &BTreeMap<String, u64>, due: &BTreeSet<String>) {
    let wanted: BTreeMap<String, u64> = due.iter().map(|job| (job.clone(), 1)).collect();
    assert_eq!(*found, wanted);
}

/// Jobs of the log, and those that should have gone off by now.
async fn jobs(address: SocketAddr) -> (BTreeSet<String>, BTreeSet<String>) {
    let page = get(address, "/v1/events?types=job-noted&limit=1000").await;
    let events = page["items"].as_array().expect("events");
    let job = |event: &Value| event["data"]["job"].as_str().expect("a job").to_owned();
    let soon = oubliette::clock::Millis(Clock::System.now().0 + 3_600_000).rfc3339();
    let due = events.iter().filter(|event| event["data"]["at"].as_str().expect("a time") < soon.as_str());
    (events.iter().map(job).collect(), due.map(job).collect())
}

async fn rows(address: SocketAddr) -> Value {
    let head = get(address, "/v1/projections/jobs/status").await["head"].as_u64().expect("a number") - 1;
    get(address, &format!("/v1/projections/jobs/rows?limit=1000&at_least={head}")).await
}

/// How often each job went off, by the log.
async fn due_events(address: SocketAddr) -> BTreeMap<String, u64> {
    let page = get(address, "/v1/events?types=job-due&limit=1000").await;
    let mut found = BTreeMap::new();
    for event in page["items"].as_array().expect("events") {
        *found.entry(event["data"]["job"].as_str().expect("a job").to_owned()).or_default() += 1;
    }
    found
}

fn nothing_in_clear(dir: &Path) {
    let values = [VALUE.to_owned(), VALUE.to_uppercase()];
    let mut found = scan(dir, &values);
    for dsn in ["events.dsn", "keys.dsn"].iter().filter_map(|name| std::fs::read_to_string(dir.join(name)).ok()) {
        found.extend(scan(&files(&dsn), &values));
    }
    assert!(found.is_empty(), "clear values in files: {found:?}");
}

/// Which passages of a point kill.
fn passages(point: &str, rounds: u64) -> Vec<u64> {
    let most = match point {
        "projection.before-commit" | "projection.after-commit" => 36,
        "projection.after-emit" => 12,
        "projection.before-erasure" => 2,
        _ => 1,
    };
    // Spread over all of them.
    (0..rounds.min(most)).map(|round| 1 + round * most / rounds.min(most)).collect()
}

/// Runs every case on a few threads; every failure is told with its point and passage.
fn run_all(rounds: u64) {
    let cases = PROJECTION_POINTS.iter().flat_map(|point| passages(point, rounds).into_iter().map(|nth| (*point, nth)));
    let waiting = Mutex::new(cases.collect::<Vec<_>>());
    let failed = Mutex::new(Vec::new());
    template();
    std::thread::scope(|scope| {
        for _ in 0..LANES {
            scope.spawn(|| {
                while let Some((point, nth)) = { waiting.lock().expect("no panic inside").pop() } {
                    if let Err(panic) = std::panic::catch_unwind(|| case(point, nth)) {
                        let text = panic.downcast_ref::<String>().cloned();
                        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
                        failed.lock().expect("no panic inside").push((point, nth, text));
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no panic inside");
    assert!(failed.is_empty(), "{} cases failed: {failed:#?}", failed.len());
}

#[test]
fn killed_at_every_point_of_a_projection() {
    run_all(3);
}

#[test]
#[ignore = "long: every point at up to 36 passages"]
fn killed_at_every_passage_of_a_projection() {
    run_all(36);
}
