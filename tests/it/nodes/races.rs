//! Forgets among reads, appends and subscriptions on three servers at once.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hyper::body::Bytes;
use oubliette::clock::Clock;
use serde_json::Value;

use super::faults::{SHORT, long_stream};
use super::traffic::{Positions, TYPE, Traffic};
use super::{Several, until};
use crate::api::list;
use crate::harness::send;

/// Values of the traffic that must be in no file.
pub const CANARIES: [&str; 2] = ["Quentin Zebrowski", "of-Ruritania"];

/// Readers, writers and a subscriber of each server, in the background.
pub struct Running {
    traffic: Arc<Traffic>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    subscribers: Vec<tokio::task::JoinHandle<Positions>>,
    until: Arc<AtomicUsize>,
}

impl Running {
    pub fn start(traffic: &Arc<Traffic>, readers: usize, writers: usize) -> Self {
        let until = Arc::new(AtomicUsize::new(0));
        let mut tasks: Vec<_> = (0..readers).map(|lane| tokio::spawn(Arc::clone(traffic).reads(lane))).collect();
        tasks.extend((0..writers).map(|lane| tokio::spawn(Arc::clone(traffic).writes(lane))));
        let follow = |server| tokio::spawn(Arc::clone(traffic).follows(server, Arc::clone(&until)));
        let subscribers = (0..traffic.servers.len()).map(follow).collect();
        Self { traffic: Arc::clone(traffic), tasks, subscribers, until }
    }

    /// Ends the traffic, and checks what was stored and what was seen. `forgotten` have been.
    pub async fn end(self, forgotten: usize, unknown: bool) {
        self.traffic.stop();
        for task in self.tasks {
            task.await.unwrap();
        }
        let stored = stored(self.traffic.server(1), forgotten).await;
        let taken = self.traffic.taken.load(Ordering::SeqCst);
        // Where connections broke, more may be stored than was acknowledged.
        assert!(stored.len() == taken || unknown && stored.len() > taken, "{} stored, {taken} taken", stored.len());
        self.until.store(stored.last().copied().unwrap_or_default() as usize, Ordering::SeqCst);
        for subscriber in self.subscribers {
            let seen = tokio::time::timeout(std::time::Duration::from_secs(30), subscriber).await;
            assert_eq!(seen.expect("subscribers catch up").unwrap(), stored, "every event once and in order");
        }
    }
}

/// Positions of all events of the traffic, which are whole and in order: none behind the fence of its person.
async fn stored(server: SocketAddr, forgotten: usize) -> Positions {
    let headers = [("authorization", "Bearer dev"), ("accept", "application/x-ndjson")];
    let text = send(server, "GET", "/v1/events?system=true", &headers, Bytes::new()).await.expect(200).text();
    let mut events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let end = events.pop().unwrap();
    assert_eq!(end["$end"]["count"], events.len(), "{end}");
    let (mut fences, mut revisions) = (HashMap::new(), HashMap::<&str, u64>::new());
    // One for each person, unless an answer was lost and somebody asked again.
    let mut requests = Vec::new();
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event["position"], position, "positions are dense");
        let next = revisions.entry(event["stream"].as_str().unwrap()).or_default();
        assert_eq!(event["revision"], *next, "revisions are dense");
        *next += 1;
        if event["type"] == "erasure-fenced" {
            requests.push(event["stream"].as_str().unwrap());
            fences.entry(event["data"]["subject"].as_str().unwrap()).or_insert(position);
        }
    }
    assert_eq!(fences.len(), forgotten);
    requests.sort_unstable();
    let of_traffic = |event: &&Value| event["type"] == TYPE;
    for event in events.iter().filter(of_traffic) {
        let position = event["position"].as_u64().unwrap() as usize;
        let fence = fences.get(event["data"]["contact_id"].as_str().unwrap());
        assert!(fence.is_none_or(|fence| position < *fence), "a zombie: {event}");
        assert_eq!(fence.is_some(), event["data"]["name"] == "[erased]", "{event}");
    }
    for kind in ["keys-destroyed", "erasure-completed"] {
        let of_kind = events.iter().filter(|event| event["type"] == kind);
        let mut once: Vec<&str> = of_kind.map(|event| event["stream"].as_str().unwrap()).collect();
        once.sort_unstable();
        assert_eq!(once, requests, "{kind}, once for every request");
    }
    events.iter().filter(of_traffic).map(|event| event["position"].as_u64().unwrap()).collect()
}

