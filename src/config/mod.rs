//! The server's settings: one struct of plain values, and where each came from.
//!
//! Owns: names, defaults, ranges and layers of every setting (flags over `OUBLIETTE_*` over the file over defaults), and
//! the advice about unsafe ones. Must not know: how a setting is used. Secrets are never settings; a setting may only
//! name the file that holds one. Keeps invariant 12: every limit has a name here, and an unknown name is refused, since
//! a misspelt limit is no limit.

mod advice;
mod database;
mod layers;
mod places;
mod table;
mod value;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::event::json::JsonLimits;
use crate::telemetry::{LogFormat, LogLevel};

pub use database::{Dsn, OptionalPath};
pub use layers::{ConfigError, ConfigErrors, Env};
pub use value::Rule;

/// Whether events need a registered schema, where their category does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SchemaPolicy {
    /// None is needed.
    Open,
    /// Every event needs one; in-line marks may add to it.
    Registered,
    /// Every event needs one; in-line marks are refused.
    Sealed,
}

/// What happens when something unmarked looks personal, where its category does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LeakGuard {
    /// Nobody looks.
    Off,
    /// The response lists where.
    Warn,
    /// The event is refused.
    Reject,
}

/// Limits of what one caller can send, get, or keep open. Above them the answer is a 4xx or 503, never a crash.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Bytes of a request body (413).
    pub body_bytes: usize,
    /// Bytes of one event (413).
    pub event_bytes: usize,
    /// Events of one append (413).
    pub events_per_append: usize,
    /// Sealed slots of one event: data subjects times purposes (422).
    pub slots_per_event: usize,
    /// Deepest nesting of a JSON text (400).
    pub json_depth: usize,
    /// Values in a JSON text (400).
    pub json_nodes: usize,
    /// Bytes of a string or key in a JSON text (400).
    pub json_string: usize,
    /// Members of an object in a JSON text (400).
    pub json_keys: usize,
    /// Bytes of all request headers (431).
    pub header_bytes: usize,
    /// Number of request headers (431).
    pub headers: usize,
    /// Bytes of the request target (414).
    pub uri_bytes: usize,
    /// Time to send the headers (408).
    pub header_timeout: Duration,
    /// Time to send the body (408).
    pub body_timeout: Duration,
    /// Time for one request, live streams and waits aside.
    pub request_timeout: Duration,
    /// Events of one page.
    pub page_events: usize,
    /// Bytes of one page.
    pub page_bytes: usize,
    /// Requests at work at once (503).
    pub concurrency: usize,
    /// Live streams of one principal (429).
    pub sse_per_principal: usize,
    /// Jobs waiting for the writer (503).
    pub writer_queue: usize,
    /// Jobs in one commit.
    pub batch_jobs: usize,
}

impl Limits {
    /// The JSON limits in the shape the parser takes.
    pub fn json(&self) -> JsonLimits {
        JsonLimits { depth: self.json_depth, nodes: self.json_nodes, string: self.json_string, keys: self.json_keys }
    }
}

impl Default for Limits {
    fn default() -> Self {
        let json = JsonLimits::default();
        Self {
            body_bytes: 1024 * 1024,
            event_bytes: 256 * 1024,
            events_per_append: 500,
            slots_per_event: 64,
            json_depth: json.depth,
            json_nodes: json.nodes,
            json_string: json.string,
            json_keys: json.keys,
            header_bytes: 16 * 1024,
            headers: 64,
            uri_bytes: 8 * 1024,
            header_timeout: Duration::from_secs(5),
            body_timeout: Duration::from_secs(30),
            request_timeout: Duration::from_secs(30),
            page_events: 1000,
            page_bytes: 4 * 1024 * 1024,
            concurrency: 1024,
            sse_per_principal: 20,
            writer_queue: 4096,
            batch_jobs: 512,
        }
    }
}

