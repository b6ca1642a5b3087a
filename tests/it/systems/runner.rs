//! Plays a script against a server.
//!
//! Owns: what each line does, and how answers are compared: pseudonyms under the names that the script gives them, without
//! positions, which depend on what else was done to the store. Invariants: a rebuild changes no row and no `_key`; a
//! projection that sees all events at once has the same rows as one that followed them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use oubliette::clock::{Clock, Millis};
use oubliette::projection::duration;
use serde_json::{Map, Value, json};

use super::script::{Answer, Line, System, blessing};
use crate::api::{dev, items, list, pluck};
use crate::harness::Server;

/// When the projections are defined.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Before the first event.
    Following,
    /// After the last one: only the last expectations are looked at.
    CatchingUp,
}

/// How long anything may take that happens by itself.
const PATIENCE: Duration = Duration::from_secs(20);

struct Player<'s> {
    system: &'s System,
    server: Server,
    clock: Clock,
    /// Pseudonym and name, in the order they were given.
    people: Vec<(String, String)>,
    /// Whether the projections are there.
    defined: bool,
}

/// Plays the whole script.
pub async fn play(system: &System, mode: Mode) {
    let begin = system.script.iter().find_map(|line| match line {
        Line::Clock { clock } => Some(Millis::parse_rfc3339(clock).expect("a time")),
        _ => None,
    });
    let clock = Clock::manual(begin.expect("a script says when it begins"));
    let server = Server::on(tempfile::tempdir().unwrap(), dev, clock.clone()).await;
    for (name, schema) in &system.schemas {
        server.schema(name, schema).await;
    }
    let mut player = Player { system, server, clock, people: Vec::new(), defined: false };
    if mode == Mode::Following {
        player.define().await;
    }
    for (at, line) in system.script.iter().enumerate() {
        if mode == Mode::CatchingUp && at + 1 == system.script.len() {
            player.define().await;
        }
        player.line(line, mode).await;
    }
}

