//! The clients of each workload.
//!
//! Owns: what each kind of client sends, and how it takes the answers. Must not know: timing, repeats, output. Keeps:
//! a client checks what it is told (a full stream, opened values, an untruncated scan); an unexpected answer fails the
//! run rather than making it faster.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;

use super::driver::{Connection, Reply, Request};
use super::load::{Step, Worker};
use super::payload::{self, Person, Random};

/// Events in a batch, and in a stream that is read.
pub const BATCH: u64 = 100;
/// Pause after "come back later".
const BACK_OFF: Duration = Duration::from_millis(5);
/// Pause between two questions whether a forget request has completed.
const POLL: Duration = Duration::from_millis(10);

/// Appends one event at a time with expected revisions, to its streams in turn; on a conflict it takes the current
/// revision from the answer and tries again.
pub struct Appender {
    streams: Vec<Head>,
    turn: usize,
    people: u64,
    random: Random,
    body: Vec<u8>,
}

struct Head {
    path: String,
    /// Revision of the last event, `None` while there is none.
    revision: Option<u64>,
}

impl Appender {
    /// A client of `streams` that appends events about any of `people` people.
    pub fn new(streams: impl IntoIterator<Item = String>, people: u64, seed: u64) -> Self {
        let head = |stream: String| Head { path: events_path(&stream), revision: None };
        let streams = streams.into_iter().map(head).collect();
        Self { streams, turn: 0, people, random: Random::new(seed), body: Vec::with_capacity(1024) }
    }
}

impl Worker for Appender {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        self.turn = (self.turn + 1) % self.streams.len();
        let head = &mut self.streams[self.turn];
        let person = Person { number: self.random.below(self.people), suffix: "" };
        let mut step = Step { units: 1, ..Step::default() };
        // One body for both forms, so that a retry sends the same event: with and without the wrapper around it.
        self.body.clear();
        self.body.extend_from_slice(br#"{"expected":"no_stream","events":["#);
        let start = self.body.len();
        payload::write_event(&mut self.body, person, &mut self.random);
        let end = self.body.len();
        self.body.extend_from_slice(b"]}");
        loop {
            let reply = if let Some(revision) = head.revision {
                let expected = format!("\"r{revision}\"");
                let request = Request::post(&head.path, &self.body[start..end]);
                connection.call(request.with(&[("If-Match", &expected)])).await?
            } else {
                connection.call(Request::post(&head.path, &self.body)).await?
            };
            match reply.status {
                200 | 201 => {
                    head.revision = Some(head.revision.map_or(0, |revision| revision + 1));
                    return Ok(Some(step));
                }
                409 | 412 => {
                    head.revision = current_revision(reply)?;
                    step.conflicts += 1;
                }
                _ => come_back_later(reply, &mut step).await?,
            }
        }
    }
}

/// Whom the events of a [`BatchWriter`] are about.
#[derive(Clone)]
pub enum Who {
    /// Anyone of so many people.
    Anyone(u64),
    /// One person after the other with so many events each; the ids end in the suffix.
    Each {
        /// Events per person.
        events: u64,
        /// What follows the person's number in the external id.
        suffix: Arc<str>,
    },
}

/// Appends batches of [`BATCH`] events, each to a stream that does not exist yet, until so many events are there.
pub struct BatchWriter {
    job: Arc<BatchJob>,
    random: Random,
    body: Vec<u8>,
}

/// What several [`BatchWriter`]s do together.
pub struct BatchJob {
    /// Streams are called `<prefix>-<number>`.
    pub prefix: String,
    /// How many events in all.
    pub events: u64,
    /// Whom they are about.
    pub who: Who,
    /// Number of the next batch.
    pub next: AtomicU64,
}

impl BatchWriter {
    /// So many clients that share a job.
    pub fn team(job: BatchJob, clients: u64) -> Vec<Self> {
        let job = Arc::new(job);
        (0..clients).map(|n| Self { job: job.clone(), random: Random::new(n), body: Vec::new() }).collect()
    }

    fn write_body(&mut self, first: u64, count: u64) {
        self.body.clear();
        self.body.extend_from_slice(br#"{"expected":"no_stream","events":["#);
        for number in first..first + count {
            let person = match &self.job.who {
                Who::Anyone(people) => Person { number: self.random.below(*people), suffix: "" },
                Who::Each { events, suffix } => Person { number: number / events, suffix },
            };
            if number > first {
                self.body.push(b',');
            }
            payload::write_event(&mut self.body, person, &mut self.random);
        }
        self.body.extend_from_slice(b"]}");
    }
}

impl Worker for BatchWriter {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let batch = self.job.next.fetch_add(1, Ordering::Relaxed);
        let first = batch * BATCH;
        if first >= self.job.events {
            return Ok(None);
        }
        let units = BATCH.min(self.job.events - first);
        self.write_body(first, units);
        let path = events_path(&format!("{}-{batch}", self.job.prefix));
        let mut step = Step { units, ..Step::default() };
        loop {
            let reply = connection.call(Request::post(&path, &self.body)).await?;
            match reply.status {
                200 | 201 => return Ok(Some(step)),
                _ => come_back_later(reply, &mut step).await?,
            }
        }
    }
}

