//! The erasure record: dense, chained, and in agreement with the fences, the requests and the keystore.

use super::{Defect, Out, Place, VerifyError};
use crate::domain;
use crate::erasure::requests::{ForgetError, load};
use crate::erasure::{Fact, Request, Status, deep};
use crate::event::{Purpose, SubjectRef};
use crate::eventlog::{ErasureRow, EventLog, Head, ReadError, StoredEvent};
use crate::keystore::Keystore;

const PAGE: usize = 500;

/// Whether an event says that an erasure began.
pub(super) fn is_fenced_event(event: &StoredEvent) -> bool {
    event.stream.is_system() && event.event_type.as_str() == crate::subscription::ERASURE_EVENT
}

/// Such an event must have its entry in the record, or the erasure would not survive a restore.
pub(super) async fn recorded(log: &dyn EventLog, event: &StoredEvent, out: &mut Out) -> Result<(), VerifyError> {
    let place = Place::Event(event.position);
    let Ok(Fact::ErasureFenced { subject, purposes, request, basis }) = serde_json::from_str(&event.public) else {
        out.find(place, Defect::RequestUnreadable);
        return Ok(());
    };
    let Some(row) = log.erasure_of(request).await? else {
        out.find(place, Defect::ErasureUnrecorded);
        return Ok(());
    };
    let words = |list: &Vec<Purpose>| list.iter().map(Purpose::to_string).collect::<Vec<_>>();
    let same = SubjectRef::parse(&subject) == Some(row.subject)
        && purposes == row.purposes.as_ref().map(words)
        && basis == row.basis;
    if !same {
        out.find(place, Defect::ErasureContradicts);
    }
    Ok(())
}

/// Walks the record.
pub(super) async fn check(
    log: &dyn EventLog,
    keystore: Option<&dyn Keystore>,
    head: &Head,
    out: &mut Out,
) -> Result<(), VerifyError> {
    // The keystore is asked first: what it has applied by now, the log has recorded before.
    let applied = match keystore {
        Some(keystore) => keystore.stats().await?.applied_erasure,
        None => 0,
    };
    let (mut last, mut digest) = (0, [0; 32]);
    loop {
        let rows = log.erasures(last, PAGE).await?;
        if rows.is_empty() {
            break;
        }
        for row in rows {
            let place = Place::Erasure(row.number);
            if row.number != last + 1 {
                out.find(Place::Erasure(last + 1), Defect::ErasureMissing);
            } else if domain::erasure_digest(&digest, row.number, &row.subject.0, &row.scope()) != row.digest {
                out.find(place, Defect::ErasureDigest);
            }
            (last, digest) = (row.number, row.digest);
            if !fenced(log, &row).await? {
                out.find(place, Defect::FenceMissing);
            }
            if let Some(defect) = request(log, &row).await? {
                out.find(place, defect);
            }
        }
    }
    if head.erasure_epoch > 0 && last == 0 {
        out.find(Place::Erasure(1), Defect::ErasureMissing);
    }
    if log.head().await?.erasure_epoch < last {
        out.find(Place::Head, Defect::ErasureEpoch);
    }
    if applied > last {
        out.find(Place::Keystore, Defect::KeystoreAhead);
    }
    Ok(())
}

/// Whether fences cover the whole scope of an entry. They stay for ever.
async fn fenced(log: &dyn EventLog, row: &ErasureRow) -> Result<bool, VerifyError> {
    let fences = log.fences(vec![row.subject]).await?;
    let list = fences.0.get(&row.subject).map(Vec::as_slice).unwrap_or_default();
    let has = |wanted: Option<&Purpose>| list.iter().any(|fence| fence.purpose.as_ref() == wanted);
    Ok(match &row.purposes {
        None => has(None),
        Some(purposes) => purposes.iter().all(|purpose| has(Some(purpose))),
    })
}

/// What is wrong between an entry and its request.
async fn request(log: &dyn EventLog, row: &ErasureRow) -> Result<Option<Defect>, VerifyError> {
    let request = match load(log, &row.request).await {
        Ok(Some((request, _))) => request,
        Err(ForgetError::Read(error)) if !matches!(error, ReadError::Corrupt { .. }) => return Err(error.into()),
        Ok(None) | Err(_) => return Ok(Some(Defect::RequestUnreadable)),
    };
    if contradicts(&request, row) {
        return Ok(Some(Defect::ErasureContradicts));
    }
    let completed = match (request.status, row.completed) {
        (Status::Completed, None) => log.erasure_of(row.request.clone()).await?.is_some_and(|r| r.completed.is_some()),
        (status, Some(_)) => status == Status::Completed,
        (_, None) => true,
    };
    if !completed {
        return Ok(Some(Defect::Completion));
    }
    if request.removed.done.is_none() {
        return Ok(None);
    }
    match deep::is_gone(log, &request).await {
        Ok(gone) => Ok((!gone).then_some(Defect::CiphertextLeft)),
        // What is damaged was found where it is.
        Err(ReadError::Corrupt { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn contradicts(request: &Request, row: &ErasureRow) -> bool {
    request.subject != row.subject
        || request.purposes != row.purposes
        || request.basis != row.basis
        || request.erasure.is_some_and(|number| number != row.number)
}
