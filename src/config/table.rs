//! The table of settings: name, meaning, range, and the field of [`Config`] it fills.
//!
//! Owns: which settings there are and what is allowed in each. Must not know: where texts come from. A setting that is
//! not in this table does not exist; the file, the environment and `oubliette check` are all read off it.

use std::path::PathBuf;
use std::time::Duration;

use super::places;
use super::value::{Rule, Value, in_range};
use super::{Config, Dsn, LeakGuard, OptionalPath, SchemaPolicy};
use crate::telemetry::{LogFormat, LogLevel};

/// One setting.
pub(super) struct Setting {
    /// Name in the file, for example `limits.body_bytes`.
    pub key: &'static str,
    /// The value as text.
    pub get: fn(&Config) -> String,
    /// Parses, checks and stores a text.
    pub set: fn(&mut Config, &str) -> Result<(), Rule>,
}

impl Setting {
    /// Name of the environment variable, for example `OUBLIETTE_LIMITS_BODY_BYTES`.
    pub fn variable(&self) -> String {
        format!("OUBLIETTE_{}", self.key.replace('.', "_").to_uppercase())
    }
}

/// The setting of that name.
pub(super) fn find(key: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.key == key)
}

macro_rules! settings {
    ($($key:literal $type:ty => $($field:ident).+ $(, $range:expr)?;)+) => {
        /// Every setting, in the order of the documentation.
        pub(super) const SETTINGS: &[Setting] = &[$(Setting {
            key: $key,
            get: |config| config.$($field).+.show(),
            set: |config, text| {
                let value = <$type as Value>::parse(text)?;
                $(in_range(&value, &$range)?;)?
                config.$($field).+ = value;
                Ok(())
            },
        },)+];
    };
}

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_mins(1);
const HOUR: Duration = Duration::from_hours(1);
/// Longer than this no ciphertext outlives its keys.
const WEEK: Duration = Duration::from_hours(7 * 24);
/// Longer than this nobody who was forgotten may stay in a backup.
const MONTH: Duration = Duration::from_hours(30 * 24);

settings! {
    "listen" std::net::SocketAddr => listen;
    "data_dir" PathBuf => data_dir;
    "events_dir" PathBuf => events_dir;
    "keys_dir" PathBuf => keys_dir;
    "keyring_dir" PathBuf => keyring_dir;
    "backup_events_dir" PathBuf => backup_events_dir;
    "backup_keys_dir" PathBuf => backup_keys_dir;
    "backup_record_dir" PathBuf => backup_record_dir;
    "events_dsn" Dsn => events_dsn;
    "events_password_file" OptionalPath => events_password_file;
    "events_tls_ca" OptionalPath => events_tls_ca;
    "keys_dsn" Dsn => keys_dsn;
    "keys_password_file" OptionalPath => keys_password_file;
    "keys_tls_ca" OptionalPath => keys_tls_ca;
    "one_database" bool => one_database;
    "dev" bool => dev;
    "schema_policy" SchemaPolicy => schema_policy;
    "leak_guard" LeakGuard => leak_guard;
    "log_format" LogFormat => log_format;
    "log_level" LogLevel => log_level;
    "lease" Duration => lease, SECOND..=Duration::from_secs(30);
    "epoch" Duration => epoch, HOUR..=MONTH;
    "backup_horizon" Duration => backup_horizon, Duration::ZERO..=MONTH;
    "deep_erase_after" Duration => deep_erase_after, Duration::ZERO..=WEEK;
    "key_cache" usize => key_cache, 100..=10_000_000;
    "readers" usize => readers, 1..=64;
    "cache_kib" u32 => cache_kib, 1024..=16 * 1024 * 1024;
    "limits.body_bytes" usize => limits.body_bytes, KIB..=64 * MIB;
    "limits.event_bytes" usize => limits.event_bytes, KIB..=16 * MIB;
    "limits.events_per_append" usize => limits.events_per_append, 1..=10_000;
    "limits.slots_per_event" usize => limits.slots_per_event, 1..=1000;
    "limits.json_depth" usize => limits.json_depth, 4..=100;
    "limits.json_nodes" usize => limits.json_nodes, 100..=1_000_000;
    "limits.json_string" usize => limits.json_string, KIB..=16 * MIB;
    "limits.json_keys" usize => limits.json_keys, 16..=65_536;
    "limits.header_bytes" usize => limits.header_bytes, 8 * KIB..=256 * KIB;
    "limits.headers" usize => limits.headers, 16..=512;
    "limits.uri_bytes" usize => limits.uri_bytes, 512..=64 * KIB;
    "limits.header_timeout" Duration => limits.header_timeout, SECOND..=MINUTE;
    "limits.body_timeout" Duration => limits.body_timeout, SECOND..=HOUR;
    "limits.request_timeout" Duration => limits.request_timeout, SECOND..=HOUR;
    "limits.page_events" usize => limits.page_events, 1..=10_000;
    "limits.page_bytes" usize => limits.page_bytes, 64 * KIB..=64 * MIB;
    "limits.concurrency" usize => limits.concurrency, 1..=65_536;
    "limits.sse_per_principal" usize => limits.sse_per_principal, 1..=10_000;
    "limits.writer_queue" usize => limits.writer_queue, 1..=1_000_000;
    "limits.batch_jobs" usize => limits.batch_jobs, 1..=10_000;
}

/// Settings that do not go together: sizes of which the first has to fit into the second, places that have to be apart, and the
/// bound of backups.
pub(super) fn misfit(config: &Config) -> Option<(&'static str, Rule)> {
    bound(config).or_else(|| places::together(config)).or_else(|| sizes(config))
}

fn bound(config: &Config) -> Option<(&'static str, Rule)> {
    let bound = config.backup_bound();
    let rule = || Rule::Sum { other: "epoch", bound: bound.show(), most: MONTH.show() };
    (bound > MONTH).then(|| ("backup_horizon", rule()))
}

fn sizes(config: &Config) -> Option<(&'static str, Rule)> {
    let limits = &config.limits;
    [
        ("limits.event_bytes", limits.event_bytes, "limits.body_bytes", limits.body_bytes),
        ("limits.event_bytes", limits.event_bytes, "limits.page_bytes", limits.page_bytes),
        ("limits.json_string", limits.json_string, "limits.event_bytes", limits.event_bytes),
        ("limits.batch_jobs", limits.batch_jobs, "limits.writer_queue", limits.writer_queue),
    ]
    .into_iter()
    .find(|(_, inner, _, outer)| inner > outer)
    .map(|(key, _, other, _)| (key, Rule::Exceeds { other }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_allowed_and_round_trips() {
        let defaults = Config::default();
        let mut config = Config::default();
        for setting in SETTINGS {
            let text = (setting.get)(&defaults);
            assert_eq!((setting.set)(&mut config, &text), Ok(()), "{}", setting.key);
        }
        assert_eq!(config, defaults);
        assert_eq!(misfit(&defaults), None);
    }

    #[test]
    fn variables_are_distinct() {
        let mut names: Vec<String> = SETTINGS.iter().map(Setting::variable).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), SETTINGS.len());
    }
}
