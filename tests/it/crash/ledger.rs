//! What a client remembers of a server that dies under it, and the traffic that makes it die.
//!
//! Owns: the ledger of attempts and wishes, with what was acknowledged and what was not; seeded, so that a failing case
//! can be run again.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use serde_json::{Value, json};

use crate::harness::{Reply, try_send};

/// In every personal value; nowhere in a file in clear.
pub const VALUE: &str = "Zebulon Quarrington";
/// In every external id; the same.
pub const PERSON: &str = "quetzalcoatl-";
const JSON: (&str, &str) = ("content-type", "application/json");

/// xorshift64.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        let mut random = Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        random.below(7);
        random.below(7);
        random
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}

/// How an append ended, as far as the client knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// First revision and last position.
    Acknowledged { revision: u64, position: u64 },
    /// The connection broke.
    Unknown,
    /// The person was forgotten: nothing is stored.
    Refused,
    /// Repeated after the restart and refused: stored before, or never.
    Late,
}

/// One append.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub stream: String,
    /// Tag, person and client id of each event.
    pub events: Vec<(u64, u64, Option<String>)>,
    /// `Idempotency-Key`.
    pub key: Option<String>,
    pub outcome: Outcome,
}

impl Attempt {
    /// Whether a repetition is safe.
    pub fn repeatable(&self) -> bool {
        self.key.is_some() || self.events.iter().all(|(.., id)| id.is_some())
    }

    fn body(&self) -> Value {
        let event = |(tag, person, id): &(u64, u64, Option<String>)| {
            let data = json!({"contact_id": external(*person), "name": name(*tag), "tag": tag});
            let mut event = json!({"type": "contact-noted", "data": data});
            if let Some(id) = id {
                event["id"] = json!(id);
            }
            event
        };
        Value::Array(self.events.iter().map(event).collect())
    }

    /// Sends it; the outcome, or `None` when the connection broke.
    pub async fn send(&self, address: SocketAddr) -> Option<Outcome> {
        let path = format!("/v1/streams/{}/events", self.stream);
        let mut headers = vec![("authorization", "Bearer dev"), JSON];
        if let Some(key) = &self.key {
            headers.push(("idempotency-key", key));
        }
        let reply = try_send(address, "POST", &path, &headers, Bytes::from(self.body().to_string())).await.ok()?;
        match reply.status.as_u16() {
            200 | 201 => {
                let body = reply.json();
                let number = |key: &str| body[key].as_u64().expect("a number");
                Some(Outcome::Acknowledged { revision: number("first_revision"), position: number("position") })
            }
            409 if reply.code() == "data-subject-erased" => Some(Outcome::Refused),
            other => panic!("an append was answered {other}: {}", reply.text()),
        }
    }
}

/// A wish to be forgotten.
#[derive(Clone, Debug)]
pub struct Wish {
    pub person: u64,
    /// The request, once it was told.
    pub request: Option<String>,
    /// Whether the fence was acknowledged.
    pub fenced: bool,
}

/// Everything the client knows.
#[derive(Default)]
pub struct Ledger {
    pub attempts: Vec<Attempt>,
    pub wishes: Vec<Wish>,
    tags: u64,
}

pub fn external(person: u64) -> String {
    format!("{PERSON}{person}")
}

pub fn name(tag: u64) -> String {
    format!("{VALUE} {tag}")
}

impl Ledger {
    /// The next append: one to three events of a few people, some of whom are being forgotten.
    fn draw(&mut self, random: &mut Random) -> usize {
        let oldest = (self.wishes.len() as u64).saturating_sub(u64::from(random.below(8) == 0));
        let stream = format!("contact-{}", random.below(5));
        let way = random.below(3);
        let count = if random.below(3) == 0 { 3 } else { 1 };
        let mut id = || {
            let wide = u128::from(random.below(u64::MAX)) << 64 | u128::from(random.below(u64::MAX));
            uuid::Uuid::from_u128(wide).to_string()
        };
        let ids: Vec<Option<String>> = (0..count).map(|_| (way == 0).then(&mut id)).collect();
        let key = (way == 1).then(&mut id);
        let mut events = Vec::new();
        for id in ids {
            self.tags += 1;
            events.push((self.tags, oldest + random.below(3), id));
        }
        self.attempts.push(Attempt { stream, events, key, outcome: Outcome::Unknown });
        self.attempts.len() - 1
    }
}

