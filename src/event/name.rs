//! Names, parsed once and valid ever after.
//!
//! Owns: the grammar of stream names, categories, event types, purposes and external ids. Must not know: storage, HTTP.
//! Names of streams and types are never sealed, so they must not be personal (invariant 11); the shape checks live in
//! `schema::lint`, the grammar here already refuses spaces, `@`, `+` and every character outside ASCII.

use std::borrow::Borrow;
use std::sync::{Arc, LazyLock};

use zeroize::Zeroizing;

/// A text that is not a valid name. Never carries the text itself: it could be personal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing where a name is needed.
    #[error("is empty")]
    Empty,
    /// Longer than the limit, in bytes.
    #[error("is longer than {limit} bytes")]
    TooLong {
        /// The limit in bytes.
        limit: usize,
    },
    /// A character outside the grammar.
    #[error("has a character that is not allowed at byte {at}")]
    Character {
        /// Byte offset of the first such character.
        at: usize,
    },
    /// A name reserved for the system.
    #[error("begins with `$`, which is reserved for the system")]
    Reserved,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr, $first:expr, $rest:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The longest allowed name in bytes.
            pub const LIMIT: usize = $limit;

            /// Parses a caller's text.
            ///
            /// # Errors
            /// [`NameError`] says which rule is broken.
            pub fn parse(text: &str) -> Result<Self, NameError> {
                if text.starts_with('$') {
                    return Err(NameError::Reserved);
                }
                Self::parse_any(text)
            }

            /// Parses a text that may also be one of the system's own names, which begin with `$`.
            ///
            /// # Errors
            /// [`NameError`] says which rule is broken.
            pub fn parse_any(text: &str) -> Result<Self, NameError> {
                let own = text.strip_prefix('$').unwrap_or(text);
                check(own, $limit, $first, $rest)?;
                Ok(Self(text.into()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether the name is one of the system's own.
            pub fn is_system(&self) -> bool {
                self.0.starts_with('$')
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// A stream: 1 to 200 bytes of `A-Z a-z 0-9 . _ : ~ -`, beginning with a letter or digit, for example `contact-7`.
    StreamName, 200, |b: u8| b.is_ascii_alphanumeric(),
    |b: u8| b.is_ascii_alphanumeric() || b"._:~-".contains(&b)
);
name!(
    /// The part of a stream name before its first `-`.
    Category, 200, |b: u8| b.is_ascii_alphanumeric(),
    |b: u8| b.is_ascii_alphanumeric() || b"._:~".contains(&b)
);
name!(
    /// An event type: 1 to 128 bytes of `A-Z a-z 0-9 . _ : -`, beginning with a letter, for example `contact-created`.
    EventType, 128, |b: u8| b.is_ascii_alphabetic(),
    |b: u8| b.is_ascii_alphanumeric() || b"._:-".contains(&b)
);
name!(
    /// Why personal data is processed: 1 to 64 bytes of `a-z 0-9 . _ -`, for example `payments`.
    Purpose, 64, |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit(),
    |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b)
);

impl StreamName {
    /// The category: everything before the first `-`, or the whole name.
    pub fn category(&self) -> Category {
        Category(self.0.split('-').next().unwrap_or_default().into())
    }
}

impl Purpose {
    /// The purpose of data for which none was declared: `general`.
    pub fn general() -> Self {
        static GENERAL: LazyLock<Purpose> = LazyLock::new(|| Purpose("general".into()));
        GENERAL.clone()
    }

    /// The system's own purpose under which external ids are sealed in the keystore: `$identity`.
    pub fn identity() -> Self {
        Self("$identity".into())
    }
}

fn check(text: &str, limit: usize, first: fn(u8) -> bool, rest: fn(u8) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong { limit });
    }
    let allowed = |(at, byte): (usize, u8)| if at == 0 { first(byte) } else { rest(byte) };
    match text.bytes().enumerate().find(|&at_byte| !allowed(at_byte)) {
        Some((at, _)) => Err(NameError::Character { at }),
        None => Ok(()),
    }
}

/// The caller's own identifier of a data subject. Personal data: lives only in the keystore, never printed, zeroised when
/// the last holder drops it.
#[derive(Clone, PartialEq, Eq)]
pub struct ExternalId(Arc<Zeroizing<Box<str>>>);

impl ExternalId {
    /// The longest allowed id in bytes.
    pub const LIMIT: usize = 256;

    /// Parses a caller's id: 1 to 256 bytes of UTF-8 without control characters, and not shaped like a pseudonym of
    /// ours (`ds_…`), which would make the two indistinguishable.
    ///
    /// # Errors
    /// [`NameError`] says which rule is broken.
    pub fn parse(text: &str) -> Result<Self, NameError> {
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > Self::LIMIT {
            return Err(NameError::TooLong { limit: Self::LIMIT });
        }
        if text.starts_with("ds_") {
            return Err(NameError::Reserved);
        }
        match text.char_indices().find(|(_, c)| c.is_control()) {
            Some((at, _)) => Err(NameError::Character { at }),
            None => Ok(Self(Arc::new(Zeroizing::new(text.into())))),
        }
    }

    /// The id itself. Callers must neither log nor store it outside the keystore.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::hash::Hash for ExternalId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.expose().hash(state);
    }
}

impl Ord for ExternalId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.expose().cmp(other.expose())
    }
}

impl PartialOrd for ExternalId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Debug for ExternalId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[external id]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_names() {
        assert_eq!(StreamName::parse("contact-7").unwrap().category().as_str(), "contact");
        assert_eq!(StreamName::parse("contact").unwrap().category().as_str(), "contact");
        assert_eq!(StreamName::parse("$erasure-1"), Err(NameError::Reserved));
        assert_eq!(StreamName::parse_any("$erasure-1").unwrap().category().as_str(), "$erasure");
        assert_eq!(StreamName::parse(""), Err(NameError::Empty));
        assert_eq!(StreamName::parse("ada@example.org"), Err(NameError::Character { at: 3 }));
        assert_eq!(StreamName::parse("-x"), Err(NameError::Character { at: 0 }));
        assert_eq!(StreamName::parse(&"x".repeat(201)), Err(NameError::TooLong { limit: 200 }));
    }

    #[test]
    fn external_ids_do_not_print() {
        assert_eq!(format!("{:?}", ExternalId::parse("ada@example.org").unwrap()), "[external id]");
        assert!(ExternalId::parse("ds_00").is_err());
    }
}
