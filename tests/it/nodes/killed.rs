//! Servers as processes of their own: paused where they stand, and killed between any two steps of a forget.

use std::path::Path;
use std::time::Duration;

use oubliette::crash::POINTS;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::client::{Incoming, Piece};
use super::faults::{how, long_stream};
use super::races::CANARIES;
use super::traffic::{Traffic, get, post};
use super::until;
use crate::child::{Child, serve};
use crate::harness::scan;
use crate::postgres::{cluster, execute, files, place_dir};

/// Processes over one pair of databases and one keyring.
struct Family {
    home: TempDir,
    lease: &'static str,
    children: Vec<Child>,
    started: usize,
}

impl Family {
    fn new(lease: &'static str) -> Self {
        let home = tempfile::tempdir().unwrap();
        place_dir(home.path());
        Self { home, lease, children: Vec::new(), started: 0 }
    }

    /// One more, in a directory of its own.
    fn start(&mut self, variables: &[(&str, &str)]) -> &Child {
        let own = self.home.path().join(format!("node-{}", self.started));
        self.started += 1;
        std::fs::create_dir(&own).unwrap();
        for name in ["events.dsn", "keys.dsn"] {
            std::fs::copy(self.home.path().join(name), own.join(name)).unwrap();
        }
        let keyring = self.home.path().join("keyring");
        let mut all = vec![("OUBLIETTE_LEASE", self.lease), ("OUBLIETTE_KEYRING_DIR", keyring.to_str().unwrap())];
        all.extend(variables);
        self.children.push(Child::start(serve(&own, &["--dev"], &all)).expect("it starts"));
        self.children.last().unwrap()
    }

    fn dsn(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(name)).unwrap()
    }

    /// The youngest process leads from now on.
    fn youngest_leads(&self) {
        let sql = "insert into oubliette_keys.leaders (role, node, until_ms)
            select 'erasure', node, (extract(epoch from clock_timestamp()) * 1000)::bigint + 10000
              from oubliette_keys.nodes order by registered_ms desc limit 1
            on conflict (role) do update set node = excluded.node, until_ms = excluded.until_ms";
        assert_eq!(execute(&self.dsn("keys.dsn"), sql), Ok(1));
    }

    /// As if the time for which a dead process leads were over.
    fn term_over(&self) {
        execute(&self.dsn("keys.dsn"), "update oubliette_keys.leaders set until_ms = 0").unwrap();
    }

    fn nothing_in_clear(&self) {
        let values = CANARIES.map(str::to_owned);
        let mut found = scan(self.home.path(), &values);
        for name in ["events.dsn", "keys.dsn"] {
            found.extend(scan(Path::new(&files(&self.dsn(name))), &values));
        }
        assert!(found.is_empty(), "clear values in files: {found:?}");
    }
}

/// A process is paused while it opens and writes; what it has not handed to the system by then never leaves it once the
/// forget has returned. So often that it had something to write.
async fn paused(rounds: usize) {
    if cluster().is_none() {
        return;
    }
    let mut family = Family::new("PT4S");
    for _ in 0..2 {
        family.start(&[]);
    }
    let servers = family.children.iter().map(|child| child.address).collect();
    let traffic = Traffic::prepare(servers, 3 * rounds + 1, true).await;
    let (last, mut effective) = (3 * rounds, 0);
    for round in 0..last {
        effective += usize::from(pause(&family, &traffic, round).await);
        until("it serves again", async || {
            let path = format!("/v1/streams/contact-{last}/events");
            let shown = get(traffic.server(0), &path).await.filter(|reply| reply.status == 200)?.json();
            (shown["items"][0]["data"]["name"] == super::client::name(last)).then_some(())
        })
        .await;
        if effective == rounds {
            break;
        }
    }
    assert_eq!(effective, rounds, "there was something to be shown");
    let request = traffic.forget(last, 0).await;
    assert_eq!(how(&request), ["acknowledged"; 2], "{request}");
    family.nothing_in_clear();
}

