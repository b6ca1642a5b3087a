//! Forgets among appends and reads: what was returned stays true for every reader at every moment after.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use oubliette::clock::Clock;
use serde_json::{Value, json};

use super::{contact, register};
use crate::faulty::{Faulty, Method};
use crate::harness::{Server, open, try_send};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_share_washes() {
    let mut faulty = None;
    let dir = tempfile::tempdir().unwrap();
    let server = Server::behind(
        dir,
        |config| config.dev = true,
        Clock::System,
        |keystore| {
            let front = Arc::new(Faulty::new(keystore, 1));
            faulty = Some(Arc::clone(&front));
            front
        },
    );
    let server = Arc::new(server.await);
    register(&server).await;
    for person in 0..100 {
        contact(&server, &format!("p{person}"), "Ada King").await.expect(201);
    }
    let tasks: Vec<_> = (0..100)
        .map(|person| {
            let server = Arc::clone(&server);
            tokio::spawn(async move { server.forget(&format!("p{person}")).await })
        })
        .collect();
    let mut numbers = Vec::new();
    for task in tasks {
        let done = task.await.unwrap();
        assert_eq!(done["verification"], json!({"events": 1, "tried": 1, "opened": 0}));
        numbers.push(done["destroyed"]["erasure"].as_u64().unwrap());
    }
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=100).collect::<Vec<u64>>(), "the erasure record is dense");
    let washes = faulty.unwrap().calls(Method::Wash);
    assert!(washes <= 50, "{washes} washes for 100 erasures");
    let text = server.send("GET", "/v1/events", &[("accept", "application/x-ndjson")], "").await.text();
    assert_eq!(text.matches("[erased]").count(), 100);
}

/// What everybody in the race shares.
struct Race {
    server: Server,
    /// The values of everybody whose forget returned.
    gone: RwLock<HashSet<String>>,
    over: AtomicBool,
    reads: AtomicU64,
    shown: AtomicU64,
}

fn value(person: u64) -> String {
    format!("Quentin Zebrowski number {person} of Ruritania")
}

impl Race {
    /// Checks an answer that was asked for when `gone` was already gone.
    fn look(&self, gone: &[String], text: &str, how: &str) {
        for value in gone {
            assert!(!text.contains(value.as_str()), "{how} shows a forgotten value");
        }
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.shown.fetch_add(text.matches("Quentin").count() as u64, Ordering::Relaxed);
    }

    fn gone(&self) -> Vec<String> {
        self.gone.read().unwrap().iter().cloned().collect()
    }

    async fn read(self: Arc<Self>, accept: &'static str) {
        while !self.over.load(Ordering::SeqCst) {
            let gone = self.gone();
            let headers = [("authorization", "Bearer dev"), ("accept", accept)];
            let path = "/v1/events?direction=backward&limit=200";
            // A connection that is broken because a lease was lost shows nothing, which is right.
            let answer = try_send(self.server.address, "GET", path, &headers, Bytes::new()).await;
            if let Ok(reply) = answer {
                self.look(&gone, &reply.text(), accept);
            }
        }
    }

    /// Follows from the start, again and again; a frame is judged by what was gone before it was asked for.
    async fn follow(self: Arc<Self>) {
        let headers = [("authorization", "Bearer dev"), ("accept", "text/event-stream")];
        while !self.over.load(Ordering::SeqCst) {
            let gone = self.gone();
            let Ok(mut response) = open(self.server.address, "GET", "/v1/events", &headers, Bytes::new()).await else {
                continue;
            };
            let mut text = String::new();
            let caught_up = async {
                while let Some(Ok(frame)) = response.frame().await {
                    text.push_str(&String::from_utf8_lossy(frame.data_ref().map_or(&[], |data| data)));
                    if text.contains("event: caught-up") {
                        break;
                    }
                }
            };
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), caught_up).await;
            self.look(&gone, &text, "SSE");
        }
    }

    async fn append(self: Arc<Self>, lane: u64, people: u64) {
        let mut number = lane;
        while !self.over.load(Ordering::SeqCst) {
            number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let person = (number >> 33) % people;
            let name = value(person);
            let was_gone = self.gone.read().unwrap().contains(&name);
            let reply = contact(&self.server, &format!("p{person}"), &name).await;
            match reply.status.as_u16() {
                201 => assert!(!was_gone, "an event of a forgotten person was taken"),
                409 => assert_eq!(reply.code(), "data-subject-erased"),
                other => panic!("{other}: {}", reply.text()),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_shown_or_taken_after_a_forget_returned() {
    const PEOPLE: u64 = 50;
    let mut server = Server::dev().await;
    server.canary("Quentin Zebrowski");
    register(&server).await;
    for person in 0..PEOPLE {
        contact(&server, &format!("p{person}"), &value(person)).await.expect(201);
    }
    let race = Arc::new(Race {
        server,
        gone: RwLock::default(),
        over: AtomicBool::new(false),
        reads: AtomicU64::new(0),
        shown: AtomicU64::new(0),
    });
    let mut others = vec![
        tokio::spawn(Arc::clone(&race).read("application/json")),
        tokio::spawn(Arc::clone(&race).read("application/x-ndjson")),
        tokio::spawn(Arc::clone(&race).follow()),
    ];
    others.extend((1..=2).map(|lane| tokio::spawn(Arc::clone(&race).append(lane, PEOPLE))));
    let mut subjects = HashMap::new();
    for person in 0..PEOPLE {
        let body = json!({"data_subject": format!("p{person}")});
        let fenced = loop {
            // Without waiting for completion: the fence alone must be enough. Stale when an append came between.
            let reply = race.server.post("/v1/forget", &body).await;
            if reply.status.as_u16() != 409 {
                break reply.json();
            }
            assert_eq!(reply.code(), "preview-stale");
        };
        race.gone.write().unwrap().insert(value(person));
        subjects.insert(fenced["data_subject"].as_str().unwrap().to_owned(), fenced["id"].clone());
    }
    race.over.store(true, Ordering::SeqCst);
    for other in others {
        other.await.unwrap();
    }
    let race = Arc::into_inner(race).expect("everybody has left");
    assert!(race.reads.into_inner() > 20 && race.shown.into_inner() > 0, "there was something to see");
    let server = race.server;
    for id in subjects.values() {
        let path = format!("/v1/forget-requests/{}", id.as_str().unwrap());
        let done = server.send("GET", &path, &[("prefer", "wait=30")], "").await.expect(200).json();
        assert_eq!((&done["status"], &done["verification"]["opened"]), (&json!("completed"), &json!(0)), "{done}");
    }
    no_event_behind_its_fence(&server, subjects.len()).await;
}

async fn no_event_behind_its_fence(server: &Server, people: usize) {
    let accept = [("accept", "application/x-ndjson")];
    let text = server.send("GET", "/v1/events?system=true", &accept, "").await.expect(200).text();
    let events: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let fences: HashMap<&str, u64> = events
        .iter()
        .filter(|event| event["type"] == "erasure-fenced")
        .map(|event| (event["data"]["subject"].as_str().unwrap(), event["position"].as_u64().unwrap()))
        .collect();
    assert_eq!(fences.len(), people);
    let mut seen = 0;
    for event in events.iter().filter(|event| event["type"] == "contact-created") {
        let fence = fences[event["data"]["contact_id"].as_str().unwrap()];
        assert!(event["position"].as_u64().unwrap() < fence, "a zombie");
        assert_eq!(event["data"]["name"], "[erased]");
        seen += 1;
    }
    assert!(seen >= people);
}
