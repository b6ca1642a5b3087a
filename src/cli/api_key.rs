//! `oubliette api-key`: issue, list and revoke API keys.
//!
//! Owns: the calls, and that a new secret is shown exactly once, as data. Must not know: how keys are stored.

use serde_json::{Map, Value, json};

use super::Context;
use super::append::event_type;
use super::client::{Call, percent};
use super::failure::Failure;
use super::output::Format;
use super::schema::list;
use crate::event::EventType;

/// Commands on API keys.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Issue a key; its secret is printed once and kept nowhere
    Create(Create),
    /// List keys, without secrets
    Ls,
    /// Revoke a key
    Revoke {
        /// Id of the key
        id: String,
    },
}

/// Arguments of `create`.
#[derive(clap::Args)]
pub struct Create {
    /// Name of the key, for example the application's
    #[arg(long)]
    name: String,
    /// Role of the key; may be repeated
    #[arg(long = "role", value_name = "ROLE", required = true)]
    #[arg(value_parser = ["writer", "reader", "pii_reader", "dpo", "auditor", "admin"])]
    roles: Vec<String>,
    /// Only this category of streams; may be repeated
    #[arg(long = "category", value_name = "CATEGORY")]
    categories: Vec<String>,
    /// Only this event type; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    types: Vec<EventType>,
    /// Purpose for which personal values may be read; may be repeated
    #[arg(long = "purpose", value_name = "PURPOSE")]
    purposes: Vec<String>,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Create(arguments) => {
            let call = Call::post("/v1/api-keys", Value::Object(body(&arguments)).to_string());
            let answer = context.client.call(&call).await?;
            show(&answer, context)
        }
        Command::Ls => list(context, "/v1/api-keys").await,
        Command::Revoke { id } => {
            context.client.call(&Call::delete(format!("/v1/api-keys/{}", percent(&id)))).await?;
            context.out.message("revoked");
            Ok(())
        }
    }
}

/// Scopes that were not given are left out: the server's default is no limit, an empty list would be nothing at all.
fn body(arguments: &Create) -> Map<String, Value> {
    let types: Vec<&str> = arguments.types.iter().map(EventType::as_str).collect();
    let lists = [
        ("roles", json!(arguments.roles)),
        ("categories", json!(arguments.categories)),
        ("types", json!(types)),
        ("purposes", json!(arguments.purposes)),
    ];
    let given = lists.into_iter().filter(|(_, list)| list.as_array().is_some_and(|list| !list.is_empty()));
    let name = [("name", json!(arguments.name))];
    name.into_iter().chain(given).map(|(name, value)| (name.to_owned(), value)).collect()
}

fn show(answer: &Value, context: &mut Context) -> Result<(), Failure> {
    let Some(secret) = answer.get("secret").and_then(Value::as_str) else {
        return Err(Failure::failed("the server's answer holds no secret"));
    };
    if context.out.format() != Format::Table {
        return Ok(context.out.record(answer)?);
    }
    let id = answer.get("id").and_then(Value::as_str).unwrap_or_default();
    context.out.message(&format!("API key {}; its secret is shown only now:", super::output::printable(id)));
    Ok(context.out.line(&super::output::printable(secret))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_not_given_are_left_out() {
        let arguments = Create {
            name: "crm".to_owned(),
            roles: vec!["writer".to_owned()],
            categories: vec!["contact".to_owned()],
            types: Vec::new(),
            purposes: Vec::new(),
        };
        let expected = json!({"name": "crm", "roles": ["writer"], "categories": ["contact"]});
        assert_eq!(Value::Object(body(&arguments)), expected);
    }
}
