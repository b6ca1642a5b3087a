//! `oubliette projection`: define, look at, query and rebuild projections.
//!
//! Owns: the grammar of its commands, and those that are one call. Must not know: how rows are made.

pub mod apply;
mod preview;
mod query;
mod rebuild;

use serde_json::{Value, json};

use super::Context;
use super::client::{Call, percent, query as parameters};
use super::failure::Failure;
use super::output::{Column, Format, printable};
use super::schema::pages;

/// Commands on projections.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Make or change projections from definitions in YAML or JSON
    #[command(
        after_help = "A file may hold several definitions, separated by `---`. A definition that differs from the \
                            one in force needs a greater `version`; the old one answers until the new one has caught up."
    )]
    Apply {
        /// File with definitions, or `-` for standard input
        file: String,
    },
    /// List projections
    Ls,
    /// Show a projection: its definition, and whose personal data flows into which column
    Show {
        /// Name of the projection
        name: String,
    },
    /// Try definitions on stored events and keep nothing: lineage, rows, where they would stop
    Preview(preview::Arguments),
    /// Query the rows of a projection
    Query(Box<query::Arguments>),
    /// Compute a projection anew from the first event; the present rows answer until it is done
    Rebuild(rebuild::Arguments),
    /// Say where projections stand: position, lag, why one does not move
    Status {
        /// Name of the projection [default: all]
        name: Option<String>,
    },
    /// Show what the last rebuild or change of definition changed, or how far the present one is
    Diff {
        /// Name of the projection
        name: String,
    },
    /// Stop a projection until it is resumed
    Pause {
        /// Name of the projection
        name: String,
    },
    /// Resume a projection; one that stopped at an event tries again
    Resume {
        /// Name of the projection
        name: String,
    },
    /// Remove a projection and its rows; the events stay
    Rm {
        /// Name of the projection
        name: String,
    },
    /// List events that could not be handled and were put aside (`on_error: park`)
    Parked {
        /// Name of the projection
        name: String,
    },
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Apply { file } => apply::run(&file, context).await,
        Command::Ls => ls(context).await,
        Command::Show { name } => show(&name, context).await,
        Command::Preview(arguments) => preview::run(arguments, context).await,
        Command::Query(arguments) => query::run(*arguments, context).await,
        Command::Rebuild(arguments) => rebuild::run(&arguments, context).await,
        Command::Status { name } => status(name.as_deref(), context).await,
        Command::Diff { name } => rebuild::diff(&name, context).await,
        Command::Pause { name } => told(Call::post_nothing(format!("{}/pauses", path(&name))), "paused", context).await,
        Command::Resume { name } => told(Call::delete(format!("{}/pauses", path(&name))), "resumed", context).await,
        Command::Rm { name } => told(Call::delete(path(&name)), "removed", context).await,
        Command::Parked { name } => parked(&name, context).await,
    }
}

/// The path of a projection.
pub fn path(name: &str) -> String {
    format!("/v1/projections/{}", percent(name))
}

async fn told(call: Call, done: &str, context: &mut Context) -> Result<(), Failure> {
    context.client.call(&call).await?;
    context.out.message(done);
    Ok(())
}

fn columns<const N: usize>(columns: [(&str, &str); N]) -> Vec<Column> {
    columns.map(|(title, pointer)| Column::new(title, pointer)).into()
}

async fn ls(context: &mut Context) -> Result<(), Failure> {
    let items = pages(context, "/v1/projections").await?;
    let shown = [("NAME", "/name"), ("KIND", "/kind"), ("VERSION", "/version"), ("PAUSED", "/paused")];
    let mut rows = context.out.rows(columns(shown));
    for item in items {
        rows.push(item)?;
    }
    Ok(rows.finish()?)
}

async fn show(name: &str, context: &mut Context) -> Result<(), Failure> {
    let mut answer = context.client.call(&Call::get(path(name))).await?;
    if context.out.format() != Format::Table {
        return Ok(context.out.record(&answer)?);
    }
    let definition = answer.get_mut("definition").map(Value::take).unwrap_or_default();
    let text = yaml_serde::to_string(&definition).map_err(|_| Failure::failed("the definition cannot be shown"))?;
    for line in text.lines() {
        context.out.line(&printable(line))?;
    }
    context.out.line("")?;
    preview::lineage(answer.get("lineage").unwrap_or(&Value::Null), context)
}

async fn status(name: Option<&str>, context: &mut Context) -> Result<(), Failure> {
    if let Some(name) = name {
        let answer = context.client.call(&Call::get(format!("{}/status", path(name)))).await?;
        return Ok(context.out.record(&answer)?);
    }
    let mut all = Vec::new();
    for item in pages(context, "/v1/projections").await? {
        let text = |member: &str| item.get(member).and_then(Value::as_str).unwrap_or_default();
        // A fold has no rows of its own that could lag.
        if text("kind") == "projection" {
            all.push(context.client.call(&Call::get(format!("{}/status", path(text("name"))))).await?);
        }
    }
    let shown = [
        ("PROJECTION", "/projection"),
        ("STATE", "/state"),
        ("VERSION", "/version"),
        ("POSITION", "/position"),
        ("LAG EVENTS", "/lag_events"),
        ("LAG SECONDS", "/lag_seconds"),
        ("ROWS", "/rows"),
        ("PARKED", "/parked"),
        ("STOPPED BY", "/cause/message"),
    ];
    let mut rows = context.out.rows(columns(shown));
    for status in all {
        rows.push(status)?;
    }
    Ok(rows.finish()?)
}

async fn parked(name: &str, context: &mut Context) -> Result<(), Failure> {
    let mut items = Vec::new();
    let mut after = None;
    loop {
        let target = format!("{}/parked{}", path(name), parameters(&[("after", after.map(|at: u64| at.to_string()))]));
        let mut answer = context.client.call(&Call::get(target)).await?;
        match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(page)) => items.extend(page),
            _ => return Err(Failure::failed("the server's answer is not a list")),
        }
        let next = answer.get("next").and_then(Value::as_u64);
        // A page that leads to itself would be read for ever.
        if next.is_none() || next <= after {
            break;
        }
        after = next;
    }
    let mut rows = context.out.rows(columns([("POSITION", "/position"), ("CODE", "/code"), ("MESSAGE", "/message")]));
    for item in items {
        rows.push(item)?;
    }
    Ok(rows.finish()?)
}

/// What a projection stopped at, in words.
fn cause(status: &Value) -> Option<String> {
    let cause = status.get("cause").filter(|cause| cause.is_object())?;
    let text = |member: &str| cause.get(member).and_then(Value::as_str).unwrap_or_default();
    let position = cause.get("position").unwrap_or(&Value::Null);
    Some(printable(&format!("it stopped at position {position}: {} ({})", text("message"), text("code"))))
}

/// A row of a list of things done.
fn done(kind: &str, name: &str, action: &str, version: &Value) -> Value {
    json!({ "kind": kind, "name": name, "action": action, "version": version })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_where_there_are_any() {
        assert_eq!(cause(&json!({"cause": null})), None);
        let status = json!({"cause": {"position": 7, "code": "cel-error", "message": "no such key"}});
        assert_eq!(cause(&status).unwrap(), "it stopped at position 7: no such key (cel-error)");
    }
}
