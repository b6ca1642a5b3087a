//! `oubliette verify`: a whole store while its server does not run; certificates and proofs with nothing but files.
//!
//! Owns: reading the files, and what is said of the outcome. Must not know: how anything is checked. What does not hold ends
//! with exit code 7 and says what and where. No network.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::json;

use super::backup::Place;
use super::failure::{Exit, Failure};
use super::input;
use super::output::Output;
use crate::app::restore;
use crate::audit::checkpoint;
use crate::audit::proof::hash;
use crate::clock::Clock;
use crate::erasure::certificate;
use crate::event::SubjectRef;
use crate::merkle::{Hash, verify_consistency};
use crate::verify::{Finding, Options, Report, TreeHead};

/// Findings that are printed; the report counts all.
const SHOWN: usize = 50;

/// Arguments of `verify`.
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Without a subcommand the whole store is checked, while its server does not run: the hash tree, positions, \
                  revisions, commitments, envelopes that can still be opened, and tombstones against the erasure record.\n\
                  The keys are those of GET /.well-known/oubliette-audit-keys, fetched once and kept."
)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    place: Place,
    /// A checkpoint that was kept: the log must begin with it
    #[arg(long, value_name = "FILE", requires = "keys")]
    since: Option<PathBuf>,
    /// The log's verifier keys, one a line, for `--since`
    #[arg(long, value_name = "FILE", requires = "since")]
    keys: Option<PathBuf>,
}

#[derive(clap::Subcommand)]
enum What {
    /// Check an erasure certificate, without a server
    Certificate(OfCertificate),
    /// Check that a log only grew since a checkpoint that was kept, without a server
    Consistency(OfConsistency),
}

#[derive(clap::Args)]
struct OfCertificate {
    /// The certificate, from GET /v1/forget-requests/{id}/certificate
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The log's verifier keys, one a line
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
    /// Also check that it is about this pseudonym
    #[arg(long, value_name = "DS", value_parser = pseudonym)]
    data_subject: Option<SubjectRef>,
}

#[derive(clap::Args)]
struct OfConsistency {
    /// The proof, from GET /v1/audit/proofs/consistency
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The checkpoint that was kept
    #[arg(long, value_name = "FILE")]
    since: PathBuf,
    /// The log's verifier keys, one a line
    #[arg(long, value_name = "FILE")]
    keys: PathBuf,
}

fn pseudonym(text: &str) -> Result<SubjectRef, &'static str> {
    SubjectRef::parse(text).ok_or("is not a pseudonym (ds_…)")
}

/// Runs the command.
pub async fn run(arguments: Arguments, out: &mut Output) -> Result<(), Failure> {
    match &arguments.what {
        None => store(&arguments, out).await,
        Some(What::Certificate(arguments)) => of_certificate(arguments, out),
        Some(What::Consistency(arguments)) => of_consistency(arguments, out),
    }
}

async fn store(arguments: &Arguments, out: &mut Output) -> Result<(), Failure> {
    let mut options = Options::default();
    if let (Some(since), Some(keys)) = (&arguments.since, &arguments.keys) {
        let note = read(since)?;
        let kept = with_any_key(keys, |key| checkpoint::verify(&note, key))?;
        let kept = kept.map_err(|error| unverified(format!("the kept checkpoint does not hold: {error}")))?;
        options.since = Some(TreeHead { size: kept.size, root: kept.root });
    }
    let report = restore::verify(&arguments.place.load()?, &Clock::System, &options).await;
    let Report { events, slots, opened, erased, findings, omitted } =
        report.map_err(|error| Failure::failed(error.to_string()))?;
    let found = findings.len() as u64 + omitted;
    out.record(&json!({"verified": found == 0, "events": events, "slots": slots, "opened": opened, "erased": erased,
        "findings": findings.iter().take(SHOWN).map(sentence).collect::<Vec<_>>(), "found": found}))?;
    if found == 0 { Ok(()) } else { Err(unverified(format!("the store does not verify: {found} findings"))) }
}

fn sentence(finding: &Finding) -> String {
    format!("{}: {}", finding.place, finding.defect)
}

fn of_certificate(arguments: &OfCertificate, out: &mut Output) -> Result<(), Failure> {
    let text = read(&arguments.file)?;
    let checked = with_any_key(&arguments.keys, |key| certificate::verify(&text, key))?;
    let (certificate, checkpoint) = checked.map_err(|error| unverified(error.to_string()))?;
    if let Some(subject) = arguments.data_subject
        && !certificate.is_about(subject)
    {
        return Err(unverified("the certificate is about somebody else"));
    }
    let statement = &certificate.statement;
    out.record(&json!({"verified": true, "request": statement.request, "keys_destroyed": statement.keys.len(),
        "slots_tried": statement.verification.tried, "slots_opened": statement.verification.opened,
        "completed_at": certificate.completed_at(), "backups_effective_due": statement.backups_effective_due,
        "residuals": statement.residuals, "log": checkpoint.origin, "log_size": checkpoint.size}))?;
    Ok(())
}

/// The answer of the server.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Consistency {
    from: u64,
    to: u64,
    hashes: Vec<String>,
    checkpoint: String,
}

fn of_consistency(arguments: &OfConsistency, out: &mut Output) -> Result<(), Failure> {
    let (text, kept) = (read(&arguments.file)?, read(&arguments.since)?);
    let proof: Consistency =
        serde_json::from_str(&text).map_err(|_| unverified("the file is not a consistency proof"))?;
    let hashes: Option<Vec<Hash>> = proof.hashes.iter().map(|text| hash(text)).collect();
    let hashes = hashes.ok_or_else(|| unverified("the file is not a consistency proof"))?;
    let checked = with_any_key(&arguments.keys, |key| {
        Ok::<_, checkpoint::CheckpointError>((
            checkpoint::verify(&kept, key)?,
            checkpoint::verify(&proof.checkpoint, key)?,
        ))
    })?;
    let (old, new) = checked.map_err(|error| unverified(format!("a checkpoint does not hold: {error}")))?;
    if (old.size, new.size) != (proof.from, proof.to) {
        return Err(unverified("the proof is about other sizes than the checkpoints"));
    }
    verify_consistency((old.size, &old.root), (new.size, &new.root), &hashes)
        .map_err(|error| unverified(format!("the log was changed since the kept checkpoint: {error}")))?;
    out.record(&json!({"verified": true, "log": new.origin, "from": old.size, "to": new.size}))?;
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    input::file(&path.display().to_string())
}

/// The first outcome that holds under one of the keys, or what the last one says.
fn with_any_key<T, E>(keys: &Path, check: impl Fn(&str) -> Result<T, E>) -> Result<Result<T, E>, Failure> {
    let keys = read(keys)?;
    let mut outcomes = keys.lines().map(str::trim).filter(|line| !line.is_empty()).map(check);
    let first = outcomes.next().ok_or_else(|| Failure::failed("the file of keys is empty"))?;
    Ok(outcomes.fold(first, Result::or))
}

fn unverified(message: impl Into<String>) -> Failure {
    Failure::Plain { exit: Exit::Unverified, message: format!("verification failed: {}", message.into()) }
}
