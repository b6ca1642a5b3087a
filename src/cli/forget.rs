//! `oubliette forget`: preview, confirm exactly that preview, destroy, report.
//!
//! Owns: the dialogue. Must not know: how keys die. What was approved is what the preview's digest names; there is no
//! way past the preview. The person's id goes into bodies only, and `-` or `@file` keep it out of the list of processes.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::{Value, json};

use super::Context;
use super::client::{Call, percent};
use super::failure::Failure;
use super::input;
use super::output::printable;
use crate::event::Purpose;
use crate::event::canonical::canonical;

/// Arguments of `forget`.
#[derive(clap::Args)]
#[command(
    after_help = "On a terminal the last four characters of the id confirm. Scripts look at the preview first:\n  \
                        oubliette forget @person.txt --dry-run\n  oubliette forget --request fr_… --approve sha256:…"
)]
pub struct Arguments {
    /// The data subject: ds_…, your own id, @file, or `-` for standard input
    #[arg(value_name = "SUBJECT", required_unless_present = "request")]
    subject: Option<String>,
    /// Go on with a forget request that was already previewed
    #[arg(long, value_name = "FR", conflicts_with_all = ["subject", "purposes", "basis"])]
    request: Option<String>,
    /// Only data for these purposes; without it, the whole person
    #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = purpose)]
    purposes: Vec<Purpose>,
    /// Legal basis
    #[arg(long, default_value = "gdpr:A17-1-b")]
    basis: String,
    /// Digest of the preview that was looked at; approves without a question
    #[arg(long, value_name = "DIGEST", value_parser = digest, conflicts_with = "dry_run")]
    approve: Option<String>,
    /// Stop after the preview
    #[arg(long)]
    dry_run: bool,
}

/// How long the command waits for the end in all.
const PATIENCE: Duration = Duration::from_mins(5);
const WAIT: &str = "wait=30";

/// Arguments of `certificate`.
#[derive(clap::Args)]
pub struct Certificate {
    /// The forget request
    #[arg(value_name = "FR")]
    request: String,
}

/// Prints a certificate, byte for byte as it was signed.
pub async fn certificate(arguments: &Certificate, context: &mut Context) -> Result<(), Failure> {
    let call = Call::get(format!("{}/certificate", path(&arguments.request)));
    let certificate = context.client.call(&call).await?;
    Ok(context.out.line(&canonical(&certificate))?)
}

/// Runs the command.
pub async fn run(arguments: Arguments, context: &mut Context) -> Result<(), Failure> {
    let subject = arguments.subject.as_deref().map(input::literal_or_file).transpose()?;
    let opening = match (&arguments.request, &subject) {
        (Some(request), _) => Call::get(path(request)),
        (None, Some(subject)) => Call::post("/v1/forget-requests", body(subject.trim(), &arguments)),
        (None, None) => return Err(Failure::usage("name a data subject or a forget request")),
    };
    let request = match context.client.call(&opening).await {
        Ok(request) => request,
        Err(Failure::Explained(first)) => return Err(explained(context, &first, &arguments)),
        Err(failure) => return Err(failure),
    };
    if outcome(&request).is_some() {
        return report(&request, "", context);
    }
    let preview = Preview::of(&request)?;
    if arguments.dry_run {
        context.out.record(&request)?;
        context.out.message(&format!("nothing was erased. To erase what this shows: {}", preview.command()));
        return Ok(());
    }
    match &arguments.approve {
        Some(digest) if *digest != preview.digest => {
            context.out.record_as_message(&request);
            return Err(Failure::conflict(format!(
                "the preview is not the one approved; nothing was erased. To erase what it shows now: {}",
                preview.command()
            )));
        }
        Some(_) => {}
        None => confirm(subject.as_deref(), &request, &preview, context)?,
    }
    finish(preview, context).await
}

struct Preview {
    request: String,
    digest: String,
}

impl Preview {
    fn of(request: &Value) -> Result<Self, Failure> {
        let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str);
        match (text("/id"), text("/preview/digest")) {
            (Some(id), Some(digest)) => Ok(Self { request: id.to_owned(), digest: digest.to_owned() }),
            _ => Err(Failure::failed("the server's answer holds no preview; nothing was erased")),
        }
    }

    fn command(&self) -> String {
        printable(&format!("oubliette forget --request {} --approve {}", self.request, self.digest))
    }
}

fn body(subject: &str, arguments: &Arguments) -> String {
    let purposes: Vec<&str> = arguments.purposes.iter().map(Purpose::as_str).collect();
    let scope = if purposes.is_empty() { json!("all") } else { json!({ "purposes": purposes }) };
    json!({ "data_subject": subject, "basis": arguments.basis, "scope": scope }).to_string()
}

fn path(request: &str) -> String {
    format!("/v1/forget-requests/{}", percent(request))
}

fn approval(request: &str, digest: &str) -> Call {
    let body = json!({ "preview_digest": digest }).to_string();
    Call::post(format!("{}/approvals", path(request)), body).header("Prefer", Some(WAIT))
}

