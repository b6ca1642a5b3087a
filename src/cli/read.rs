//! `oubliette read`: events of one stream or of all, page after page.
//!
//! Owns: the request of a read and the step to its next page. Must not know: how events are stored or redacted. An
//! answer that was cut short is a failure, never a shorter list.

use std::time::Duration;

use serde_json::Value;

use super::Context;
use super::append::{event_type, stream};
use super::client::{Call, Client, NDJSON, percent, query};
use super::failure::Failure;
use super::lines::Lines;
use super::output::{Column, Rows};
use crate::event::{Category, EventType, StreamName, SubjectRef};

/// Arguments of `read`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Stream to read; without it, all events
    #[arg(value_parser = stream)]
    stream: Option<StreamName>,
    /// First revision of the stream, or position of all events
    #[arg(long, value_name = "N")]
    from: Option<u64>,
    /// Most events to read
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Newest first
    #[arg(long)]
    backward: bool,
    /// As it was at a time, position:N or revision:N (forgotten stays forgotten)
    #[arg(long, value_name = "WHEN")]
    as_of: Option<String>,
    #[command(flatten)]
    select: Select,
}

/// What `read` and `tail` select, and how personal values look.
#[derive(clap::Args)]
pub struct Select {
    /// Only streams of this category
    #[arg(long, value_parser = category, conflicts_with = "stream")]
    category: Option<Category>,
    /// Only events of this type; may be repeated
    #[arg(long = "type", value_name = "TYPE", value_parser = event_type)]
    types: Vec<EventType>,
    /// Only events about this data subject (its pseudonym, ds_…)
    #[arg(long, value_name = "DS", value_parser = subject, conflicts_with = "stream")]
    data_subject: Option<SubjectRef>,
    /// How values that are not shown look
    #[arg(long, value_parser = ["typed", "marker", "null", "omit"])]
    redaction: Option<String>,
    /// Purpose for which personal values are read
    #[arg(long)]
    purpose: Option<String>,
    /// Reason that goes into the access log
    #[arg(long)]
    reason: Option<String>,
}

impl Select {
    /// The parameters of the query.
    pub fn parameters(&self) -> Vec<(&'static str, Option<String>)> {
        let types = self.types.iter().map(EventType::as_str).collect::<Vec<_>>().join(",");
        vec![
            ("category", self.category.as_ref().map(ToString::to_string)),
            ("types", Some(types).filter(|types| !types.is_empty())),
            ("data_subject", self.data_subject.as_ref().map(ToString::to_string)),
            ("redaction", self.redaction.clone()),
        ]
    }

    /// Adds the headers.
    pub fn headers(&self, call: Call) -> Call {
        call.header("Oubliette-Purpose", self.purpose.clone()).header("Oubliette-Reason", self.reason.clone())
    }
}

/// The path of a stream's events, or of all.
pub fn path(stream: Option<&StreamName>) -> String {
    match stream {
        Some(stream) => format!("/v1/streams/{}/events", percent(stream.as_str())),
        None => "/v1/events".to_owned(),
    }
}

/// The columns of a table of events.
pub fn columns() -> Vec<Column> {
    [
        ("POSITION", "/position"),
        ("STREAM", "/stream"),
        ("REVISION", "/revision"),
        ("TYPE", "/type"),
        ("RECORDED", "/recorded_at"),
        ("DATA", "/data"),
    ]
    .map(|(title, pointer)| Column::new(title, pointer))
    .into()
}

/// Nothing for so long in the middle of a page is a broken connection.
const SILENCE: Duration = Duration::from_mins(1);
/// Events asked for at once, the server's own default limit of a page.
const PAGE: u64 = 1000;

/// Runs the command.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    let Context { client, out } = context;
    let mut rows = out.rows(columns());
    let mut left = arguments.limit.unwrap_or(u64::MAX);
    let mut next = arguments.from.map(Next::From);
    loop {
        let target = target(&arguments, next.as_ref(), left);
        let call = arguments.select.headers(Call::get(target).accept(NDJSON));
        let before = left;
        next = page(client, &call, &mut left, &mut rows).await?;
        // A page that brought nothing ends the read, whatever it says of a next one: it would come back for ever.
        if next.is_none() || left == 0 || left == before {
            return Ok(rows.finish()?);
        }
    }
}

