//! Making erasures again on a log restored from before them, from the exported record.
//!
//! Owns: the comparison of the record with everybody who remembers, and the facts that a request's stream gets. Every
//! entry lands in one transaction with its fence and its number; a crash between two leaves a log that is behind as
//! before, and the import is repeated. Must not know: keys; the ordinary start and the worker destroy them again.

use super::record::{Entry, Record};
use super::requests::{self, ForgetError};
use super::{Fact, Request, next, stream_of};
use crate::append::{AppendError, Appender};
use crate::clock::Millis;
use crate::crash;
use crate::event::{ExpectedRevision, Revision, SubjectRef};
use crate::eventlog::{Effect, ErasureRow, EventLog, ReadError};
use crate::keystore::keyring::ErasureRecord;

/// Why nothing, or nothing more, was imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The record ends before what somebody remembers.
    #[error("the erasure record ends at {record}, but erasure {witnessed} is remembered: a newer export is needed")]
    TooOld {
        /// Last entry of the record.
        record: u64,
        /// What keyring, keystore or log remember.
        witnessed: u64,
    },
    /// Record and log, or record and keyring, tell different stories.
    #[error("entry {number} of the erasure record is not the erasure that this store remembers under that number")]
    Differs {
        /// The entry.
        number: u64,
    },
    /// The request stands in the log in a state from which this erasure cannot have followed.
    #[error("the forget request of entry {number} stands otherwise in the event log")]
    Request {
        /// The entry.
        number: u64,
    },
    /// The log did not take an entry.
    #[error(transparent)]
    Append(#[from] AppendError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// Adds the entries that the log lacks; how many. Everything is compared before anything is changed. `applied`: the last
/// erasure that the keystore remembers.
///
/// # Errors
/// [`ImportError`].
pub async fn import(
    log: &dyn EventLog,
    appender: &Appender,
    record: &Record,
    witnessed: ErasureRecord,
    applied: u64,
) -> Result<u64, ImportError> {
    let remembered = applied.max(witnessed.number);
    if record.last.number < remembered {
        return Err(ImportError::TooOld { record: record.last.number, witnessed: remembered });
    }
    if let Some(entry) = record.entries.iter().find(|entry| entry.number == witnessed.number)
        && entry.digest != hex::encode(witnessed.digest)
    {
        return Err(ImportError::Differs { number: entry.number });
    }
    let known = compare(log, record).await?;
    let missing = &record.entries[known as usize..];
    let mut planned = Vec::with_capacity(missing.len());
    for entry in missing {
        planned.push(Planned::of(log, entry).await?);
    }
    crash::point("restore.before-import");
    for (entry, planned) in missing.iter().zip(planned) {
        planned.append(appender).await?;
        let made = log.erasure_of(entry.request.clone()).await?;
        if !made.is_some_and(|row| same(&row, entry)) {
            return Err(ImportError::Differs { number: entry.number });
        }
        crash::point("restore.imported-one");
    }
    Ok(missing.len() as u64)
}

/// How many entries the log has already; all of them must be those of the record.
async fn compare(log: &dyn EventLog, record: &Record) -> Result<u64, ImportError> {
    let mut last = 0;
    loop {
        let rows = log.erasures(last, 500).await?;
        if rows.is_empty() {
            return Ok(last);
        }
        for row in rows {
            let Some(entry) = record.entries.get(last as usize) else {
                return Err(ImportError::TooOld { record: last, witnessed: row.number });
            };
            if !same(&row, entry) {
                return Err(ImportError::Differs { number: last + 1 });
            }
            last = row.number;
        }
    }
}

fn same(row: &ErasureRow, entry: &Entry) -> bool {
    row.number == entry.number
        && hex::encode(row.digest) == entry.digest
        && row.request == entry.request
        && row.basis == entry.basis
}

/// What one entry becomes.
struct Planned {
    request: Request,
    expected: ExpectedRevision,
    facts: Vec<Fact>,
    fence: Effect,
}

impl Planned {
    /// The facts that the request's stream lacks, folded to see that they follow.
    async fn of(log: &dyn EventLog, entry: &Entry) -> Result<Self, ImportError> {
        let unfit = || ImportError::Request { number: entry.number };
        let found = match requests::load(log, &entry.request).await {
            Ok(found) => found,
            Err(ForgetError::Read(error)) => return Err(error.into()),
            Err(_) => return Err(unfit()),
        };
        let at = Millis::parse_rfc3339(&entry.fenced_at).ok_or_else(unfit)?;
        let subject = SubjectRef::parse(&entry.subject).ok_or_else(unfit)?;
        let purposes = entry.purposes().ok_or_else(unfit)?;
        let names: Option<Vec<String>> =
            purposes.as_ref().map(|list| list.iter().map(|(purpose, _)| purpose.to_string()).collect());
        let (mut state, expected, mut facts) = match found {
            Some((request, Revision(revision))) => {
                (Some(request), ExpectedRevision::Exact(Revision(revision)), Vec::new())
            }
            None => (None, ExpectedRevision::NoStream, vec![opened(entry, names.clone())]),
        };
        let approved =
            Fact::ForgetRequestApproved { preview_digest: entry.preview.digest.clone(), by: entry.approved_by.clone() };
        let fenced = Fact::ErasureFenced {
            subject: entry.subject.clone(),
            purposes: names,
            request: entry.request.clone(),
            basis: entry.basis.clone(),
        };
        facts.extend([approved, fenced]);
        for fact in &facts {
            state = Some(next(&entry.request, state, fact, at).map_err(|_| unfit())?);
        }
        let request = state.filter(|request| request.subject == subject).ok_or_else(unfit)?;
        let same = purposes.as_ref().map(|list| list.iter().map(|(purpose, _)| purpose.clone()).collect());
        if request.purposes != same || request.basis != entry.basis {
            return Err(unfit());
        }
        let (basis, id) = (entry.basis.clone(), entry.request.clone());
        let fence = Effect::Refence { subject, purposes, basis, request: id, fenced: at };
        Ok(Self { request, expected, facts, fence })
    }

    async fn append(self, appender: &Appender) -> Result<(), AppendError> {
        let Self { request, expected, facts, fence } = self;
        let stream = stream_of(&request.id).expect("the request was folded from its stream's name");
        let status = Effect::Request {
            id: request.id.clone(),
            subject: request.subject,
            status: request.status.as_str(),
            due: Millis::parse_rfc3339(&request.due_at).unwrap_or(Millis(0)),
        };
        let json = |fact: &Fact| serde_json::to_value(fact).expect("a fact is plain text and numbers");
        let events = facts.iter().map(|fact| (fact.event_type(), json(fact))).collect();
        appender.append_system(stream, expected, events, vec![fence, status]).await.map(drop)
    }
}

fn opened(entry: &Entry, purposes: Option<Vec<String>>) -> Fact {
    Fact::ForgetRequestOpened {
        subject: entry.subject.clone(),
        purposes,
        basis: entry.basis.clone(),
        received_at: entry.received_at.clone(),
        due_at: entry.due_at.clone(),
        reference: None,
        by: entry.requested_by.clone(),
        preview: entry.preview.clone(),
    }
}
