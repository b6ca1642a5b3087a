//! `oubliette apply`: schemas and projections as files say.
//!
//! Owns: what files mean, the plan, and its order: schemas first, for a projection is checked against them. Must not know:
//! what makes a schema or definition acceptable. Nothing is changed before the whole plan is made, and a plan with a
//! conflict in it changes nothing.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Context;
use super::client::{Call, percent};
use super::failure::{Exit, Failure};
use super::input;
use super::output::{Column, printable};
use super::projection::apply::{self as projections, Action, Document};
use crate::event::EventType;

/// Arguments of `apply`.
#[derive(clap::Args)]
#[command(
    after_help = "A directory is read as: schemas/*.json, each the JSON Schema of the event type that the file is \
                        named after; and every *.yaml and *.yml beside it, but for \
                        *.test.yaml.\nA document with `projection: <name>` or \
                        `fold: <name>` is a definition; one with `schema: <type>` is the JSON Schema of that type."
)]
pub struct Arguments {
    /// Directory or file; may be repeated
    #[arg(short, long = "file", value_name = "DIR|FILE", required = true)]
    files: Vec<PathBuf>,
    /// Stop after the plan
    #[arg(long)]
    dry_run: bool,
}

/// A schema as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Schema {
    /// Event type.
    pub event_type: String,
    /// The JSON Schema.
    pub value: Value,
}

/// What files say there shall be.
#[derive(Debug, Default, PartialEq)]
pub struct Wanted {
    /// Schemas, by file name.
    pub schemas: Vec<Schema>,
    /// Projections and folds, in the order of the files.
    pub projections: Vec<Document>,
}

/// Runs the command.
pub async fn run(arguments: &Arguments, context: &mut Context) -> Result<(), Failure> {
    let mut wanted = Wanted::default();
    for path in &arguments.files {
        wanted.read(path)?;
    }
    if wanted.schemas.is_empty() && wanted.projections.is_empty() {
        return Err(Failure::usage("there is no schema and no projection in what was given"));
    }
    if context.client.explains() {
        let calls = wanted.schemas.iter().map(registration).chain(wanted.projections.iter().map(projections::call));
        let calls: Vec<String> = calls.map(|call| context.client.curl(&call)).collect();
        return Err(Failure::Explained(calls.join("\n")));
    }
    let plan = plan(&wanted, context).await?;
    show(&plan, context)?;
    let conflicts: Vec<&str> = plan.iter().filter_map(|step| step.conflict.as_deref()).collect();
    if !conflicts.is_empty() {
        return Err(Failure::conflict(format!("nothing was changed\n  {}", conflicts.join("\n  "))));
    }
    if arguments.dry_run {
        context.out.message("nothing was changed (--dry-run)");
        return Ok(());
    }
    let done = carry_out(&plan, context).await?;
    context.out.message(&format!("applied: {done} of {} were created or changed", plan.len()));
    Ok(())
}

