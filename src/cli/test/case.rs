//! One test: what is given, what is expected, and doing it.
//!
//! Owns: the form of a test, and its steps, each a documented REST call. Must not know: how the server is started.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::super::Context;
use super::super::apply::{Wanted, register};
use super::super::client::{Call, percent};
use super::super::failure::Failure;
use super::super::input;
use super::super::output::Output;
use super::super::problem::Problem;
use super::super::projection::apply::{put, values};
use super::super::projection::path;
use super::compare::{self, Mode};
use super::throwaway::Throwaway;

/// A test.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    #[serde(default)]
    test: Option<String>,
    /// Directory of schemas, or a file.
    #[serde(default)]
    schemas: Option<PathBuf>,
    /// File of definitions.
    #[serde(default)]
    projections: Option<PathBuf>,
    #[serde(default)]
    given: Vec<Map<String, Value>>,
    then: Vec<Then>,
    #[serde(skip)]
    directory: PathBuf,
    #[serde(skip)]
    number: usize,
}

/// What must be so afterwards.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Then {
    projection: String,
    /// The rows, all of them.
    #[serde(default)]
    rows: Option<Vec<Value>>,
    /// Some of the rows.
    #[serde(default)]
    includes: Option<Vec<Value>>,
    /// Code for which the definition is refused.
    #[serde(default)]
    refused: Option<String>,
    /// Code for which it stops at an event.
    #[serde(default)]
    stopped: Option<String>,
    #[serde(default)]
    filter: Option<String>,
    #[serde(default)]
    sort: Option<String>,
    #[serde(default)]
    fields: Option<String>,
    #[serde(default)]
    group_by: Option<String>,
    #[serde(default)]
    step: Option<String>,
}

/// The tests of a file.
pub fn read(file: &Path) -> Result<Vec<Case>, Failure> {
    let shown = file.display().to_string();
    let mut cases = Vec::new();
    for (index, value) in values(&input::file(&shown)?, &shown)?.into_iter().enumerate() {
        let wrong = |why: String| Failure::usage(format!("{shown}: test {}: {why}", index + 1));
        let mut case: Case = serde_json::from_value(value).map_err(|error| wrong(error.to_string()))?;
        file.parent().unwrap_or(Path::new("")).clone_into(&mut case.directory);
        case.number = index + 1;
        for then in &case.then {
            let said = [then.rows.is_some(), then.includes.is_some(), then.refused.is_some(), then.stopped.is_some()];
            if said.iter().filter(|said| **said).count() != 1 {
                return Err(wrong("a `then` says one of rows, includes, refused, stopped".to_owned()));
            }
        }
        cases.push(case);
    }
    Ok(cases)
}

impl Case {
    /// What it is called.
    pub fn title(&self) -> String {
        self.test.clone().unwrap_or_else(|| format!("test {}", self.number))
    }

    /// Runs it on a server of its own; what is not as expected, nothing when all is.
    pub async fn run(&self) -> Result<Vec<String>, Failure> {
        let wanted = self.wanted()?;
        let server = Throwaway::start().await?;
        let mut context = Context { client: server.client()?, out: Output::new(None, true) };
        let failures = self.steps(&wanted, &mut context).await;
        server.end().await;
        failures
    }

    fn wanted(&self) -> Result<Wanted, Failure> {
        let mut wanted = Wanted::default();
        if let Some(schemas) = self.schemas.as_ref().map(|path| self.directory.join(path)) {
            if schemas.is_dir() { wanted.schemas_in(&schemas)? } else { wanted.read(&schemas)? }
        }
        if let Some(projections) = &self.projections {
            wanted.read(&self.directory.join(projections))?;
        }
        Ok(wanted)
    }

    async fn steps(&self, wanted: &Wanted, context: &mut Context) -> Result<Vec<String>, Failure> {
        let mut failures = Vec::new();
        for schema in &wanted.schemas {
            if let Some(problem) = refusal(register(schema, context).await)? {
                failures.push(format!("schema {}: {problem}", schema.event_type));
            }
        }
        let mut refused = BTreeMap::new();
        for document in &wanted.projections {
            if let Some(problem) = refusal(put(document, context).await.map(drop))? {
                refused.insert(document.name.as_str(), problem);
            }
        }
        for (name, problem) in &refused {
            if !self.then.iter().any(|then| then.projection == *name && then.refused.is_some()) {
                failures.push(format!("projection {name}: {problem}"));
            }
        }
        for (index, given) in self.given.iter().enumerate() {
            failures.extend(give(given, context).await?.map(|why| format!("given {}: {why}", index + 1)));
        }
        if !failures.is_empty() {
            return Ok(failures);
        }
        for then in &self.then {
            let wrong = then.check(refused.get(then.projection.as_str()).map(AsRef::as_ref), context).await?;
            failures.extend(wrong.into_iter().map(|why| format!("{}: {why}", then.projection)));
        }
        Ok(failures)
    }
}

/// A problem that is an answer to the test; whatever else fails ends the run.
fn refusal(result: Result<(), Failure>) -> Result<Option<Box<Problem>>, Failure> {
    match result {
        Ok(()) => Ok(None),
        Err(Failure::Problem(problem)) if problem.status < 500 => Ok(Some(problem)),
        Err(failure) => Err(failure),
    }
}

/// Whether a problem, or one of the things wrong in it, has this code.
fn is(problem: &Problem, code: &str) -> bool {
    problem.code == code || problem.errors.iter().any(|fault| fault.code == code)
}

