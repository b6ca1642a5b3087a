//! Readers, writers and subscribers of several servers, while people are forgotten.
//!
//! Owns: the traffic and what is checked of it. An answer of which anything could have been sent after a forget returned shows
//! nothing of that person (`client`); an event that was taken after it is a zombie; a subscriber sees every event once, in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use oubliette::app::App;
use oubliette::event::SubjectRef;
use serde_json::{Value, json};

use super::client::{Gone, Incoming, Piece, Seen, external, name};
use crate::harness::{Reply, Server, try_send};

/// What the traffic is about.
pub const TYPE: &str = "contact-created";
const JSON: (&str, &str) = ("content-type", "application/json");
const DEV: (&str, &str) = ("authorization", "Bearer dev");
/// Between two requests of a reader; writers make twice as long.
const PAUSE: Duration = Duration::from_millis(250);
const ROWS: &str = "projection: contacts
version: 1
from: {category: contact}
key: {person: subject.contact}
columns: {name: string}
handle:
  contact-created: {upsert: {name: data.name}}
";

/// Everything the tasks share.
pub struct Traffic {
    pub servers: Vec<SocketAddr>,
    pub people: usize,
    pub gone: Gone,
    pub seen: Seen,
    pub taken: AtomicUsize,
    over: AtomicBool,
    /// Around whom writers write.
    about: AtomicUsize,
    pseudonyms: Vec<String>,
    /// Whether servers may be down, or without what they need.
    faults: bool,
    /// The servers themselves, where they are in this process.
    apps: Vec<Arc<App>>,
}

/// What subscribers have seen.
pub type Positions = Vec<u64>;

impl Traffic {
    /// Among so many people, each of whom has an event.
    pub async fn prepare(servers: Vec<SocketAddr>, people: usize, faults: bool) -> Arc<Self> {
        Self::prepare_with(servers, people, faults, Vec::new()).await
    }

    /// The same over servers in this process: into their memory is looked when a forget returns.
    pub async fn within(servers: &[Server], people: usize, faults: bool) -> Arc<Self> {
        let apps = servers.iter().map(|server| Arc::clone(&server.app)).collect();
        Self::prepare_with(servers.iter().map(|server| server.address).collect(), people, faults, apps).await
    }

    async fn prepare_with(servers: Vec<SocketAddr>, people: usize, faults: bool, apps: Vec<Arc<App>>) -> Arc<Self> {
        let (seen, gone) = (Seen::default(), Gone::nobody(people));
        let (over, about, taken) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(people));
        let mut traffic = Self { servers, people, gone, seen, taken, over, about, pseudonyms: vec![], faults, apps };
        let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name"],
            "x-data-subjects": {"contact": {"id": "/contact_id"}},
            "properties": {"contact_id": {"type": "string"},
                "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
        let at = traffic.server(0);
        post(at, &format!("/v1/schemas/{TYPE}/versions"), &schema).await.unwrap().expect(201);
        let yaml = [DEV, ("content-type", "application/yaml")];
        let applied = try_send(at, "PUT", "/v1/projections/contacts", &yaml, Bytes::from_static(ROWS.as_bytes())).await;
        assert!(applied.as_ref().unwrap().status.is_success(), "{}", applied.unwrap().text());
        for person in 0..people {
            traffic.write(person, person).await.unwrap().expect(201);
            let body = json!({"data_subject": external(person)});
            let found = post(at, "/v1/data-subjects/lookups", &body).await.unwrap().expect(200).json();
            traffic.pseudonyms.push(found["data_subject"].as_str().unwrap().to_owned());
        }
        Arc::new(traffic)
    }

    pub fn server(&self, turn: usize) -> SocketAddr {
        self.servers[turn % self.servers.len()]
    }

    /// Appends an event of a person.
    async fn write(&self, person: usize, turn: usize) -> Option<Reply> {
        let data = json!({"contact_id": external(person), "name": name(person)});
        let path = format!("/v1/streams/contact-{person}/events");
        post(self.server(turn), &path, &json!({"type": TYPE, "data": data})).await
    }

    pub fn running(&self) -> bool {
        !self.over.load(Ordering::SeqCst)
    }

    /// Everybody stops soon.
    pub fn stop(&self) {
        self.over.store(true, Ordering::SeqCst);
    }

