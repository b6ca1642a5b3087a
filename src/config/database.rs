//! Settings that name a database server.
//!
//! Owns: connection strings and the files of their passwords. A password is a secret and so no setting: a connection string
//! that has one is refused, and the file that holds it is named instead.

use std::path::PathBuf;

use super::value::{Rule, Value};
use crate::db::postgres::Target;

/// Where a database is; empty for a file of our own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dsn(String);

impl Dsn {
    /// From a text without a password; `None` when it is no such text.
    pub fn new(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }

    /// The text, if a server is named.
    pub fn text(&self) -> Option<&str> {
        (!self.0.is_empty()).then_some(self.0.as_str())
    }
}

impl Value for Dsn {
    fn parse(text: &str) -> Result<Self, Rule> {
        const KIND: &str = "a connection string without a password, such as \"host=/run/postgresql dbname=events\"";
        let fine = text.is_empty() || Target::has_password(text) == Some(false);
        if fine { Ok(Self(text.to_owned())) } else { Err(Rule::Kind { kind: KIND }) }
    }

    fn show(&self) -> String {
        self.0.clone()
    }
}

/// A file, or none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OptionalPath(pub Option<PathBuf>);

impl Value for OptionalPath {
    fn parse(text: &str) -> Result<Self, Rule> {
        Ok(Self((!text.is_empty()).then(|| text.into())))
    }

    fn show(&self) -> String {
        self.0.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_no_settings() {
        for text in ["", "host=/run/postgresql dbname=events", "postgres://oubliette@localhost/events"] {
            assert_eq!(Dsn::parse(text).map(|dsn| dsn.show()), Ok(text.to_owned()));
        }
        for text in ["postgres://oubliette:hunter2@localhost/events", "host=localhost password=hunter2", "?"] {
            assert!(!format!("{:?}", Dsn::parse(text).unwrap_err()).contains("hunter2"));
        }
        assert_eq!(OptionalPath::parse("").unwrap(), OptionalPath::default());
    }
}