/// Reads whole streams that a [`BatchWriter`] made, chosen at random, with personal values opened.
pub struct StreamReader {
    prefix: Arc<str>,
    streams: u64,
    random: Random,
    checked: bool,
}

impl StreamReader {
    /// A client that reads the first `streams` full streams of `prefix`.
    pub fn new(prefix: Arc<str>, streams: u64, seed: u64) -> Self {
        Self { prefix, streams, random: Random::new(seed), checked: false }
    }
}

impl Worker for StreamReader {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let number = self.random.below(self.streams);
        let path = format!("{}?limit={BATCH}", events_path(&format!("{}-{number}", self.prefix)));
        let mut step = Step { units: BATCH, ..Step::default() };
        loop {
            let reply = connection.call(Request::get(&path)).await?;
            if reply.status != 200 {
                come_back_later(reply, &mut step).await?;
                continue;
            }
            // The first answer of each client is checked in full, later ones by their size: parsing would take more
            // time than the read itself.
            ensure!(reply.body.len() as u64 > BATCH * 350, "a page of {BATCH} events has {} bytes", reply.body.len());
            if !self.checked {
                check_page(reply.body)?;
                self.checked = true;
            }
            return Ok(Some(step));
        }
    }
}

/// Reads the whole log as NDJSON, once.
#[derive(Default)]
pub struct Scanner {
    done: bool,
}

impl Worker for Scanner {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        if std::mem::replace(&mut self.done, true) {
            return Ok(None);
        }
        let mut step = Step::default();
        let mut path = "/v1/events".to_owned();
        // Should the server end a range early, the rest is asked for; an empty range is the end.
        loop {
            let mut lines = Lines::default();
            let request = Request::get(&path).with(&[("Accept", "application/x-ndjson")]);
            let status = connection.stream(request, |part| lines.take(part)).await?;
            ensure!(status == 200, "the server answered {status} to a scan");
            let (count, position) = lines.end()?;
            step.units += count;
            match position {
                Some(position) if count > 0 => path = format!("/v1/events?from={}", position + 1),
                _ => return Ok(Some(step)),
            }
        }
    }
}

/// Counts lines as they stream by, and keeps the last one.
#[derive(Default)]
struct Lines {
    count: u64,
    last: Vec<u8>,
    open: Vec<u8>,
}

impl Lines {
    #[allow(clippy::naive_bytecount, reason = "the compiler vectorises it; not worth a dependency")]
    fn take(&mut self, part: &[u8]) {
        self.count += part.iter().filter(|&&byte| byte == b'\n').count() as u64;
        let Some(end) = part.iter().rposition(|&byte| byte == b'\n') else {
            self.open.extend_from_slice(part);
            return;
        };
        self.last.clear();
        if let Some(before) = part[..end].iter().rposition(|&byte| byte == b'\n') {
            self.last.extend_from_slice(&part[before + 1..end]);
        } else {
            self.last.append(&mut self.open);
            self.last.extend_from_slice(&part[..end]);
        }
        self.open.clear();
        self.open.extend_from_slice(&part[end + 1..]);
    }

    /// Events seen and the position that the last line names.
    fn end(&self) -> anyhow::Result<(u64, Option<u64>)> {
        let last: Value = serde_json::from_slice(&self.last).context("the last line of a scan is no JSON")?;
        let end = last.get("$end").context("a scan was cut: its last line is no $end")?;
        let count = end["count"].as_u64().context("the $end line has no count")?;
        ensure!(count + 1 == self.count, "the $end line counts {count} events after {} lines", self.count);
        Ok((count, end["position"].as_u64()))
    }
}

/// Forgets one person after the other and waits until each forget request has completed.
pub struct Forgetter {
    suffix: Arc<str>,
    people: std::ops::Range<u64>,
}

impl Forgetter {
    /// Forgets the people with these numbers and this suffix.
    pub fn new(suffix: Arc<str>, people: std::ops::Range<u64>) -> Self {
        Self { suffix, people }
    }
}

impl Worker for Forgetter {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let Some(number) = self.people.next() else {
            return Ok(None);
        };
        let body = format!(r#"{{"data_subject":"p{number}{}","basis":"gdpr:A17-1-b"}}"#, self.suffix);
        let mut step = Step { units: 1, ..Step::default() };
        let mut state = loop {
            let request = Request::post("/v1/forget", body.as_bytes()).with(&[("Prefer", "wait=10")]);
            let reply = connection.call(request).await?;
            match reply.status {
                200..=202 => break Forgetting::read(reply)?,
                _ => come_back_later(reply, &mut step).await?,
            }
        };
        while !state.completed {
            tokio::time::sleep(POLL).await;
            let reply = connection.call(Request::get(&state.path)).await?;
            match reply.status {
                200 => state = Forgetting::read(reply)?,
                _ => come_back_later(reply, &mut step).await?,
            }
        }
        Ok(Some(step))
    }
}