async fn race(forgets: usize) {
    let Some(mut several) = Several::start(3).await else { return };
    for value in CANARIES {
        several.servers[0].canary(value);
    }
    let traffic = Traffic::within(&several.servers, forgets + 4, false).await;
    let running = Running::start(&traffic, 16, 16);
    let done = traffic.forget_all(0..forgets, 20).await;
    for request in &done {
        let nodes = list(&request["destroyed"]["nodes"]);
        assert_eq!(nodes.len(), 3, "{request}");
        assert!(nodes.iter().all(|node| node["how"] == "acknowledged"), "{request}");
    }
    assert_eq!(done.len(), forgets);
    running.end(forgets, false).await;
    let seen = &traffic.seen;
    let counts = [&seen.answers, &seen.broken, &seen.values].map(|count| count.load(Ordering::SeqCst));
    let taken = traffic.taken.load(Ordering::SeqCst);
    super::say(&format!("{forgets} forgets among {taken} events, {counts:?} answers, broken, values"));
    assert!(counts[0] > 100 && counts[2] > 1_000, "there was something to see: {counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_or_taken_anywhere_after_a_forget_returned() {
    race(60).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: two thousand forgets, many minutes unoptimised"]
async fn nothing_is_shown_or_taken_anywhere_after_two_thousand_forgets() {
    race(2_000).await;
}

/// Answers that nobody reads are waited for, on a server that the forget was not asked of; once it has returned they are
/// over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_that_nobody_reads_are_over_when_a_forget_returns() {
    const PEOPLE: usize = 2;
    let Some(mut several) = Several::start(0).await else { return };
    for _ in 0..2 {
        several.join_with(|config| config.lease = 2 * SHORT, Clock::System).await;
    }
    for value in CANARIES {
        several.servers[0].canary(value);
    }
    let traffic = Traffic::within(&several.servers, PEOPLE, false).await;
    for person in 0..PEOPLE {
        long_stream(&traffic, person, 10, 30_000).await;
        let read = || tokio::spawn(Arc::clone(&traffic).reads_the_beginning(1, person));
        let readers = [read(), read()];
        until("they read", async || (traffic.held(person) == 2).then_some(())).await;
        let request = traffic.forget(person, 0).await;
        assert_eq!(list(&request["destroyed"]["nodes"]).len(), 2, "{request}");
        for reader in readers {
            reader.abort();
        }
    }
}

/// Wall clocks that jump are of no interest: nobody is waited for longer or shorter, and nobody is taken for gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wall_clocks_that_jump_change_nothing() {
    let Some(mut several) = Several::start(2).await else { return };
    let clock = Clock::manual(Clock::System.now());
    several.join_with(|_| {}, clock.clone()).await;
    for value in CANARIES {
        several.servers[0].canary(value);
    }
    let traffic = Traffic::within(&several.servers, 12, false).await;
    let running = Running::start(&traffic, 4, 2);
    let (hour, century) = (3_600_000, 100 * 365 * 86_400_000_i64);
    for (turn, jump) in [hour, -hour, century, -century, -hour, hour, century, -century].into_iter().enumerate() {
        clock.advance(jump);
        let request = traffic.forget(turn, turn).await;
        let nodes = list(&request["destroyed"]["nodes"]);
        assert_eq!(nodes.len(), 3, "{request}");
        assert!(nodes.iter().all(|node| node["how"] == "acknowledged"), "{jump}: {request}");
    }
    running.end(8, false).await;
}
