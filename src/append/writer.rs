//! The one writer of a node: drains its queue, commits once, answers each request with its own result.
//!
//! Owns: the bounded queue and group commit. Must not know: what the events mean. Never waits to fill a batch: while
//! one batch is being flushed the next one gathers. Keeps invariant 10: nothing else calls `EventLog::commit`.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use tokio::sync::{mpsc, oneshot};

use crate::event::{ExpectedRevision, Revision, StreamName};
use crate::eventlog::{AccessEntry, Appended, Batch, CommitError, EventLog, Job, Refused};
use crate::sealing::SealedEvent;

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
    heads: Arc<Heads>,
}

impl Writer {
    /// Starts the writer task. It ends when every handle is dropped and the queue is empty.
    pub fn start(log: Arc<dyn EventLog>, options: Options) -> (Self, tokio::task::JoinHandle<()>) {
        let (queue, inbox) = mpsc::channel(options.queue.max(1));
        let heads = Arc::new(Heads::new());
        let task = tokio::spawn(run(log, inbox, options.batch.max(1), Arc::clone(&heads)));
        (Self { queue, heads }, task)
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

    /// The refusal of an append whose expectation the stream has certainly passed; `None` where only the log can tell. Not for
    /// whoever may be repeating a request.
    pub fn passed(&self, stream: &StreamName, expected: ExpectedRevision) -> Option<Refused> {
        self.heads.passed(stream, expected)
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

/// Last revisions of streams, as the log's answers told them. Never more than the truth, whoever else writes, for revisions
/// only grow: an expectation that lies behind one of these will never be met again.
struct Heads(Mutex<LruCache<StreamName, Revision>>);

impl Heads {
    fn new() -> Self {
        Self(Mutex::new(LruCache::new(NonZeroUsize::new(100_000).expect("not zero"))))
    }

    fn passed(&self, stream: &StreamName, expected: ExpectedRevision) -> Option<Refused> {
        let last = match expected {
            ExpectedRevision::Any | ExpectedRevision::Exists => return None,
            ExpectedRevision::Exact(_) | ExpectedRevision::NoStream => {
                *self.0.lock().unwrap_or_else(PoisonError::into_inner).peek(stream)?
            }
        };
        let met_later = matches!(expected, ExpectedRevision::Exact(revision) if revision >= last);
        let refused = || Refused::WrongExpectedRevision { stream: stream.clone(), expected, current: Some(last) };
        (!met_later).then(refused)
    }

    /// A job that cannot succeed; never one that may be the repetition of another.
    fn hopeless(&self, job: &Job) -> Option<Refused> {
        let repeatable = job.idempotency.is_some()
            || job.appends.iter().flat_map(|append| &append.events).any(SealedEvent::has_caller_id);
        if repeatable {
            return None;
        }
        job.appends.iter().find_map(|append| self.passed(&append.stream, append.expected))
    }

    fn learn(&self, outcome: &Result<Appended, Refused>) {
        let mut heads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut at_least = |stream: &StreamName, last: Revision| {
            if heads.get(stream).is_none_or(|known| *known < last) {
                heads.put(stream.clone(), last);
            }
        };
        match outcome {
            Ok(appended) => appended.streams.iter().for_each(|one| at_least(&one.stream, one.last_revision())),
            Err(Refused::WrongExpectedRevision { stream, current: Some(last), .. }) => at_least(stream, *last),
            Err(_) => {}
        }
    }
}

async fn run(log: Arc<dyn EventLog>, mut inbox: mpsc::Receiver<Item>, most: usize, heads: Arc<Heads>) {
    let mut items = Vec::with_capacity(most);
    while inbox.recv_many(&mut items, most).await > 0 {
        commit(log.as_ref(), std::mem::take(&mut items), &heads).await;
    }
}

async fn commit(log: &dyn EventLog, items: Vec<Item>, heads: &Heads) {
    let mut batch = Batch::default();
    let (mut jobs, mut reads) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Job(job, reply) => {
                if let Some(refused) = heads.hopeless(&job) {
                    drop(reply.send(Ok(Err(refused))));
                } else {
                    batch.jobs.push(*job);
                    jobs.push(reply);
                }
            }
            Item::Access(entries, reply) => {
                batch.access.extend(entries);
                reads.push(reply);
            }
        }
    }
    if jobs.is_empty() && reads.is_empty() {
        return;
    }
    match log.commit(batch).await {
        Ok(outcomes) => {
            crate::crash::point("append.before-reply");
            for (reply, outcome) in jobs.into_iter().zip(outcomes) {
                heads.learn(&outcome);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_passed_is_certain() {
        let heads = Heads::new();
        let stream = StreamName::parse("a-1").unwrap();
        let exactly = |revision| ExpectedRevision::Exact(Revision(revision));
        let refused = |current: u64, expected| {
            heads.learn(&Err(Refused::WrongExpectedRevision {
                stream: stream.clone(),
                expected: ExpectedRevision::NoStream,
                current: Some(Revision(current)),
            }));
            heads.passed(&stream, expected).is_some()
        };
        assert!(heads.passed(&stream, ExpectedRevision::NoStream).is_none(), "nothing is known of the stream");
        assert!(refused(3, ExpectedRevision::NoStream) && refused(3, exactly(2)));
        assert!(!refused(3, exactly(3)) && !refused(3, exactly(4)) && !refused(3, ExpectedRevision::Any));
        assert!(refused(1, exactly(2)), "an older answer takes nothing back");
    }
}
