//! The nouns of the event log.
//!
//! Owns: ids, positions, revisions, expectations and the parsed names. Must not know: keys, storage, HTTP.

pub mod canonical;
pub mod json;
pub mod name;
pub mod natural;
pub mod pointer;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use serde_json::Value;
use uuid::Uuid;

pub use name::{Category, EventType, ExternalId, NameError, Purpose, StreamName};
pub use natural::{NaturalKey, NaturalKeyError};
pub use pointer::Pointer;

use crate::clock::Millis;

/// Global position in the event log: dense, from 0, in commit order; also the index of the Merkle leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

/// Revision of an event within its stream, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

/// What an append expects of its stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ExpectedRevision {
    /// Nothing: append after whatever is there.
    #[default]
    Any,
    /// The stream has at least one event.
    Exists,
    /// The last event has exactly this revision.
    Exact(Revision),
    /// The stream has no events.
    NoStream,
}

impl ExpectedRevision {
    /// Whether a stream whose last revision is `current` meets the expectation.
    pub fn is_met_by(self, current: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Exists => current.is_some(),
            Self::Exact(revision) => current == Some(revision),
            Self::NoStream => current.is_none(),
        }
    }
}

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// From exactly 16 bytes.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Display::fmt(self, f)
            }
        }
    };
}

id16!(
    /// Identity of one event: a UUID.
    EventId
);
id16!(
    /// Identity of one store, made when it is created.
    StoreId
);
id16!(
    /// Random identity of a stream, of which the name is an alias.
    StreamId
);
id16!(
    /// Pseudonym of a data subject: 128 random bits, written `ds_` and 32 hexadecimal digits.
    SubjectRef
);

impl std::fmt::Display for EventId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
    }
}

impl std::fmt::Display for StoreId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
    }
}

impl std::fmt::Display for StreamId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(&Uuid::from_bytes(self.0).hyphenated(), f)
    }
}

impl EventId {
    /// Appends the written form, which is that of [`std::fmt::Display`].
    pub fn push_to(&self, out: &mut String) {
        out.push_str(Uuid::from_bytes(self.0).hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    }

    /// Parses a UUID in any of its usual written forms.
    pub fn parse(text: &str) -> Option<Self> {
        Uuid::try_parse(text).ok().map(|uuid| Self(uuid.into_bytes()))
    }
}

/// Ids are UUIDv7: the time they were made and 74 random bits, so that indexes grow at their right edge.
pub fn uuid_v7(at: Millis, random: [u8; 10]) -> [u8; 16] {
    let millis = u64::try_from(at.0).unwrap_or(0);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid().into_bytes()
}

impl SubjectRef {
    /// Length of the written form in bytes.
    pub const TEXT_LEN: usize = 35;

    /// Parses `ds_` and 32 lower-case hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let digits: &[u8; 32] = text.strip_prefix("ds_")?.as_bytes().try_into().ok()?;
        let mut bytes = [0; 16];
        let mut seen = 0;
        // Digits are random, so a branch for each would be guessed wrong every other time: all are looked up, and whether
        // one was none is asked once.
        for (byte, pair) in bytes.iter_mut().zip(digits.as_chunks::<2>().0) {
            let [high, low] = pair.map(|digit| HEX[usize::from(digit)]);
            *byte = high << 4 | low;
            seen |= high | low;
        }
        (seen < 16).then_some(Self(bytes))
    }
}

/// Hashes keys that begin with a pseudonym. Its bits are random and nobody chooses them, so they are only brought together.
#[derive(Clone, Copy, Default)]
pub struct SubjectHasher(u64);

impl Hasher for SubjectHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = self.0.rotate_left(21) ^ word;
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// A map whose keys are pseudonyms, or begin with one.
pub type SubjectMap<K, V> = HashMap<K, V, BuildHasherDefault<SubjectHasher>>;

/// Value of each lower-case hexadecimal digit; of any other byte 255.
const HEX: [u8; 256] = {
    let (digits, mut values, mut value) = (b"0123456789abcdef", [u8::MAX; 256], 0);
    while value < digits.len() {
        values[digits[value] as usize] = value as u8;
        value += 1;
    }
    values
};

