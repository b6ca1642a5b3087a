//! An example system as it stands in its directory: schemas, definitions, script, expected answers.
//!
//! Owns: the format of the files, strictly: an unknown member is an error. Must not know: servers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

/// One system.
pub struct System {
    dir: PathBuf,
    /// Event type and schema, by type.
    pub schemas: BTreeMap<String, Value>,
    /// Each definition, in their order.
    pub definitions: Vec<Definition>,
    /// What happens.
    pub script: Vec<Line>,
}

/// A projection or a fold.
pub struct Definition {
    pub name: String,
    pub text: String,
    /// A fold has no rows: it is computed when it is asked for.
    pub fold: bool,
}

/// One line of a script.
#[derive(serde::Deserialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Line {
    /// When the script begins.
    Clock { clock: String },
    /// Time passes.
    Advance { advance: String },
    /// Events are appended to a stream; or refused, with this problem.
    Append { stream: String, events: Vec<Value>, refused: Option<String> },
    /// A person gets a name for the script and for what is expected; `lookup` is the body that finds the pseudonym.
    Person { person: String, lookup: Value },
    /// A person is forgotten.
    Forget { forget: String },
    /// Every projection is computed from zero, and must be as it was.
    Rebuild {
        #[allow(dead_code, reason = "there is only one")]
        rebuild: Always,
    },
    /// The answers are those of this file.
    Expect { expect: String },
    /// Further values that must be in no file.
    Canaries { canaries: Vec<String> },
}

/// `true`.
#[derive(serde::Deserialize)]
#[serde(try_from = "bool")]
pub struct Always;

impl TryFrom<bool> for Always {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<Self, Self::Error> {
        if value { Ok(Self) } else { Err("can only be true") }
    }
}

/// What is asked, and what is answered.
#[derive(serde::Deserialize, serde::Serialize)]
#[serde(untagged, deny_unknown_fields)]
pub enum Answer {
    /// Rows of a projection: all of them, or those that a query finds.
    Rows {
        projection: String,
        #[serde(skip_serializing_if = "Map::is_empty", default)]
        query: Map<String, Value>,
        rows: Vec<Value>,
    },
    /// The state of a stream by a fold.
    State { fold: String, stream: String, state: Value },
    /// Payloads of all events of a type.
    Events { events_of: String, data: Vec<Value> },
}

/// All systems there are.
pub fn names() -> Vec<String> {
    let entries = std::fs::read_dir(root()).unwrap().map(|entry| entry.unwrap());
    let dirs = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let mut names: Vec<String> = dirs.map(|entry| entry.file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/systems")
}

impl System {
    pub fn read(name: &str) -> Self {
        let dir = root().join(name);
        let text =
            |file: &str| std::fs::read_to_string(dir.join(file)).unwrap_or_else(|e| panic!("{name}/{file}: {e}"));
        let script = text("events.ndjson");
        let lines = script.lines().enumerate().filter(|(_, line)| !line.trim().is_empty() && !line.starts_with('#'));
        let script = lines.map(|(at, line)| {
            serde_json::from_str(line).unwrap_or_else(|e| panic!("{name}/events.ndjson, line {}: {e}", at + 1))
        });
        Self {
            script: script.collect(),
            schemas: schemas(&dir.join("schemas")),
            definitions: definitions(&text("projections.yaml")),
            dir,
        }
    }

    /// Names of the definitions that have rows.
    pub fn projections(&self) -> impl Iterator<Item = &str> {
        self.definitions.iter().filter(|definition| !definition.fold).map(|definition| definition.name.as_str())
    }

    /// Values at the places that a schema marks.
    pub fn personal(&self, event: &Value) -> Vec<String> {
        let schema = &self.schemas[event["type"].as_str().expect("an event has a type")];
        let marked = |name: &&String| schema["properties"][name.as_str()].get("x-personal-data").is_some();
        let data = event["data"].as_object().expect("data is an object");
        data.keys().filter(marked).filter_map(|name| data[name].as_str().map(str::to_owned)).collect()
    }

    /// Projection and query of every answer that is not simply all rows.
    pub fn queries(&self) -> Vec<(String, Map<String, Value>)> {
        let files = self.script.iter().filter_map(|line| match line {
            Line::Expect { expect } => Some(self.expected(&format!("{expect}.json"))),
            _ => None,
        });
        let asked = files.flatten().filter_map(|answer| match answer {
            Answer::Rows { projection, query, .. } if !query.is_empty() => Some((projection, query)),
            _ => None,
        });
        asked.collect()
    }

    /// What a file of `expected` says; without the file, every projection is asked for all its rows.
    pub fn expected(&self, file: &str) -> Vec<Answer> {
        let path = self.dir.join("expected").join(file);
        match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display())),
            Err(error) => {
                assert!(blessing(), "{}: {error}", path.display());
                let all =
                    |name: &str| Answer::Rows { projection: name.to_owned(), query: Map::new(), rows: Vec::new() };
                self.projections().map(all).collect()
            }
        }
    }

    /// Writes what is answered now, to be read by whoever wrote the script.
    pub fn bless(&self, file: &str, answers: &[Answer]) {
        let dir = self.dir.join("expected");
        std::fs::create_dir_all(&dir).unwrap();
        let entries: Vec<String> = answers.iter().map(lines).collect();
        std::fs::write(dir.join(file), format!("[\n{}\n]\n", entries.join(",\n"))).unwrap();
    }
}

/// One row or event per line: differences are easy to see.
fn lines(answer: &Answer) -> String {
    let list = |items: &[Value]| {
        let items: Vec<String> = items.iter().map(|item| format!("    {item}")).collect();
        if items.is_empty() { "[]".to_owned() } else { format!("[\n{}]", items.join(",\n")) }
    };
    match answer {
        Answer::Rows { projection, query, rows } if query.is_empty() => {
            format!("  {{\"projection\": \"{projection}\", \"rows\": {}}}", list(rows))
        }
        Answer::Rows { projection, query, rows } => {
            let query = Value::Object(query.clone());
            format!("  {{\"projection\": \"{projection}\", \"query\": {query}, \"rows\": {}}}", list(rows))
        }
        Answer::State { fold, stream, state } => {
            format!("  {{\"fold\": \"{fold}\", \"stream\": \"{stream}\", \"state\": {state}}}")
        }
        Answer::Events { events_of, data } => {
            format!("  {{\"events_of\": \"{events_of}\", \"data\": {}}}", list(data))
        }
    }
}

/// Whether expected answers are written instead of compared.
pub fn blessing() -> bool {
    std::env::var_os("TESTS_BLESS").is_some()
}

fn schemas(dir: &Path) -> BTreeMap<String, Value> {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let schema = |path: PathBuf| {
        let text = std::fs::read_to_string(&path).unwrap();
        let schema = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        (path.file_stem().unwrap().to_str().unwrap().to_owned(), schema)
    };
    files.map(schema).collect()
}

/// The documents of a file; the name of each stands behind `projection:` or `fold:`.
fn definitions(text: &str) -> Vec<Definition> {
    let definition = |text: &str| {
        let named = |word: &str| text.lines().find_map(|line| Some(line.strip_prefix(word)?.to_owned()));
        let fold = named("fold: ");
        let (name, fold) = (named("projection: ").or(fold.clone()).expect("a definition has a name"), fold.is_some());
        Definition { name, text: text.to_owned(), fold }
    };
    text.split("\n---\n").map(definition).collect()
}