/// Pauses the first process among answers about a person, who is forgotten; whether there was an answer half written.
async fn pause(family: &Family, traffic: &Traffic, person: usize) -> bool {
    // More than the system takes off the process's hands.
    long_stream(traffic, person, 66, 60_000).await;
    let path = format!("/v1/streams/contact-{person}/events?limit=70");
    let accept = "accept: application/json\r\n";
    let ask = || Incoming::ask(traffic.server(0), &path, accept, &traffic.gone, Some(4096));
    // One is written already and waits for its reader, some are being opened when the process stops.
    let mut answers = Vec::new();
    while answers.is_empty() {
        let mut answer = ask().await.expect("it listens");
        let began = answer.piece(&traffic.gone, &traffic.seen, Duration::from_secs(10)).await;
        answers.extend((began == Piece::More).then_some(answer));
    }
    answers.extend([ask().await.expect("it listens"), ask().await.expect("it listens")]);
    tokio::time::sleep(Duration::from_millis(70 * (person as u64 % 4))).await;
    family.children[0].signal(Signal::STOP);
    // What the system has of it comes now.
    let drained = answers.iter_mut().map(|answer| async {
        while answer.piece(&traffic.gone, &traffic.seen, Duration::from_millis(700)).await == Piece::More {}
    });
    futures_util::future::join_all(drained).await;
    let half = answers.iter().filter(|answer| (100_000..3_700_000).contains(&answer.bytes.len())).count();
    let request = traffic.forget(person, 1).await;
    assert_eq!(how(&request), ["acknowledged", "lease-expired"], "{request}");
    for answer in &mut answers {
        answer.judge(&traffic.gone);
    }
    family.children[0].signal(Signal::CONT);
    for answer in &mut answers {
        answer.rest(&traffic.gone, &traffic.seen).await;
    }
    half > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_paused_between_opening_and_writing_writes_nothing_afterwards() {
    paused(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: paused thirty times"]
async fn who_is_paused_again_and_again_writes_nothing_afterwards() {
    paused(30).await;
}

/// The process that destroys keys dies at a point; another one finishes, each request once.
async fn dies_at(family: &mut Family, point: &str, people: &mut usize) {
    let doomed = family.start(&[("OUBLIETTE_CRASH_AT", point)]).address;
    let other = family.children[0].address;
    family.youngest_leads();
    // Both have asked again who leads.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (mut asked, first) = (Vec::new(), *people);
    *people += 3;
    for person in first..*people {
        let data = json!({"contact_id": super::client::external(person), "name": super::client::name(person)});
        let path = format!("/v1/streams/contact-{person}/events");
        post(other, &path, &json!({"type": super::traffic::TYPE, "data": data})).await.unwrap().expect(201);
        let body = json!({"data_subject": super::client::external(person)}).to_string();
        asked.push(tokio::spawn(async move {
            let headers = [("authorization", "Bearer dev"), ("content-type", "application/json")];
            let _ = crate::harness::try_send(doomed, "POST", "/v1/forget", &headers, body.into()).await;
        }));
    }
    for asked in asked {
        asked.await.unwrap();
    }
    let child = family.children.last_mut().unwrap();
    assert!(child.was_killed(), "{point} was never reached");
    family.children.pop();
    family.term_over();
    for person in first..*people {
        until("it is finished or was never asked for", async || finished(other, person).await).await;
    }
}

/// Asks again for whoever is not forgotten, until that is done; the request's own stream says how often.
async fn finished(server: std::net::SocketAddr, person: usize) -> Option<()> {
    let body = json!({"data_subject": super::client::external(person)});
    let reply = post(server, "/v1/forget", &body).await?;
    let again = reply.status == 404 || reply.code() == "data-subject-erased" || reply.status == 409;
    let done = again || reply.json()["status"] == "completed";
    done.then_some(())
}

/// Every request that was fenced is complete, and no step was recorded twice.
async fn all_complete_once(server: std::net::SocketAddr) -> usize {
    let list = get(server, "/v1/forget-requests?limit=1000").await.unwrap().expect(200).json();
    let mut fenced = 0;
    for item in list["items"].as_array().unwrap().iter().filter(|item| item["status"] != "previewed") {
        let id = item["id"].as_str().unwrap();
        let request = get(server, &format!("/v1/forget-requests/{id}")).await.unwrap().expect(200).json();
        assert_eq!(request["status"], "completed", "{request}");
        assert_eq!(request["verification"]["opened"], 0, "{request}");
        let entered: Vec<Value> = crate::api::pluck(&crate::api::list(&request["history"]), "status");
        assert_eq!(entered, ["previewed", "fenced", "verifying", "completed"], "{request}");
        fenced += 1;
    }
    fenced
}

async fn killed_at(points: &[&str]) {
    if cluster().is_none() {
        return;
    }
    let mut family = Family::new("PT1S");
    family.start(&[]);
    let traffic = Traffic::prepare(vec![family.children[0].address], 1, true).await;
    let mut people = 1;
    for point in points {
        dies_at(&mut family, point, &mut people).await;
    }
    let fenced = all_complete_once(traffic.server(0)).await;
    assert!(fenced >= points.len(), "{fenced} requests");
    family.nothing_in_clear();
}

/// What a coordinator passes between fence and completion.
fn of_a_forget() -> Vec<&'static str> {
    let whole = ["forget.", "destroy.", "wash.", "keyring."];
    let sqlite = ["wash.before-checkpoint", "wash.after-checkpoint", "wash.overwritten"];
    let of = |point: &&str| whole.iter().any(|part| point.starts_with(part)) && !sqlite.contains(point);
    POINTS.iter().copied().filter(of).collect()
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_process_finishes_what_a_killed_one_began() {
    killed_at(&["destroy.after-commit", "forget.after-release", "forget.after-destroyed-event"]).await;
}

#[cfg_attr(not(debug_assertions), ignore = "release builds have no crash points")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: killed between every pair of steps"]
async fn another_process_finishes_what_a_killed_one_began_at_every_step() {
    killed_at(&of_a_forget()).await;
}
