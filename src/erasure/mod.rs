//! Forget requests and the erasures they become.
//!
//! Owns: the request, its states and the pure step from one to the next. A request is a system stream `$erasure-<id>`;
//! its state is the fold of that stream, so a crash leaves nothing to reconcile: fold and continue. Must not know:
//! HTTP, SQL.

pub mod certificate;
pub mod deadline;
pub mod deep;
pub mod epoch;
pub mod import;
pub mod preview;
pub mod record;
pub mod recovery;
pub mod release;
pub mod requests;
pub mod worker;

use serde::{Deserialize, Serialize};

use crate::event::{EventType, Purpose, StreamName, SubjectRef};
use certificate::Statement;
use preview::Preview;

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Opened; what would happen was computed. Nothing has changed yet.
    Previewed,
    /// Approved and fenced in one transaction: no longer visible anywhere, and not to be undone.
    Fenced,
    /// Keys are destroyed, traces washed, every node let go; being verified.
    Verifying,
    /// Verified: nothing opens.
    Completed,
    /// Verification opened something: never reported as done, retried.
    Failed,
    /// Refused with a ground.
    Rejected,
    /// Withdrawn before approval.
    Cancelled,
}

impl Status {
    /// Every status.
    pub const ALL: [Self; 7] = [
        Self::Previewed,
        Self::Fenced,
        Self::Verifying,
        Self::Completed,
        Self::Failed,
        Self::Rejected,
        Self::Cancelled,
    ];

    /// The word used in answers and lists.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Previewed => "previewed",
            Self::Fenced => "fenced",
            Self::Verifying => "verifying",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will happen any more.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Rejected | Self::Cancelled)
    }

    /// What a data-protection officer may still do.
    pub fn allowed_actions(self) -> &'static [&'static str] {
        match self {
            Self::Previewed => &["approve", "reject", "cancel"],
            _ => &[],
        }
    }
}

/// One key that was destroyed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DestroyedKeyRecord {
    /// Key id, hexadecimal.
    pub kid: String,
    /// Purpose; `$identity` for the key that sealed the external id.
    pub purpose: String,
    /// Generation.
    pub generation: u32,
    /// When, RFC 3339.
    pub destroyed_at: String,
}

/// What the verification tried and found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verification {
    /// Events looked at.
    pub events: u64,
    /// Slots that were tried.
    pub tried: u64,
    /// Slots that opened. Zero, or the erasure has failed.
    pub opened: u64,
}

/// A fact about a request: the payload of an event of its stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Fact {
    /// The request was opened and previewed.
    ForgetRequestOpened {
        /// Pseudonym.
        subject: String,
        /// The purposes; none for the whole person.
        purposes: Option<Vec<String>>,
        /// Legal basis, `gdpr:A17-1-b`.
        basis: String,
        /// When the person asked, RFC 3339.
        received_at: String,
        /// Legal deadline, RFC 3339.
        due_at: String,
        /// The caller's reference, without personal data.
        reference: Option<String>,
        /// API key that opened it.
        by: String,
        /// What would happen.
        preview: Preview,
    },
    /// The preview was approved.
    ForgetRequestApproved {
        /// Digest of the approved preview.
        preview_digest: String,
        /// API key that approved it.
        by: String,
    },
    /// The fence is in force. In the same transaction as the approval.
    ErasureFenced {
        /// Pseudonym; consumers purge their copies.
        subject: String,
        /// The purposes; none for the whole person.
        purposes: Option<Vec<String>>,
        /// The request.
        request: String,
        /// Legal basis.
        basis: String,
    },
    /// Keys are destroyed and washed, caches emptied, answers in flight ended.
    KeysDestroyed {
        /// Number in the erasure record.
        erasure: u64,
        /// The keys.
        keys: Vec<DestroyedKeyRecord>,
        /// Whether the external id was removed from the keystore's map.
        external_id_removed: bool,
        /// Bytes of the keystore's write-ahead log that were overwritten.
        washed_bytes: u64,
        /// Whether the database refused a step of the wash: then its files may hold the destroyed bytes until the keys'
        /// epoch ends.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        wash_incomplete: bool,
        /// Processes that had to let go, and how each did.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        nodes: Vec<NodeRelease>,
    },
    /// Verification opened something.
    ErasureFailed {
        /// What it tried and found.
        verification: Verification,
    },
    /// Verification opened nothing.
    ErasureCompleted {
        /// What it tried and found.
        verification: Verification,
        /// What is certified of the erasure. None in what versions before certificates wrote.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        statement: Option<Box<Statement>>,
    },
    /// Ciphertext was removed, in the same transaction. The last of these has no `next`.
    CiphertextRemoved {
        /// Number in the erasure record.
        erasure: u64,
        /// Events that lost some.
        events: u64,
        /// Slots of these that did.
        slots: u64,
        /// Bytes of envelopes.
        bytes: u64,
        /// Position at which the rest begins; none when there is no rest.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        next: Option<u64>,
    },
    /// The request was refused.
    ForgetRequestRejected {
        /// Ground, `gdpr:A17-3-b`.
        ground: String,
        /// API key.
        by: String,
    },
    /// The request was withdrawn.
    ForgetRequestCancelled {
        /// API key.
        by: String,
    },
}

