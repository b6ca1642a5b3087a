//! Several processes over one store: what one does the others know.

mod client;
mod faults;
mod killed;
mod model;
mod races;
mod traffic;

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use oubliette::clock::Clock;
use oubliette::config::{Config, Dsn};
use serde_json::{Value, json};

use crate::api::{items, key, list};
use crate::harness::Server;
use crate::postgres::{Cluster, cluster, place_dir};

/// Servers over one pair of databases and one keyring.
pub struct Several {
    pub servers: Vec<Server>,
    home: tempfile::TempDir,
}

impl Several {
    /// So many of them; `None` where there is no PostgreSQL.
    pub async fn start(count: usize) -> Option<Self> {
        cluster()?;
        let mut several = Self { servers: Vec::new(), home: tempfile::tempdir().unwrap() };
        for _ in 0..count {
            several.join().await;
        }
        Some(several)
    }

    /// None yet, over databases of this cluster.
    pub fn over(cluster: &Cluster) -> Self {
        let home = tempfile::tempdir().unwrap();
        for name in ["events.dsn", "keys.dsn"] {
            std::fs::write(home.path().join(name), cluster.database()).unwrap();
        }
        Self { servers: Vec::new(), home }
    }

    /// One more.
    pub async fn join(&mut self) {
        self.join_with(|_| {}, Clock::System).await;
    }

    /// One more, with other settings and by another clock.
    pub async fn join_with(&mut self, change: impl FnOnce(&mut Config), clock: Clock) {
        let [events, keys] = place_dir(self.home.path()).map(|dsn| Dsn::new(&dsn).unwrap());
        let keyring: PathBuf = self.home.path().join("keyring");
        let settings = |config: &mut Config| {
            config.dev = true;
            (config.events_dsn, config.keys_dsn, config.keyring_dir) = (events, keys, keyring);
            change(config);
        };
        self.servers.push(Server::waiting_for_readers(tempfile::tempdir().unwrap(), settings, clock).await);
    }

    /// Where their stores are: `events.dsn`, `keys.dsn`.
    pub fn dsn(&self, name: &str) -> String {
        std::fs::read_to_string(self.home.path().join(name)).unwrap()
    }

    /// In turn: every call may go to another one.
    pub fn any(&self, number: usize) -> &Server {
        &self.servers[number % self.servers.len()]
    }
}

/// Tells whoever runs a long test how much it looked at.
pub fn say(line: &str) {
    std::io::stderr().write_all(format!("{line}\n").as_bytes()).expect("standard error");
}

