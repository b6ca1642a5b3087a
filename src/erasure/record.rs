//! The erasure record as a thing of its own: exported beside the stores, and read back.
//!
//! Owns: the format (`docs/formats.md`), its signature, and the file's replacement. One JSON text per line: a header, one
//! entry per erasure, and a trailer that counts them and signs everything before it with the keyring's key, so that no
//! line can be forged, dropped or moved. Pseudonyms, purposes and times only; no personal data. Must not know: how an
//! entry is made again (`import`).

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ed25519_dalek::{Signature, Signer, SigningKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::preview::Preview;
use super::requests::{self, ForgetError};
use crate::clock::Millis;
use crate::domain::{self, ERASURE_EXPORT, lp};
use crate::durable::Draft;
use crate::event::{Purpose, StoreId, SubjectRef};
use crate::eventlog::{ErasureRow, EventLog, ReadError};
use crate::keystore::keyring::{ErasureRecord, Keyring};

/// Format of the file.
const FORMAT: u32 = 1;
/// No line is longer.
const LONGEST_LINE: u64 = 256 * 1024;
/// Entries read from the log at a time.
const PAGE: usize = 500;

/// What is needed to do an erasure again on a log that does not have it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Dense number, from 1.
    pub number: u64,
    /// Digest chain up to here, hexadecimal.
    pub digest: String,
    /// The forget request.
    pub request: String,
    /// Pseudonym.
    pub subject: String,
    /// `*` for a whole person, else the purposes joined by spaces.
    pub scope: String,
    /// How far the fence of each purpose reaches; empty for a whole person.
    pub generations: Vec<(String, u32)>,
    /// Legal basis.
    pub basis: String,
    /// When the person asked, RFC 3339.
    pub received_at: String,
    /// Legal deadline, RFC 3339.
    pub due_at: String,
    /// When the fence was set, RFC 3339.
    pub fenced_at: String,
    /// When it was complete, RFC 3339, if it was.
    pub completed_at: Option<String>,
    /// API key that asked for it.
    pub requested_by: String,
    /// API key that approved it.
    pub approved_by: String,
    /// Counts that were approved.
    pub preview: Preview,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Header {
    oubliette_erasure_record: u32,
    store: String,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Trailer {
    entries: u64,
    exported_at: String,
    signature: String,
}

/// Why a record cannot be written or is not believed.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    /// The operating system refused.
    #[error("{}: {kind}", path.display())]
    Io {
        /// On which file.
        path: PathBuf,
        /// Why.
        kind: ErrorKind,
    },
    /// A line is not what the format says.
    #[error("line {line} of the erasure record is malformed")]
    Malformed {
        /// From 1.
        line: u64,
    },
    /// The end is missing.
    #[error("the erasure record is cut off: it has no last line that counts and signs the others")]
    Truncated,
    /// It is another store's.
    #[error("the erasure record belongs to another store")]
    OtherStore,
    /// An entry does not follow from the one before.
    #[error("entry {number} of the erasure record does not follow from the one before it")]
    Broken {
        /// Number that was due.
        number: u64,
    },
    /// Not signed by this store's keyring, or changed since.
    #[error("the erasure record is not signed by this store's keyring, or was changed since")]
    Signature,
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
}

/// A record that was read whole and believed.
#[derive(Clone, Debug)]
pub struct Record {
    /// In the order of their numbers, without gaps.
    pub entries: Vec<Entry>,
    /// The record up to its last entry.
    pub last: ErasureRecord,
}

impl Record {
    /// Reads a file and believes nothing of it that does not fit together.
    ///
    /// # Errors
    /// [`RecordError`].
    pub fn read(path: &Path, keyring: &Keyring) -> Result<Self, RecordError> {
        let failed = |error: std::io::Error| RecordError::Io { path: path.to_owned(), kind: error.kind() };
        let mut lines = Lines { reader: BufReader::new(File::open(path).map_err(failed)?), number: 0 };
        let mut hash = Sha256::new();
        let first = lines.next(path)?.ok_or(RecordError::Truncated)?;
        let header: Header = lines.parse(&first)?;
        if header.oubliette_erasure_record != FORMAT {
            return Err(RecordError::Malformed { line: 1 });
        }
        if header.store != hex::encode(keyring.store_id().0) {
            return Err(RecordError::OtherStore);
        }
        hash.update(&first);
        let mut record = Self { entries: Vec::new(), last: ErasureRecord::default() };
        loop {
            let line = lines.next(path)?.ok_or(RecordError::Truncated)?;
            if let Ok(trailer) = serde_json::from_slice::<Trailer>(&line) {
                record.believe(&trailer, hash, keyring)?;
                let more = lines.next(path)?;
                return more.map_or(Ok(record), |_| Err(RecordError::Malformed { line: lines.number }));
            }
            record.push(lines.parse(&line)?)?;
            hash.update(&line);
        }
    }

    fn push(&mut self, entry: Entry) -> Result<(), RecordError> {
        let number = self.last.number + 1;
        let broken = RecordError::Broken { number };
        let subject = SubjectRef::parse(&entry.subject).ok_or(RecordError::Broken { number })?;
        let digest = domain::erasure_digest(&self.last.digest, number, &subject.0, &entry.scope);
        if entry.number != number || entry.digest != hex::encode(digest) || entry.purposes().is_none() {
            return Err(broken);
        }
        self.last = ErasureRecord { number, digest };
        self.entries.push(entry);
        Ok(())
    }

    fn believe(&self, trailer: &Trailer, hash: Sha256, keyring: &Keyring) -> Result<(), RecordError> {
        let message = message(hash, trailer.entries, &trailer.exported_at);
        let mut signature = [0; 64];
        hex::decode_to_slice(&trailer.signature, &mut signature).map_err(|_| RecordError::Signature)?;
        let key = SigningKey::from_bytes(keyring.signing_seed().expose()).verifying_key();
        let signed = key.verify_strict(&message, &Signature::from_bytes(&signature)).is_ok();
        if signed && trailer.entries == self.last.number { Ok(()) } else { Err(RecordError::Signature) }
    }
}

impl Entry {
    /// The purposes with the last generation covered; `Some(None)` for a whole person, `None` when they are malformed.
    pub fn purposes(&self) -> Option<Option<Vec<(Purpose, u32)>>> {
        if self.scope == "*" {
            return self.generations.is_empty().then_some(None);
        }
        let parse = |name: &str| {
            let last = self.generations.iter().find(|(purpose, _)| purpose == name).map_or(0, |(_, last)| *last);
            Purpose::parse(name).ok().map(|purpose| (purpose, last))
        };
        self.scope.split(' ').map(parse).collect::<Option<Vec<_>>>().map(Some)
    }

    async fn of(log: &dyn EventLog, row: &ErasureRow) -> Result<Self, ReadError> {
        let fences = log.fences(vec![row.subject]).await?;
        let list = fences.0.get(&row.subject).map(Vec::as_slice).unwrap_or_default();
        let reached = list.iter().filter_map(|fence| Some((fence.purpose.as_ref()?, fence.generation)));
        let scope = row.purposes.as_deref().unwrap_or_default();
        let generations = reached.filter(|(purpose, _)| scope.contains(purpose)).map(|(p, g)| (p.to_string(), g));
        let mut entry = Self {
            number: row.number,
            digest: hex::encode(row.digest),
            request: row.request.clone(),
            subject: row.subject.to_string(),
            scope: row.scope(),
            generations: generations.collect(),
            basis: row.basis.clone(),
            received_at: row.fenced.rfc3339(),
            due_at: row.fenced.rfc3339(),
            fenced_at: row.fenced.rfc3339(),
            completed_at: row.completed.map(Millis::rfc3339),
            requested_by: String::new(),
            approved_by: String::new(),
            preview: Preview::default(),
        };
        match requests::load(log, &row.request).await {
            Ok(Some((request, _))) => {
                entry.received_at = request.received_at;
                entry.due_at = request.due_at;
                entry.requested_by = request.requested_by;
                entry.approved_by = request.decided_by.unwrap_or_default();
                entry.preview = request.preview;
            }
            Err(ForgetError::Read(error)) => return Err(error),
            // A request that does not fold: what the record itself says is enough to forget.
            Ok(None) | Err(_) => {}
        }
        Ok(entry)
    }
}

/// Writes the record of a log to a file, again and again.
pub struct Exporter {
    log: Arc<dyn EventLog>,
    keyring: Arc<Keyring>,
    target: PathBuf,
    /// Entries whose lines will not change any more, and where in the file they end.
    settled: (u64, u64),
}

impl Exporter {
    /// To this file. Whoever makes one knows that the log is not behind what stands there.
    pub fn new(log: Arc<dyn EventLog>, keyring: Arc<Keyring>, target: PathBuf) -> Self {
        Self { log, keyring, target, settled: (0, 0) }
    }

    /// Replaces the file by the record as it is now: whole, or not at all.
    ///
    /// # Errors
    /// [`RecordError::Io`], [`RecordError::Read`].
    pub async fn export(&mut self, at: Millis) -> Result<u64, RecordError> {
        let target = self.target.clone();
        let failed = |error: std::io::Error| RecordError::Io { path: target.clone(), kind: error.kind() };
        let mut draft = Draft::new(&self.target).map_err(failed)?;
        let mut out =
            Out { file: BufWriter::new(draft.file().try_clone().map_err(failed)?), hash: Sha256::new(), at: 0 };
        let (mut last, length) = self.settled;
        if length > 0 {
            let kept = File::open(&self.target).map_err(failed)?;
            out.copy(BufReader::new(kept.take(length))).map_err(failed)?;
        } else {
            let store = hex::encode(self.keyring.store_id().0);
            out.line(&Header { oubliette_erasure_record: FORMAT, store }).map_err(failed)?;
        }
        let mut settled = (last, out.at);
        loop {
            let rows = self.log.erasures(last, PAGE).await?;
            if rows.is_empty() {
                break;
            }
            for row in rows {
                out.line(&Entry::of(self.log.as_ref(), &row).await?).map_err(failed)?;
                last = row.number;
                // A later erasure of the same purpose has an entry of its own, so this one says how far it reached itself.
                if row.completed.is_some() && settled.0 + 1 == row.number {
                    settled = (row.number, out.at);
                }
            }
        }
        let exported_at = at.rfc3339();
        let message = message(out.hash.clone(), last, &exported_at);
        let key = SigningKey::from_bytes(self.keyring.signing_seed().expose());
        let signature = hex::encode(key.sign(&message).to_bytes());
        out.line(&Trailer { entries: last, exported_at, signature }).map_err(failed)?;
        out.file.flush().map_err(failed)?;
        drop(out);
        draft.finish().map_err(failed)?;
        self.settled = settled;
        Ok(last)
    }
}

/// The name of a store's record in a directory: a directory may hold those of several.
pub fn file_name(store: StoreId) -> String {
    format!("erasures-{}.jsonl", hex::encode(store.0))
}

fn message(hash: Sha256, entries: u64, exported_at: &str) -> Vec<u8> {
    lp(&[ERASURE_EXPORT, &hash.finalize(), &entries.to_be_bytes(), exported_at.as_bytes()])
}

/// Lines written, counted and hashed.
struct Out {
    file: BufWriter<File>,
    hash: Sha256,
    at: u64,
}

impl Out {
    fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        let mut line = serde_json::to_vec(value).map_err(std::io::Error::other)?;
        line.push(b'\n');
        self.bytes(&line)
    }

    fn copy(&mut self, mut from: impl Read) -> std::io::Result<()> {
        let mut chunk = vec![0; 64 * 1024];
        loop {
            match from.read(&mut chunk)? {
                0 => return Ok(()),
                read => self.bytes(&chunk[..read])?,
            }
        }
    }

    fn bytes(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        self.file.write_all(bytes)
    }
}

/// Lines read, counted and bounded.
struct Lines {
    reader: BufReader<File>,
    number: u64,
}

impl Lines {
    fn next(&mut self, path: &Path) -> Result<Option<Vec<u8>>, RecordError> {
        self.number += 1;
        let mut line = Vec::new();
        let read = self.reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let read = read.map_err(|error| RecordError::Io { path: path.to_owned(), kind: error.kind() })?;
        match (read, line.last()) {
            (0, _) => Ok(None),
            (_, Some(b'\n')) => Ok(Some(line)),
            _ => Err(RecordError::Truncated),
        }
    }

    fn parse<'l, T: Deserialize<'l>>(&self, line: &'l [u8]) -> Result<T, RecordError> {
        serde_json::from_slice(line).map_err(|_| RecordError::Malformed { line: self.number })
    }
}
