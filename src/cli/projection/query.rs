//! `oubliette projection query`: rows, as they are or as CSV.
//!
//! Owns: the request and the step to its next page. Must not know: filters. The query is in a body, so a filter over a
//! personal column leaves no value in a URL. An answer that was cut short is a failure, never a shorter list.

use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Response;
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::super::Context;
use super::super::client::{CSV, Call, NDJSON, query};
use super::super::failure::Failure;
use super::super::lines::Lines;
use super::super::output::{Column, Format};
use super::super::problem::Problem;
use super::path;

/// Arguments of `query`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  oubliette projection query contacts --filter \"city == 'Oslo'\" --sort \
                        -next_meeting_at,name\n  oubliette projection query contacts --at-least 1042 --wait 5 -o csv")]
pub struct Arguments {
    /// Name of the projection
    name: String,
    /// Only rows for which this holds: CEL over key parts and columns
    #[arg(long, value_name = "CEL")]
    filter: Option<String>,
    /// Columns to sort by, `-` for largest first
    #[arg(long, value_name = "COLUMNS", allow_hyphen_values = true)]
    sort: Option<String>,
    /// Columns to show
    #[arg(long, value_name = "COLUMNS")]
    fields: Option<String>,
    /// Most rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    limit: Option<u64>,
    /// Parts of the key to keep; rows that differ in others are merged (aggregates)
    #[arg(long, value_name = "PARTS")]
    group_by: Option<String>,
    /// Length of windows, for example P1D (aggregates)
    #[arg(long, value_name = "DURATION")]
    step: Option<String>,
    /// The rows as they stood: at a time (RFC 3339), or once `position:N` had been handled. Values of people forgotten since
    /// stay forgotten
    #[arg(long, value_name = "TIME|position:N")]
    as_of: Option<String>,
    /// Answer only when the event at this position was handled: you see your own writes
    #[arg(long, value_name = "POSITION")]
    at_least: Option<u64>,
    /// Seconds to wait for that position
    #[arg(long, value_name = "SECONDS", requires = "at_least", default_value_t = 5)]
    #[arg(value_parser = clap::value_parser!(u64).range(0..=30))]
    wait: u64,
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

/// Nothing for so long in the middle of an answer is a broken connection.
const SILENCE: Duration = Duration::from_mins(1);

/// Runs the command.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    if context.out.format() == Format::Csv {
        return csv(&arguments, context).await;
    }
    let response = context.client.open(&call(&arguments, NDJSON, None)).await?;
    let mut lines = Lines::new(response.into_body(), SILENCE);
    let mut first = true;
    let mut rows = context.out.rows(Vec::new());
    while let Some(line) = lines.next().await? {
        let no_json = || Failure::failed("the server sent a line that is not JSON");
        let text = std::str::from_utf8(&line).map_err(|_| no_json())?;
        let value: Value = serde_json::from_str(text).map_err(|_| no_json())?;
        if let Some(problem) = value.get("$problem") {
            rows.flush()?;
            let status = problem.get("status").and_then(Value::as_u64).unwrap_or(500) as u16;
            return Err(Failure::Problem(Box::new(Problem::of(status, problem.to_string().as_bytes(), None))));
        }
        if value.get("$end").is_some() {
            return Ok(rows.finish()?);
        }
        if std::mem::take(&mut first) {
            rows.columns(columns(&value));
        }
        rows.push_text(value, text)?;
    }
    rows.flush()?;
    Err(Failure::unavailable("the answer was cut short: the rows above are not all of them"))
}

