//! `oubliette bench`: how fast is it, here, with encryption on?
//!
//! Owns: the command's options and the order of preparations, workloads and repeats. Must not know: the server's
//! inside: everything goes through the REST API, as it would for any other client. Keeps: what was not measured
//! (preparations, warm-up) is not counted in any rate, and a server started here ends with the command.

pub mod driver;
pub mod histogram;
pub mod load;
pub mod payload;
pub mod projections;
pub mod report;
pub mod response;
pub mod spawn;
pub mod workloads;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};

use self::driver::{Connection, Request, Target};
use self::load::{Tally, Window, closed_loop};
use self::projections::{Ask, CatchUp, Columns, RowReader, WriteThenRead};
use self::report::{Measurement, Report};
use self::spawn::{Spawned, Usage};
use self::workloads::{Appender, BATCH, BatchJob, BatchWriter, Forgetter, Scanner, StreamReader, Who};
use crate::secret::Entropy;

/// Clients of the batch workload, of reading, and of all preparations.
const FEW: u64 = 8;
/// Events of a person who is forgotten in the `forget` workload.
const EVENTS_PER_FORGOTTEN: u64 = 10;

/// Measures a server through its REST API.
///
/// The API key is taken from `OUBLIETTE_API_KEY` (default `dev`); it must be allowed to register schemas, append, read
/// personal data and forget. Everything goes to streams `bench-…` of people `p0`, `p1`, …; never run it against a
/// store that matters.
#[derive(Args, Clone, Debug)]
pub struct BenchArgs {
    /// Start a server for the benchmark, in a fresh directory, and report its CPU time, memory and disk space too.
    #[arg(long)]
    pub spawn: bool,
    /// Where the started server makes its fresh directory; chooses the disk. Default: the system's temporary directory.
    #[arg(long, requires = "spawn")]
    pub data_dir: Option<PathBuf>,
    /// Start so many nodes over one store and spread the clients over them. More than one need PostgreSQL, by the
    /// settings in the environment (`OUBLIETTE_EVENTS_DSN`, `OUBLIETTE_KEYS_DSN`).
    #[arg(long, requires = "spawn", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub nodes: u32,
    /// Leave the started server's directory behind.
    #[arg(long, requires = "spawn")]
    pub keep: bool,
    /// What to measure, in this order.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "w3,w4,w5,w1,w2,w6,forget")]
    pub workloads: Vec<Workload>,
    /// Length of each measurement of w1, w2, w4 and w6, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// What precedes each of them without being counted, in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub warmup: f64,
    /// How often to measure each workload.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub repeat: u32,
    /// People whom the events are about.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub people: u64,
    /// Events that w3 appends.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u64).range(BATCH..))]
    pub events: u64,
    /// People with ten events each whom `forget` forgets.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..))]
    pub forget_people: u64,
    /// With `forget`, forget also one person with so many events [default if given without number: 100000].
    #[arg(long, num_args = 0..=1, default_missing_value = "100000")]
    pub forget_large: Option<u64>,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// One client appends single events with expected revisions.
    W1,
    /// 64 clients with 4 streams each append single events with expected revisions.
    W2,
    /// 8 clients append batches of 100 events to fresh streams.
    W3,
    /// 8 clients read streams of 100 events with personal values opened.
    W4,
    /// One client reads the whole log as NDJSON.
    W5,
    /// 16 clients append to one stream with expected revisions and retry on conflicts.
    W6,
    /// One client forgets people, one after the other.
    Forget,
    /// A projection without personal columns is computed from every event there is.
    ProjectPublic,
    /// A projection with three personal columns is computed from every event there is.
    ProjectPersonal,
    /// That projection is rebuilt.
    Rebuild,
    /// 8 clients read single rows of it by key.
    Rows,
    /// 8 clients read pages of 20 rows of it by an index.
    RowsByIndex,
    /// 8 clients append an event and wait for its row.
    AppendToRow,
    /// As `w2`, while that projection is rebuilt over and over.
    W2Rebuild,
}

