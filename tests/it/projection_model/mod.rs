//! Projections agree with a naive model, whatever is defined and whoever is forgotten; a rebuild changes nothing.
//!
//! Owns: driving one server and the model through generated histories. Every personal text is a canary: it may be shown
//! only while the model says that somebody may read it, in rows, CSV and live frames, and may stand in no file at any time.

mod generate;
mod model;
mod shape;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Bytes;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::api::key;
use crate::harness::{Reply, Server, open};
use generate::PEOPLE;
use model::{Event, Fact, Fold, KeyValue, Member, Owners, Person};
use shape::{CANARY, Case, Definition, Happening, KeyPart};

/// A person as the driver knows them.
#[derive(Clone, Default)]
struct Known {
    /// How often the person came back.
    life: usize,
    seen: bool,
    gone: bool,
    generations: HashMap<&'static str, usize>,
    lost: BTreeSet<&'static str>,
}

struct Run<'a> {
    server: &'a Server,
    billing: &'a str,
    stranger: &'a str,
    case: &'a Case,
    number: u32,
    people: Vec<Known>,
    /// Pseudonyms.
    names: HashMap<String, Person>,
    facts: Vec<Fact>,
    /// Every personal text by its number.
    canaries: Vec<Owners>,
    defined: Option<&'a Definition>,
    version: usize,
    events: usize,
}

type Checked = Result<(), TestCaseError>;

impl<'a> Run<'a> {
    fn name(&self) -> String {
        format!("p{}", self.number)
    }

    fn types(&self) -> Vec<String> {
        (0..self.case.kinds.len()).map(|at| format!("c{}t{at}", self.number)).collect()
    }

    fn external(&self, person: usize) -> String {
        format!("c{}-{person}", self.number)
    }

    /// Puts a definition; `false` when it is refused because nobody could read a column.
    async fn define(&mut self, definition: &'a Definition) -> Result<bool, TestCaseError> {
        let text = definition.text(&self.name(), &self.types(), &self.case.kinds, self.version + 1);
        let reply = self.server.put(&format!("/v1/projections/{}", self.name()), &text).await;
        if reply.status == 422 {
            let errors = reply.json()["errors"].as_array().cloned().unwrap_or_default();
            let known = errors.iter().all(|error| error["code"] == "no-common-purpose");
            prop_assert!(known && !errors.is_empty(), "{}\n{text:#}", reply.text());
            return Ok(false);
        }
        prop_assert!(reply.status.is_success(), "{}\n{text:#}", reply.text());
        self.version += 1;
        self.defined = Some(definition);
        let version = u32::try_from(self.version).unwrap();
        self.until("the definition answers", |projection| {
            projection.live.as_ref().is_some_and(|live| live.definition.version == version)
        })
        .await?;
        Ok(true)
    }