fn call(arguments: &Arguments, accept: &'static str, cursor: Option<&str>) -> Call {
    let texts = [
        ("filter", &arguments.filter),
        ("sort", &arguments.sort),
        ("fields", &arguments.fields),
        ("group_by", &arguments.group_by),
        ("step", &arguments.step),
        ("as_of", &arguments.as_of),
    ];
    let mut body: Map<String, Value> =
        texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), json!(text.as_ref()?)))).collect();
    body.extend(cursor.map(|cursor| ("cursor".to_owned(), json!(cursor))));
    body.extend(arguments.limit.map(|limit| ("limit".to_owned(), json!(limit))));
    body.extend(arguments.at_least.map(|position| ("at_least".to_owned(), json!(position))));
    let target = format!("{}/queries{}", path(&arguments.name), query(&[("redaction", arguments.redaction.clone())]));
    Call::post(target, Value::Object(body).to_string())
        .accept(accept)
        .header("Prefer", arguments.at_least.map(|_| format!("wait={}", arguments.wait)))
        .header("Oubliette-Purpose", arguments.purpose.clone())
        .header("Oubliette-Reason", arguments.reason.clone())
}

/// The columns of a table of rows: those of the first row, without what the server adds for programs.
fn columns(row: &Value) -> Vec<Column> {
    let members = row.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
    let shown = members.filter(|name| !name.starts_with('_') || *name == "_key");
    shown
        .map(|name| Column::new(&name.to_uppercase(), &format!("/{}", name.replace('~', "~0").replace('/', "~1"))))
        .collect()
}

/// The server's own CSV, page after page, with one line of names.
async fn csv(arguments: &Arguments, context: &mut Context) -> Result<(), Failure> {
    let mut cursor: Option<String> = None;
    loop {
        let response = context.client.open(&call(arguments, CSV, cursor.as_deref())).await?;
        let next = next_page(&response);
        let text = whole(response).await?;
        // Names of columns hold no line ends, so the first line is the names.
        let shown = if cursor.is_none() { text.as_str() } else { text.split_once('\n').map_or("", |(_, rest)| rest) };
        context.out.csv(shown)?;
        // With a limit the first page is all that was asked for.
        if next.is_none() || next == cursor || arguments.limit.is_some() {
            return Ok(context.out.flush()?);
        }
        cursor = next;
    }
}

/// `Link: <?cursor=…>; rel="next"`.
fn next_page(response: &Response<Incoming>) -> Option<String> {
    let link = response.headers().get("link")?.to_str().ok()?;
    let (cursor, _) = link.strip_prefix("<?cursor=")?.split_once('>')?;
    Some(cursor.to_owned())
}

async fn whole(response: Response<Incoming>) -> Result<String, Failure> {
    let cut = || Failure::unavailable("the connection broke in the middle of the answer");
    let body = tokio::time::timeout(SILENCE, response.into_body().collect()).await;
    let bytes = body.map_err(|_| cut())?.map_err(|_| cut())?.to_bytes();
    String::from_utf8(bytes.into()).map_err(|_| Failure::failed("the server's answer is not UTF-8"))
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
        Line::try_parse_from(std::iter::once(&"query").chain(line)).map(|line| line.arguments)
    }

    #[test]
    fn filters_go_into_the_body() {
        let arguments = parse(&[
            "contacts",
            "--filter",
            "name == 'Ada'",
            "--sort",
            "-name",
            "--at-least",
            "4",
            "--as-of",
            "position:3",
        ])
        .unwrap();
        let shown = format!("{:?}", call(&arguments, NDJSON, None));
        assert!(shown.contains("as_of") && shown.contains("position:3"), "{shown}");
        assert!(shown.contains("/v1/projections/contacts/queries\""), "{shown}");
        assert!(shown.contains("name == 'Ada'") && shown.contains("wait=5"), "{shown}");
        assert!(parse(&["contacts", "--wait", "3"]).is_err(), "there is nothing to wait for");
    }

    #[test]
    fn a_table_leaves_out_what_is_for_programs() {
        let shown = columns(&json!({"_key": "k_1", "_position": 4, "_redactions": {}, "name": "x"}));
        assert_eq!(shown, [Column::new("_KEY", "/_key"), Column::new("NAME", "/name")]);
    }
}
