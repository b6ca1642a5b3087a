//! What a command is given to read: a literal, a file, or standard input.
//!
//! Owns: the `-` and `@file` conventions and the size limit. Must not know: what is read.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::Value;

use super::failure::Failure;

/// Bytes of the largest input taken into memory.
const LIMIT: u64 = 64 * 1024 * 1024;

/// A literal, `@file`, or `-` for standard input.
pub fn literal_or_file(argument: &str) -> Result<String, Failure> {
    match argument.strip_prefix('@') {
        Some(path) => file(path),
        None if argument == "-" => file("-"),
        None => Ok(argument.to_owned()),
    }
}

/// A path, or `-` for standard input.
pub fn file(path: &str) -> Result<String, Failure> {
    let describe = |error: &std::io::Error| {
        let name = if path == "-" { "standard input" } else { path };
        Failure::usage(format!("{name} cannot be read: {}", error.kind()))
    };
    let text = if path == "-" {
        limited(std::io::stdin().lock())
    } else {
        std::fs::File::open(Path::new(path)).and_then(limited)
    };
    text.map_err(|error| describe(&error))
}

/// Parses a JSON text; `what` names it in the message, which never repeats the text.
pub fn json(text: &str, what: &str) -> Result<Value, Failure> {
    serde_json::from_str(text).map_err(|error| {
        Failure::usage(format!("{what} is not JSON (line {}, column {})", error.line(), error.column()))
    })
}

/// The next line that a person types, without its end; empty at the end of the input.
pub fn typed_line() -> Result<String, Failure> {
    std::io::stderr().flush()?;
    let mut line = String::new();
    std::io::stdin().read_line(&mut line)?;
    Ok(line.trim().to_owned())
}

fn limited(reader: impl Read) -> std::io::Result<String> {
    let mut text = String::new();
    let read = reader.take(LIMIT + 1).read_to_string(&mut text)?;
    if read as u64 > LIMIT { Err(std::io::ErrorKind::FileTooLarge.into()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_and_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.json");
        std::fs::write(&path, "{\"a\":1}").unwrap();
        assert_eq!(literal_or_file("{}").unwrap(), "{}");
        assert_eq!(literal_or_file(&format!("@{}", path.display())).unwrap(), "{\"a\":1}");
        assert!(literal_or_file("@/nowhere/at/all").is_err());
    }

    #[test]
    fn a_parse_error_repeats_nothing() {
        let error = json("{\"name\": Ada}", "--data").unwrap_err();
        assert!(!error.to_string().contains("Ada"));
    }
}
