//! `oubliette serve` and `oubliette check`: the server's process, and a look at its settings.
//!
//! Owns: the order of starting: settings, hardening, log, runtime. Must not know: routes, stores.

use std::io::Write;
use std::sync::Arc;

use anyhow::Context;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::failure::Failure;
use super::output::{Column, Output};
use crate::app::{App, FirstStart};
use crate::clock::Clock;
use crate::config::{Config, Flags};
use crate::http;
use crate::telemetry::{self, Metrics};

/// Runs the server until it is told to stop.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    let config = load(flags)?;
    // Before anything else: the first key may be read as soon as the runtime runs.
    let unprotected = telemetry::harden();
    telemetry::init(config.log_format, config.log_level);
    telemetry::quiet_panics();
    for protection in unprotected {
        tracing::warn!(?protection, "the operating system refused a protection of the memory");
    }
    for (setting, text) in config.advice() {
        tracing::warn!(setting, "{text}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config)).map_err(|error| Failure::failed(format!("{error:#}")))
}

/// Serves with these settings until SIGTERM or SIGINT: then no new connections, answers in flight end, the queue is
/// committed, both databases close.
pub async fn serve(config: Config) -> anyhow::Result<()> {
    let clock = Clock::System;
    let metrics = Metrics::new(http::route_templates(), clock.now());
    let (listen, limits) = (config.listen, config.limits.clone());
    let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("cannot listen on {listen}"))?;
    let address = listener.local_addr()?;
    // Before anybody is told that the server runs: whoever stops it at once stops it in order.
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let (app, first) = App::start(config, clock, metrics).await?;
    announce(&app.config, address, &first)?;
    let stopping = Arc::clone(&app);
    let shutdown = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: no new connections");
        stopping.begin_to_stop();
    };
    http::serve::serve(http::router(Arc::clone(&app)), listener, &limits, shutdown).await;
    app.stop().await;
    tracing::info!("stopped");
    Ok(())
}

/// What a person who just typed the command wants to know, once.
fn announce(config: &Config, address: std::net::SocketAddr, first: &FirstStart) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    if !first.created.is_empty() {
        let about = [
            "the event log: ciphertext only, back it up as you like",
            "the keystore: keep it on another volume in production, back it up only for days",
            "the keyring: a third place, never backed up with the other two",
        ];
        writeln!(out, "Created a new store:")?;
        for (place, about) in first.created.iter().zip(about) {
            writeln!(out, "  {place}  {about}")?;
        }
    }
    if let Some(key) = &first.admin_key {
        writeln!(out, "The first administrator's API key, shown this once (only its hash is stored):\n  {key}")?;
        writeln!(out, "With it, issue keys for others: oubliette api-key create --name crm --role writer")?;
    }
    if config.dev {
        let banner = "*** --dev: the API key `dev` may do everything, schemas are optional. Never in production. ***";
        writeln!(out, "\n  {banner}\n")?;
    }
    writeln!(out, "Listening on http://{address} (API documentation: http://{address}/docs)")?;
    if !first.created.is_empty() {
        writeln!(out, "For production: run `oubliette check`, and put TLS in front.")?;
    }
    out.flush()?;
    Ok(())
}

/// Prints the effective settings and what is unsafe about them; of a database server also what it says of itself.
pub fn check(flags: &Flags, out: &mut Output) -> Result<(), Failure> {
    let config = load(flags)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let asked = runtime.block_on(crate::app::examine(&config));
    show(&config, asked, out)
}

fn load(flags: &Flags) -> Result<Config, Failure> {
    Config::load(flags, std::env::vars_os().collect()).map_err(|errors| Failure::failed(errors.to_string()))
}

fn show(config: &Config, asked: Vec<(&'static str, String)>, out: &mut Output) -> Result<(), Failure> {
    let mut advice = config.advice();
    advice.extend(asked);
    let columns = [("SETTING", "/setting"), ("VALUE", "/value"), ("SOURCE", "/source"), ("UNSAFE", "/mark")];
    let mut rows = out.rows(columns.map(|(title, pointer)| Column::new(title, pointer)).into());
    for (setting, value, source) in config.effective() {
        let about: Vec<&str> = advice.iter().filter(|a| a.0 == setting).map(|a| a.1.as_str()).collect();
        let mark = if about.is_empty() { "" } else { "unsafe" };
        rows.push(json!({
            "setting": setting, "value": value, "source": source.to_string(), "mark": mark, "unsafe": about,
        }))?;
    }
    rows.finish()?;
    let [bound, epoch, horizon] = config.backup_bound_text();
    out.message(&format!(
        "backups of the keystore open nothing of whoever was forgotten after {bound} (epoch {epoch} + backup_horizon {horizon})"
    ));
    for (setting, text) in advice {
        out.message(&format!("unsafe: {setting}: {text}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, tests::output};

    #[test]
    fn every_setting_is_shown_and_unsafe_ones_are_marked() {
        let mut config = Config::in_dir(tempfile::tempdir().unwrap().path());
        config.dev = true;
        let (mut out, data, messages) = output(Format::Table);
        show(&config, vec![("events_dsn", "fsync is off".to_owned())], &mut out).unwrap();
        assert_eq!(data.text().lines().count(), config.effective().len() + 1);
        let dev = data.text().lines().find(|line| line.starts_with("dev ")).unwrap().to_owned();
        assert!(dev.ends_with("default  unsafe"), "{dev}");
        assert!(messages.text().contains("unsafe: dev: dev mode"));
        assert!(messages.text().contains("unsafe: events_dsn: fsync is off"));
    }
}
