//! Erasure certificates: what was done, signed, and provable from the log without the server.
//!
//! Owns: the statement that the completion of an erasure puts into the log, the certificate around it, and checking one
//! offline. Must not know: HTTP, where keys are kept. A certificate names nobody (invariant 11): the person appears as a
//! commitment that only whoever knows the pseudonym can check. There is none before verification opened nothing
//! (invariant 6).

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::requests::{ForgetError, facts};
use super::{DestroyedKeyRecord, Fact, NodeRelease, Request, Status, Verification};
use crate::audit::checkpoint::{self, Checkpoint, CheckpointError, CheckpointKey};
use crate::audit::proof::{self, InclusionError};
use crate::audit::tree::Tree;
use crate::clock::Millis;
use crate::domain::{CERTIFICATE, CERTIFICATE_SUBJECT, lp};
use crate::event::canonical::canonical;
use crate::event::{EventId, Position, Purpose, Revision, StoreId, StreamId, SubjectRef};
use crate::eventlog::{AuditRow, EventLog};
use crate::keystore::{DekId, Fetched, Keystore};
use crate::sealing::commit::{LeafFields, commit, leaf};

/// Type of the events that complete an erasure, and that certificates are about.
pub const COMPLETED_EVENT: &str = "erasure-completed";
/// Names the format of a certificate.
const FORMAT: &str = "oubliette/certificate/v1";
/// A certificate is far shorter.
const MAX_BYTES: usize = 4 << 20;

/// What is certified: the facts of one erasure. Part of the event that completes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Statement {
    /// The forget request, `fr_…`.
    pub request: String,
    /// Number in the erasure record.
    pub erasure: u64,
    /// `SHA-256(LP("oubliette/v1/certificate-subject", store, request, subject))`, hexadecimal.
    pub subject_commitment: String,
    /// The purposes; none for the whole person.
    pub purposes: Option<Vec<String>>,
    /// Legal basis.
    pub basis: String,
    /// When the person asked, RFC 3339.
    pub received_at: String,
    /// Legal deadline, RFC 3339.
    pub due_at: String,
    /// From here on nothing was visible or could be appended, RFC 3339.
    pub fenced_at: String,
    /// The keys that were destroyed.
    pub keys: Vec<DestroyedKeyRecord>,
    /// Whether the external id was removed.
    pub external_id_removed: bool,
    /// Processes that had to let go, and how each did.
    pub nodes: Vec<NodeRelease>,
    /// What was tried and found afterwards.
    pub verification: Verification,
    /// When backups of the keystore are due to open nothing of it any more, by the settings at the completion, RFC 3339. An
    /// epoch that comes late makes it later; the `root-destroyed` in the log says when it is so.
    pub backups_effective_due: String,
    /// What the erasure does not cover.
    pub residuals: Vec<Residual>,
    /// What made the statement.
    pub software: Software,
}

/// Something that an erasure does not cover.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Residual {
    /// Ciphertext stays in the event log and its backups until it is removed; nothing opens it.
    Ciphertext,
    /// Backups of the keystore hold destroyed keys until `backups_effective_due`.
    KeystoreBackups,
    /// What was handed out before: exports, answers kept by others, recipients.
    CopiesHandedOut,
    /// Personal data that nobody marked as such.
    UnmarkedData,
    /// Blocks of a medium or file system that were replaced unseen.
    Medium,
    /// The database refused a step of the wash.
    WashIncomplete,
    /// Data of the same person for other purposes.
    OtherPurposes,
}

/// What made a statement.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Software {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
}

impl Statement {
    /// What is certified of a request whose verification opened nothing. `fenced`: since when, by the erasure record. `horizon`: after so long no backup of the
    /// keystore opens what was destroyed. `None` when the request has not come that far.
    pub fn of(
        request: &Request,
        fenced: Millis,
        verification: Verification,
        store: &StoreId,
        horizon: Duration,
    ) -> Option<Self> {
        let destroyed = request.history.iter().rev().find(|(status, _)| *status == Status::Verifying)?.1;
        let mut residuals = vec![Residual::Ciphertext, Residual::KeystoreBackups, Residual::CopiesHandedOut];
        residuals.extend([Residual::UnmarkedData, Residual::Medium]);
        residuals.extend(request.wash_incomplete.then_some(Residual::WashIncomplete));
        residuals.extend(request.purposes.is_some().then_some(Residual::OtherPurposes));
        let horizon = i64::try_from(horizon.as_millis()).unwrap_or(i64::MAX);
        let purposes = request.purposes.as_ref();
        Some(Self {
            request: request.id.clone(),
            erasure: request.erasure?,
            subject_commitment: subject_commitment(store, &request.id, request.subject),
            purposes: purposes.map(|list| list.iter().map(Purpose::to_string).collect()),
            basis: request.basis.clone(),
            received_at: request.received_at.clone(),
            due_at: request.due_at.clone(),
            fenced_at: fenced.rfc3339(),
            keys: request.keys.clone(),
            external_id_removed: request.external_id_removed,
            nodes: request.nodes.clone(),
            verification,
            backups_effective_due: Millis(destroyed.0.saturating_add(horizon)).rfc3339(),
            residuals,
            software: Software { name: "oubliette".to_owned(), version: env!("CARGO_PKG_VERSION").to_owned() },
        })
    }