/// Measures `server`, or one started for it, and prints the result to standard output, progress to standard error.
///
/// # Errors
/// The server cannot be reached or started, or answers otherwise than the API says.
pub async fn run(args: BenchArgs, server: &str, json: bool) -> anyhow::Result<()> {
    ensure!(args.seconds > 0.0 && args.seconds <= 86_400.0, "--seconds must lie between 0 and a day");
    ensure!(args.warmup >= 0.0 && args.warmup <= 86_400.0, "--warmup must lie between 0 and a day");
    let key = std::env::var("OUBLIETTE_API_KEY").unwrap_or_else(|_| "dev".to_owned());
    let tag = fresh_tag()?;
    let spawned = if args.spawn {
        let parent = args.data_dir.clone().unwrap_or_else(std::env::temp_dir);
        Spawned::start_all(&parent, &tag, args.keep, args.nodes).await?
    } else {
        Vec::new()
    };
    let target = match spawned.split_first() {
        None => Target::new(server, &key)?,
        Some((first, others)) => {
            let others = others.iter().map(|other| Target::new(other.url(), &key)).collect::<Result<_, _>>()?;
            Target::new(first.url(), &key)?.and(others)
        }
    };
    let mut bench =
        Bench { args, target, tag, servers: spawned, filled: None, view: None, appended: 0, measurements: Vec::new() };
    bench.prepare().await?;
    for repeat in 0..bench.args.repeat {
        for workload in bench.args.workloads.clone() {
            bench.measure(workload, repeat).await?;
        }
    }
    let report = bench.finish().await?;
    let text = if json { serde_json::to_string_pretty(&report)? + "\n" } else { report::table(&report) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the result")
}

/// Registers a version of a schema; the same schema twice is no error.
///
/// # Errors
/// The server refuses it.
pub async fn register_schema(connection: &mut Connection, event_type: &str, schema: &[u8]) -> anyhow::Result<()> {
    let path = format!("/v1/schemas/{event_type}/versions");
    let reply = connection.call(Request::post(&path, schema)).await?;
    ensure!(matches!(reply.status, 200 | 201), workloads::unexpected(reply));
    Ok(())
}

struct Bench {
    args: BenchArgs,
    target: Target,
    /// Makes stream names and the ids of people to be forgotten new in every run.
    tag: String,
    servers: Vec<Spawned>,
    /// Prefix and number of full streams that w4 can read.
    filled: Option<(Arc<str>, u64)>,
    /// The projection with personal columns, once it is there.
    view: Option<Arc<str>>,
    appended: u64,
    measurements: Vec<Measurement>,
}

impl Bench {
    /// Registers the schema and gives everybody their first event, so that no measurement pays for making keys.
    async fn prepare(&mut self) -> anyhow::Result<()> {
        let mut connection =
            Connection::open(&self.target).await.with_context(|| format!("at {}", self.target.authority()))?;
        register_schema(&mut connection, payload::EVENT_TYPE, payload::SCHEMA.as_bytes()).await?;
        progress(&format!("preparing {} people", self.args.people))?;
        let who = Who::Each { events: 1, suffix: "".into() };
        self.fill("people", self.args.people, who).await?;
        Ok(())
    }

    async fn measure(&mut self, workload: Workload, repeat: u32) -> anyhow::Result<()> {
        match workload {
            Workload::W1 => self.append("w1", repeat, 1, 1).await,
            Workload::W2 => self.append("w2", repeat, 64, 4).await,
            Workload::W3 => self.batches(repeat).await,
            Workload::W4 => self.read(repeat).await,
            Workload::W5 => {
                let cpu = self.begin("w5", repeat)?;
                let tally = closed_loop(&self.target, vec![Scanner::default()], Window::UntilDone).await?;
                self.end("w5", "events", repeat, &tally, cpu)
            }
            Workload::W6 => self.append("w6", repeat, 16, 0).await,
            Workload::ProjectPublic => self.project("project-public", repeat, Columns::Public).await,
            Workload::ProjectPersonal => self.project("project-personal", repeat, Columns::Personal).await,
            Workload::Rebuild => {
                let name = self.view().await?;
                let cpu = self.begin("rebuild", repeat)?;
                let tally = closed_loop(&self.target, vec![CatchUp::rebuild(&name)], Window::UntilDone).await?;
                self.end("rebuild", "events", repeat, &tally, cpu)
            }
            Workload::Rows => self.rows("rows", repeat, Ask::Key).await,
            Workload::RowsByIndex => self.rows("rows-by-index", repeat, Ask::Index).await,
            Workload::AppendToRow => self.append_to_row(repeat).await,
            Workload::W2Rebuild => self.append_while_rebuilding(repeat).await,
            Workload::Forget => {
                self.forget("forget", repeat, self.args.forget_people, EVENTS_PER_FORGOTTEN).await?;
                match self.args.forget_large {
                    Some(events) => self.forget("forget-large", repeat, 1, events).await,
                    None => Ok(()),
                }
            }
        }
    }

    /// Single events; `own` streams for each client, or one stream for all of them if that is 0.
    async fn append(&mut self, name: &'static str, repeat: u32, clients: u64, own: u64) -> anyhow::Result<()> {
        let stream = |client: u64, n: u64| format!("bench-{}-{name}-{repeat}-{client}-{n}", self.tag);
        let streams = |client| match own {
            0 => vec![stream(0, 0)],
            own => (0..own).map(|n| stream(client, n)).collect(),
        };
        let seed = |client| u64::from(repeat) << 32 | client;
        let workers =
            (0..clients).map(|client| Appender::new(streams(client), self.args.people, seed(client))).collect();
        let cpu = self.begin(name, repeat)?;
        let tally = closed_loop(&self.target, workers, self.window()).await?;
        self.appended += tally.units_in_all;
        self.end(name, "events", repeat, &tally, cpu)
    }

    async fn batches(&mut self, repeat: u32) -> anyhow::Result<()> {
        let cpu = self.begin("w3", repeat)?;
        let tally = self.fill(&format!("w3-{repeat}"), self.args.events, Who::Anyone(self.args.people)).await?;
        self.end("w3", "events", repeat, &tally, cpu)
    }

    async fn read(&mut self, repeat: u32) -> anyhow::Result<()> {
        if self.filled.is_none() {
            progress(&format!("preparing {} events to read", self.args.events))?;
            self.fill("fill", self.args.events, Who::Anyone(self.args.people)).await?;
        }
        let (prefix, streams) = self.filled.clone().context("there is no stream to read")?;
        let workers = (0..FEW).map(|client| StreamReader::new(prefix.clone(), streams, client)).collect();
        let cpu = self.begin("w4", repeat)?;
        let tally = closed_loop(&self.target, workers, self.window()).await?;
        self.end("w4", "events", repeat, &tally, cpu)
    }

    async fn forget(&mut self, name: &'static str, repeat: u32, people: u64, events: u64) -> anyhow::Result<()> {
        progress(&format!("preparing {people} x {events} events to forget"))?;
        let suffix: Arc<str> = format!("-{}-{name}-{repeat}", self.tag).into();
        let who = Who::Each { events, suffix: suffix.clone() };
        self.fill(&format!("{name}-{repeat}"), people * events, who).await?;
        let cpu = self.begin(name, repeat)?;
        let tally = closed_loop(&self.target, vec![Forgetter::new(suffix, 0..people)], Window::UntilDone).await?;
        self.end(name, "people", repeat, &tally, cpu)
    }

    async fn project(&mut self, name: &'static str, repeat: u32, columns: Columns) -> anyhow::Result<()> {
        let projection = format!("bench_{}_{}_{repeat}", self.tag, if columns == Columns::Public { "u" } else { "p" });
        let cpu = self.begin(name, repeat)?;
        let tally = closed_loop(&self.target, vec![CatchUp::define(&projection, columns)], Window::UntilDone).await?;
        self.end(name, "events", repeat, &tally, cpu)?;
        // It would compete with what is measured next.
        if columns == Columns::Personal && self.view.is_none() {
            self.view = Some(projection.into());
            return Ok(());
        }
        let mut connection = Connection::open(&self.target).await?;
        let path = format!("/v1/projections/{projection}");
        let reply = connection.call(Request { method: "DELETE", path: &path, headers: &[], body: b"" }).await?;
        ensure!(reply.status == 204, workloads::unexpected(reply));
        Ok(())
    }

    /// The projection that rows are read of, caught up.
    async fn view(&mut self) -> anyhow::Result<Arc<str>> {
        if self.view.is_none() {
            let name = format!("bench_{}_view", self.tag);
            progress("preparing a projection")?;
            let worker = CatchUp::define(&name, Columns::Personal);
            closed_loop(&self.target, vec![worker], Window::UntilDone).await?;
            self.view = Some(name.into());
        }
        self.view.clone().context("there is no projection")
    }

    async fn rows(&mut self, name: &'static str, repeat: u32, ask: Ask) -> anyhow::Result<()> {
        let view = self.view().await?;
        let mut connection = Connection::open(&self.target).await?;
        let keys = RowReader::keys(&mut connection, &view).await?;
        let workers = (0..FEW).map(|seed| RowReader::new(view.clone(), keys.clone(), ask, seed)).collect();
        let cpu = self.begin(name, repeat)?;
        let tally = closed_loop(&self.target, workers, self.window()).await?;
        self.end(name, "queries", repeat, &tally, cpu)
    }

    async fn append_to_row(&mut self, repeat: u32) -> anyhow::Result<()> {
        let view = self.view().await?;
        let stream = |client| format!("bench-{}-row-{repeat}-{client}", self.tag);
        let worker = |client| WriteThenRead::new(stream(client), view.clone(), self.args.people, client);
        let workers = (0..FEW).map(worker).collect();
        let cpu = self.begin("append-to-row", repeat)?;
        let tally = closed_loop(&self.target, workers, self.window()).await?;
        self.appended += tally.units_in_all;
        self.end("append-to-row", "events", repeat, &tally, cpu)
    }

    async fn append_while_rebuilding(&mut self, repeat: u32) -> anyhow::Result<()> {
        let view = self.view().await?;
        let (target, name) = (self.target.clone(), view.clone());
        let rebuilding = tokio::spawn(async move {
            loop {
                if let Err(error) = closed_loop(&target, vec![CatchUp::rebuild(&name)], Window::UntilDone).await {
                    return error;
                }
            }
        });
        let measured = self.append("w2-rebuild", repeat, 64, 4).await;
        if rebuilding.is_finished() {
            return Err(rebuilding.await?.context("the rebuild failed"));
        }
        rebuilding.abort();
        measured?;
        // Whatever is measured next is measured without it.
        projections::rebuilt(&mut Connection::open(&self.target).await?, &view).await
    }

    /// Appends so many events in batches to fresh streams.
    async fn fill(&mut self, name: &str, events: u64, who: Who) -> anyhow::Result<Tally> {
        let prefix = format!("bench-{}-{name}", self.tag);
        let readable = matches!(who, Who::Anyone(_));
        let job = BatchJob { prefix: prefix.clone(), events, who, next: Default::default() };
        let tally = closed_loop(&self.target, BatchWriter::team(job, FEW), Window::UntilDone).await?;
        self.appended += tally.units_in_all;
        if readable {
            self.filled = Some((prefix.into(), events / BATCH));
        }
        Ok(tally)
    }

    fn window(&self) -> Window {
        Window::Timed {
            warmup: Duration::from_secs_f64(self.args.warmup),
            measure: Duration::from_secs_f64(self.args.seconds),
        }
    }

    /// Of all servers started here; `None` when there is none.
    fn cpu_seconds(&self) -> Option<f64> {
        let each: Option<Vec<f64>> = self.servers.iter().map(Spawned::cpu_seconds).collect();
        each.filter(|each| !each.is_empty()).map(|each| each.iter().sum())
    }

    fn begin(&self, name: &str, repeat: u32) -> anyhow::Result<Option<f64>> {
        progress(&format!("{name}, {} of {}", repeat + 1, self.args.repeat))?;
        Ok(self.cpu_seconds())
    }

    fn end(
        &mut self,
        name: &'static str,
        unit: &'static str,
        repeat: u32,
        tally: &Tally,
        cpu_before: Option<f64>,
    ) -> anyhow::Result<()> {
        let cpu = cpu_before.zip(self.cpu_seconds()).map(|(before, after)| after - before);
        let measurement = Measurement::new(name, unit, repeat, tally, cpu);
        progress(&format!("  {:.0} {unit}/s, p50 {:.2} ms", measurement.rate, measurement.latency_ms.p50))?;
        self.measurements.push(measurement);
        Ok(())
    }

    async fn finish(self) -> anyhow::Result<Report> {
        let mut used = Vec::new();
        for server in self.servers {
            used.push(server.stop(self.appended).await?);
        }
        let server = Usage::of_all(used);
        Ok(Report {
            version: env!("CARGO_PKG_VERSION"),
            events_appended: self.appended,
            summary: report::summarise(&self.measurements),
            measurements: self.measurements,
            server,
        })
    }
}

/// Six letters; no digits, so that no name made with it can look like a number of a person.
fn fresh_tag() -> anyhow::Result<String> {
    let bytes = Entropy::system().draw::<6>()?;
    Ok(bytes.iter().map(|byte| char::from(b'a' + byte % 26)).collect())
}

fn progress(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stderr(), "{text}").context("cannot write progress")
}

#[cfg(test)]
mod tests;
