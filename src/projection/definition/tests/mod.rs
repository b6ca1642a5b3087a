//! Definitions, good and bad. `text` needs no expression to be compiled; the others do.

mod good;
mod refused;
mod text;

use super::*;
use crate::schema::Violation;

/// Every problem of a text.
fn problems(text: &str) -> Vec<Violation> {
    Definition::parse(text, Format::Yaml).err().unwrap_or_default()
}

/// Pointers of every problem of a text.
fn pointers(text: &str) -> Vec<String> {
    problems(text).into_iter().map(|violation| violation.pointer).collect()
}

fn parse(text: &str) -> Definition {
    Definition::parse(text, Format::Yaml).unwrap_or_else(|problems| panic!("{text}\n{problems:#?}"))
}