    /// The public part of the event that completes the erasure.
    fn public(&self) -> Option<String> {
        let fact = Fact::ErasureCompleted { verification: self.verification, statement: Some(Box::new(self.clone())) };
        Some(canonical(&serde_json::to_value(fact).ok()?))
    }
}

fn subject_commitment(store: &StoreId, request: &str, subject: SubjectRef) -> String {
    hex::encode(Sha256::digest(lp(&[CERTIFICATE_SUBJECT, &store.0, request.as_bytes(), &subject.0])))
}

/// A certificate: RFC 8785 JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Certificate {
    /// [`FORMAT`].
    format: String,
    /// What is certified.
    pub statement: Statement,
    /// The event that says it.
    entry: Entry,
    /// C2SP `tlog-proof` of that event.
    proof: String,
    /// Ed25519 over all the rest, base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
}

/// The parts of an event's leaf that the statement does not give.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// The store, hexadecimal.
    store: String,
    position: u64,
    /// Event id, hexadecimal.
    event: String,
    /// Stream id, hexadecimal.
    stream: String,
    revision: u64,
    /// When the log recorded it: the erasure was complete.
    completed_at: String,
    meta_commitment: String,
    public_salt: String,
}

/// Issues the certificate of a forget request, against the log as it is now. `None` when its erasure is not complete, or was
/// completed by a version that stated nothing. The log's word is not enough: nothing is signed that the erasure record and the
/// keystore's tombstones do not say as well.
///
/// # Errors
/// [`ForgetError`] when log or keystore cannot be reached, or contradict the statement.
pub async fn issue(
    log: &Arc<dyn EventLog>,
    keystore: &dyn Keystore,
    key: &CheckpointKey,
    request: &Request,
) -> Result<Option<String>, ForgetError> {
    let completion = facts(log.as_ref(), &request.id).await?.into_iter().find_map(|told| match told.fact {
        Fact::ErasureCompleted { statement: Some(statement), .. } => Some((told.position, statement)),
        _ => None,
    });
    let Some((position, statement)) = completion else { return Ok(None) };
    let head = log.head().await?;
    if !is_so(log.as_ref(), keystore, request, &statement, &head.store).await? {
        tracing::error!(request = %request.id, "the log states an erasure that record or keystore do not know; not certified");
        return Err(ForgetError::Corrupt);
    }
    let rows = log.audit_rows(position, 1).await?;
    let entry = rows.first().and_then(|row| Entry::of(&head.store, row)).ok_or(ForgetError::Corrupt)?;
    let size = head.next.0;
    let hashes = Tree::of(Arc::clone(log)).inclusion(position.0, size).await?.ok_or(ForgetError::Corrupt)?;
    let proof = proof::write(position.0, &hashes, &key.sign(size, &head.frontier.root()));
    let (format, statement) = (FORMAT.to_owned(), *statement);
    let mut certificate = Certificate { format, statement, entry, proof, signature: None };
    let signature = key.sign_labelled(CERTIFICATE, certificate.text().as_bytes());
    certificate.signature = Some(BASE64.encode(signature));
    let text = certificate.text();
    // What does not hold here holds nowhere: the stored row or tree is damaged.
    verify(&text, &key.verifier_key()).map_err(|_| ForgetError::Corrupt)?;
    Ok(Some(text))
}

/// Whether a statement is what the request came to, and what was destroyed.
async fn is_so(
    log: &dyn EventLog,
    keystore: &dyn Keystore,
    request: &Request,
    statement: &Statement,
    store: &StoreId,
) -> Result<bool, ForgetError> {
    let row = log.erasure_of(request.id.clone()).await?;
    let recorded = row.is_some_and(|row| {
        row.number == statement.erasure && row.subject == request.subject && row.completed.is_some()
    });
    let same = statement.request == request.id
        && statement.keys == request.keys
        && request.verification == Some(statement.verification)
        && statement.subject_commitment == subject_commitment(store, &request.id, request.subject);
    if !recorded || !same || keystore.stats().await?.applied_erasure < statement.erasure {
        return Ok(false);
    }
    let id = |key: &DestroyedKeyRecord| {
        let purpose = Purpose::parse_any(&key.purpose).ok()?;
        Some(DekId { subject: request.subject, purpose, generation: key.generation })
    };
    let Some(ids) = statement.keys.iter().map(id).collect::<Option<Vec<_>>>() else { return Ok(false) };
    let fetched = keystore.fetch(ids).await?;
    Ok(fetched.iter().all(|found| matches!(found, Fetched::Destroyed { .. })))
}