struct Forgetting {
    path: String,
    completed: bool,
}

impl Forgetting {
    fn read(reply: Reply<'_>) -> anyhow::Result<Self> {
        let value: Value = serde_json::from_slice(reply.body).context("a forget request that is no JSON")?;
        let id = value["id"].as_str().context("a forget request without id")?;
        let status = value["status"].as_str().context("a forget request without status")?;
        ensure!(
            !matches!(status, "failed" | "rejected" | "cancelled" | "partially_completed"),
            "a forget request ended as {status}"
        );
        Ok(Self { path: format!("/v1/forget-requests/{id}"), completed: status == "completed" })
    }
}

/// Fails with the server's problem code. Problems hold no personal values (API 3.1).
pub fn unexpected(reply: Reply<'_>) -> anyhow::Error {
    let problem: Value = serde_json::from_slice(reply.body).unwrap_or_default();
    let text = |name: &str| problem[name].as_str().unwrap_or_default().to_owned();
    let pointer = problem["errors"][0]["pointer"].as_str().unwrap_or_default();
    anyhow::anyhow!("the server answered {} {} {} {pointer}", reply.status, text("code"), text("title"))
}

/// Pauses if the server asked for it with 429 or 503, so that the caller can send the same again.
///
/// # Errors
/// Any other answer, see [`unexpected`].
pub async fn come_back_later(reply: Reply<'_>, step: &mut Step) -> anyhow::Result<()> {
    if !matches!(reply.status, 429 | 503) {
        return Err(unexpected(reply));
    }
    step.refused += 1;
    tokio::time::sleep(BACK_OFF).await;
    Ok(())
}

fn events_path(stream: &str) -> String {
    format!("/v1/streams/{stream}/events")
}

/// The revision that a `wrong-expected-revision` problem says is current.
fn current_revision(reply: Reply<'_>) -> anyhow::Result<Option<u64>> {
    let problem: Value = serde_json::from_slice(reply.body).context("a conflict that is no JSON")?;
    if problem["code"] != "wrong-expected-revision" {
        return Err(unexpected(reply));
    }
    match &problem["current"] {
        Value::Number(number) => Ok(number.as_u64()),
        Value::Object(object) => Ok(object.get("revision").and_then(Value::as_u64)),
        Value::String(text) if text == "no_stream" => Ok(None),
        _ => bail!("a conflict that does not name the current revision"),
    }
}

fn check_page(body: &[u8]) -> anyhow::Result<()> {
    let page: Value = serde_json::from_slice(body).context("a page of events that is no JSON")?;
    let items = page["items"].as_array().context("a page of events without items")?;
    ensure!(items.len() as u64 == BATCH, "a page has {} events instead of {BATCH}", items.len());
    let opened = |event: &Value| event["data"]["email"].as_str().is_some_and(|email| email.ends_with("@example.org"));
    ensure!(items.iter().all(opened), "personal values were not opened: the key must be allowed to read them");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(status: u16, body: &[u8]) -> Reply<'_> {
        Reply { status, body, location: "" }
    }

    #[test]
    fn the_current_revision_of_a_conflict() {
        let current = |body: &str| current_revision(reply(412, body.as_bytes())).ok();
        assert_eq!(current(r#"{"code":"wrong-expected-revision","current":7}"#), Some(Some(7)));
        assert_eq!(current(r#"{"code":"wrong-expected-revision","current":{"revision":7}}"#), Some(Some(7)));
        assert_eq!(current(r#"{"code":"wrong-expected-revision","current":"no_stream"}"#), Some(None));
        assert_eq!(current(r#"{"code":"wrong-expected-revision"}"#), None);
        assert_eq!(current(r#"{"code":"data-subject-erased","current":7}"#), None);
    }

    #[test]
    fn a_scan_ends_with_its_own_count_however_it_is_split() {
        let text = b"{\"a\":1}\n{\"a\":2}\n{\"$end\":{\"count\":2,\"position\":41}}\n";
        for step in 1..=text.len() {
            let mut lines = Lines::default();
            text.chunks(step).for_each(|part| lines.take(part));
            assert_eq!(lines.end().unwrap(), (2, Some(41)));
            let mut cut = Lines::default();
            text[..16].chunks(step).for_each(|part| cut.take(part));
            assert!(cut.end().is_err());
        }
    }

    #[test]
    fn problems_are_named() {
        let body = br#"{"code":"schema-violation","title":"No","errors":[{"pointer":"/data/x"}]}"#;
        assert_eq!(unexpected(reply(422, body)).to_string(), "the server answered 422 schema-violation No /data/x");
    }
}
