//! Natural keys: the values by which a caller recognises a person who has no id of their own.
//!
//! Owns: what may be part of such a key, and the one text that a key has. Must not know: schemas, keystores. The text is
//! personal data: it is zeroised when the last owner drops it, and nothing here prints or serialises it.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use serde_json::Value;
use zeroize::Zeroizing;

use super::canonical::{canonical, push_string};

/// Values that are not a natural key. Never carries one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NaturalKeyError {
    /// No role, or one with too long a name.
    #[error("the role of a natural key has 1 to {} bytes", NaturalKey::ROLE_LIMIT)]
    Role,
    /// No part, or too many.
    #[error("a natural key has 1 to {} parts", NaturalKey::MOST_PARTS)]
    Parts,
    /// A part that is neither a text nor a number nor a truth value.
    #[error("part {index} of the natural key is no string, number or boolean")]
    Part {
        /// Which, from 0.
        index: usize,
    },
    /// Too long altogether.
    #[error("a natural key is longer than {} bytes", NaturalKey::LIMIT)]
    TooLong,
}

/// A person by the values that a caller knows them by: the role, and the canonical JSON of the list of values. Two keys
/// are equal when both are; values are compared as they are, without regard to case, spaces or Unicode forms.
#[derive(Clone, PartialEq, Eq)]
pub struct NaturalKey {
    role: Arc<str>,
    text: Arc<Zeroizing<String>>,
}

impl NaturalKey {
    /// Longest name of a role in bytes.
    pub const ROLE_LIMIT: usize = 128;
    /// Most values.
    pub const MOST_PARTS: usize = 8;
    /// Longest text in bytes.
    pub const LIMIT: usize = 4096;

    /// The key of a role and its values, in the order declared.
    ///
    /// # Errors
    /// [`NaturalKeyError`] says which rule is broken.
    pub fn new(role: &str, parts: &[&Value]) -> Result<Self, NaturalKeyError> {
        if role.is_empty() || role.len() > Self::ROLE_LIMIT {
            return Err(NaturalKeyError::Role);
        }
        if parts.is_empty() || parts.len() > Self::MOST_PARTS {
            return Err(NaturalKeyError::Parts);
        }
        let texts: usize = parts.iter().filter_map(|part| part.as_str()).map(str::len).sum();
        if texts > Self::LIMIT {
            return Err(NaturalKeyError::TooLong);
        }
        // An escaped character takes six bytes at most, a number far less than 64: the text never moves while it grows.
        let mut text = Zeroizing::new(String::with_capacity(6 * texts + 64 * parts.len() + 2));
        for (index, part) in parts.iter().enumerate() {
            text.push(if index == 0 { '[' } else { ',' });
            match part {
                Value::String(value) => push_string(&mut text, value),
                Value::Number(_) | Value::Bool(_) => text.push_str(&canonical(part)),
                Value::Null | Value::Array(_) | Value::Object(_) => return Err(NaturalKeyError::Part { index }),
            }
        }
        text.push(']');
        if text.len() > Self::LIMIT {
            return Err(NaturalKeyError::TooLong);
        }
        Ok(Self { role: role.into(), text: Arc::new(text) })
    }

    /// The role.
    pub fn role(&self) -> &str {
        &self.role
    }

    /// The canonical JSON of the list of values. Callers must neither log nor store it.
    pub fn expose(&self) -> &str {
        &self.text
    }
}

impl Hash for NaturalKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.role.hash(state);
        self.text.as_str().hash(state);
    }
}

impl fmt::Debug for NaturalKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[natural key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key(role: &str, parts: &[Value]) -> Result<NaturalKey, NaturalKeyError> {
        NaturalKey::new(role, &parts.iter().collect::<Vec<_>>())
    }

    #[test]
    fn one_list_of_values_has_one_text() {
        let ada = key("contact", &[json!("a1"), json!("Ada \"K\""), json!(7.0), json!(true)]).unwrap();
        assert_eq!(ada.expose(), r#"["a1","Ada \"K\"",7,true]"#);
        assert_eq!(ada, key("contact", &[json!("a1"), json!("Ada \"K\""), json!(7), json!(true)]).unwrap());
        assert_ne!(ada, key("other", &[json!("a1"), json!("Ada \"K\""), json!(7), json!(true)]).unwrap());
        assert_ne!(key("c", &[json!("1")]), key("c", &[json!(1)]));
        assert_ne!(key("c", &[json!("a"), json!("b")]), key("c", &[json!("a\",\"b")]));
    }

    #[test]
    fn what_is_no_natural_key() {
        assert_eq!(key("", &[json!("a")]), Err(NaturalKeyError::Role));
        assert_eq!(key("c", &[]), Err(NaturalKeyError::Parts));
        assert_eq!(key("c", &vec![json!("a"); 9]), Err(NaturalKeyError::Parts));
        assert_eq!(key("c", &[json!("a"), json!(null)]), Err(NaturalKeyError::Part { index: 1 }));
        assert_eq!(key("c", &[json!(["a"])]), Err(NaturalKeyError::Part { index: 0 }));
        assert_eq!(key("c", &[json!("x".repeat(4096))]), Err(NaturalKeyError::TooLong));
        assert!(key("c", &[json!("x".repeat(4092))]).is_ok());
    }

    #[test]
    fn natural_keys_do_not_print() {
        assert_eq!(format!("{:?}", key("c", &[json!("Ada King")]).unwrap()), "[natural key]");
    }
}