/// How a process came to hold nothing of a person any more.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRelease {
    /// The process, a random number.
    pub node: String,
    /// How.
    pub how: Release,
}

/// Ways to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Release {
    /// It said so.
    Acknowledged,
    /// It did not answer until everything it may have held had expired.
    LeaseExpired,
}

impl Fact {
    /// Type of the event that carries the fact.
    pub fn event_type(&self) -> EventType {
        let name = match self {
            Self::ForgetRequestOpened { .. } => "forget-request-opened",
            Self::ForgetRequestApproved { .. } => "forget-request-approved",
            Self::ErasureFenced { .. } => crate::subscription::ERASURE_EVENT,
            Self::KeysDestroyed { .. } => "keys-destroyed",
            Self::ErasureFailed { .. } => "erasure-failed",
            Self::ErasureCompleted { .. } => certificate::COMPLETED_EVENT,
            Self::CiphertextRemoved { .. } => deep::REMOVED_EVENT,
            Self::ForgetRequestRejected { .. } => "forget-request-rejected",
            Self::ForgetRequestCancelled { .. } => "forget-request-cancelled",
        };
        EventType::parse(name).expect("a valid event type")
    }
}

/// A forget request: the fold of its stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// `fr_…`.
    pub id: String,
    /// Whom it is about.
    pub subject: SubjectRef,
    /// The purposes; `None` for the whole person.
    pub purposes: Option<Vec<Purpose>>,
    /// Legal basis.
    pub basis: String,
    /// Where it stands.
    pub status: Status,
    /// When the person asked.
    pub received_at: String,
    /// Legal deadline.
    pub due_at: String,
    /// The caller's reference.
    pub reference: Option<String>,
    /// API key that opened it.
    pub requested_by: String,
    /// API key that approved, rejected or cancelled it.
    pub decided_by: Option<String>,
    /// Ground of a rejection.
    pub ground: Option<String>,
    /// What would happen, as opened.
    pub preview: Preview,
    /// Number in the erasure record.
    pub erasure: Option<u64>,
    /// Destroyed keys.
    pub keys: Vec<DestroyedKeyRecord>,
    /// Whether the external id was removed.
    pub external_id_removed: bool,
    /// Bytes washed.
    pub washed_bytes: u64,
    /// Whether the database refused a step of the wash.
    pub wash_incomplete: bool,
    /// Processes that had to let go.
    pub nodes: Vec<NodeRelease>,
    /// What verification found.
    pub verification: Option<Verification>,
    /// What of its ciphertext is gone.
    pub removed: deep::Removed,
    /// When each state was entered, in order.
    pub history: Vec<(Status, crate::clock::Millis)>,
}

/// A fact that does not follow from the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a request that is {} cannot become that", .from.map_or("missing", Status::as_str))]
pub struct InvalidTransition {
    /// The state it is in; `None` when there is no request.
    pub from: Option<Status>,
}

