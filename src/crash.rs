//! Named points at which a debug build can be told to die.
//!
//! Owns: the lists of points and the environment variable `OUBLIETTE_CRASH_AT=<point>[:n]` (die at the n-th passage,
//! counted from 1). The process kills itself with SIGKILL, so nothing is flushed, unlocked or unwound: what the crash
//! tests then see is what a power cut leaves to the file system's cache. Release builds compile the points away.

/// Every point, in the order in which an append and then a forget pass them.
pub const POINTS: &[&str] = &[
    "keys.before-commit",
    "keys.after-commit",
    "append.sealed",
    "append.queued",
    "log.before-insert",
    "log.before-commit",
    "log.after-commit",
    "append.before-reply",
    "forget.before-request",
    "forget.after-request",
    "forget.before-fence",
    "forget.after-fence",
    "forget.before-destroy",
    "destroy.before-zero",
    "destroy.zeroed",
    "destroy.before-commit",
    "destroy.after-commit",
    "forget.after-evict",
    "forget.after-release",
    "wash.before-checkpoint",
    "wash.after-checkpoint",
    "wash.overwritten",
    "keyring.before-record",
    "keyring.after-record",
    "forget.before-destroyed-event",
    "forget.after-destroyed-event",
    "forget.after-verify",
    "forget.after-completion",
];

/// The points of a first start, in the order in which it passes them.
pub const START_POINTS: &[&str] =
    &["create.directories", "create.keyring", "create.keystore", "create.log-unnamed", "create.log"];

/// The points of a projection, in the order in which it passes them.
pub const PROJECTION_POINTS: &[&str] = &[
    "projection.before-commit",
    "projection.after-commit",
    "projection.before-erasure",
    "projection.after-emit",
    "projection.before-swap",
    "projection.after-swap",
];

/// The points of an epoch of root keys, in the order in which it passes them.
pub const EPOCH_POINTS: &[&str] = &[
    "epoch.before-root",
    "epoch.root-stored",
    "epoch.before-commit",
    "epoch.after-commit",
    "epoch.before-mark",
    "epoch.after-mark",
    "epoch.before-event",
    "epoch.after-event",
    "epoch.before-destroy",
    "epoch.root-overwritten",
    "epoch.root-removed",
    "epoch.after-destroyed-mark",
];

/// The points of a batch of a deep erase, in the order in which it passes them.
pub const DEEP_POINTS: &[&str] = &["deep.before-batch", "deep.after-batch"];

/// The points of backups and restores, in the order in which they pass them.
pub const BACKUP_POINTS: &[&str] = &[
    "backup.copied",
    "durable.before-rename",
    "durable.after-rename",
    "restore.before-aside",
    "restore.aside",
    "restore.before-import",
    "restore.imported-one",
];

/// Dies here if the environment says so.
#[cfg(debug_assertions)]
pub fn point(name: &'static str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};
    static WANTED: OnceLock<Option<(String, u32)>> = OnceLock::new();
    static PASSED: AtomicU32 = AtomicU32::new(0);
    debug_assert!(
        [POINTS, START_POINTS, PROJECTION_POINTS, EPOCH_POINTS, DEEP_POINTS, BACKUP_POINTS].concat().contains(&name),
        "unlisted crash point {name}"
    );
    let wanted = WANTED.get_or_init(|| {
        let text = std::env::var("OUBLIETTE_CRASH_AT").ok()?;
        let (point, nth) = text.rsplit_once(':').unwrap_or((&text, "1"));
        Some((point.to_owned(), nth.parse().unwrap_or(1)))
    });
    if let Some((point, nth)) = wanted
        && point == name
        && PASSED.fetch_add(1, Ordering::SeqCst) + 1 == *nth
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Nothing in a release build.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn point(_name: &'static str) {}
