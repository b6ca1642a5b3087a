//! What the process tells its operators: logs, metrics, and the hardening that keeps memory off the disk.
//!
//! Owns: the subscriber's set-up, the metrics registry with every metric's name, and the process limits against core
//! dumps. Must not know: HTTP, storage, configuration files. Keeps invariant 1 on its side: no label holds a stream, a
//! person, an actor or any other text of a caller, because every label is an enum of ours or a route the server itself
//! declared. See [`NEVER_LOGGED`] for the same rule of log lines.

mod metrics;

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

pub use metrics::{
    ByKeyState, ByProjection, ByRequest, ByRoute, ByShape, ByStatus, ByValueState, ForgetStatus, KeyState, LeakShape,
    Method, Metrics, ValueState,
};

/// What must never stand in a log line, a trace, a metric label or an error, at any level. A reviewer checks a new log
/// statement against this list; the canary scan of the tests checks all of them.
pub const NEVER_LOGGED: &[&str] = &[
    "values of events, marked as personal or not, and parts of them",
    "external ids of data subjects, natural keys, blind-index tags",
    "placeholders that a caller declared (they may quote the value they stand for)",
    "request and response bodies, query strings and headers other than the request id",
    "API keys and their hashes; a key is named by its id",
    "keys, nonces, salts and every other byte of key material or ciphertext",
    "text of SQL statements with their parameters, and file contents",
    "actors, correlation ids and idempotency keys: callers choose them, so they may be personal",
];

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One readable line per event.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The least severe level of our own lines. Libraries never say more than `warn`: some of them log what they handle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// Failures only.
    Error,
    /// And what needs attention.
    Warn,
    /// And what the server does.
    #[default]
    Info,
    /// And how.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    fn directives(self) -> &'static str {
        match self {
            Self::Error => "error,oubliette=error",
            Self::Warn => "warn,oubliette=warn",
            Self::Info => "warn,oubliette=info",
            Self::Debug => "warn,oubliette=debug",
            Self::Trace => "warn,oubliette=trace",
        }
    }
}

/// Sends log lines to standard error. The environment has no say: `RUST_LOG=trace` must not make a library talk.
///
/// Returns `false` when a subscriber was already installed, which then stays.
pub fn init(format: LogFormat, level: LogLevel) -> bool {
    let subscriber =
        tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(EnvFilter::new(level.directives()));
    match format {
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            subscriber.with_ansi(colour).try_init().is_ok()
        }
        LogFormat::Json => subscriber.json().flatten_event(true).try_init().is_ok(),
    }
}

/// Lets a panic say where it happened and nothing else: its message could quote a value.
pub fn quiet_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(|| "?".to_owned(), |at| format!("{}:{}", at.file(), at.line()));
        tracing::error!(place, "the server panicked");
    }));
}

/// A protection the operating system refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unprotected {
    /// The process can still be dumped or attached to (`PR_SET_DUMPABLE`).
    Dumpable,
    /// Core files are still possible (`RLIMIT_CORE`).
    CoreLimit,
}

/// Keeps memory, and with it keys and opened values, out of core files. Returns what failed.
pub fn harden() -> Vec<Unprotected> {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let mut failed = Vec::new();
    // A pipe as core pattern ignores the limit, so not being dumpable is what really counts; the limit is the second lock.
    #[cfg(target_os = "linux")]
    if rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable).is_err() {
        failed.push(Unprotected::Dumpable);
    }
    #[cfg(not(target_os = "linux"))]
    failed.push(Unprotected::Dumpable);
    if setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).is_err() {
        failed.push(Unprotected::CoreLimit);
    }
    failed
}