/// The server's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Address and port the server listens on.
    pub listen: SocketAddr,
    /// Directory that holds the three stores unless they are told to lie elsewhere.
    pub data_dir: PathBuf,
    /// Directory of the event log, `events.db`. Unless set, `events` in the data directory.
    pub events_dir: PathBuf,
    /// Directory of the keystore, `keys.db`. Unless set, `keys` in the data directory.
    pub keys_dir: PathBuf,
    /// Directory of the root keys. Unless set, `keyring` in the data directory.
    pub keyring_dir: PathBuf,
    /// Directory of backups of the event log. Unless set, `backup-events` in the data directory.
    pub backup_events_dir: PathBuf,
    /// Directory of backups of the keystore. Unless set, `backup-keys` in the data directory.
    pub backup_keys_dir: PathBuf,
    /// Directory of the exported erasure record. Unless set, `erasure-record` in the data directory.
    pub backup_record_dir: PathBuf,
    /// PostgreSQL database of the event log and the projections, instead of `events_dir`.
    pub events_dsn: Dsn,
    /// File with the password for `events_dsn`.
    pub events_password_file: OptionalPath,
    /// File with the authorities whose certificate the server of `events_dsn` must have. Needed for another machine.
    pub events_tls_ca: OptionalPath,
    /// PostgreSQL database of the keystore, instead of `keys_dir`.
    pub keys_dsn: Dsn,
    /// File with the password for `keys_dsn`.
    pub keys_password_file: OptionalPath,
    /// File with the authorities whose certificate the server of `keys_dsn` must have. Needed for another machine.
    pub keys_tls_ca: OptionalPath,
    /// Allows event log and keystore in one database: a backup of one then takes both.
    pub one_database: bool,
    /// For trying things out: the API key `dev` may do everything, schemas are optional.
    pub dev: bool,
    /// Whether events need a registered schema. Unless set, `registered`; with `dev`, `open`.
    pub schema_policy: SchemaPolicy,
    /// What happens when something unmarked looks personal.
    pub leak_guard: LeakGuard,
    /// Limits per request and caller.
    pub limits: Limits,
    /// How long an answer may hold personal data it has opened; a forget waits at most this long for it.
    pub lease: Duration,
    /// How often, at most, a new root key begins an epoch, if somebody was forgotten since the last one (E).
    pub epoch: Duration,
    /// How long the root key of an earlier epoch still opens backups of the keystore (K).
    pub backup_horizon: Duration,
    /// How long after an erasure is complete its ciphertext goes too.
    pub deep_erase_after: Duration,
    /// People whose keys are kept in memory.
    pub key_cache: usize,
    /// Read connections of the event log.
    pub readers: usize,
    /// Page cache of each database connection, in KiB.
    pub cache_kib: u32,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Least severe level of log lines.
    pub log_level: LogLevel,
    sources: BTreeMap<&'static str, Source>,
}

/// Where a setting's value comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Built in, or derived from another setting.
    Default,
    /// The configuration file.
    File(PathBuf),
    /// This environment variable.
    Env(String),
    /// This command-line flag.
    Flag(&'static str),
}

impl std::fmt::Display for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Env(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

/// The settings that have a flag; all of them have a variable and a key in the file.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Flags {
    /// Configuration file [env: OUBLIETTE_CONFIG] [default: ./oubliette.toml where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address and port to listen on [env: OUBLIETTE_LISTEN] [default: 127.0.0.1:7017]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// Directory for events, keys and keyring [env: OUBLIETTE_DATA_DIR] [default: ./oubliette-data]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// For trying things out, never for production [env: OUBLIETTE_DEV]
    #[arg(long)]
    pub dev: bool,
    /// Whether events need a schema [env: OUBLIETTE_SCHEMA_POLICY] [default: registered; open with --dev]
    #[arg(long, value_name = "POLICY")]
    pub schema_policy: Option<SchemaPolicy>,
    /// What happens when something unmarked looks personal [env: OUBLIETTE_LEAK_GUARD] [default: warn]
    #[arg(long, value_name = "POLICY")]
    pub leak_guard: Option<LeakGuard>,
    /// How log lines look [env: OUBLIETTE_LOG_FORMAT] [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Least severe level of log lines [env: OUBLIETTE_LOG_LEVEL] [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<LogLevel>,
}

