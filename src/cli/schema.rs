//! `oubliette schema`: register, check, list and show schemas.
//!
//! Owns: the calls. Must not know: what makes a schema compatible.

use serde_json::Value;

use super::Context;
use super::append::event_type;
use super::client::{Call, percent, query};
use super::failure::Failure;
use super::input;
use crate::event::EventType;

/// Commands on schemas.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Register a version of a type's schema
    Register {
        /// Event type
        #[arg(value_name = "TYPE", value_parser = event_type)]
        name: EventType,
        /// JSON Schema, or `-` for standard input
        file: String,
    },
    /// Say whether a schema could be registered, and change nothing; exit code 4 if not
    Check {
        /// Event type
        #[arg(value_name = "TYPE", value_parser = event_type)]
        name: EventType,
        /// JSON Schema, or `-` for standard input
        file: String,
    },
    /// List the types that have a schema
    Ls,
    /// Show a type's schema
    Show {
        /// Event type
        #[arg(value_name = "TYPE", value_parser = event_type)]
        name: EventType,
        /// Version [default: the latest]
        #[arg(long, value_name = "N")]
        version: Option<u32>,
    },
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Register { name, file } => {
            let call = Call::post(format!("{}/versions", path(&name)), schema(&file)?);
            let answer = context.client.call(&call).await?;
            Ok(context.out.record(&answer)?)
        }
        Command::Check { name, file } => {
            let call = Call::post(format!("{}/checks", path(&name)), schema(&file)?);
            let answer = context.client.call(&call).await?;
            context.out.record(&answer)?;
            if answer.get("compatible") == Some(&Value::Bool(false)) {
                return Err(Failure::conflict("the schema is not compatible with what is registered or stored"));
            }
            Ok(())
        }
        Command::Ls => list(context, "/v1/schemas").await,
        Command::Show { name, version } => {
            let version = version.map_or_else(|| "latest".to_owned(), |version| version.to_string());
            let answer = context.client.call(&Call::get(format!("{}/versions/{version}", path(&name)))).await?;
            Ok(context.out.record(&answer)?)
        }
    }
}

/// Prints every page of a list.
pub(super) async fn list(context: &mut Context, path: &str) -> Result<(), Failure> {
    let items = pages(context, path).await?;
    Ok(context.out.items(items)?)
}

/// The items of every page of a list.
pub(super) async fn pages(context: &mut Context, path: &str) -> Result<Vec<Value>, Failure> {
    let mut items = Vec::new();
    let mut cursor = None;
    loop {
        let target = format!("{path}{}", query(&[("cursor", cursor.clone())]));
        let mut answer = context.client.call(&Call::get(target)).await?;
        match answer.get_mut("items").map(Value::take) {
            Some(Value::Array(page)) => items.extend(page),
            _ => return Err(Failure::failed("the server's answer is not a list")),
        }
        let next = answer.get("next").and_then(Value::as_str).map(str::to_owned);
        // A cursor that leads to itself would be followed for ever.
        if next.is_none() || next == cursor {
            return Ok(items);
        }
        cursor = next;
    }
}

fn path(name: &EventType) -> String {
    format!("/v1/schemas/{}", percent(name.as_str()))
}

/// The schema's own text, checked to be JSON: the server sees what was written.
fn schema(file: &str) -> Result<String, Failure> {
    let text = input::file(file)?;
    input::json(&text, "the schema")?;
    Ok(text)
}
