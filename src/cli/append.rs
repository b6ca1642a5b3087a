//! `oubliette append`: one event from flags, or many from NDJSON.
//!
//! Owns: building the request of an append. Must not know: schemas, keys. One call is one atomic append; only
//! `--batch` splits the input, and says so.

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Context;
use super::client::{Call, percent};
use super::failure::Failure;
use super::input;
use super::output::Format;
use crate::event::{EventType, StreamName};

/// Arguments of `append`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  oubliette append contact-7 --type contact-created --data @ada.json --expected \
                        no_stream\n  oubliette append contact-7 - < events.ndjson")]
pub struct Arguments {
    /// Stream to append to, for example contact-7
    #[arg(value_parser = stream)]
    stream: StreamName,
    /// Events as NDJSON: a file, or `-` for standard input
    #[arg(value_name = "FILE", conflicts_with_all = ["event_type", "data", "actor"], required_unless_present = "event_type")]
    events: Option<String>,
    /// Type of the event
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    event_type: Option<EventType>,
    /// Payload: JSON, @file, or `-` for standard input
    #[arg(long, value_name = "JSON", default_value = "{}", hide_default_value = true)]
    data: String,
    /// Who did it: user:… or system:…
    #[arg(long)]
    actor: Option<String>,
    /// Revision that the stream must have: no_stream, exists, any, or a number
    #[arg(long, value_name = "REVISION", value_parser = expected)]
    expected: Option<Value>,
    /// Makes a repeated call answer what the first one did
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Append so many events per call; each call is atomic, all of them together are not
    #[arg(long, value_name = "EVENTS", requires = "events", value_parser = clap::value_parser!(u32).range(1..))]
    batch: Option<u32>,
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    let events = events(&arguments)?;
    let size = arguments.batch.map_or(events.len(), |size| size as usize);
    let several = size < events.len();
    let mut expected = arguments.expected;
    let mut appended = 0;
    for (number, chunk) in events.chunks(size).enumerate() {
        let key = arguments.idempotency_key.as_ref();
        let key = key.map(|key| if several { format!("{key}-{number}") } else { key.clone() });
        let target = format!("/v1/streams/{}/events", percent(arguments.stream.as_str()));
        let call = Call::post(target, body(chunk, expected.as_ref())).header("Idempotency-Key", key);
        let answer = context.client.call(&call).await.inspect_err(|failure| {
            if several && !matches!(failure, Failure::Explained(_)) {
                context.out.message(&format!("{appended} of {} events were appended before this", events.len()));
            }
        })?;
        appended += chunk.len();
        if expected.is_some() {
            // The next call continues this one, so it expects what this one left.
            expected = answer.get("last_revision").map(|revision| json!({ "revision": revision }));
        }
        show(&answer, context)?;
    }
    Ok(())
}

/// The events as JSON texts, in the words of the caller.
fn events(arguments: &Arguments) -> Result<Vec<Box<RawValue>>, Failure> {
    if let Some(file) = &arguments.events {
        return lines(&input::file(file)?);
    }
    let data = input::literal_or_file(&arguments.data)?;
    input::json(&data, "--data")?;
    let event = Event {
        event_type: arguments.event_type.as_ref().map_or("", EventType::as_str),
        data: serde_json::from_str(data.trim()).map_err(|_| Failure::usage("--data is not JSON"))?,
        actor: arguments.actor.as_deref(),
    };
    let text = serde_json::value::to_raw_value(&event).map_err(|_| Failure::usage("--data is not JSON"))?;
    Ok(vec![text])
}

/// An event from flags. The payload stays the text it is.
#[derive(serde::Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    event_type: &'a str,
    data: &'a RawValue,
    #[serde(skip_serializing_if = "Option::is_none")]
    actor: Option<&'a str>,
}

fn lines(text: &str) -> Result<Vec<Box<RawValue>>, Failure> {
    let given = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let events: Result<Vec<_>, Failure> = given
        .map(|(index, line)| {
            RawValue::from_string(line.trim().to_owned())
                .ok()
                .filter(|event| event.get().starts_with('{'))
                .ok_or_else(|| Failure::usage(format!("line {} is not a JSON object", index + 1)))
        })
        .collect();
    let events = events?;
    if events.is_empty() { Err(Failure::usage("there is no event in the input")) } else { Ok(events) }
}

/// A bare array, or with an expectation the object that holds both. The events stay the texts they are, since parsing
/// would hide a key given twice from the server, which refuses it.
fn body(events: &[Box<RawValue>], expected: Option<&Value>) -> String {
    let list = events.iter().map(|event| event.get()).collect::<Vec<_>>().join(",");
    match expected {
        Some(expected) => format!("{{\"expected\":{expected},\"events\":[{list}]}}"),
        None => format!("[{list}]"),
    }
}

fn show(answer: &Value, context: &mut Context) -> Result<(), Failure> {
    if context.out.format() != Format::Table {
        return Ok(context.out.record(answer)?);
    }
    let part = |name: &str| answer.get(name).cloned().unwrap_or_default();
    context.out.record(&json!({
        "stream": part("stream"),
        "first_revision": part("first_revision"),
        "last_revision": part("last_revision"),
        "position": part("position"),
    }))?;
    let warnings = ["warnings", "findings"].iter().filter_map(|name| answer.get(name)?.as_array()).flatten();
    for warning in warnings {
        let text = |name: &str| warning.get(name).and_then(Value::as_str).unwrap_or_default();
        let shape = text("shape");
        let what = if shape.is_empty() { text("message").to_owned() } else { format!("looks like {shape}, unmarked") };
        context.out.message(&super::output::printable(&format!("warning: {} {what}", text("pointer"))));
    }
    Ok(())
}

/// A stream's name as an argument.
pub fn stream(text: &str) -> Result<StreamName, String> {
    StreamName::parse_any(text).map_err(|error| format!("a stream name {error}"))
}

/// An event type as an argument.
pub fn event_type(text: &str) -> Result<EventType, String> {
    EventType::parse_any(text).map_err(|error| format!("an event type {error}"))
}

fn expected(text: &str) -> Result<Value, String> {
    match text {
        "no_stream" | "exists" | "any" => Ok(json!(text)),
        number => match number.parse::<u64>() {
            Ok(revision) => Ok(json!({ "revision": revision })),
            Err(_) => Err("use no_stream, exists, any, or a revision number".to_owned()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies() {
        let events = lines("{\"type\":\"a\",\"n\":1.0}\n\n {\"type\":\"b\"} \r\n").unwrap();
        assert_eq!(body(&events, None), "[{\"type\":\"a\",\"n\":1.0},{\"type\":\"b\"}]");
        let three = expected("3").unwrap();
        assert_eq!(body(&events[1..], Some(&three)), "{\"expected\":{\"revision\":3},\"events\":[{\"type\":\"b\"}]}");
        assert_eq!(expected("no_stream"), Ok(json!("no_stream")));
        assert!(expected("-1").is_err());
    }

    #[test]
    fn a_bad_line_is_named_and_not_repeated() {
        for text in ["{}\nAda King\n", "{}\n[1]\n"] {
            assert_eq!(lines(text).unwrap_err().to_string(), "line 2 is not a JSON object");
        }
        assert!(lines("\n").is_err());
    }
}
