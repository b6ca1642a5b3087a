//! `oubliette projection rebuild` and `diff`: a new computation, watched, and what it changed.
//!
//! Owns: progress and its words. Must not know: how rows are compared. The work is the server's: whoever stops watching
//! stops nothing.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::super::Context;
use super::super::client::Call;
use super::super::failure::Failure;
use super::super::output::{Format, printable};
use super::{cause, columns, path};

/// Arguments of `rebuild`.
#[derive(clap::Args)]
pub struct Arguments {
    /// Name of the projection
    name: String,
    /// Begin and do not wait for the end
    #[arg(long)]
    detach: bool,
}

/// Between two looks.
const POLL: Duration = Duration::from_millis(250);
/// Between two lines where there is no terminal.
const LINES: Duration = Duration::from_secs(10);

/// Runs the command.
pub async fn run(arguments: &Arguments, context: &mut Context) -> Result<(), Failure> {
    let name = &arguments.name;
    context.client.call(&Call::post_nothing(format!("{}/rebuilds", path(name)))).await?;
    if arguments.detach {
        context.out.message(&attach(name));
        return Ok(());
    }
    let watched = tokio::select! {
        watched = watch(name, context) => watched.map(Some),
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    match watched {
        Ok(Some(status)) => summary(&status, context),
        Ok(None) => {
            context.out.progress_done();
            context.out.message(&attach(name));
            Ok(())
        }
        Err(failure) => {
            context.out.progress_done();
            Err(failure)
        }
    }
}

/// `diff`: the present rebuild, or what the last one changed.
pub async fn diff(name: &str, context: &mut Context) -> Result<(), Failure> {
    let status = context.client.call(&Call::get(format!("{}/status", path(name)))).await?;
    if let Some(rebuild) = status.get("rebuild").filter(|rebuild| rebuild.is_object()) {
        if context.out.format() != Format::Table {
            return Ok(context.out.record(rebuild)?);
        }
        return Ok(context.out.line(&printable(&line(name, rebuild)))?);
    }
    if status.get("last_rebuild").is_some_and(Value::is_object) {
        summary(&status, context)
    } else {
        context.out.message("not rebuilt since the server was started");
        Ok(())
    }
}

fn attach(name: &str) -> String {
    printable(&format!("the rebuild goes on; look at it with: oubliette projection diff {name}"))
}

/// Watches until the new rows answer; gives the last status.
async fn watch(name: &str, context: &mut Context) -> Result<Value, Failure> {
    let look = Call::get(format!("{}/status", path(name)));
    let mut told: Option<Instant> = None;
    let mut paused = false;
    loop {
        let status = context.client.call(&look).await?;
        let Some(rebuild) = status.get("rebuild").filter(|rebuild| rebuild.is_object()) else {
            context.out.progress_done();
            return Ok(status);
        };
        if let Some(why) = cause(rebuild) {
            return Err(Failure::failed(format!(
                "the rebuild does not move: {why}\n  the rows from before go on answering; apply a definition that can \
                 handle the event, or one with `on_error: park`"
            )));
        }
        if rebuild.get("state").and_then(Value::as_str) == Some("paused") && !std::mem::replace(&mut paused, true) {
            context.out.message(&printable(&format!("paused: oubliette projection resume {name} lets it go on")));
        }
        let text = line(name, rebuild);
        if !context.out.progress(&text) && told.is_none_or(|at| at.elapsed() >= LINES) {
            context.out.message(&printable(&text));
            told = Some(Instant::now());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// `rebuild contacts  [######----]  62 %  6.2M/10M  41k/s  ETA 1m32s`.
fn line(name: &str, rebuild: &Value) -> String {
    let number = |member: &str| rebuild.get(member).and_then(Value::as_f64);
    let (finished, total) = (number("done").unwrap_or(0.0), number("total").unwrap_or(0.0));
    let share = if total > 0.0 { (finished / total).clamp(0.0, 1.0) } else { 1.0 };
    let filled = (share * 10.0) as usize;
    let bar = format!("{}{}", "#".repeat(filled), "-".repeat(10 - filled));
    let rate = number("rate").map(|rate| format!("  {}/s", short(rate))).unwrap_or_default();
    let eta = number("eta_seconds").map(|seconds| format!("  ETA {}", span(seconds as u64))).unwrap_or_default();
    format!("rebuild {name}  [{bar}]  {} %  {}/{}{rate}{eta}", (share * 100.0) as u64, short(finished), short(total))
}

fn short(number: f64) -> String {
    let (value, unit) = match number {
        big if big >= 1e6 => (big / 1e6, "M"),
        big if big >= 1e3 => (big / 1e3, "k"),
        small => return format!("{small:.0}"),
    };
    let text = format!("{value:.1}");
    format!("{}{unit}", text.strip_suffix(".0").unwrap_or(&text))
}

fn span(seconds: u64) -> String {
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, seconds) => format!("{seconds}s"),
        (0, minutes, seconds) => format!("{minutes}m{seconds}s"),
        (hours, minutes, _) => format!("{hours}h{minutes}m"),
    }
}

/// What the new rows are like, compared with those from before.
fn summary(status: &Value, context: &mut Context) -> Result<(), Failure> {
    let diff = status.get("last_rebuild").filter(|diff| diff.is_object());
    let Some(diff) = diff else {
        context.out.message("rebuilt; it was not compared with the rows from before");
        return Ok(());
    };
    if context.out.format() != Format::Table {
        return Ok(context.out.record(diff)?);
    }
    let number = |member: &str| diff.get(member).and_then(Value::as_u64).unwrap_or(0);
    context.out.line(&format!(
        "{} rows compared: {} added, {} removed, {} changed",
        number("compared"),
        number("added"),
        number("removed"),
        number("changed")
    ))?;
    let sample = diff.get("sample").and_then(Value::as_array).cloned().unwrap_or_default();
    if sample.is_empty() {
        return Ok(());
    }
    let mut rows = context.out.rows(columns([("ROW", "/_key"), ("DIFFERENT COLUMNS", "/columns")]));
    for row in sample {
        rows.push(row)?;
    }
    Ok(rows.finish()?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_in_one_line() {
        let rebuild = json!({"done": 6_200_000, "total": 10_000_000, "rate": 41_000.0, "eta_seconds": 92.0});
        assert_eq!(line("contacts", &rebuild), "rebuild contacts  [######----]  62 %  6.2M/10M  41k/s  ETA 1m32s");
        assert_eq!(line("c", &json!({"done": 0, "total": 0})), "rebuild c  [##########]  100 %  0/0");
        assert_eq!((span(5), span(7260)), ("5s".to_owned(), "2h1m".to_owned()));
    }
}
