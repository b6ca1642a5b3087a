//! The one writer of a node: drains its queue, commits once, answers each request with its own result.
//!
//! Owns: the bounded queue and group commit. Must not know: what the events mean. Never waits to fill a batch: while
//! one batch is being flushed the next one gathers. Keeps invariant 10: nothing else calls `EventLog::commit`.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::eventlog::{AccessEntry, Appended, Batch, CommitError, EventLog, Job, Refused};

/// Limits of the writer.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Requests that may wait; more are turned away.
    pub queue: usize,
    /// Requests committed together.
    pub batch: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { queue: 4096, batch: 512 }
    }
}

/// The answer to one job.
pub type JobResult = Result<Result<Appended, Refused>, SubmitError>;

/// Why a job got no answer of its own.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SubmitError {
    /// The queue is full; try again later.
    #[error("the writer queue is full")]
    Busy,
    /// The server is stopping.
    #[error("the writer is stopping")]
    Stopping,
    /// The batch failed.
    #[error(transparent)]
    Commit(#[from] CommitError),
}

enum Item {
    Job(Box<Job>, oneshot::Sender<JobResult>),
    Access(Vec<AccessEntry>, oneshot::Sender<Result<(), SubmitError>>),
}

/// A handle to the writer's queue.
#[derive(Clone)]
pub struct Writer {
    queue: mpsc::Sender<Item>,
}

impl Writer {
    /// Starts the writer task. It ends when every handle is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>, options: Options) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, inbox) = mpsc::channel(options.queue.max(1));
        let task = tokio::spawn(run(log, inbox, options.batch.max(1)));
        (Self { queue }, task)
    }

    /// Hands in a job and waits for its outcome.
    ///
    /// # Errors
    /// [`SubmitError`]; only `Indeterminate` leaves it open whether the job was written.
    pub async fn submit(&self, job: Job) -> JobResult {
        let (reply, answer) = oneshot::channel();
        self.send(Item::Job(Box::new(job), reply))?;
        answer.await.unwrap_or(Err(SubmitError::Commit(CommitError::Indeterminate)))
    }

    /// Records personal reads durably.
    ///
    /// # Errors
    /// [`SubmitError`]: then the read must not happen.
    pub async fn record_access(&self, entries: Vec<AccessEntry>) -> Result<(), SubmitError> {
        let (reply, answer) = oneshot::channel();
        self.send(Item::Access(entries, reply))?;
        answer.await.unwrap_or(Err(SubmitError::Stopping))
    }

    /// Requests waiting now.
    pub fn waiting(&self) -> usize {
        self.queue.max_capacity() - self.queue.capacity()
    }

    fn send(&self, item: Item) -> Result<(), SubmitError> {
        self.queue.try_send(item).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Busy,
            mpsc::error::TrySendError::Closed(_) => SubmitError::Stopping,
        })
    }
}

async fn run(log: Arc<dyn EventLog>, mut inbox: mpsc::Receiver<Item>, most: usize) {
    let mut items = Vec::with_capacity(most);
    while inbox.recv_many(&mut items, most).await > 0 {
        commit(log.as_ref(), std::mem::take(&mut items)).await;
    }
}

async fn commit(log: &dyn EventLog, items: Vec<Item>) {
    let mut batch = Batch::default();
    let (mut jobs, mut reads) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Job(job, reply) => {
                batch.jobs.push(*job);
                jobs.push(reply);
            }
            Item::Access(entries, reply) => {
                batch.access.extend(entries);
                reads.push(reply);
            }
        }
    }
    match log.commit(batch).await {
        Ok(outcomes) => {
            crate::crash::point("append.before-reply");
            for (reply, outcome) in jobs.into_iter().zip(outcomes) {
                let _ = reply.send(Ok(outcome));
            }
            for reply in reads {
                let _ = reply.send(Ok(()));
            }
        }
        Err(error) => {
            tracing::error!(error = %error, jobs = jobs.len(), "a batch did not commit");
            for reply in jobs {
                let _ = reply.send(Err(SubmitError::Commit(error.clone())));
            }
            for reply in reads {
                let _ = reply.send(Err(SubmitError::Commit(error.clone())));
            }
        }
    }
}