    fn near(&self, random: &mut u64) -> usize {
        *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.about.load(Ordering::Relaxed) + (*random >> 33) as usize % 32).saturating_sub(16).min(self.people - 1)
    }

    /// Reads one after the other, of all kinds, from all servers.
    pub async fn reads(self: Arc<Self>, lane: usize) {
        let (mut random, mut turn) = (lane as u64 + 1, lane);
        while self.running() {
            turn += 1;
            let person = self.near(&mut random);
            let (path, accept) = match turn % 5 {
                0 => (format!("/v1/streams/contact-{person}/events"), "application/json"),
                1 => ("/v1/events?direction=backward&limit=30".to_owned(), "application/json"),
                2 => ("/v1/events?direction=backward&limit=30".to_owned(), "application/x-ndjson"),
                3 => (format!("/v1/events?data_subject={}", self.pseudonyms[person]), "application/json"),
                _ => ("/v1/projections/contacts/rows?limit=30".to_owned(), "application/json"),
            };
            self.read(self.server(turn / 5), &path, accept).await;
            // Without a pause everything waits for the processor, and races are few.
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn read(&self, server: SocketAddr, path: &str, accept: &str) {
        let headers = format!("accept: {accept}\r\n");
        let Some(mut answer) = Incoming::ask(server, path, &headers, &self.gone, None).await else {
            assert!(self.faults, "{server} does not listen");
            return tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let counter = match answer.rest(&self.gone, &self.seen).await {
            200 => &self.seen.answers,
            // The connection is broken when a lease is lost.
            0 => &self.seen.broken,
            503 if self.faults => &self.seen.refused,
            // A process that has not heard of the projection yet.
            404 if path.contains("/projections/") => &self.seen.refused,
            _ => panic!("{path}: {}", String::from_utf8_lossy(&answer.bytes)),
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Asks for more than the system takes off a server's hands, and reads the beginning only until nobody reads any more: such
    /// answers are in memory for as long as they may.
    pub async fn reads_the_beginning(self: Arc<Self>, server: usize, person: usize) {
        let path = format!("/v1/streams/contact-{person}/events");
        let accept = "accept: application/json\r\n";
        let asked = Incoming::ask(self.server(server), &path, accept, &self.gone, Some(4096)).await;
        let mut answer = asked.expect("it listens");
        answer.piece(&self.gone, &self.seen, Duration::from_secs(20)).await;
        while self.running() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Writes about those who are being forgotten.
    pub async fn writes(self: Arc<Self>, lane: usize) {
        let (mut random, mut turn) = (lane as u64 + 77, lane);
        while self.running() {
            turn += 1;
            let person = self.near(&mut random);
            let was_gone = self.gone.has(person);
            let Some(reply) = self.write(person, turn).await else {
                assert!(self.faults, "the connection broke");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            match reply.status.as_u16() {
                201 => {
                    assert!(!was_gone, "an event of the forgotten person {person} was taken");
                    self.taken.fetch_add(1, Ordering::Relaxed);
                }
                409 => assert_eq!(reply.code(), "data-subject-erased"),
                503 if self.faults => tokio::time::sleep(Duration::from_millis(20)).await,
                other => panic!("{other}: {}", reply.text()),
            }
            // As fast as the log takes them would be thousands, which every reader reads.
            tokio::time::sleep(PAUSE * 2).await;
        }
    }

    /// Follows all events of one server, resuming where a connection broke; every position, in the order seen.
    pub async fn follows(self: Arc<Self>, server: usize, until: Arc<AtomicUsize>) -> Positions {
        let (mut positions, server) = (Positions::new(), self.server(server));
        let reached = |positions: &Positions| {
            let until = until.load(Ordering::SeqCst);
            until > 0 && positions.last().is_some_and(|last| *last as usize >= until)
        };
        while !reached(&positions) {
            let last = positions.last().map(|last| format!("last-event-id: {last}\r\n")).unwrap_or_default();
            let headers = format!("accept: text/event-stream\r\n{last}");
            let Some(mut answer) = Incoming::ask(server, "/v1/events", &headers, &self.gone, None).await else {
                assert!(self.faults, "{server} does not listen");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let mut parsed = 0;
            while !reached(&positions) {
                let piece = answer.piece(&self.gone, &self.seen, Duration::from_millis(100)).await;
                parsed = frames(&answer.bytes, parsed, &mut positions, self.faults);
                if piece == Piece::End {
                    break;
                }
            }
        }
        positions
    }

    /// Forgets one person through one server and waits until that is complete everywhere.
    pub async fn forget(&self, person: usize, turn: usize) -> Value {
        let body = json!({"data_subject": external(person)});
        let began = Instant::now();
        let mut known: Option<String> = None;
        loop {
            assert!(began.elapsed() < Duration::from_mins(2), "person {person} is not forgotten: {known:?}");
            let server = self.server(turn + usize::from(self.faults) * began.elapsed().as_secs() as usize);
            let reply = match &known {
                None => post(server, "/v1/forget", &body).await,
                Some(id) => get(server, &format!("/v1/forget-requests/{id}")).await,
            };
            let Some(reply) = reply else {
                assert!(self.faults, "the connection broke");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            };
            match reply.status.as_u16() {
                200 | 202 => {
                    let request = reply.json();
                    if request["status"] == "completed" {
                        assert_eq!(request["verification"]["opened"], 0, "{request}");
                        self.nowhere_in_memory(person);
                        self.gone.add(person);
                        return request;
                    }
                    known = request["id"].as_str().map(str::to_owned);
                }
                // Appended to between preview and approval.
                409 if reply.code() == "preview-stale" => {}
                // Asked for before, and the answer was lost: found in the list.
                404 | 409 | 412 if self.faults && known.is_none() => known = self.request_of(server, person).await,
                503 if self.faults => tokio::time::sleep(Duration::from_millis(100)).await,
                other => panic!("{other}: {}", reply.text()),
            }
        }
    }

    /// How many answers, on all servers in this process, could show a person.
    pub fn held(&self, person: usize) -> usize {
        let subject = SubjectRef::parse(&self.pseudonyms[person]).expect("a pseudonym");
        self.apps.iter().map(|app| app.leases.holding(subject)).sum()
    }

    /// No server has keys it may use, or clear values it may show (invariant D).
    fn nowhere_in_memory(&self, person: usize) {
        let subject = SubjectRef::parse(&self.pseudonyms[person]).expect("a pseudonym");
        for (number, app) in self.apps.iter().enumerate() {
            assert_eq!(app.leases.holding(subject), 0, "answers of server {number} show the forgotten person {person}");
            assert!(!app.keys.may_use(subject), "server {number} has keys of the forgotten person {person}");
        }
    }

    async fn request_of(&self, server: SocketAddr, person: usize) -> Option<String> {
        let list = get(server, "/v1/forget-requests?limit=1000").await.filter(|reply| reply.status == 200)?.json();
        let of =
            |item: &&Value| item["data_subject"] == self.pseudonyms[person].as_str() && item["status"] != "previewed";
        list["items"].as_array()?.iter().find(of)?["id"].as_str().map(str::to_owned)
    }

    /// Forgets these people, so many at a time; what the requests say in the end.
    pub async fn forget_all(self: &Arc<Self>, people: std::ops::Range<usize>, lanes: usize) -> Vec<Value> {
        let next = Arc::new(AtomicUsize::new(people.start));
        let lanes: Vec<_> = (0..lanes)
            .map(|lane| {
                let (traffic, next, end) = (Arc::clone(self), Arc::clone(&next), people.end);
                tokio::spawn(async move {
                    let mut done = Vec::new();
                    loop {
                        let person = next.fetch_add(1, Ordering::SeqCst);
                        if person >= end {
                            return done;
                        }
                        traffic.about.fetch_max(person, Ordering::Relaxed);
                        done.push(traffic.forget(person, person + lane).await);
                    }
                })
            })
            .collect();
        let mut done = Vec::new();
        for lane in lanes {
            done.extend(lane.await.unwrap());
        }
        done
    }
}

/// Positions of the events in the whole frames behind `from`; where the next one begins.
fn frames(bytes: &[u8], from: usize, positions: &mut Positions, faults: bool) -> usize {
    let text = std::str::from_utf8(&bytes[from..]).expect("plain letters");
    let Some(end) = text.rfind("\n\n") else { return from };
    for block in text[..end].split("\n\n") {
        let line = |name: &str| block.lines().find_map(|line| line.strip_prefix(name));
        assert!(faults || line("event: ") != Some("problem"), "{block}");
        if line("event: ") == Some("event") {
            positions.push(line("id: ").expect("an id").parse().expect("a number"));
        }
    }
    from + end + 2
}

/// A POST of JSON as `dev`, waiting for completion; `None` when the connection broke.
pub async fn post(server: SocketAddr, path: &str, body: &Value) -> Option<Reply> {
    let headers = [DEV, JSON, ("prefer", "wait=20")];
    try_send(server, "POST", path, &headers, Bytes::from(body.to_string())).await.ok()
}

/// A GET as `dev`, waiting for completion.
pub async fn get(server: SocketAddr, path: &str) -> Option<Reply> {
    try_send(server, "GET", path, &[DEV, ("prefer", "wait=20")], Bytes::new()).await.ok()
}