/// The state after a fact. Pure.
///
/// # Errors
/// [`InvalidTransition`].
pub fn next(
    id: &str,
    state: Option<Request>,
    fact: &Fact,
    at: crate::clock::Millis,
) -> Result<Request, InvalidTransition> {
    let Some(mut request) = state else { return open(id, fact, at) };
    let from = request.status;
    let status = match (from, fact) {
        (Status::Previewed, Fact::ForgetRequestApproved { by, .. }) => {
            request.decided_by = Some(by.clone());
            return Ok(request);
        }
        (Status::Previewed, Fact::ErasureFenced { .. }) if request.decided_by.is_some() => Status::Fenced,
        (Status::Previewed, Fact::ForgetRequestRejected { ground, by }) => {
            request.ground = Some(ground.clone());
            request.decided_by = Some(by.clone());
            Status::Rejected
        }
        (Status::Previewed, Fact::ForgetRequestCancelled { by }) => {
            request.decided_by = Some(by.clone());
            Status::Cancelled
        }
        (
            Status::Fenced | Status::Failed,
            Fact::KeysDestroyed { erasure, keys, external_id_removed, washed_bytes, wash_incomplete, nodes },
        ) => {
            request.wash_incomplete = *wash_incomplete;
            request.nodes.clone_from(nodes);
            request.erasure = Some(*erasure);
            request.keys.clone_from(keys);
            request.external_id_removed = *external_id_removed;
            request.washed_bytes = *washed_bytes;
            Status::Verifying
        }
        (Status::Verifying, Fact::ErasureFailed { verification }) => {
            request.verification = Some(*verification);
            Status::Failed
        }
        (Status::Verifying, Fact::ErasureCompleted { verification, .. }) if verification.opened == 0 => {
            request.verification = Some(*verification);
            Status::Completed
        }
        (Status::Completed, Fact::CiphertextRemoved { erasure, events, slots, bytes, next })
            if request.erasure == Some(*erasure) && request.removed.done.is_none() =>
        {
            request.removed.add(*events, *slots, *bytes);
            request.removed.next = *next;
            request.removed.done = next.is_none().then_some(at);
            return Ok(request);
        }
        _ => return Err(InvalidTransition { from: Some(from) }),
    };
    request.status = status;
    request.history.push((status, at));
    Ok(request)
}

fn open(id: &str, fact: &Fact, at: crate::clock::Millis) -> Result<Request, InvalidTransition> {
    let missing = InvalidTransition { from: None };
    let Fact::ForgetRequestOpened { subject, purposes, basis, received_at, due_at, reference, by, preview } = fact
    else {
        return Err(missing);
    };
    let parse = |list: &Vec<String>| list.iter().map(|p| Purpose::parse(p)).collect::<Result<Vec<_>, _>>();
    Ok(Request {
        id: id.to_owned(),
        subject: SubjectRef::parse(subject).ok_or(missing)?,
        purposes: purposes.as_ref().map(parse).transpose().map_err(|_| missing)?,
        basis: basis.clone(),
        status: Status::Previewed,
        received_at: received_at.clone(),
        due_at: due_at.clone(),
        reference: reference.clone(),
        requested_by: by.clone(),
        decided_by: None,
        ground: None,
        preview: preview.clone(),
        erasure: None,
        keys: Vec::new(),
        external_id_removed: false,
        washed_bytes: 0,
        wash_incomplete: false,
        nodes: Vec::new(),
        verification: None,
        removed: deep::Removed::default(),
        history: vec![(Status::Previewed, at)],
    })
}

