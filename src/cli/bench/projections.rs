//! Clients of the workloads over projections.
//!
//! Owns: the benchmark's definitions, and what each kind of client asks. Must not know: timing, repeats, output.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::driver::{Connection, Request};
use super::load::{Step, Worker};
use super::payload::{self, EVENT_TYPE, Person, Random};
use super::workloads::{come_back_later, unexpected};

/// Pause between two looks at a status.
const POLL: Duration = Duration::from_millis(20);

/// What a benchmark projection shows of each person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Columns {
    /// A counter, a sum, two texts; nothing personal.
    Public,
    /// Name, e-mail and address besides.
    Personal,
}

/// The definition of a benchmark projection: one row per person.
pub fn definition(name: &str, columns: Columns) -> String {
    let (declared, set) = match columns {
        Columns::Public => ("", ""),
        Columns::Personal => (
            r#""name":"string","email":"string","address":"string","#,
            r#""name":"data.name","email":"data.email","address":"data.address","#,
        ),
    };
    format!(
        r#"{{"projection":"{name}","version":1,"from":{{"types":["{EVENT_TYPE}"]}},
        "key":{{"person":"subject.person"}},
        "columns":{{{declared}"plan":"string","channel":"string","events":{{"type":"int","default":0}},
            "cents":{{"type":"int","default":0}}}},
        "handle":{{"{EVENT_TYPE}":{{"upsert":{{{set}"plan":"data.plan","channel":"data.channel"}},
            "increment":{{"events":1,"cents":"data.amount_cents"}}}}}},
        "indexes":[["plan","channel"]]}}"#
    )
}

/// Defines a projection, or has one rebuilt, and waits until it has handled every event.
pub struct CatchUp {
    name: String,
    /// The definition, or nothing to rebuild the one there is.
    definition: Option<String>,
    done: bool,
}

impl CatchUp {
    /// Defines it.
    pub fn define(name: &str, columns: Columns) -> Self {
        Self { name: name.to_owned(), definition: Some(definition(name, columns)), done: false }
    }

    /// Rebuilds it.
    pub fn rebuild(name: &str) -> Self {
        Self { name: name.to_owned(), definition: None, done: false }
    }
}

impl Worker for CatchUp {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let path = format!("/v1/projections/{}", self.name);
        let rebuild = format!("{path}/rebuilds");
        let request = match &self.definition {
            Some(body) => Request { method: "PUT", path: &path, headers: &[], body: body.as_bytes() },
            None => Request::post(&rebuild, b""),
        };
        let reply = connection.call(request).await?;
        ensure!(matches!(reply.status, 200..=202), unexpected(reply));
        let status = format!("{path}/status");
        let mut begun = self.definition.is_some();
        loop {
            tokio::time::sleep(POLL).await;
            let reply = connection.call(Request::get(&status)).await?;
            if reply.status == 404 {
                continue;
            }
            ensure!(reply.status == 200, unexpected(reply));
            let seen: Value = serde_json::from_slice(reply.body).context("a status that is no JSON")?;
            ensure!(seen["cause"].is_null(), "the projection stalled: {}", seen["cause"]["code"]);
            let rebuilding = !seen["rebuild"].is_null();
            begun |= rebuilding || !seen["last_rebuild"].is_null();
            let position = seen["position"].as_u64().map_or(0, |position| position + 1);
            if begun && !rebuilding && position >= seen["head"].as_u64().unwrap_or(0) {
                return Ok(Some(Step { units: position, ..Step::default() }));
            }
        }
    }
}

/// Waits until nothing is rebuilt.
///
/// # Errors
/// The server answers otherwise than with a status.
pub async fn rebuilt(connection: &mut Connection, name: &str) -> anyhow::Result<()> {
    let status = format!("/v1/projections/{name}/status");
    loop {
        let reply = connection.call(Request::get(&status)).await?;
        ensure!(reply.status == 200, unexpected(reply));
        let seen: Value = serde_json::from_slice(reply.body).context("a status that is no JSON")?;
        if seen["rebuild"].is_null() {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// How rows are asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    /// One row by its key.
    Key,
    /// A page of 20 rows by an index.
    Index,
}

/// Reads rows.
pub struct RowReader {
    name: Arc<str>,
    keys: Arc<[String]>,
    ask: Ask,
    random: Random,
}

impl RowReader {
    /// A client that reads rows with some of these keys.
    pub fn new(name: Arc<str>, keys: Arc<[String]>, ask: Ask, seed: u64) -> Self {
        Self { name, keys, ask, random: Random::new(seed) }
    }

    /// Keys of rows, for readers to choose from.
    ///
    /// # Errors
    /// The server answers otherwise than with rows.
    pub async fn keys(connection: &mut Connection, name: &str) -> anyhow::Result<Arc<[String]>> {
        let path = format!("/v1/projections/{name}/rows?limit=1000&fields=plan");
        let reply = connection.call(Request::get(&path)).await?;
        ensure!(reply.status == 200, unexpected(reply));
        let page: Value = serde_json::from_slice(reply.body).context("rows that are no JSON")?;
        let items = page["items"].as_array().context("a page without items")?;
        let keys: Vec<String> = items.iter().filter_map(|row| row["_key"].as_str().map(str::to_owned)).collect();
        ensure!(!keys.is_empty(), "the projection has no rows");
        Ok(keys.into())
    }
}

impl Worker for RowReader {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let path = match self.ask {
            Ask::Key => {
                let key = &self.keys[self.random.below(self.keys.len() as u64) as usize];
                format!("/v1/projections/{}/rows/{key}", self.name)
            }
            Ask::Index => {
                let plan = ["free", "standard", "family", "business"][self.random.below(4) as usize];
                format!("/v1/projections/{}/rows?limit=20&filter=plan%3D%3D'{plan}'", self.name)
            }
        };
        let reply = connection.call(Request::get(&path)).await?;
        ensure!(reply.status == 200, unexpected(reply));
        Ok(Some(Step { units: 1, ..Step::default() }))
    }
}

/// Appends one event and waits for its row.
pub struct WriteThenRead {
    stream: String,
    name: Arc<str>,
    people: u64,
    random: Random,
    body: Vec<u8>,
}

impl WriteThenRead {
    /// A client with a stream of its own.
    pub fn new(stream: String, name: Arc<str>, people: u64, seed: u64) -> Self {
        Self { stream, name, people, random: Random::new(seed), body: Vec::new() }
    }
}

impl Worker for WriteThenRead {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let mut step = Step { units: 1, ..Step::default() };
        let person = Person { number: self.random.below(self.people), suffix: "" };
        self.body.clear();
        payload::write_event(&mut self.body, person, &mut self.random);
        let path = format!("/v1/streams/{}/events", self.stream);
        let reply = connection.call(Request::post(&path, &self.body)).await?;
        ensure!(reply.status == 201, unexpected(reply));
        let appended: Value = serde_json::from_slice(reply.body).context("an append that is no JSON")?;
        let position = appended["position"].as_u64().context("an append without position")?;
        let path = format!("/v1/projections/{}/rows?limit=1&fields=events&at_least={position}", self.name);
        loop {
            let reply = connection.call(Request::get(&path).with(&[("Prefer", "wait=10")])).await?;
            match reply.status {
                200 => return Ok(Some(step)),
                _ => come_back_later(reply, &mut step).await?,
            }
        }
    }
}
