//! Backups, restores and the erasure record as a thing of its own, on both engines, through the commands' own functions.

mod commands;
mod copies;
mod crashes;
mod epochs;
mod matrix;
mod record;

use std::path::{Path, PathBuf};

use oubliette::app::restore;
use oubliette::backup::Domain;
use oubliette::backup::sqlite::Replaced;
use oubliette::clock::Clock;
use oubliette::config::{Config, SchemaPolicy};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::{Reply, Server, config_in};
use crate::postgres;

/// What holds the stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Files,
    Postgres,
}

impl Engine {
    /// Those that there are here.
    fn all() -> Vec<Self> {
        let mut all = vec![Self::Files];
        all.extend(postgres::cluster().map(|_| Self::Postgres));
        all
    }
}

/// Settings of the store in a directory.
fn config(engine: Engine, dir: &Path) -> Config {
    let mut config = config_in(dir);
    config.dev = true;
    config.schema_policy = SchemaPolicy::Open;
    if engine == Engine::Postgres {
        postgres::place(&mut config, dir);
    }
    config
}

async fn start(engine: Engine, dir: TempDir) -> Server {
    start_at(engine, dir, Clock::System).await
}

async fn start_at(engine: Engine, dir: TempDir, clock: Clock) -> Server {
    let settings = config(engine, dir.path());
    Server::on(dir, |config| *config = settings, clock).await
}

/// A name for two purposes each, and a view of it.
async fn register(server: &Server) {
    let text = |purpose: &str| {
        json!({"type": "string", "x-personal-data":
        {"subject": "person", "category": "name", "purposes": [purpose]}})
    };
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["person_id"],
        "x-data-subjects": {"person": {"id": "/person_id"}},
        "properties": {"person_id": {"type": "string"}, "n": {"type": "integer"},
            "name": text("general"), "hobby": text("marketing")}});
    server.schema("person-noted", &schema).await;
    let view = json!({"projection": "people", "version": 1, "from": {"types": ["person-noted"]},
        "key": {"n": "data.n"}, "columns": {"name": "string", "hobby": "string"},
        "handle": {"person-noted": {"upsert": {"name": "data.?name.orValue('')", "hobby": "data.?hobby.orValue('')"}}}});
    server.put("/v1/projections/people", &view).await.expect(201);
}

/// Notes something about a person, in a stream of the person's own.
async fn note(server: &Server, person: &str, n: u64, name: Option<&str>, hobby: Option<&str>) -> Reply {
    let mut data = json!({"person_id": person, "n": n});
    for (member, value) in [("name", name), ("hobby", hobby)] {
        if let Some(value) = value {
            data[member] = json!(value);
        }
    }
    server.append(&format!("person-{person}"), "person-noted", &data).await
}

async fn forget_for(server: &Server, person: &str, purpose: &str) -> Reply {
    let body = json!({"data_subject": person, "scope": {"purposes": [purpose]}}).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    server.send("POST", "/v1/forget", &headers, body).await
}

async fn reauthorize(server: &Server, person: &str, purposes: &[&str]) -> Reply {
    let path = format!("/v1/data-subjects/{person}/reauthorizations");
    server.post(&path, &json!({"purposes": purposes})).await
}

/// Makes a backup by asking the server: the file and what was answered.
async fn back_up(server: &Server, domain: Domain) -> (PathBuf, Value) {
    let made = server.post("/v1/backups", &json!({"domain": domain.as_str()})).await.expect(201).json();
    let config = &server.app.config;
    let dir = match domain {
        Domain::Events => &config.backup_events_dir,
        Domain::Keys => &config.backup_keys_dir,
    };
    (dir.join(made["file"].as_str().expect("a name")), made)
}

async fn put_back(
    config: &Config,
    domain: Domain,
    from: &Path,
    replaced: Replaced,
) -> Result<restore::PutBack, restore::RestoreError> {
    restore::put_back(config, &Clock::System, domain, from, replaced).await
}

/// Everything that can be read: pages, a stream of each person, rows of the view, live.
async fn everything(server: &Server, people: &[&str]) -> String {
    let mut all = String::new();
    for accept in ["application/json", "application/x-ndjson"] {
        all += &get(server, "/v1/events?partial=allow", &[("accept", accept)]).await;
    }
    for person in people {
        all += &get(server, &format!("/v1/streams/person-{person}/events?partial=allow"), &[]).await;
    }
    let head = *server.app.log.watch().borrow();
    if server.app.is_level() && head > 0 {
        let path = format!("/v1/projections/people/rows?partial=allow&at_least={}", head - 1);
        all += &get(server, &path, &[("prefer", "wait=20")]).await;
    } else {
        all += &get(server, "/v1/projections/people/rows?partial=allow", &[]).await;
    }
    all + &live(server).await
}

/// An answer may be broken off while the worker makes an end of what it finds unfinished: then it is asked for again.
async fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> String {
    let mut all = vec![("authorization", "Bearer dev")];
    all.extend_from_slice(headers);
    for _ in 0..20 {
        if let Ok(reply) = crate::harness::try_send(server.address, "GET", path, &all, hyper::body::Bytes::new()).await
        {
            return reply.text();
        }
    }
    panic!("no answer to {path}");
}

/// What a live reader gets until nothing comes any more.
async fn live(server: &Server) -> String {
    use http_body_util::BodyExt;
    let headers = [("accept", "text/event-stream"), ("authorization", "Bearer dev")];
    let path = "/v1/events?partial=allow";
    let answer = crate::harness::open(server.address, "GET", path, &headers, hyper::body::Bytes::new()).await.unwrap();
    let (mut body, mut text) = (answer.into_body(), String::new());
    let quiet = std::time::Duration::from_millis(250);
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(quiet, body.frame()).await {
        text.push_str(&String::from_utf8_lossy(&frame.into_data().unwrap_or_default()));
    }
    text
}

/// One POST to a process of its own, from wherever.
fn post(address: std::net::SocketAddr, path: &str, body: &Value) -> Value {
    let headers = [("authorization", "Bearer dev"), ("content-type", "application/json"), ("prefer", "wait=30")];
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let reply = runtime.block_on(crate::harness::send(address, "POST", path, &headers, body.to_string().into()));
    assert!(reply.status.is_success(), "{}", reply.text());
    reply.json()
}