impl Config {
    /// The defaults, with everything below `data_dir`.
    pub fn in_dir(data_dir: &Path) -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7017)),
            data_dir: data_dir.to_owned(),
            events_dir: data_dir.join("events"),
            keys_dir: data_dir.join("keys"),
            keyring_dir: data_dir.join("keyring"),
            backup_events_dir: data_dir.join("backup-events"),
            backup_keys_dir: data_dir.join("backup-keys"),
            backup_record_dir: data_dir.join("erasure-record"),
            events_dsn: Dsn::default(),
            events_password_file: OptionalPath::default(),
            events_tls_ca: OptionalPath::default(),
            keys_dsn: Dsn::default(),
            keys_password_file: OptionalPath::default(),
            keys_tls_ca: OptionalPath::default(),
            one_database: false,
            dev: false,
            schema_policy: SchemaPolicy::Registered,
            leak_guard: LeakGuard::Warn,
            limits: Limits::default(),
            lease: Duration::from_secs(5),
            epoch: Duration::from_hours(24),
            backup_horizon: Duration::from_hours(7 * 24),
            deep_erase_after: Duration::from_hours(24),
            key_cache: 100_000,
            readers: 4,
            cache_kib: 64 * 1024,
            log_format: LogFormat::Text,
            log_level: LogLevel::Info,
            sources: BTreeMap::new(),
        }
    }

    /// The settings of this process: `flags` over `env` over the file over the defaults. Paths that are not absolute
    /// are relative to the working directory, wherever they are written.
    ///
    /// # Errors
    /// [`ConfigErrors`]: everything that is wrong, at once.
    pub fn load(flags: &Flags, env: Env) -> Result<Self, ConfigErrors> {
        layers::load(flags, env)
    }

    /// The event log's file.
    pub fn events_db(&self) -> PathBuf {
        self.events_dir.join("events.db")
    }

    /// The file of projections, beside the event log.
    pub fn projections_db(&self) -> PathBuf {
        self.events_dir.join("projections.db")
    }

    /// The keystore's file.
    pub fn keys_db(&self) -> PathBuf {
        self.keys_dir.join("keys.db")
    }

    /// After this time at most no backup of the keystore opens anything of whoever was forgotten (B = E + K), beside what the
    /// medium of the keyring takes to forget a root key.
    pub fn backup_bound(&self) -> Duration {
        self.epoch + self.backup_horizon
    }

    /// [`Config::backup_bound`] as ISO 8601 text, with its parts.
    pub fn backup_bound_text(&self) -> [String; 3] {
        use value::Value;
        [self.backup_bound().show(), self.epoch.show(), self.backup_horizon.show()]
    }

    /// What is unsafe about these settings on this machine, one sentence each, worst first. Looks at the directories
    /// that exist, changes nothing.
    pub fn unsafe_settings(&self) -> Vec<String> {
        advice::unsafe_settings(self).into_iter().map(|(_, text)| text).collect()
    }

    /// Like [`Config::unsafe_settings`], each with the name of the setting it is about.
    pub fn advice(&self) -> Vec<(&'static str, String)> {
        advice::unsafe_settings(self)
    }

    /// Every setting in the order of the documentation: name, value, source.
    pub fn effective(&self) -> Vec<(String, String, Source)> {
        let source = |key| self.sources.get(key).cloned().unwrap_or(Source::Default);
        table::SETTINGS.iter().map(|s| (s.key.to_owned(), (s.get)(self), source(s.key))).collect()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::in_dir(Path::new("./oubliette-data"))
    }
}