/// Does one step of what is given; why it could not be done.
async fn give(given: &Map<String, Value>, context: &mut Context) -> Result<Option<String>, Failure> {
    if let Some(person) = given.get("forget") {
        let person = match person {
            Value::Object(_) => match looked_up(person, context).await? {
                Ok(found) => found,
                Err(problem) => return Ok(Some(problem.to_string())),
            },
            id => id.clone(),
        };
        let body = json!({"data_subject": person, "scope": scope(given)}).to_string();
        let call = Call::post("/v1/forget", body).header("Prefer", Some("wait=30"));
        return match context.client.call(&call).await {
            Ok(answer) if answer.get("status").and_then(Value::as_str) == Some("completed") => Ok(None),
            Ok(answer) => Ok(Some(format!("the erasure is not completed: {answer}"))),
            Err(failure) => Ok(refusal(Err(failure))?.map(|problem| problem.to_string())),
        };
    }
    let mut event = given.clone();
    let refused = event.remove("refused");
    let Some(Value::String(stream)) = event.remove("stream") else {
        return Ok(Some("it is neither `forget:` nor an event with a `stream:`".to_owned()));
    };
    let call = Call::post(format!("/v1/streams/{}/events", percent(&stream)), Value::Object(event).to_string());
    let problem = refusal(context.client.call(&call).await.map(drop))?;
    Ok(match (refused.as_ref().and_then(Value::as_str), problem) {
        (None, None) => None,
        (None, Some(problem)) => Some(problem.to_string()),
        (Some(code), Some(problem)) if is(&problem, code) => None,
        (Some(code), Some(problem)) => Some(format!("expected to be refused with {code}, but: {problem}")),
        (Some(code), None) => Some(format!("expected to be refused with {code}, but it was taken")),
    })
}

/// The pseudonym of a person who is named by natural key: `{role: …, values: […]}`.
async fn looked_up(key: &Value, context: &mut Context) -> Result<Result<Value, Box<Problem>>, Failure> {
    let call = Call::post("/v1/data-subjects/lookups", json!({ "natural_key": key }).to_string());
    match context.client.call(&call).await {
        Ok(answer) => Ok(Ok(answer.get("data_subject").cloned().unwrap_or_default())),
        Err(Failure::Problem(problem)) if problem.status < 500 => Ok(Err(problem)),
        Err(failure) => Err(failure),
    }
}

fn scope(given: &Map<String, Value>) -> Value {
    given.get("purposes").map_or_else(|| json!("all"), |purposes| json!({ "purposes": purposes }))
}

impl Then {
    async fn check(&self, refused: Option<&Problem>, context: &mut Context) -> Result<Vec<String>, Failure> {
        if let Some(code) = &self.refused {
            return Ok(match refused {
                Some(problem) if is(problem, code) => Vec::new(),
                Some(problem) => vec![format!("expected to be refused with {code}, but: {problem}")],
                None => vec![format!("expected to be refused with {code}, but it was taken")],
            });
        }
        let name = &self.projection;
        let status = match context.client.call(&Call::get(format!("{}/status", path(name)))).await {
            Ok(status) => status,
            Err(failure) => return Ok(refusal(Err(failure))?.map(|problem| problem.to_string()).into_iter().collect()),
        };
        let head = status.get("head").and_then(Value::as_u64).unwrap_or(0);
        let call = Call::post(format!("{}/queries", path(name)), self.query(head)).header("Prefer", Some("wait=30"));
        let answer = context.client.call(&call).await;
        match (&self.stopped, answer) {
            (Some(code), Err(Failure::Problem(problem))) if problem.code == "projection-stalled" => {
                let found = problem.cause.get("code").and_then(Value::as_str).unwrap_or_default();
                Ok(if found == code {
                    Vec::new()
                } else {
                    vec![format!("expected to stop with {code}, but: {problem}")]
                })
            }
            (Some(code), Ok(_)) => Ok(vec![format!("expected to stop with {code}, but it goes on")]),
            (None, Ok(answer)) => {
                let items = answer.get("items").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
                Ok(match (&self.rows, &self.includes) {
                    (Some(rows), _) if self.sort.is_some() => compare::rows(rows, items, Mode::Ordered),
                    (Some(rows), _) => compare::rows(rows, items, Mode::All),
                    (None, Some(rows)) => compare::rows(rows, items, Mode::Some),
                    (None, None) => Vec::new(),
                })
            }
            (_, Err(Failure::Problem(problem))) => Ok(vec![problem.to_string()]),
            (_, Err(failure)) => Err(failure),
        }
    }

    /// Everything given so far must have been handled before the answer.
    fn query(&self, head: u64) -> String {
        let texts = [
            ("filter", &self.filter),
            ("sort", &self.sort),
            ("fields", &self.fields),
            ("group_by", &self.group_by),
            ("step", &self.step),
        ];
        let mut body: Map<String, Value> =
            texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?)))).collect();
        body.insert("limit".to_owned(), json!(1000));
        body.extend(head.checked_sub(1).map(|last| ("at_least".to_owned(), json!(last))));
        Value::Object(body).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cases(text: &str) -> Result<Vec<Case>, Failure> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.test.yaml");
        std::fs::write(&file, text).unwrap();
        read(&file)
    }

    #[test]
    fn a_file_holds_tests() {
        let text = "test: one\nthen: [{projection: p, rows: []}]\n---\nthen: [{projection: p, refused: x}]\n";
        let found = cases(text).unwrap();
        assert_eq!(found.iter().map(Case::title).collect::<Vec<_>>(), ["one", "test 2"]);
        assert!(found[0].then[0].query(4).contains("\"at_least\":3"));
    }

    #[test]
    fn typing_errors_are_refused() {
        for text in ["then: [{projection: p, row: []}]", "then: [{projection: p}]", "whens: []\nthen: []", "given: []"]
        {
            assert!(cases(text).is_err(), "{text}");
        }
    }
}
