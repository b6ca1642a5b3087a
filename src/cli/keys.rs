//! `oubliette keys`: what is known of the keys of data subjects, which is never the keys.
//!
//! Owns: the call. Must not know: key material.

use super::Context;
use super::client::Call;
use super::failure::Failure;

/// Commands on keys.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Count keys by state, and show epochs
    Status,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    let Command::Status = command;
    let answer = context.client.call(&Call::get("/v1/keys")).await?;
    Ok(context.out.record(&answer)?)
}
