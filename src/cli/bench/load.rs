//! The closed loop: workers on a connection each, one request in flight each, timed from send to whole reply.
//!
//! Owns: warm-up, the measured window, adding up. Must not know: what a request means. Keeps: an operation counts if
//! it began after the warm-up and ended within the window, so that a slow start and a cut end count nowhere.

use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::task::JoinSet;

use super::driver::{Connection, Target};
use super::histogram::Histogram;

/// How long a worker may stay in an operation after the window has ended.
const GRACE: Duration = Duration::from_mins(1);

/// When to measure.
#[derive(Clone, Copy, Debug)]
pub enum Window {
    /// So long, after a warm-up that is not counted.
    Timed {
        /// Not counted.
        warmup: Duration,
        /// Counted.
        measure: Duration,
    },
    /// From the first request until every worker has nothing left to do.
    UntilDone,
}

/// What one operation of a worker achieved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Events appended or read; people forgotten.
    pub units: u64,
    /// Answers "wrong expected revision" on the way.
    pub conflicts: u64,
    /// Answers "come back later" (429, 503) on the way.
    pub refused: u64,
}

/// One client of a workload.
pub trait Worker: Send + 'static {
    /// Does one operation; `None` when there is nothing left to do.
    fn step(&mut self, connection: &mut Connection) -> impl Future<Output = anyhow::Result<Option<Step>>> + Send;
}

/// What all workers achieved within the window.
#[derive(Clone, Default)]
pub struct Tally {
    /// Workers, one connection each.
    pub clients: usize,
    /// Operations: requests with their retries.
    pub operations: u64,
    /// Sum over the operations, see [`Step`].
    pub counted: Step,
    /// Appended or read in all, warm-up and cut end included.
    pub units_in_all: u64,
    /// Length of the window.
    pub elapsed: Duration,
    /// Latencies of the operations.
    pub latency: Histogram,
}

/// Runs `workers` over the window. Stops at the first failure.
///
/// # Errors
/// A worker's own; a connection that cannot be made; a worker that does not come back.
pub async fn closed_loop<W: Worker>(target: &Target, workers: Vec<W>, window: Window) -> anyhow::Result<Tally> {
    let clients = workers.len();
    let mut ready = Vec::with_capacity(clients);
    for worker in workers {
        let connection = Connection::open(target).await.with_context(|| format!("at {}", target.authority()))?;
        ready.push((worker, connection));
    }
    let begin = Instant::now();
    let (from, until) = match window {
        Window::Timed { warmup, measure } => (begin + warmup, Some(begin + warmup + measure)),
        Window::UntilDone => (begin, None),
    };
    let mut tasks = JoinSet::new();
    for (worker, connection) in ready {
        tasks.spawn(drive(worker, connection, from, until));
    }
    let mut total = Tally { clients, ..Tally::default() };
    while let Some(result) = next(&mut tasks, until).await? {
        let tally = result.context("a client panicked")??;
        total.operations += tally.operations;
        total.units_in_all += tally.units_in_all;
        total.counted = total.counted + tally.counted;
        total.latency.merge(&tally.latency);
    }
    total.elapsed = until.map_or_else(|| begin.elapsed(), |until| until - from);
    Ok(total)
}

type Joined = Result<anyhow::Result<Tally>, tokio::task::JoinError>;

async fn next(tasks: &mut JoinSet<anyhow::Result<Tally>>, until: Option<Instant>) -> anyhow::Result<Option<Joined>> {
    match until {
        None => Ok(tasks.join_next().await),
        Some(until) => tokio::time::timeout_at((until + GRACE).into(), tasks.join_next())
            .await
            .context("a client got no answer within a minute after the end"),
    }
}

async fn drive<W: Worker>(
    mut worker: W,
    mut connection: Connection,
    from: Instant,
    until: Option<Instant>,
) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut start = Instant::now();
    while let Some(step) = worker.step(&mut connection).await? {
        let end = Instant::now();
        let late = until.is_some_and(|until| end > until);
        tally.units_in_all += step.units;
        if start >= from && !late {
            tally.operations += 1;
            tally.counted = tally.counted + step;
            tally.latency.record(end - start);
        }
        if late {
            break;
        }
        start = end;
    }
    Ok(tally)
}

impl std::ops::Add for Step {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            units: self.units + other.units,
            conflicts: self.conflicts + other.conflicts,
            refused: self.refused + other.refused,
        }
    }
}