impl Wanted {
    /// Adds what a directory or file says.
    pub fn read(&mut self, path: &Path) -> Result<(), Failure> {
        if !path.is_dir() {
            return self.file(path, false);
        }
        let schemas = path.join("schemas");
        if schemas.is_dir() {
            self.schemas_in(&schemas)?;
        }
        // A directory of schemas itself is taken for what it is.
        let is_schemas = path.file_name().is_some_and(|name| name == "schemas");
        for file in listing(path)?.into_iter().filter(|file| !is_test(file)) {
            match extension(&file) {
                "yaml" | "yml" => self.file(&file, false)?,
                "json" if is_schemas => self.file(&file, true)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds every `*.json` of a directory as a schema.
    pub fn schemas_in(&mut self, directory: &Path) -> Result<(), Failure> {
        let files = listing(directory)?.into_iter().filter(|file| extension(file) == "json");
        files.into_iter().try_for_each(|file| self.file(&file, true))
    }

    fn file(&mut self, path: &Path, is_schema: bool) -> Result<(), Failure> {
        let shown = path.display().to_string();
        let text = input::file(&shown)?;
        if is_schema || extension(path) == "json" {
            let value = input::json(&text, &shown)?;
            if is_schema || (value.get("projection").or_else(|| value.get("fold"))).is_none() {
                self.schemas.push(schema(value, Some(path), &shown)?);
                return Ok(());
            }
        }
        for (index, value) in projections::values(&text, &shown)?.into_iter().enumerate() {
            if value.get("schema").is_some() {
                self.schemas.push(schema(value, None, &shown)?);
            } else {
                self.projections.push(projections::definition(&value, index + 1, &shown)?);
            }
        }
        Ok(())
    }
}

/// A JSON Schema and the type it is for: its member `schema`, which JSON Schema gives no meaning, or the file's name.
fn schema(mut value: Value, path: Option<&Path>, shown: &str) -> Result<Schema, Failure> {
    let named = match value.get("schema") {
        Some(Value::String(name)) => Some(name.clone()),
        _ => None,
    };
    if named.is_some()
        && let Some(members) = value.as_object_mut()
    {
        members.remove("schema");
    }
    let stem = || path.and_then(Path::file_stem).map(|stem| stem.to_string_lossy().into_owned());
    let name = named.or_else(stem).unwrap_or_default();
    match EventType::parse(&name) {
        Ok(_) => Ok(Schema { event_type: name, value }),
        Err(error) => Err(Failure::usage(format!("{shown}: an event type {error}; name one with `schema:`"))),
    }
}

/// `oubliette test` reads it.
fn is_test(path: &Path) -> bool {
    path.file_stem().and_then(|stem| Path::new(stem).extension()).is_some_and(|inner| inner == "test")
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|extension| extension.to_str()).unwrap_or_default()
}

/// The files of a directory, by name.
fn listing(directory: &Path) -> Result<Vec<PathBuf>, Failure> {
    let refused =
        |error: std::io::Error| Failure::usage(format!("{} cannot be read: {}", directory.display(), error.kind()));
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).map_err(refused)? {
        let path = entry.map_err(refused)?.path();
        if path.is_file() {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

struct Step<'w> {
    what: What<'w>,
    action: Action,
    conflict: Option<String>,
}

enum What<'w> {
    Schema(&'w Schema),
    Projection(&'w Document),
}

async fn plan<'w>(wanted: &'w Wanted, context: &mut Context) -> Result<Vec<Step<'w>>, Failure> {
    let mut steps = Vec::new();
    for schema in &wanted.schemas {
        let (action, conflict) = schema_against(schema, context).await?;
        steps.push(Step { what: What::Schema(schema), action, conflict });
    }
    for document in &wanted.projections {
        let (action, conflict) = match projections::against(document, context).await {
            Ok(action) => (action, None),
            Err(failure @ Failure::Plain { exit: Exit::Conflict, .. }) => (Action::Change, Some(failure.to_string())),
            Err(failure) => return Err(failure),
        };
        steps.push(Step { what: What::Projection(document), action, conflict });
    }
    Ok(steps)
}

/// What registering a schema would do, and why it cannot be done.
async fn schema_against(schema: &Schema, context: &mut Context) -> Result<(Action, Option<String>), Failure> {
    let path = schema_path(schema);
    let latest = match context.client.call(&Call::get(format!("{path}/versions/latest"))).await {
        Ok(answer) => Some(answer),
        Err(failure) if failure.exit() == Exit::NotFound => None,
        Err(failure) => return Err(failure),
    };
    if latest.as_ref().and_then(|answer| answer.get("schema")) == Some(&schema.value) {
        return Ok((Action::Unchanged, None));
    }
    let action = if latest.is_some() { Action::Change } else { Action::Create };
    let check = Call::post(format!("{path}/checks"), schema.value.to_string());
    let about = |why: &str| Some(format!("schema {}: {why}", schema.event_type));
    match context.client.call(&check).await {
        Ok(answer) if answer.get("compatible") == Some(&Value::Bool(false)) => {
            let why = "not compatible with what is registered or stored; see: oubliette schema check";
            Ok((action, about(why)))
        }
        Ok(_) => Ok((action, None)),
        Err(Failure::Problem(problem)) if problem.status == 422 => Ok((action, about(&problem.to_string()))),
        Err(failure) => Err(failure),
    }
}

fn schema_path(schema: &Schema) -> String {
    format!("/v1/schemas/{}", percent(&schema.event_type))
}

fn show(plan: &[Step<'_>], context: &mut Context) -> Result<(), Failure> {
    let columns = [("KIND", "/kind"), ("NAME", "/name"), ("PLAN", "/plan")];
    let mut rows = context.out.rows(columns.map(|(title, pointer)| Column::new(title, pointer)).into());
    for step in plan {
        let (kind, name) = match step.what {
            What::Schema(schema) => ("schema", &schema.event_type),
            What::Projection(document) => ("projection", &document.name),
        };
        let planned = if step.conflict.is_some() { "conflict" } else { step.action.planned() };
        rows.push(json!({"kind": kind, "name": printable(name), "plan": planned}))?;
    }
    Ok(rows.finish()?)
}

/// Carries the plan out; says how much was done if it does not come to its end.
async fn carry_out(plan: &[Step<'_>], context: &mut Context) -> Result<usize, Failure> {
    let mut done = 0;
    for step in plan.iter().filter(|step| step.action != Action::Unchanged) {
        let result = match step.what {
            What::Schema(schema) => register(schema, context).await,
            What::Projection(document) => projections::put(document, context).await.map(drop),
        };
        if let Err(failure) = result {
            context.out.message(&format!("{done} of {} were created or changed before this", plan.len()));
            return Err(failure);
        }
        done += 1;
    }
    Ok(done)
}

/// Registers a schema.
pub async fn register(schema: &Schema, context: &mut Context) -> Result<(), Failure> {
    context.client.call(&registration(schema)).await.map(drop)
}

fn registration(schema: &Schema) -> Call {
    Call::post(format!("{}/versions", schema_path(schema)), schema.value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(directory: &Path, name: &str, text: &str) {
        let path = directory.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn a_directory_is_schemas_and_projections() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "schemas/b-made.json", r#"{"type":"object"}"#);
        write(dir.path(), "schemas/a-made.json", r#"{"schema":"other-made","type":"object"}"#);
        write(dir.path(), "schemas/README.md", "no");
        write(dir.path(), "projections.yaml", "projection: p\n---\nschema: third-made\ntype: object\n");
        write(dir.path(), "events.ndjson", "{}");
        write(dir.path(), "a.test.yaml", "then: []");
        write(dir.path(), "expected/p.json", "{}");
        let mut wanted = Wanted::default();
        wanted.read(dir.path()).unwrap();
        let types: Vec<&str> = wanted.schemas.iter().map(|schema| schema.event_type.as_str()).collect();
        assert_eq!(types, ["other-made", "b-made", "third-made"]);
        assert!(wanted.schemas.iter().all(|schema| schema.value == json!({"type": "object"})));
        assert_eq!(wanted.projections.len(), 1);
    }

    #[test]
    fn single_files_are_what_they_hold() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "x-made.json", "{}");
        write(dir.path(), "p.json", r#"{"projection":"p"}"#);
        write(dir.path(), "Not A Type.json", "{}");
        let mut wanted = Wanted::default();
        wanted.read(&dir.path().join("x-made.json")).unwrap();
        wanted.read(&dir.path().join("p.json")).unwrap();
        assert_eq!((wanted.schemas.len(), wanted.projections.len()), (1, 1));
        assert_eq!(wanted.read(&dir.path().join("Not A Type.json")).unwrap_err().exit(), Exit::Usage);
        assert_eq!(wanted.read(&dir.path().join("none.yaml")).unwrap_err().exit(), Exit::Usage);
    }
}
