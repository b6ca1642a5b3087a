//! `oubliette tail`: follow events as they are appended, across reconnects.
//!
//! Owns: the loop of connecting, printing and going on after the last id. Must not know: how the server waits. No frame
//! is printed twice or skipped: only a complete frame moves the last id.

use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::append::stream;
use super::client::{Call, EVENT_STREAM, query};
use super::failure::{Exit, Failure};
use super::lines::Lines;
use super::output::Rows;
use super::problem::Problem;
use super::read::{Select, columns, path};
use super::sse::{Frame, Parser};
use crate::event::StreamName;

/// Arguments of `tail`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Stream to follow; without it, all events
    #[arg(value_parser = stream)]
    stream: Option<StreamName>,
    /// Begin after this revision of the stream, or position of all events
    #[arg(long, value_name = "N")]
    after: Option<u64>,
    /// Stop after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    #[command(flatten)]
    select: Select,
}

/// The server sends a heartbeat every 15 s; without one for so long it is gone.
const SILENCE: Duration = Duration::from_mins(1);
const PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Runs the command: until the limit, or for ever.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    let Context { client, out } = context;
    let mut rows = out.rows(columns());
    let mut parser = Parser::default();
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut connected_once = false;
    let mut pause = PAUSE;
    loop {
        let after = if parser.last_id.is_some() { None } else { arguments.after.map(|after| after.to_string()) };
        let mut pairs = vec![("after", after)];
        pairs.extend(arguments.select.parameters());
        let call = Call::get(path(arguments.stream.as_ref()) + &query(&pairs)).accept(EVENT_STREAM);
        let call = arguments.select.headers(call).header("Last-Event-ID", parser.last_id.clone());
        let end = match client.open(&call).await {
            Ok(response) => {
                connected_once = true;
                pause = PAUSE;
                follow(Lines::new(response.into_body(), SILENCE), &mut parser, &mut left, &mut rows).await
            }
            Err(failure) => Err(failure),
        };
        match end {
            Ok(End::Enough) => return Ok(rows.finish()?),
            Ok(End::Closed) => {}
            // Before the first connection there is nothing to go on with, and the person is still there to read it.
            Err(failure) if failure.exit() == Exit::Unavailable && connected_once => {
                rows.message(&format!("{failure}; reconnecting"));
            }
            Err(failure) => return Err(failure),
        }
        parser.reconnected();
        let wanted = parser.retry.map_or(Duration::ZERO, Duration::from_millis);
        tokio::time::sleep(pause.max(wanted).min(LONGEST_PAUSE)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

enum End {
    Enough,
    Closed,
}

async fn follow(mut lines: Lines, parser: &mut Parser, left: &mut u64, rows: &mut Rows<'_>) -> Result<End, Failure> {
    while let Some(line) = lines.next().await? {
        let Some(frame) = parser.line(&line) else { continue };
        if show(&frame, rows)? {
            *left -= 1;
            if *left == 0 {
                return Ok(End::Enough);
            }
        }
    }
    Ok(End::Closed)
}

/// Prints a frame; `true` for an event. An erasure is data too: whoever keeps copies has to hear of it.
fn show(frame: &Frame, rows: &mut Rows<'_>) -> Result<bool, Failure> {
    let data = || {
        let value: Result<Value, _> = serde_json::from_str(&frame.data);
        value.map_err(|_| Failure::failed("the server sent a frame that is not JSON"))
    };
    match frame.event.as_str() {
        "event" | "message" => {
            rows.push_text(data()?, &frame.data)?;
            rows.flush()?;
            return Ok(true);
        }
        "erasure" => {
            let erasure = data()?;
            rows.message(&format!("erasure: purge your copies of {}", named(&erasure, "data_subject")));
            rows.push_control(json!({ "$erasure": erasure }))?;
        }
        "problem" => {
            let status = data()?.get("status").and_then(Value::as_u64).unwrap_or(500) as u16;
            return Err(Failure::Problem(Box::new(Problem::of(status, frame.data.as_bytes(), None))));
        }
        "reset" => rows.message(&format!("the position is no longer kept; going on from {}", named(&data()?, "from"))),
        "fell-behind" => rows.message("fell behind; reconnecting"),
        "caught-up" => rows.message("caught up; waiting for new events"),
        _ => {}
    }
    Ok(false)
}

fn named(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => super::output::printable(text),
        Some(other) => other.to_string(),
        None => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, tests::output};

    fn frame(event: &str, data: &str) -> Frame {
        Frame { event: event.to_owned(), data: data.to_owned() }
    }

    #[test]
    fn events_and_erasures_are_data_the_rest_are_messages() {
        let (mut out, data, messages) = output(Format::Ndjson);
        let mut rows = out.rows(columns());
        assert!(show(&frame("event", "{\"position\": 4}"), &mut rows).unwrap());
        assert!(!show(&frame("erasure", "{\"data_subject\":\"ds_1\"}"), &mut rows).unwrap());
        assert!(!show(&frame("caught-up", "{}"), &mut rows).unwrap());
        assert!(!show(&frame("from-the-future", "?"), &mut rows).unwrap());
        rows.finish().unwrap();
        assert_eq!(data.text(), "{\"position\": 4}\n{\"$erasure\":{\"data_subject\":\"ds_1\"}}\n");
        assert_eq!(messages.text(), "erasure: purge your copies of ds_1\ncaught up; waiting for new events\n");
    }

    #[test]
    fn a_problem_ends_it_with_its_code() {
        let (mut out, _, _) = output(Format::Table);
        let failure =
            show(&frame("problem", "{\"status\":403,\"title\":\"no\"}"), &mut out.rows(columns())).unwrap_err();
        assert_eq!(failure.exit(), Exit::Denied);
    }
}