impl Player<'_> {
    async fn define(&mut self) {
        for definition in &self.system.definitions {
            let headers = [("content-type", "application/yaml")];
            let path = format!("/v1/projections/{}", definition.name);
            self.server.send("PUT", &path, &headers, definition.text.clone()).await.expect(201);
        }
        self.defined = true;
    }

    async fn line(&mut self, line: &Line, mode: Mode) {
        match line {
            Line::Advance { advance } => self.clock.advance(duration::parse(advance).expect("a duration")),
            // A fold that is not there refuses nothing: what it would have refused is left out, for the same history.
            Line::Append { refused: Some(code), .. } if code == "invariant-violated" && !self.defined => {}
            Line::Append { stream, events, refused } => self.append(stream, events, refused.as_deref()).await,
            Line::Canaries { canaries } => canaries.iter().for_each(|value| self.server.canary(value)),
            Line::Person { person, lookup } => {
                let found = self.server.post("/v1/data-subjects/lookups", lookup).await.expect(200).json();
                let pseudonym = found["data_subject"].as_str().expect("a pseudonym").to_owned();
                self.people.push((pseudonym, person.clone()));
            }
            Line::Forget { forget } => {
                let person = self.people.iter().rfind(|(_, name)| name == forget).expect("a person of the script");
                self.server.forget(&person.0).await;
            }
            Line::Rebuild { .. } if self.defined => self.rebuild().await,
            Line::Expect { expect } if self.defined => self.expect(expect, mode).await,
            Line::Clock { .. } | Line::Rebuild { .. } | Line::Expect { .. } => {}
        }
    }

    async fn append(&mut self, stream: &str, events: &[Value], refused: Option<&str>) {
        for value in events.iter().flat_map(|event| self.system.personal(event)) {
            self.server.canary(&value);
        }
        let reply = self.server.post(&format!("/v1/streams/{stream}/events"), &json!(events)).await;
        match refused {
            None => drop(reply.expect(201)),
            Some(code) => assert_eq!(reply.code(), code, "{}", reply.text()),
        }
    }

    /// Everything that a projection has, as it is answered, once it has handled what is in the log now.
    async fn rows(&self, projection: &str, query: &Map<String, Value>) -> Vec<Value> {
        let position = self.server.app.log.watch().borrow().saturating_sub(1);
        let wait = [("prefer", "wait=20"), ("content-type", "application/json")];
        let reply = if query.is_empty() {
            let path = format!("/v1/projections/{projection}/rows?at_least={position}&limit=1000");
            self.server.send("GET", &path, &wait, "").await
        } else {
            let mut body = query.clone();
            body.insert("at_least".to_owned(), position.into());
            let path = format!("/v1/projections/{projection}/queries");
            self.server.send("POST", &path, &wait, Value::Object(body).to_string()).await
        };
        let page = reply.expect(200).json();
        assert_eq!(page["next"], Value::Null, "a script's rows fit into one page");
        list(&page["items"])
    }

    /// What differs between stores goes: keys and positions; pseudonyms become names.
    fn named(&self, items: Vec<Value>, sorted: bool) -> Vec<Value> {
        let named = |mut item: Value| {
            if let Some(members) = item.as_object_mut() {
                members.retain(|name, _| !matches!(name.as_str(), "_key" | "_position"));
            }
            let text =
                self.people.iter().fold(item.to_string(), |text, (pseudonym, name)| text.replace(pseudonym, name));
            assert!(!text.contains("ds_"), "the script names everybody who is shown: {text}");
            text
        };
        let mut texts: Vec<String> = items.into_iter().map(named).collect();
        if !sorted {
            texts.sort();
        }
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    async fn answer(&self, asked: &Answer) -> Answer {
        match asked {
            Answer::Rows { projection, query, .. } => {
                let rows = self.named(self.rows(projection, query).await, query.contains_key("sort"));
                Answer::Rows { projection: projection.clone(), query: query.clone(), rows }
            }
            Answer::State { fold, stream, .. } => {
                let found = self.server.get(&format!("/v1/streams/{stream}/state/{fold}")).await.expect(200).json();
                let mut state = found["state"].clone();
                if let Some((members, hidden)) = state.as_object_mut().zip(found.get("_redactions")) {
                    members.insert("_redactions".to_owned(), hidden.clone());
                }
                let state = self.named(vec![state], true).remove(0);
                Answer::State { fold: fold.clone(), stream: stream.clone(), state }
            }
            Answer::Events { events_of, .. } => {
                let events = items(&self.server, &format!("/v1/events?types={events_of}")).await;
                Answer::Events { events_of: events_of.clone(), data: self.named(pluck(&events, "data"), false) }
            }
        }
    }

    async fn expect(&self, name: &str, mode: Mode) {
        let file = format!("{name}.json");
        let expected = self.system.expected(&file);
        if blessing() && mode == Mode::Following {
            tokio::time::sleep(Duration::from_secs(2)).await;
            let mut answers = Vec::new();
            for asked in &expected {
                answers.push(self.answer(asked).await);
            }
            return self.system.bless(&file, &answers);
        }
        for wanted in &expected {
            // Who is defined late is not late for what happens by itself, but did not do it before.
            if mode == Mode::CatchingUp && matches!(wanted, Answer::Events { .. }) {
                continue;
            }
            let began = Instant::now();
            let wanted = json!(wanted);
            loop {
                let found = json!(self.answer(&serde_json::from_value(wanted.clone()).unwrap()).await);
                // Rows are there at once; events that are emitted come by themselves.
                if wanted.get("events_of").is_none() || found == wanted || began.elapsed() > PATIENCE {
                    let pretty = |value: &Value| serde_json::to_string_pretty(value).unwrap();
                    assert!(found == wanted, "{file}: expected {}\nfound {}", pretty(&wanted), pretty(&found));
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }

    /// All rows, and every query of the script: whole answers, with keys and positions.
    async fn everything(&self) -> BTreeMap<String, Vec<Value>> {
        let mut all = BTreeMap::new();
        for name in self.system.projections() {
            all.insert(name.to_owned(), self.rows(name, &Map::new()).await);
        }
        for (name, query) in self.system.queries() {
            all.insert(format!("{name} {}", json!(query)), self.rows(&name, &query).await);
        }
        all
    }

    async fn rebuild(&self) {
        let before = self.everything().await;
        for name in self.system.projections() {
            self.server.post(&format!("/v1/projections/{name}/rebuilds"), &json!({})).await.expect(202);
            let began = Instant::now();
            let last = loop {
                let status = self.server.get(&format!("/v1/projections/{name}/status")).await.expect(200).json();
                if status["rebuild"].is_null() {
                    break status["last_rebuild"].clone();
                }
                assert!(began.elapsed() < PATIENCE, "{name} is not rebuilt: {status}");
                tokio::time::sleep(Duration::from_millis(20)).await;
            };
            // Rows of longer windows are compared too, and are not in the plain answer.
            assert!(last["compared"].as_u64() >= Some(before[name].len() as u64), "{name}: {last}");
            let same = json!({"compared": last["compared"], "added": 0, "removed": 0, "changed": 0, "sample": []});
            assert_eq!(last, same, "{name}");
        }
        let after = self.everything().await;
        for (name, rows) in &before {
            assert_eq!(&after[name], rows, "{name} is another one after a rebuild");
        }
    }
}