/// The stream of a request. `None` when the text is not a request id.
pub fn stream_of(id: &str) -> Option<StreamName> {
    let digits = id.strip_prefix("fr_")?;
    let valid = digits.len() == 32 && digits.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    valid.then(|| StreamName::parse_any(&format!("$erasure-{id}")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Millis;
    use proptest::prelude::*;

    fn facts() -> Vec<Fact> {
        let subject = SubjectRef([1; 16]).to_string();
        let verification = Verification { events: 1, tried: 1, opened: 0 };
        vec![
            Fact::ForgetRequestOpened {
                subject: subject.clone(),
                purposes: None,
                basis: "gdpr:A17-1-b".into(),
                received_at: String::new(),
                due_at: String::new(),
                reference: None,
                by: "ak_1".into(),
                preview: Preview::default(),
            },
            Fact::ForgetRequestApproved { preview_digest: String::new(), by: "ak_2".into() },
            Fact::ErasureFenced { subject, purposes: None, request: "fr".into(), basis: "gdpr:A17-1-b".into() },
            Fact::KeysDestroyed {
                erasure: 1,
                keys: vec![],
                external_id_removed: true,
                washed_bytes: 0,
                wash_incomplete: false,
                nodes: vec![],
            },
            Fact::ErasureFailed { verification },
            Fact::ErasureCompleted { verification, statement: None },
            Fact::ForgetRequestRejected { ground: "gdpr:A17-3-b".into(), by: "ak_2".into() },
            Fact::ForgetRequestCancelled { by: "ak_1".into() },
            removed(Some(7)),
            removed(None),
        ]
    }

    fn removed(next: Option<u64>) -> Fact {
        Fact::CiphertextRemoved { erasure: 1, events: 1, slots: 2, bytes: 400, next }
    }

    fn run(path: &[usize]) -> Result<Request, InvalidTransition> {
        let facts = facts();
        let mut state = None;
        for &step in path {
            state = Some(next("fr", state, &facts[step], Millis(0))?);
        }
        state.ok_or(InvalidTransition { from: None })
    }

    #[test]
    fn the_straight_way_and_the_exits() {
        assert_eq!(run(&[0, 1, 2, 3, 5]).unwrap().status, Status::Completed);
        assert_eq!(run(&[0, 1, 2, 3, 4, 3, 5]).unwrap().status, Status::Completed);
        assert_eq!(run(&[0, 6]).unwrap().status, Status::Rejected);
        assert_eq!(run(&[0, 7]).unwrap().status, Status::Cancelled);
        assert_eq!(run(&[0, 2]).unwrap_err().from, Some(Status::Previewed), "no fence without approval");
        assert_eq!(run(&[0, 1, 2, 7]).unwrap_err().from, Some(Status::Fenced), "no way back");
        assert_eq!(run(&[0, 1, 2, 3, 5, 0]).unwrap_err().from, Some(Status::Completed));
    }

    #[test]
    fn ciphertext_goes_after_completion_in_portions_and_once() {
        for early in [&[0, 9][..], &[0, 1, 2, 9], &[0, 1, 2, 3, 9], &[0, 1, 2, 3, 5, 9, 9], &[0, 1, 2, 3, 5, 9, 8]] {
            assert!(run(early).is_err(), "{early:?}");
        }
        let part = run(&[0, 1, 2, 3, 5, 8, 8]).unwrap();
        assert_eq!((part.removed.slots, part.removed.next, part.removed.done), (4, Some(7), None));
        let done = run(&[0, 1, 2, 3, 5, 8, 8, 9]).unwrap();
        assert_eq!(done.removed, deep::Removed { events: 3, slots: 6, bytes: 1200, next: None, done: Some(Millis(0)) });
        assert_eq!((done.status, done.history.len()), (Status::Completed, 4), "it stays completed");
    }

    proptest! {
        /// Whatever comes in whatever order: completed implies fenced, destroyed and verified before.
        #[test]
        fn completed_only_after_everything(path in prop::collection::vec(0usize..10, 0..12)) {
            let facts = facts();
            let mut state = None;
            for step in path {
                if let Ok(after) = next("fr", state.clone(), &facts[step], Millis(0)) {
                    state = Some(after);
                }
            }
            if let Some(request) = state && request.status == Status::Completed {
                let seen: Vec<Status> = request.history.iter().map(|(status, _)| *status).collect();
                prop_assert!(seen.contains(&Status::Fenced) && seen.contains(&Status::Verifying));
                prop_assert!(request.erasure.is_some() && request.verification.is_some());
            }
        }
    }

    #[test]
    fn request_ids_name_streams_and_nothing_else_does() {
        let id = format!("fr_{}", "0a".repeat(16));
        assert_eq!(stream_of(&id).unwrap().as_str(), format!("$erasure-{id}"));
        for bad in ["fr_", "fr_zz", "x", "fr_0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A0A"] {
            assert!(stream_of(bad).is_none());
        }
    }
}