/// Asks until it is so, for at most ten seconds.
pub async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["person_id"],
        "x-data-subjects": {"person": {"id": "/person_id"}},
        "properties": {"person_id": {"type": "string"}, "city": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "person", "category": "name"}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forgotten_on_one_is_forgotten_on_all() {
    let Some(mut several) = Several::start(3).await else { return };
    for server in &mut several.servers {
        server.canary("Ada Canary Lovelace");
    }
    let data = json!({"person_id": "ada", "city": "Turin", "name": "Ada Canary Lovelace"});
    several.any(0).schema("moved", &schema()).await;
    for turn in 0..6 {
        several.any(turn + 1).append("contact-1", "moved", &data).await.expect(201);
    }
    // In the memory of all of them.
    for server in &several.servers {
        for event in items(server, "/v1/streams/contact-1/events").await {
            assert_eq!(event["data"]["name"], "Ada Canary Lovelace");
        }
    }
    let done = several.any(1).forget("ada").await;
    let nodes = list(&done["destroyed"]["nodes"]);
    assert_eq!(nodes.len(), 3, "{done}");
    assert!(nodes.iter().all(|node| node["how"] == "acknowledged"), "{done}");
    for server in &several.servers {
        for event in items(server, "/v1/streams/contact-1/events").await {
            assert_eq!(
                (&event["data"]["name"], &event["redactions"][0]["state"]),
                (&json!("[erased]"), &json!("erased"))
            );
        }
        assert_eq!(server.append("contact-1", "moved", &data).await.expect(409).code(), "data-subject-erased");
        let found = server.post("/v1/data-subjects/lookups", &json!({"data_subject": "ada"})).await;
        assert_ne!(found.status, 200, "{}", found.text());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_left_is_not_waited_for() {
    let Some(mut several) = Several::start(2).await else { return };
    several.any(0).schema("moved", &schema()).await;
    several.any(1).append("contact-1", "moved", &json!({"person_id": "ada", "name": "Ada"})).await.expect(201);
    several.servers.pop().unwrap().stop().await;
    let done = several.any(0).forget("ada").await;
    assert_eq!(list(&done["destroyed"]["nodes"]).len(), 1, "{done}");
    several.join().await;
    let shown = items(several.any(1), "/v1/streams/contact-1/events").await;
    assert_eq!(shown[0]["data"]["name"], "[erased]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_decided_on_one_holds_on_all() {
    let Some(several) = Several::start(3).await else { return };
    let (one, two, three) = (several.any(0), several.any(1), several.any(2));
    // A schema, appended under at once, elsewhere: nothing is taken as if there were none.
    for round in 0..10 {
        let event_type = format!("moved-{round}");
        several.any(round).schema(&event_type, &schema()).await;
        let data = json!({"person_id": "ada", "name": "Ada"});
        let other = several.any(round + 1);
        other.append(&format!("contact-{round}"), &event_type, &data).await.expect(201);
        let event = &items(several.any(round + 2), &format!("/v1/streams/contact-{round}/events")).await[0];
        assert_eq!((&event["schema_version"], &event["data"]["name"]), (&json!(1), &json!("Ada")));
        let stored = three
            .send(
                "GET",
                &format!("/v1/streams/contact-{round}/events?redaction=marker"),
                &[("oubliette-purposes", "none")],
                "",
            )
            .await;
        assert!(stored.status == 200 || stored.status == 400, "{}", stored.text());
    }
    // A newer version of a schema, used at once.
    let mut wider = schema();
    wider["properties"]["nick"] =
        json!({"type": "string", "x-personal-data": {"subject": "person", "category": "name"}});
    two.post("/v1/schemas/moved-0/versions", &wider).await.expect(201);
    let data = json!({"person_id": "ada", "name": "Ada", "nick": "Countess"});
    one.append("contact-0", "moved-0", &data).await.expect(201);
    // Keys: known at once, and not any more within a lease.
    let reader = key(one, "reader", &json!({"roles": ["reader"], "categories": ["contact"]})).await;
    let asked = async |server: &Server| {
        server.send("GET", "/v1/streams/contact-0/events", &[("authorization", reader.as_str())], "").await.status
    };
    assert_eq!(asked(three).await, 200);
    // The key `dev` is one of them.
    let all = list(&one.get("/v1/api-keys").await.expect(200).json()["items"]);
    let id = all.iter().find(|key| key["name"] == "reader").unwrap()["id"].as_str().unwrap().to_owned();
    one.send("DELETE", &format!("/v1/api-keys/{id}"), &[], "").await.expect(204);
    assert_eq!(asked(one).await, 401);
    until("the key is refused everywhere", async || {
        (asked(two).await == 401 && asked(three).await == 401).then_some(())
    })
    .await;
}

const CONTACTS: &str = "projection: contacts
version: 1
from: {category: contact}
key: {person: subject.person}
columns: {name: string, city: string}
handle:
  moved: {upsert: {name: data.name, city: data.city}}
";

async fn apply(server: &Server, text: &str) {
    let reply =
        server.send("PUT", "/v1/projections/contacts", &[("content-type", "application/yaml")], text.to_owned()).await;
    assert!(reply.status.is_success(), "{}", reply.text());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_the_same_wherever_they_are_asked_for() {
    let Some(several) = Several::start(3).await else { return };
    several.any(0).schema("moved", &schema()).await;
    apply(several.any(1), CONTACTS).await;
    for turn in 0..9 {
        let data = json!({"person_id": format!("p{turn}"), "city": "Turin", "name": format!("Ada {turn}")});
        let stream = format!("contact-{turn}");
        let done = several.any(turn).append(&stream, "moved", &data).await.expect(201).json();
        let at = done["position"].as_u64().or_else(|| done["last_position"].as_u64()).unwrap();
        for server in &several.servers {
            let path = format!("/v1/projections/contacts/rows?at_least={at}");
            let rows = until("the projection is known", async || {
                let reply = server.send("GET", &path, &[("prefer", "wait=10")], "").await;
                (reply.status == 200).then(|| reply.json())
            })
            .await;
            assert_eq!(list(&rows["items"]).len(), turn + 1, "{rows}");
        }
    }
    several.any(2).forget("p3").await;
    for server in &several.servers {
        let rows = server.get("/v1/projections/contacts/rows").await.expect(200);
        assert!(!rows.text().contains("Ada 3") && rows.text().contains("Ada 4"), "{}", rows.text());
    }
    // A new version, from a process that may not be the one that computes; then a rebuild from another.
    apply(
        several.any(2),
        &CONTACTS
            .replace("version: 1", "version: 2")
            .replace("city: data.city}", "city: 'data.city + \" (Piedmont)\"'}"),
    )
    .await;
    for (turn, server) in several.servers.iter().enumerate() {
        until("the new version answers", async || {
            let rows = server.get("/v1/projections/contacts/rows").await.expect(200).text();
            rows.contains("Piedmont").then_some(())
        })
        .await;
        let status = server.get("/v1/projections/contacts/status").await.expect(200).json();
        assert_eq!((&status["version"], &status["rows"]), (&json!(2), &json!(9)), "{turn}: {status}");
    }
    for server in &several.servers {
        until("no rebuild is on", async || {
            (server.post("/v1/projections/contacts/rebuilds", &json!({})).await.status == 202).then_some(())
        })
        .await;
    }
    // Paused from one: whoever waits elsewhere is told at once.
    several.any(1).post("/v1/projections/contacts/pauses", &json!({})).await.expect(204);
    for server in &several.servers {
        until("it is paused", async || {
            let status = server.get("/v1/projections/contacts/status").await.expect(200).json();
            (status["state"] == "paused").then_some(())
        })
        .await;
    }
    several.any(0).append("contact-1", "moved", &json!({"person_id": "p1", "name": "Late"})).await.expect(201);
    for server in &several.servers {
        let began = Instant::now();
        let path = "/v1/projections/contacts/rows?at_least=100000";
        server.send("GET", path, &[("prefer", "wait=20")], "").await.expect(503);
        assert!(began.elapsed() < Duration::from_secs(10), "it waited in vain");
    }
}
