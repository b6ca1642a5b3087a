//! `oubliette serve` and `oubliette check`: the server's process, and a look at its settings.
//!
//! Owns: the order of starting: settings, hardening, log, runtime. Must not know: routes, stores.

use serde_json::json;

use super::failure::Failure;
use super::output::{Column, Output};
use crate::config::{Config, Flags};
use crate::telemetry;

/// Runs the server until it is told to stop.
pub fn run(flags: &Flags) -> Result<(), Failure> {
    let config = load(flags)?;
    // Before anything else: the first key may be read as soon as the runtime runs.
    let unprotected = telemetry::harden();
    telemetry::init(config.log_format, config.log_level);
    for protection in unprotected {
        tracing::warn!(?protection, "the operating system refused a protection of the memory");
    }
    for (setting, text) in config.advice() {
        tracing::warn!(setting, "{text}");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(config)).map_err(|error| Failure::failed(format!("{error:#}")))
}

/// Serves with these settings.
#[allow(clippy::unused_async, reason = "the server is joined here")]
pub async fn serve(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("this build has no server to listen on {}", config.listen)
}

/// Prints the effective settings and what is unsafe about them.
pub fn check(flags: &Flags, out: &mut Output) -> Result<(), Failure> {
    show(&load(flags)?, out)
}

fn load(flags: &Flags) -> Result<Config, Failure> {
    Config::load(flags, std::env::vars_os().collect()).map_err(|errors| Failure::failed(errors.to_string()))
}

fn show(config: &Config, out: &mut Output) -> Result<(), Failure> {
    let advice = config.advice();
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
        show(&config, &mut out).unwrap();
        assert_eq!(data.text().lines().count(), config.effective().len() + 1);
        let dev = data.text().lines().find(|line| line.starts_with("dev ")).unwrap().to_owned();
        assert!(dev.ends_with("default  unsafe"), "{dev}");
        assert!(messages.text().contains("unsafe: dev: dev mode"));
    }
}