/// Both calls; the second needs what the first answers.
fn explained(context: &Context, first: &str, arguments: &Arguments) -> Failure {
    if arguments.dry_run {
        return Failure::Explained(first.to_owned());
    }
    let request = arguments.request.as_deref().unwrap_or("FORGET_REQUEST_ID");
    let digest = arguments.approve.as_deref().unwrap_or("PREVIEW_DIGEST");
    let second = context.client.curl(&approval(request, digest));
    Failure::Explained(format!("{first}\n# then, with the id and the preview's digest of that answer\n{second}"))
}

/// Asks the person at the terminal; anything but the right answer leaves everything as it is.
fn confirm(subject: Option<&str>, request: &Value, preview: &Preview, context: &mut Context) -> Result<(), Failure> {
    context.out.record_as_message(request);
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Err(Failure::usage(format!(
            "there is no terminal to confirm on; nothing was erased. To erase what this shows: {}",
            preview.command()
        )));
    }
    let id = subject.or_else(|| request.get("data_subject").and_then(Value::as_str)).unwrap_or(&preview.request);
    context.out.question("This cannot be undone. Type the last four characters of the data subject's id: ");
    if !confirms(id, &input::typed_line()?) {
        return Err(Failure::failed(format!(
            "not confirmed; nothing was erased. The request {} stays open",
            printable(&preview.request)
        )));
    }
    Ok(())
}

fn confirms(id: &str, typed: &str) -> bool {
    let id = id.trim();
    let skip = id.chars().count().saturating_sub(4);
    let last: String = id.chars().skip(skip).collect();
    !last.is_empty() && typed == last
}

/// Approves, waits for the end and prints the record.
async fn finish(preview: Preview, context: &mut Context) -> Result<(), Failure> {
    let mut record = context.client.call(&approval(&preview.request, &preview.digest)).await?;
    // Ctrl-C leaves the server to it: the work is the server's, and durable.
    let waited = tokio::time::timeout(PATIENCE, async {
        while outcome(&record).is_none() {
            tokio::time::sleep(Duration::from_millis(500)).await;
            let look = Call::get(path(&preview.request)).header("Prefer", Some(WAIT));
            record = context.client.call(&look).await?;
        }
        Ok::<(), Failure>(())
    });
    let waited = waited.await;
    if let Ok(Err(failure)) = waited {
        context.out.message(&format!("the request {} was approved and goes on", printable(&preview.request)));
        return Err(failure);
    }
    report(&record, &preview.request, context)
}

/// Prints the record of a request, and ends as it did.
fn report(record: &Value, request: &str, context: &mut Context) -> Result<(), Failure> {
    context.out.record(record)?;
    match outcome(record) {
        Some(Outcome::Done) => Ok(()),
        Some(Outcome::Partly) => {
            context.out.message("partly done: something is kept; the record says what and why");
            Ok(())
        }
        Some(Outcome::NotDone) => Err(Failure::failed("the request did not complete; the record says why")),
        None => Err(Failure::unavailable(format!(
            "approved, and still at work after 5 min; look again with: oubliette forget --request {} --dry-run",
            printable(request)
        ))),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Done,
    Partly,
    NotDone,
}

/// How it ended; `None` while it is at work. `failed` is not an end: the server tries again, and never says done early.
fn outcome(record: &Value) -> Option<Outcome> {
    match record.get("status").and_then(Value::as_str) {
        Some("completed") => Some(Outcome::Done),
        Some("partially_completed") => Some(Outcome::Partly),
        Some("rejected" | "cancelled") => Some(Outcome::NotDone),
        _ => None,
    }
}

fn purpose(text: &str) -> Result<Purpose, String> {
    Purpose::parse(text).map_err(|error| format!("a purpose {error}"))
}

fn digest(text: &str) -> Result<String, String> {
    let hex = text.strip_prefix("sha256:").unwrap_or_default();
    if hex.len() == 64 && hex.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        Ok(text.to_owned())
    } else {
        Err("a digest is sha256: and 64 hexadecimal digits, as the preview shows it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_four_characters_confirm() {
        assert!(confirms("ds_7f3a", "7f3a"));
        assert!(confirms("p7", "p7"));
        assert!(confirms("kundin-größe\n", "röße"));
        for typed in ["", "7F3A", "f3a", "ds_7f3a", "yes"] {
            assert!(!confirms("ds_7f3a", typed), "{typed}");
        }
        assert!(!confirms("", ""));
    }

    #[test]
    fn ends_are_told_from_work() {
        let of = |status: &str| outcome(&json!({ "status": status }));
        assert_eq!(of("completed"), Some(Outcome::Done));
        assert_eq!(of("partially_completed"), Some(Outcome::Partly));
        assert_eq!(of("cancelled"), Some(Outcome::NotDone));
        for status in ["approved", "fenced", "destroying", "verifying", "failed"] {
            assert_eq!(of(status), None, "{status}");
        }
        assert_eq!(outcome(&Value::Null), None);
    }

    #[test]
    fn digests_are_whole() {
        assert!(digest(&format!("sha256:{}", "a0".repeat(32))).is_ok());
        for text in ["sha256:", "a0", "sha256:zz", ""] {
            assert!(digest(text).is_err());
        }
    }
}
