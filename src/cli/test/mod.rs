//! `oubliette test`: schemas and projections tried on given events.
//!
//! Owns: finding files, running them, the report. Must not know: what a test says (`case`), how a server is started
//! (`throwaway`), how rows are compared (`compare`). Every test has a store of its own, which is gone afterwards.

mod case;
mod compare;
mod throwaway;

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::output::{Format, Output, printable};
use case::Case;

/// Arguments of `test`.
#[derive(clap::Args)]
#[command(after_help = "A test is a YAML document:\n  test: a forgotten contact has no name\n  schemas: schemas/\n  \
                        projections: projections.yaml\n  given:\n    - {stream: contact-7, type: contact-created, data: \
                        {contact_id: p7, name: Ada King}}\n    - {forget: p7}\n  then:\n    - {projection: contacts, rows: \
                        [{name: \"[erased]\"}]}\nPaths in it are relative to its file. The servers listen on loopback \
                        only and leave nothing behind.")]
pub struct Arguments {
    /// Files, or directories with files named *.test.yaml
    #[arg(value_name = "PATH", default_value = ".")]
    paths: Vec<PathBuf>,
}

/// Runs the command; exit code 1 where a test fails.
pub async fn run(arguments: Arguments, out: &mut Output) -> Result<(), Failure> {
    let mut files = Vec::new();
    for path in &arguments.paths {
        find(path, &mut files, true)?;
    }
    if files.is_empty() {
        return Err(Failure::usage("there is no file named *.test.yaml"));
    }
    // Whoever is interrupted cleans up too: what runs is dropped, and with it its directory.
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = every(&files, out) => result,
        _ = terminate.recv() => Err(Failure::failed("interrupted")),
        _ = tokio::signal::ctrl_c() => Err(Failure::failed("interrupted")),
    }
}

async fn every(files: &[PathBuf], out: &mut Output) -> Result<(), Failure> {
    let (mut passed, mut failed) = (0, 0);
    for file in files {
        for case in case::read(file)? {
            let failures = case.run().await?;
            if failures.is_empty() {
                passed += 1;
            } else {
                failed += 1;
            }
            report(file, &case, &failures, out)?;
        }
    }
    out.message(&format!("{passed} passed, {failed} failed"));
    if failed == 0 { Ok(()) } else { Err(Failure::failed(format!("{failed} of {} tests failed", passed + failed))) }
}

fn report(file: &Path, case: &Case, failures: &[String], out: &mut Output) -> Result<(), Failure> {
    let (file, title) = (file.display().to_string(), case.title());
    if out.format() != Format::Table {
        let passed = failures.is_empty();
        return Ok(out.record(&json!({"file": file, "test": title, "passed": passed, "failures": failures}))?);
    }
    let verdict = if failures.is_empty() { "pass" } else { "FAIL" };
    out.line(&printable(&format!("{verdict}  {title}  ({file})")))?;
    for line in failures.iter().flat_map(|failure| failure.lines()) {
        out.line(&printable(&format!("      {line}")))?;
    }
    Ok(())
}

/// A file that is named is taken; in a directory those that say they are tests.
fn find(path: &Path, into: &mut Vec<PathBuf>, named: bool) -> Result<(), Failure> {
    let refused =
        |error: std::io::Error| Failure::usage(format!("{} cannot be read: {}", path.display(), error.kind()));
    if !path.is_dir() {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if named || name.ends_with(".test.yaml") || name.ends_with(".test.yml") {
            into.push(path.to_owned());
        }
        return Ok(());
    }
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path).map_err(refused)? {
        let entry = entry.map_err(refused)?;
        let hidden = entry.file_name().to_string_lossy().starts_with('.');
        // A link could lead back up.
        if !hidden && !entry.file_type().map_err(refused)?.is_symlink() {
            entries.push(entry.path());
        }
    }
    entries.sort();
    entries.iter().try_for_each(|entry| find(entry, into, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_and_files_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.test.yaml", "sub/b.test.yml", "sub/projections.yaml", ".hidden/c.test.yaml"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut found = Vec::new();
        find(dir.path(), &mut found, true).unwrap();
        assert_eq!(found, [dir.path().join("a.test.yaml"), dir.path().join("sub/b.test.yml")]);
        find(&dir.path().join("sub/projections.yaml"), &mut found, true).unwrap();
        assert_eq!(found.len(), 3);
    }
}
