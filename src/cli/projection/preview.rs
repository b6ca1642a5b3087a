//! `oubliette projection preview`: a definition tried on stored events, and whose data flows where.
//!
//! Owns: the request, and the table of lineage. Must not know: how lineage is computed.

use serde_json::{Value, json};

use super::super::Context;
use super::super::client::Call;
use super::super::failure::Failure;
use super::super::input;
use super::super::output::{Format, printable};
use super::apply::{definitions, values};
use super::columns;

/// Arguments of `preview`.
#[derive(clap::Args)]
pub struct Arguments {
    /// File with definitions, or `-` for standard input
    file: String,
    /// First position of the events to try it on
    #[arg(long, value_name = "N", default_value_t = 0)]
    from: u64,
    /// Most events to try it on
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    limit: u64,
}

/// Runs the command: exit code 1 where a definition is not valid or would stop.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    let file = &arguments.file;
    let mut wrong = Vec::new();
    for document in definitions(&values(&input::file(file)?, file)?, file)? {
        let body = json!({"definition": document.value, "from": arguments.from, "limit": arguments.limit});
        let answer = context.client.call(&Call::post("/v1/projections/previews", body.to_string())).await?;
        if context.out.format() == Format::Table {
            context.out.line(&format!("{}:", printable(&document.name)))?;
            show(&answer, context)?;
        } else {
            context.out.record(&answer)?;
        }
        wrong.extend(verdict(&answer).map(|why| format!("{}: {why}", document.name)));
    }
    if wrong.is_empty() { Ok(()) } else { Err(Failure::failed(printable(&wrong.join("; ")))) }
}

fn show(answer: &Value, context: &mut Context) -> Result<(), Failure> {
    let lineage = answer.get("lineage").unwrap_or(&Value::Null);
    self::lineage(lineage, context)?;
    for violation in lineage.get("violations").and_then(Value::as_array).into_iter().flatten() {
        let text = |member: &str| violation.get(member).and_then(Value::as_str).unwrap_or_default();
        context.out.message(&printable(&format!(
            "refused: {} {} ({})",
            text("pointer"),
            text("message"),
            text("code")
        )));
    }
    let rows = answer.get("rows").and_then(Value::as_array).cloned().unwrap_or_default();
    if !rows.is_empty() {
        context.out.line("")?;
        context.out.items(rows)?;
    }
    let position = answer.get("position").unwrap_or(&Value::Null);
    match answer.get("stop").filter(|stop| stop.is_object()) {
        Some(_) => {}
        None if position.is_null() => {}
        None => context.out.message(&format!("tried on events before position {position}; nothing was kept")),
    }
    Ok(())
}

/// Why the definition cannot be used as it is.
fn verdict(answer: &Value) -> Option<String> {
    if answer.get("valid") == Some(&Value::Bool(false)) {
        return Some("the definition is refused".to_owned());
    }
    let stop = answer.get("stop").filter(|stop| stop.is_object())?;
    let text = |member: &str| stop.get(member).and_then(Value::as_str).unwrap_or_default();
    let position = stop.get("position").unwrap_or(&Value::Null);
    Some(format!("it would stop at position {position}: {} ({})", text("message"), text("code")))
}

/// The table of lineage: a line per part of the key, column and aggregate.
pub fn lineage(lineage: &Value, context: &mut Context) -> Result<(), Failure> {
    let shown = [
        ("COLUMN", "/column"),
        ("PERSONAL", "/personal"),
        ("OWNERS", "/owners"),
        ("PURPOSES", "/purposes"),
        ("SOURCES", "/sources"),
    ];
    let mut rows = context.out.rows(columns(shown));
    for (member, kind) in [("key", "key."), ("columns", ""), ("aggregates", "")] {
        for part in lineage.get(member).and_then(Value::as_array).into_iter().flatten() {
            rows.push(line(part, kind))?;
        }
    }
    Ok(rows.finish()?)
}

fn line(part: &Value, kind: &str) -> Value {
    let flag = |member: &str| part.get(member) == Some(&Value::Bool(true));
    let list = |member: &str| part.get(member).cloned().unwrap_or_default();
    let sources = part.get("sources").and_then(Value::as_array).into_iter().flatten();
    let mut sources: Vec<String> = sources
        .map(|source| {
            let text = |member: &str| source.get(member).and_then(Value::as_str).unwrap_or_default();
            format!("{}#{}", text("event_type"), text("pointer"))
        })
        .collect();
    sources.extend(part.get("lookup").and_then(Value::as_str).map(|other| format!("looked up in {other}")));
    let personal = match (flag("decided_by_code"), flag("personal"), flag("unknown")) {
        (true, ..) => "maybe",
        (_, true, _) => "yes",
        (_, false, true) => "unknown",
        (_, false, false) => "no",
    };
    json!({
        "column": format!("{kind}{}", part.get("name").and_then(Value::as_str).unwrap_or_default()),
        "personal": personal,
        "owners": list("owners_roles"),
        "purposes": list("purposes"),
        "sources": sources,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_lineage() {
        let part = json!({"name": "name", "personal": true, "unknown": true, "owners_roles": ["contact"],
            "purposes": ["general"], "sources": [{"event_type": "contact-created", "pointer": "/name"}]});
        let shown = line(&part, "");
        assert_eq!(shown["personal"], "yes");
        assert_eq!(shown["sources"], json!(["contact-created#/name"]));
        assert_eq!(line(&json!({"name": "a", "unknown": true}), "key.")["column"], "key.a");
        let undecided = json!({"name": "a", "personal": true, "unknown": true, "decided_by_code": true});
        assert_eq!(line(&undecided, "")["personal"], "maybe");
    }

    #[test]
    fn verdicts() {
        assert_eq!(verdict(&json!({"valid": true, "stop": null})), None);
        assert!(verdict(&json!({"valid": false})).is_some());
        let stop = json!({"valid": true, "stop": {"position": 3, "code": "cel-error", "message": "no"}});
        assert_eq!(verdict(&stop).unwrap(), "it would stop at position 3: no (cel-error)");
    }
}