/// Appends and forgets until the server dies, or until `limit`. Whether it died.
pub async fn drive(address: SocketAddr, ledger: &RefCell<Ledger>, seed: u64, limit: Duration) -> bool {
    let dead = Cell::new(false);
    let deadline = Instant::now() + limit;
    let running = || !dead.get() && Instant::now() < deadline;
    let appender = |lane: u64| {
        let (dead, running) = (&dead, &running);
        async move {
            let mut random = Random::new(seed * 31 + lane);
            while running() {
                let number = ledger.borrow_mut().draw(&mut random);
                let attempt = ledger.borrow().attempts[number].clone();
                match attempt.send(address).await {
                    Some(outcome) => ledger.borrow_mut().attempts[number].outcome = outcome,
                    None => dead.set(true),
                }
            }
        }
    };
    let forgetter = async {
        let mut random = Random::new(seed * 31 + 9);
        while running() {
            let wait = ledger.borrow().attempts.len() + 2 + random.below(8) as usize;
            while running() && ledger.borrow().attempts.len() < wait {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            let in_steps = random.below(2) == 0;
            if running() && forget_next(address, ledger, in_steps).await.is_none() {
                dead.set(true);
            }
        }
    };
    tokio::join!(appender(1), appender(2), forgetter);
    dead.get()
}

/// Forgets the next person who is known, in one call or in two; `None` when the connection broke.
async fn forget_next(address: SocketAddr, ledger: &RefCell<Ledger>, in_steps: bool) -> Option<()> {
    let number = ledger.borrow().wishes.len();
    let person = number as u64;
    ledger.borrow_mut().wishes.push(Wish { person, request: None, fenced: false });
    let body = json!({"data_subject": external(person)});
    let done = if in_steps {
        let opened = post(address, "/v1/forget-requests", &body).await?;
        if opened.status.as_u16() == 404 {
            unknown_person(ledger);
            return Some(());
        }
        let opened = opened.expect(201).json();
        let id = opened["id"].as_str().expect("an id").to_owned();
        ledger.borrow_mut().wishes[number].request = Some(id.clone());
        let digest = json!({"preview_digest": opened["preview"]["digest"]});
        let approved = post(address, &format!("/v1/forget-requests/{id}/approvals"), &digest).await?;
        if approved.status.as_u16() == 409 {
            // Appended to since the preview; the person stays.
            assert_eq!(approved.code(), "preview-stale");
            return Some(());
        }
        approved
    } else {
        post(address, "/v1/forget", &body).await?
    };
    match done.status.as_u16() {
        200 | 202 => {
            let body = done.json();
            let mut ledger = ledger.borrow_mut();
            ledger.wishes[number].request = body["id"].as_str().map(str::to_owned);
            ledger.wishes[number].fenced = true;
        }
        404 => unknown_person(ledger),
        409 => assert_eq!(done.code(), "preview-stale"),
        other => panic!("a forget was answered {other}: {}", done.text()),
    }
    Some(())
}

/// Nothing was appended for this person yet: nobody to forget, try again later.
fn unknown_person(ledger: &RefCell<Ledger>) {
    ledger.borrow_mut().wishes.pop();
}

/// A POST of JSON as `dev`; `None` when the connection broke.
pub async fn post(address: SocketAddr, path: &str, body: &Value) -> Option<Reply> {
    let headers = [("authorization", "Bearer dev"), JSON, ("prefer", "wait=20")];
    try_send(address, "POST", path, &headers, Bytes::from(body.to_string())).await.ok()
}