impl std::fmt::Display for SubjectRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut digits = [0; 32];
        hex::encode_to_slice(self.0, &mut digits).map_err(|_| std::fmt::Error)?;
        write!(f, "ds_{}", std::str::from_utf8(&digits).map_err(|_| std::fmt::Error)?)
    }
}

/// Whom a caller means: by the caller's own id, by a natural key, or by our pseudonym.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SubjectKey {
    /// The caller's own id.
    External(ExternalId),
    /// The values by which the caller recognises the person.
    Natural(NaturalKey),
    /// `ds_…`.
    Ref(SubjectRef),
}

impl SubjectKey {
    /// Parses an id or a pseudonym: a text that begins with `ds_` must be a pseudonym. No text is a natural key.
    ///
    /// # Errors
    /// [`NameError`] when it is neither.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        match SubjectRef::parse(text) {
            Some(subject) => Ok(Self::Ref(subject)),
            None => ExternalId::parse(text).map(Self::External),
        }
    }
}

/// A mark that travels with the event: this place is personal data of that person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlineMark {
    /// Place in `data`.
    pub path: Pointer,
    /// Whose data it is.
    pub subject: SubjectKey,
    /// Why it is processed; empty means `general`.
    pub purposes: Vec<Purpose>,
    /// Kind of data, for example `contact.email`.
    pub category: Option<String>,
    /// What readers see when it is gone.
    pub placeholder: Option<Value>,
}

/// An event as a caller hands it in: clear text, not yet validated, never stored.
#[derive(Clone, Debug)]
pub struct NewEvent {
    /// The caller's id, if any; repeated ids are replays.
    pub id: Option<EventId>,
    /// Event type.
    pub event_type: EventType,
    /// Version of the schema the event was written against; `None` takes the latest.
    pub schema_version: Option<u32>,
    /// The payload.
    pub data: Value,
    /// In-line marks.
    pub marks: Vec<InlineMark>,
    /// Who acts, in the caller's words: `user:u9`, `system:billing`.
    pub actor: Option<String>,
    /// Correlates events of one business transaction.
    pub correlation_id: Option<String>,
    /// The event or command that caused this one.
    pub causation_id: Option<String>,
    /// When it happened, by the caller; the log adds when it was recorded.
    pub time: Option<Millis>,
    /// `CloudEvents` `source`, kept when given.
    pub source: Option<String>,
    /// `CloudEvents` `id`, kept when it is not a UUID.
    pub source_id: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subject_refs_are_written_one_way() {
        let subject = SubjectRef([0x7f; 16]);
        assert_eq!(subject.to_string().len(), SubjectRef::TEXT_LEN);
        assert_eq!(SubjectRef::parse(&subject.to_string()), Some(subject));
        assert_eq!(SubjectRef::parse(&subject.to_string().to_uppercase()), None);
        assert_eq!(SubjectRef::parse("ds_7f"), None);
        let digits = format!("ds_{}", "0123456789abcdef".repeat(2));
        assert_eq!(SubjectRef::parse(&digits).map(|subject| subject.to_string()), Some(digits.clone()));
        for (at, wrong) in
            (3..digits.len()).flat_map(|at| ['/', ':', '`', 'g', 'A', ' ', '\0'].map(|wrong| (at, wrong)))
        {
            let mut text = digits.clone();
            text.replace_range(at..=at, wrong.encode_utf8(&mut [0; 4]));
            assert_eq!(SubjectRef::parse(&text), None, "{wrong:?} at {at}");
        }
    }

    #[test]
    fn expectations() {
        let at = |r| Some(Revision(r));
        assert!(ExpectedRevision::Any.is_met_by(None) && ExpectedRevision::Any.is_met_by(at(3)));
        assert!(ExpectedRevision::NoStream.is_met_by(None) && !ExpectedRevision::NoStream.is_met_by(at(0)));
        assert!(ExpectedRevision::Exists.is_met_by(at(0)) && !ExpectedRevision::Exists.is_met_by(None));
        assert!(ExpectedRevision::Exact(Revision(1)).is_met_by(at(1)));
        assert!(!ExpectedRevision::Exact(Revision(1)).is_met_by(at(2)));
    }
}