impl Entry {
    fn of(store: &StoreId, row: &AuditRow) -> Option<Self> {
        Some(Self {
            store: hex::encode(store.0),
            position: row.event.position.0,
            event: hex::encode(row.event.id.0),
            stream: hex::encode(row.stream_id.0),
            revision: row.event.revision.0,
            completed_at: row.event.recorded.rfc3339(),
            meta_commitment: hex::encode(row.commitments.get(..32)?),
            public_salt: hex::encode(row.salts.as_ref()?.get(32..64)?),
        })
    }

    /// The leaf of an event with this public part.
    fn leaf(&self, public: &str) -> Option<[u8; 32]> {
        Some(leaf(&LeafFields {
            store: &StoreId(digits(&self.store)?),
            position: Position(self.position),
            event: &EventId(digits(&self.event)?),
            stream: &StreamId(digits(&self.stream)?),
            revision: Revision(self.revision),
            event_type: COMPLETED_EVENT,
            recorded: Millis::parse_rfc3339(&self.completed_at).filter(|at| at.rfc3339() == self.completed_at)?,
            c_meta: &digits(&self.meta_commitment)?,
            c_public: &commit(&digits(&self.public_salt)?, public.as_bytes()),
            c_slots: &[],
        }))
    }
}

/// Lower-case hexadecimal digits of exactly so many bytes.
fn digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    hex::decode_to_slice(text, &mut bytes).ok()?;
    (hex::encode(bytes) == text).then_some(bytes)
}

impl Certificate {
    fn text(&self) -> String {
        serde_json::to_value(self).map(|value| canonical(&value)).unwrap_or_default()
    }

    /// When the erasure was complete.
    pub fn completed_at(&self) -> &str {
        &self.entry.completed_at
    }

    /// Whether it is about this person.
    pub fn is_about(&self, subject: SubjectRef) -> bool {
        let store = digits(&self.entry.store).map(StoreId);
        store.is_some_and(|store| {
            subject_commitment(&store, &self.statement.request, subject) == self.statement.subject_commitment
        })
    }
}

/// Why a text is not a certificate of the log whose key was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not a certificate, or not written in the one way to write it (RFC 8785).
    #[error("the text is not a certificate in the form that is issued")]
    Malformed,
    /// Not signed by the key, or changed since.
    #[error("the signature is not that of the log's key, or something was changed since")]
    Signature(CheckpointError),
    /// It does not state what a certificate states.
    #[error("the statement contradicts itself: {0}")]
    Statement(&'static str),
    /// The log does not say it.
    #[error("the log does not contain the statement: {0}")]
    Log(#[from] InclusionError),
}

/// Checks a certificate offline against the verifier key of its log.
///
/// # Errors
/// [`CertificateError`] when anything is not exactly as the format says, or does not hold.
pub fn verify(text: &str, vkey: &str) -> Result<(Certificate, Checkpoint), CertificateError> {
    let text = text.strip_suffix('\n').unwrap_or(text);
    if text.len() > MAX_BYTES {
        return Err(CertificateError::Malformed);
    }
    let certificate: Certificate = serde_json::from_str(text).map_err(|_| CertificateError::Malformed)?;
    if certificate.format != FORMAT || certificate.text() != text {
        return Err(CertificateError::Malformed);
    }
    let signature = certificate.signature.as_ref().and_then(|text| BASE64.decode(text).ok());
    let signature: [u8; 64] = signature.and_then(|bytes| bytes.try_into().ok()).ok_or(CertificateError::Malformed)?;
    let unsigned = Certificate { signature: None, ..certificate.clone() };
    checkpoint::verify_labelled(CERTIFICATE, unsigned.text().as_bytes(), &signature, vkey)
        .map_err(CertificateError::Signature)?;
    if certificate.statement.verification.opened > 0 {
        return Err(CertificateError::Statement("something still opened"));
    }
    let public = certificate.statement.public().ok_or(CertificateError::Malformed)?;
    let leaf = certificate.entry.leaf(&public).ok_or(CertificateError::Malformed)?;
    let (index, checkpoint) = proof::verify(&certificate.proof, &leaf, vkey)?;
    if index != certificate.entry.position {
        return Err(CertificateError::Statement("the proof is of another position"));
    }
    Ok((certificate, checkpoint))
}