/// Where the next page is.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Next {
    From(u64),
    Cursor(String),
}

impl Next {
    fn of(value: Option<&Value>) -> Option<Self> {
        match value? {
            Value::Number(number) => number.as_u64().map(Self::From),
            Value::String(cursor) => Some(Self::Cursor(cursor.clone())),
            _ => None,
        }
    }
}

fn target(arguments: &Arguments, next: Option<&Next>, left: u64) -> String {
    let (from, cursor) = match next {
        None => (None, None),
        Some(Next::From(from)) => (Some(from.to_string()), None),
        Some(Next::Cursor(cursor)) => (None, Some(cursor.clone())),
    };
    let mut pairs = vec![
        ("from", from),
        ("cursor", cursor),
        ("limit", arguments.limit.map(|_| left.min(PAGE).to_string())),
        ("direction", arguments.backward.then(|| "backward".to_owned())),
        ("as_of", arguments.as_of.clone()),
    ];
    pairs.extend(arguments.select.parameters());
    path(arguments.stream.as_ref()) + &query(&pairs)
}

async fn page(client: &mut Client, call: &Call, left: &mut u64, rows: &mut Rows<'_>) -> Result<Option<Next>, Failure> {
    let response = client.open(call).await?;
    let mut lines = Lines::new(response.into_body(), SILENCE);
    while let Some(line) = lines.next().await? {
        if line.is_empty() {
            continue;
        }
        let no_json = || Failure::failed("the server sent a line that is not JSON");
        let text = std::str::from_utf8(&line).map_err(|_| no_json())?;
        let value: Value = serde_json::from_str(text).map_err(|_| no_json())?;
        if let Some(end) = value.get("$end") {
            rows.flush()?;
            return Ok(Next::of(end.get("next")));
        }
        if *left > 0 {
            *left -= 1;
            rows.push_text(value, text)?;
        }
    }
    rows.flush()?;
    Err(Failure::unavailable("the answer was cut short: the events above are not all of them"))
}

fn category(text: &str) -> Result<Category, String> {
    Category::parse_any(text).map_err(|error| format!("a category {error}"))
}

fn subject(text: &str) -> Result<SubjectRef, String> {
    // An id of the caller's own would be personal data in a URL.
    SubjectRef::parse(text).ok_or_else(|| "only a pseudonym (ds_…) may stand in a URL".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parse(line: &[&str]) -> Result<Arguments, clap::Error> {
        use clap::Parser;
        Line::try_parse_from(std::iter::once(&"read").chain(line)).map(|line| line.arguments)
    }

    #[test]
    fn targets() {
        let arguments = parse(&["contact-7", "--limit", "1500", "--backward", "--type", "a", "--type", "b"]).unwrap();
        let left = arguments.limit.unwrap();
        let first = target(&arguments, None, left);
        assert_eq!(first, "/v1/streams/contact-7/events?limit=1000&direction=backward&types=a,b");
        let second = target(&arguments, Some(&Next::From(9)), 500);
        assert_eq!(second, "/v1/streams/contact-7/events?from=9&limit=500&direction=backward&types=a,b");
        let all = parse(&["--as-of", "position:4", "--category", "contact"]).unwrap();
        let cursor = Next::Cursor("a/b".to_owned());
        assert_eq!(target(&all, Some(&cursor), 1), "/v1/events?cursor=a%2Fb&as_of=position:4&category=contact");
    }

    #[test]
    fn persons_own_ids_stay_out_of_urls() {
        assert!(parse(&["--data-subject", "ada@example.org"]).is_err());
        assert!(parse(&["--data-subject", &format!("ds_{}", "0".repeat(32))]).is_ok());
        assert!(parse(&["ada@example.org"]).is_err());
    }

    #[test]
    fn the_next_page_is_a_number_or_a_cursor() {
        assert_eq!(Next::of(Some(&Value::from(4))), Some(Next::From(4)));
        assert_eq!(Next::of(Some(&Value::from("c"))), Some(Next::Cursor("c".to_owned())));
        assert_eq!((Next::of(Some(&Value::Null)), Next::of(None)), (None, None));
    }
}
