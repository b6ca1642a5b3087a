//! Writes a realistic population and its events as NDJSON, or loads them into a running server.
//!
//! ```text
//! cargo run --example population > events.ndjson
//! cargo run --example population -- --schemas schemas/ --events 0
//! OUBLIETTE_API_KEY=dev cargo run --release --example population -- --load http://127.0.0.1:7017
//! ```

#[path = "../tests/it/population/mod.rs"]
mod population;

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufWriter, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use clap::Parser;
use oubliette::cli::bench::driver::{Connection, Request, Target};
use oubliette::cli::bench::load::{Step, Window, Worker, closed_loop};
use oubliette::cli::bench::register_schema;
use oubliette::cli::bench::workloads::come_back_later;
use population::{Append, Options, Population, schemas};
use tokio::sync::mpsc;

/// Connections that load at the same time.
const CONNECTIONS: usize = 8;
/// Appends that wait for each connection.
const QUEUE: usize = 64;

/// A realistic population and its events, the same for the same seed.
#[derive(Parser)]
struct Arguments {
    /// People, each with a contact.
    #[arg(long, default_value_t = 20_000)]
    people: u64,
    /// Events in all.
    #[arg(long, default_value_t = 200_000)]
    events: u64,
    /// Another seed gives other people and events.
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Write the schema of each event type to `<type>.json` in this directory too.
    #[arg(long, value_name = "DIR")]
    schemas: Option<PathBuf>,
    /// Register the schemas and append everything to this server instead of writing it to standard output. The API key
    /// is taken from OUBLIETTE_API_KEY (default: dev).
    #[arg(long, value_name = "URL")]
    load: Option<String>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let Arguments { people, events, seed, .. } = arguments;
    let population = Population::new(Options { people, events, seed });
    if let Some(directory) = &arguments.schemas {
        write_schemas(directory)?;
    }
    match &arguments.load {
        Some(url) => load(url, population).await,
        None => write(population),
    }
}

fn write_schemas(directory: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for (event_type, schema) in schemas() {
        let path = directory.join(format!("{event_type}.json"));
        let text = serde_json::to_string_pretty(&schema)? + "\n";
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn write(population: Population) -> anyhow::Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let write_all = || -> std::io::Result<()> {
        for append in population {
            serde_json::to_writer(&mut out, &append)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    match write_all() {
        // Whoever reads has seen enough (`| head`).
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        other => other.context("cannot write the events"),
    }
}

async fn load(url: &str, population: Population) -> anyhow::Result<()> {
    let key = std::env::var("OUBLIETTE_API_KEY").unwrap_or_else(|_| "dev".to_owned());
    let target = Target::new(url, &key)?;
    let mut connection = Connection::open(&target).await.with_context(|| format!("at {}", target.authority()))?;
    for (event_type, schema) in schemas() {
        register_schema(&mut connection, event_type, schema.to_string().as_bytes())
            .await
            .with_context(|| format!("cannot register {event_type}"))?;
    }
    let (queues, loaders): (Vec<_>, Vec<_>) =
        (0..CONNECTIONS).map(|_| mpsc::channel(QUEUE)).map(|(queue, appends)| (queue, Loader { appends })).unzip();
    // Making the events costs more than sending them: on a thread of its own it does not hold up the connections.
    let producer = tokio::task::spawn_blocking(move || produce(population, &queues));
    let tally = closed_loop(&target, loaders, Window::UntilDone).await?;
    let complete = producer.await.context("making the events failed")?;
    ensure!(complete, "a connection ended before everything was appended");
    let (events, seconds) = (tally.units_in_all, tally.elapsed.as_secs_f64());
    let rate = events as f64 / seconds;
    writeln!(
        std::io::stdout(),
        "{events} events in {} appends over {CONNECTIONS} connections in {seconds:.1} s: {rate:.0} events/s",
        tally.operations
    )
    .context("cannot write the result")
}

/// Hands out the appends; those of one stream always to the same connection, so that their order stays. `false` when
/// a connection has ended early.
fn produce(population: Population, queues: &[mpsc::Sender<Append>]) -> bool {
    for append in population {
        let mut hasher = DefaultHasher::new();
        append.stream.hash(&mut hasher);
        let queue = &queues[(hasher.finish() % queues.len() as u64) as usize];
        if queue.blocking_send(append).is_err() {
            return false;
        }
    }
    true
}

struct Loader {
    appends: mpsc::Receiver<Append>,
}

impl Worker for Loader {
    async fn step(&mut self, connection: &mut Connection) -> anyhow::Result<Option<Step>> {
        let Some(append) = self.appends.recv().await else {
            return Ok(None);
        };
        let path = format!("/v1/streams/{}/events", append.stream);
        let body = serde_json::to_vec(&append.events)?;
        let mut step = Step { units: append.events.len() as u64, ..Step::default() };
        loop {
            let reply = connection.call(Request::post(&path, &body)).await?;
            match reply.status {
                200 | 201 => return Ok(Some(step)),
                _ => come_back_later(reply, &mut step).await?,
            }
        }
    }
}
