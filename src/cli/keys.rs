//! `oubliette keys`: what is known of the keys of data subjects, which is never the keys, and new epochs of root keys.
//!
//! Owns: the calls, and showing how far an epoch is. Must not know: key material.

use std::time::Duration;

use serde_json::Value;

use super::Context;
use super::client::Call;
use super::failure::Failure;

/// How long a rotation is watched; it goes on without anybody watching.
const PATIENCE: Duration = Duration::from_mins(5);
/// How often it is looked at.
const LOOK: Duration = Duration::from_millis(300);

/// Commands on keys.
#[derive(clap::Subcommand)]
pub enum Command {
    /// Count keys by state, and show epochs: their states, dates, and when backups forget
    Status,
    /// Begin a new epoch of root keys, and show how far it is
    Rotate,
}

/// Runs the command.
pub async fn run(command: Command, context: &mut Context) -> Result<(), Failure> {
    match command {
        Command::Status => {
            let answer = context.client.call(&Call::get("/v1/keys")).await?;
            Ok(context.out.record(&answer)?)
        }
        Command::Rotate => rotate(context).await,
    }
}

async fn rotate(context: &mut Context) -> Result<(), Failure> {
    let mut answer = context.client.call(&Call::post_nothing("/v1/keys/rotations")).await?;
    let epoch = answer.get("epoch").and_then(Value::as_u64);
    let epoch = epoch.ok_or_else(|| Failure::failed("the server's answer names no epoch"))?;
    let mut shown = false;
    // Ctrl-C leaves the server to it: the epoch has begun, durably.
    let watched = tokio::time::timeout(PATIENCE, async {
        while !is_finished(&answer) {
            shown |= context.out.progress(&progress(epoch, &answer));
            tokio::time::sleep(LOOK).await;
            answer = context.client.call(&Call::get(format!("/v1/keys/rotations/{epoch}"))).await?;
        }
        Ok::<(), Failure>(())
    });
    let watched = watched.await;
    if shown {
        context.out.progress_done();
    }
    if let Ok(Err(failure)) = watched {
        context.out.message(&format!("epoch {epoch} has begun and goes on"));
        return Err(failure);
    }
    context.out.record(&answer)?;
    if is_finished(&answer) {
        return Ok(());
    }
    Err(Failure::unavailable(format!(
        "epoch {epoch} is still at work after 5 min; look again with: oubliette keys status"
    )))
}

fn is_finished(rotation: &Value) -> bool {
    rotation.get("status").and_then(Value::as_str) == Some("finished")
}

fn progress(epoch: u64, rotation: &Value) -> String {
    let number = |pointer: &str| rotation.pointer(pointer).and_then(Value::as_u64).unwrap_or_default();
    let done = number("/shards/rekeyed") + number("/shards/rewrapped");
    format!("epoch {epoch}: {done} of {} shards, {} keys", done + number("/shards/left"), number("/keys/rewrapped"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn progress_counts_shards_done_and_left() {
        let rotation = json!({"status": "running", "shards": {"left": 6, "rekeyed": 1, "rewrapped": 3},
            "keys": {"rewrapped": 40}});
        assert_eq!(progress(2, &rotation), "epoch 2: 4 of 10 shards, 40 keys");
        assert!(!is_finished(&rotation) && is_finished(&json!({"status": "finished"})));
    }
}