    async fn until(&self, what: &str, done: impl Fn(&oubliette::projection::engine::Projection) -> bool) -> Checked {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            if self.server.app.projections.get(&self.name()).await.is_some_and(|projection| done(&projection)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let status = self.server.get(&format!("/v1/projections/{}/status", self.name())).await;
                prop_assert!(false, "not in time: {what}: {}", status.text());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn append(&mut self, happening: &Happening) -> Checked {
        let Happening::Append { kind: at, a, b, k, k2, m, flag, n, present } = happening else { return Ok(()) };
        let kind = &self.case.kinds[*at];
        let who = [*a, *b];
        if who.iter().any(|person| self.people[*person].gone) {
            return Ok(());
        }
        let (k, k2, m) = (format!("place-{k}"), format!("place-{k2}"), ["x", "y"][*m].to_owned());
        let ids = who.map(|person| self.external(person));
        let mut data = json!({"a_id": ids[0], "b_id": ids[1], "k": k, "k2": k2, "m": m, "flag": flag, "n": n});
        let mut members = Vec::new();
        for (index, field) in kind.fields.iter().enumerate() {
            if !field.required && !present[index] {
                members.push(None);
                continue;
            }
            let owners = self.owners(field.mark.as_ref(), who);
            let Some(owners) = owners else { return Ok(()) };
            let number = self.canaries.len();
            self.canaries.push(owners.clone());
            let value = match (field.text, &field.mark) {
                (true, Some(_)) => json!(format!("{CANARY}-{number}.")),
                (true, None) => json!(format!("Public-{number}.")),
                (false, _) => json!(number % 7 + 1),
            };
            data[&field.name] = value.clone();
            let placeholder = field.mark.as_ref().and_then(|mark| mark.placeholder).filter(|_| field.text);
            members.push(Some(Member { value, owners, placeholder: placeholder.map(Value::from) }));
        }
        let stream = format!("c{}-{}", self.number, self.events);
        self.events += 1;
        let reply = self.server.append(&stream, &self.types()[*at], &data).await;
        prop_assert_eq!(reply.status.as_u16(), 201, "{} {}", reply.text(), data);
        for person in who {
            self.people[person].seen = true;
        }
        let people = who.map(|person| (person, self.people[person].life));
        if people.iter().any(|person| !self.names.values().any(|known| known == person)) {
            let headers = [("authorization", self.stranger)];
            let page = self.server.send("GET", &format!("/v1/streams/{stream}/events"), &headers, "").await;
            let page = page.expect(200).json();
            for (role, person) in ["a_id", "b_id"].into_iter().zip(people) {
                let pseudonym = page["items"][0]["data"][role].as_str().unwrap().to_owned();
                prop_assert!(pseudonym.starts_with("ds_"), "{page}");
                self.names.insert(pseudonym, person);
            }
        }
        self.facts.push(Fact::Event(Event { kind: *at, people, k, k2, m, flag: *flag, n: *n, members }));
        Ok(())
    }

    /// Owners of a field of these people; `None` when one of them has taken the purpose away.
    fn owners(&self, mark: Option<&shape::Mark>, who: [usize; 2]) -> Option<Owners> {
        let mut owners = Owners::new();
        let Some(mark) = mark else { return Some(owners) };
        for purpose in &mark.purposes {
            let person = |role: &usize| {
                let known = &self.people[who[*role]];
                let generation = known.generations.get(purpose).copied().unwrap_or(0);
                (!known.lost.contains(purpose)).then_some(((who[*role], known.life), generation))
            };
            let people: Vec<(Person, usize)> = mark.roles.iter().map(person).collect::<Option<_>>()?;
            if mark.joint {
                owners.insert((purpose, people.into_iter().collect()));
            } else {
                owners.extend(people.into_iter().map(|one| (*purpose, BTreeSet::from([one]))));
            }
        }
        Some(owners)
    }

    async fn forget(&mut self, person: usize, purpose: Option<&'static str>) -> Checked {
        let known = &mut self.people[person];
        if !known.seen || known.gone || purpose.is_some_and(|purpose| known.lost.contains(purpose)) {
            return Ok(());
        }
        let scope = purpose.map(|purpose| (purpose, known.generations.get(purpose).copied().unwrap_or(0)));
        self.facts.push(Fact::Forgotten { person: (person, known.life), scope });
        match purpose {
            None => known.gone = true,
            Some(purpose) => drop(known.lost.insert(purpose)),
        }
        let mut body = json!({"data_subject": self.external(person)});
        if let Some(purpose) = purpose {
            body["scope"] = json!({"purposes": [purpose]});
        }
        let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
        let reply = self.server.send("POST", "/v1/forget", &headers, body.to_string()).await;
        prop_assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        prop_assert_eq!(&reply.json()["status"], "completed");
        Ok(())
    }

    async fn come_back(&mut self, person: usize) -> Checked {
        let known = &mut self.people[person];
        let body = if known.gone {
            *known = Known { life: known.life + 1, ..Known::default() };
            json!({})
        } else if let Some(purpose) = known.lost.pop_first() {
            *known.generations.entry(purpose).or_default() += 1;
            json!({"purposes": [purpose]})
        } else {
            return Ok(());
        };
        let path = format!("/v1/data-subjects/{}/reauthorizations", self.external(person));
        let reply = self.server.post(&path, &body).await;
        prop_assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
        Ok(())
    }

    async fn rows(&self, key: &str, query: &str, accept: &str) -> Result<Reply, TestCaseError> {
        let head = *self.server.app.log.watch().borrow() - 1;
        let path = format!("/v1/projections/{}/rows?limit=1000&at_least={head}{query}", self.name());
        let headers = [("authorization", key), ("prefer", "wait=20"), ("accept", accept)];
        let reply = self.server.send("GET", &path, &headers, "").await;
        prop_assert_eq!(reply.status.as_u16(), 200, "{}", reply.text());
        Ok(reply)
    }

    /// What a row is called by the model; what it shows.
    fn read(&self, row: &Value) -> Result<(Vec<KeyValue>, (Value, Value)), TestCaseError> {
        let mut row: Map<String, Value> = row.as_object().unwrap().clone();
        let definition = self.defined.expect("rows are of a definition");
        let mut parts = Vec::new();
        for part in &definition.key {
            let name = match part {
                KeyPart::Place => "place",
                KeyPart::A => "first",
                KeyPart::B => "second",
            };
            let value = row.remove(name).unwrap();
            let text = value.as_str().unwrap();
            parts.push(match part {
                KeyPart::Place => KeyValue::Text(text.to_owned()),
                _ => match self.names.get(text) {
                    Some(person) => KeyValue::Person(*person),
                    None => return Err(TestCaseError::fail(format!("{text} is nobody"))),
                },
            });
        }
        let redactions = row.remove("_redactions").unwrap_or_else(|| json!({}));
        for name in ["_key", "_position"] {
            prop_assert!(row.remove(name).is_some(), "{row:?}");
        }
        Ok((parts, (Value::Object(row), redactions)))
    }

    /// Rows for everybody agree with the model; nothing that was forgotten is shown anywhere.
    async fn look(&self, thoroughly: bool) -> Checked {
        let Some(definition) = self.defined else { return Ok(()) };
        let fold = Fold::of(definition, &self.facts)
            .map_err(|_| TestCaseError::reject("more owners than the model counts"))?;
        let page = self.rows("Bearer dev", "", "application/json").await?;
        self.compare(&fold, &page, &|_| true)?;
        self.nothing_forgotten(&page.text())?;
        let status = self.server.get(&format!("/v1/projections/{}/status", self.name())).await.expect(200).json();
        prop_assert_eq!(&status["parked"], &json!(fold.parked), "{}", status);
        if !thoroughly {
            return Ok(());
        }
        let narrow = self.rows(self.billing, "", "application/json").await?;
        self.compare(&fold, &narrow, &|purpose| purpose == "billing")?;
        let nobody = self.rows(self.stranger, "", "application/json").await?;
        self.compare(&fold, &nobody, &|_| false)?;
        prop_assert!(!nobody.text().contains(CANARY));
        for (query, accept) in [("", "text/csv"), ("&sort=c0", "application/json"), ("", "application/x-ndjson")] {
            self.nothing_forgotten(&self.rows("Bearer dev", query, accept).await?.text())?;
        }
        self.nothing_forgotten(&self.live_text().await)?;
        self.filters(&page.json()["items"]).await
    }

    fn compare(&self, fold: &Fold<'_>, page: &Reply, allowed: &dyn Fn(&str) -> bool) -> Checked {
        let expected = fold.shown(&self.facts, allowed);
        let page = page.json();
        let rows = page["items"].as_array().unwrap().iter().map(|row| self.read(row));
        let found: BTreeMap<_, _> = rows.collect::<Result<_, _>>()?;
        if found != expected {
            let text = self.defined.map(|it| it.text(&self.name(), &self.types(), &self.case.kinds, self.version));
            let (found, expected): (Vec<_>, Vec<_>) = (
                found.iter().filter(|(key, row)| expected.get(*key) != Some(row)).collect(),
                expected.iter().filter(|(key, row)| found.get(*key) != Some(row)).collect(),
            );
            let of = |rows: &[(&Vec<KeyValue>, &(Value, Value))]| {
                rows.iter().map(|(key, (row, states))| format!("{key:?} {row} {states}\n")).collect::<String>()
            };
            let facts: String = self.facts.iter().map(|fact| format!("{fact:?}\n")).collect();
            let (found, expected, text) = (of(&found), of(&expected), text.unwrap_or_default());
            prop_assert!(false, "shown:\n{found}expected:\n{expected}facts:\n{facts}{text:#}\n{}", self.kinds());
        }
        Ok(())
    }

    fn kinds(&self) -> String {
        self.case.kinds.iter().map(|kind| format!("{kind:?}\n")).collect()
    }

    fn nothing_forgotten(&self, text: &str) -> Checked {
        let lower = text.to_lowercase();
        for found in lower.split(&format!("{}-", CANARY.to_lowercase())).skip(1) {
            let number: String = found.chars().take_while(char::is_ascii_digit).collect();
            let owners = &self.canaries[number.parse::<usize>().unwrap()];
            prop_assert!(model::readable(owners, &self.facts), "{CANARY}-{number} was forgotten and is shown: {text}");
        }
        Ok(())
    }

    /// A live stream up to where it has caught up.
    async fn live_text(&self) -> String {
        let path = format!("/v1/projections/{}/rows", self.name());
        let headers = [("authorization", "Bearer dev"), ("accept", "text/event-stream")];
        let response = open(self.server.address, "GET", &path, &headers, Bytes::new()).await.expect("an answer");
        assert_eq!(response.status(), 200);
        let (mut body, mut text) = (response.into_body(), String::new());
        while !text.contains("event: caught-up") {
            let frame = tokio::time::timeout(Duration::from_secs(20), body.frame()).await.expect("a frame in time");
            let chunk = frame.expect("it goes on").expect("a whole frame").into_data().expect("data");
            text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
        text
    }

    /// Who asks for a value finds the rows that show it, and only those.
    async fn filters(&self, rows: &Value) -> Checked {
        let canary = format!("{CANARY}-");
        for number in (0..self.canaries.len()).rev().step_by(7).take(4) {
            let value = format!("{canary}{number}.");
            let body = json!({"filter": format!("c0 == '{value}'"), "limit": 1000});
            let reply = self.server.post(&format!("/v1/projections/{}/queries", self.name()), &body).await.expect(200);
            let found = reply.json()["items"].as_array().unwrap().len();
            let shown = rows.as_array().unwrap().iter().filter(|row| row["c0"] == json!(value)).count();
            prop_assert_eq!(found, shown, "{}", value);
        }
        Ok(())
    }

    /// Computed anew, every row is what it was, to the byte.
    async fn rebuild(&self) -> Checked {
        if self.defined.is_none() {
            return Ok(());
        }
        let before = self.rows("Bearer dev", "", "application/json").await?.json();
        let live = self.server.app.projections.get(&self.name()).await.and_then(|it| it.live).expect("it runs");
        let reply = self.server.post(&format!("/v1/projections/{}/rebuilds", self.name()), &json!({})).await;
        prop_assert_eq!(reply.status.as_u16(), 202, "{}", reply.text());
        let old = live.generation.id;
        self.until("the rebuild", |projection| {
            projection.shadow.is_none() && projection.live.as_ref().is_some_and(|live| live.generation.id != old)
        })
        .await?;
        let after = self.rows("Bearer dev", "", "application/json").await?.json();
        let facts: String = self.facts.iter().map(|fact| format!("{fact:?}\n")).collect();
        prop_assert_eq!(&before["items"], &after["items"], "{}", facts);
        Ok(())
    }

    async fn happen(&mut self, happening: &Happening) -> Checked {
        match happening {
            Happening::Append { .. } => self.append(happening).await,
            Happening::Forget { person, purpose } => {
                let before = self.facts.len();
                self.forget(*person, *purpose).await?;
                if self.facts.len() > before { self.look(false).await } else { Ok(()) }
            }
            Happening::Return { person } => self.come_back(*person).await,
            Happening::Rebuild => self.rebuild().await,
            Happening::Look => self.look(false).await,
            Happening::Redefine => {
                if self.defined.is_some() {
                    let next = if self.version % 2 == 1 { &self.case.second } else { &self.case.first };
                    if self.define(next).await? {
                        self.look(false).await?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Runs a case; `false` when its first definition is refused.
async fn one(server: &Server, keys: &[String; 2], number: u32, case: &Case) -> Result<bool, TestCaseError> {
    let mut run = Run {
        server,
        billing: &keys[0],
        stranger: &keys[1],
        case,
        number,
        people: vec![Known::default(); PEOPLE],
        names: HashMap::new(),
        facts: Vec::new(),
        canaries: Vec::new(),
        defined: None,
        version: 0,
        events: 0,
    };
    for (name, kind) in run.types().iter().zip(&case.kinds) {
        let reply = server.post(&format!("/v1/schemas/{name}/versions"), &kind.schema()).await;
        prop_assert_eq!(reply.status.as_u16(), 201, "{}", reply.text());
    }
    for (at, happening) in case.history.iter().enumerate() {
        if at == case.define_at && !run.define(&case.first).await? {
            return Ok(false);
        }
        run.happen(happening).await?;
    }
    if run.defined.is_none() && !run.define(&case.first).await? {
        return Ok(false);
    }
    run.look(true).await?;
    run.rebuild().await?;
    run.look(true).await?;
    server.send("DELETE", &format!("/v1/projections/{}", run.name()), &[], "").await.expect(204);
    Ok(true)
}

async fn all(cases: u32) {
    let mut server = Server::dev().await;
    for spelling in [CANARY.to_owned(), CANARY.to_lowercase(), CANARY.to_uppercase()] {
        server.canary(&format!("{spelling}-"));
    }
    let billing = key(&server, "billing", &json!({"role": "pii_reader", "purposes": ["billing"]})).await;
    let stranger = key(&server, "stranger", &json!({"role": "reader"})).await;
    let keys = [billing, stranger];
    let handle = tokio::runtime::Handle::current();
    let (tried, taken) = (AtomicU32::new(0), AtomicU32::new(0));
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 80, ..Config::default() };
    let mut runner = TestRunner::new(config);
    let run = || {
        let found = runner.run(&generate::case(), |case| {
            let number = tried.fetch_add(1, Ordering::Relaxed);
            if handle.block_on(one(&server, &keys, number, &case))? {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        if let Err(error) = found {
            panic!("{error}");
        }
    };
    tokio::task::block_in_place(run);
    let (tried, taken) = (tried.into_inner(), taken.into_inner());
    assert!(taken * 2 >= tried, "only {taken} of {tried} generated definitions were accepted: the test says little");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_agree_with_the_model() {
    all(24).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: several hundred histories"]
async fn rows_agree_with_the_model_many_times() {
    all(400).await;
}
