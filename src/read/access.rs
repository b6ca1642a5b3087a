//! The log of personal reads.
//!
//! Owns: the one-minute windows. The first read of a (principal, purpose, data subject) in a window is durable before
//! its first byte leaves; later ones are counted, and the count is written when the window is over. No values, no
//! external ids. It stands here and not under `audit`, because nothing personal may leave a reader unlogged.

use std::collections::HashMap;
use std::sync::Mutex;

use super::Viewer;
use crate::append::writer::{SubmitError, Writer};
use crate::clock::Millis;
use crate::event::SubjectRef;
use crate::eventlog::AccessEntry;

/// Length of a window in milliseconds.
pub const WINDOW_MS: i64 = 60_000;

/// Most open windows. Beyond it no new one is opened: then every read gets an entry of its own.
const MOST_WINDOWS: usize = 100_000;

/// The access log could not be written, so the read must not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the access log cannot be written")]
pub struct AccessRefused(#[from] SubmitError);

/// A read that is about to happen.
#[derive(Clone, Debug)]
pub struct Viewing {
    /// Whose data.
    pub subject: SubjectRef,
    /// For which purpose.
    pub purpose: String,
    /// How many values.
    pub fields: u32,
}

/// The access log.
pub struct AccessLog {
    writer: Writer,
    windows: Mutex<HashMap<Key, Window>>,
}

#[derive(PartialEq, Eq, Hash, Clone)]
struct Key {
    principal: String,
    purpose: String,
    subject: SubjectRef,
}

#[derive(Clone, Copy)]
struct Window {
    began: Millis,
    /// Values seen after the entry that opened the window.
    later: u32,
    route: &'static str,
}

impl AccessLog {
    /// An access log that writes through the node's writer.
    pub fn new(writer: Writer) -> Self {
        Self { writer, windows: Mutex::default() }
    }

    /// Records reads; returns when every one that needs an entry of its own is durable.
    ///
    /// # Errors
    /// [`AccessRefused`]: the values must not be shown.
    pub async fn record(&self, viewer: &Viewer, viewings: Vec<Viewing>, now: Millis) -> Result<(), AccessRefused> {
        let (mut entries, opening) = self.count(viewer, viewings, now);
        if opening.is_empty() {
            return Ok(());
        }
        entries.extend(opening.iter().map(|(key, fields)| first_entry(viewer, key, *fields, now)));
        self.writer.record_access(entries).await?;
        // Only now: a window opened before its entry is durable would let another read of the minute leave unlogged.
        let mut windows = self.lock();
        for (key, _) in opening {
            if windows.len() < MOST_WINDOWS {
                windows.entry(key).or_insert(Window { began: now, later: 0, route: viewer.route });
            }
        }
        Ok(())
    }

    /// Writes the counts of windows that are over. Called on a timer and at shutdown.
    ///
    /// # Errors
    /// [`AccessRefused`] when the log cannot be written; the counts are kept for the next call.
    pub async fn flush(&self, now: Millis, all: bool) -> Result<(), AccessRefused> {
        let over: Vec<(Key, Window)> = {
            let mut windows = self.lock();
            let done: Vec<Key> = windows
                .iter()
                .filter(|(_, window)| all || now.0 - window.began.0 >= WINDOW_MS)
                .map(|(key, _)| key.clone())
                .collect();
            done.into_iter().filter_map(|key| windows.remove_entry(&key)).collect()
        };
        let entries: Vec<AccessEntry> =
            over.iter().filter(|(_, window)| window.later > 0).map(|(key, window)| summary(key, window)).collect();
        if entries.is_empty() {
            return Ok(());
        }
        if let Err(error) = self.writer.record_access(entries).await {
            let mut windows = self.lock();
            for (key, window) in over {
                let kept = windows.entry(key).or_insert(Window { later: 0, ..window });
                kept.later = kept.later.saturating_add(window.later);
            }
            return Err(AccessRefused(error));
        }
        Ok(())
    }

    /// Counts what open windows cover. Gives summaries of windows that are over, and the reads that need an entry.
    fn count(&self, viewer: &Viewer, viewings: Vec<Viewing>, now: Millis) -> (Vec<AccessEntry>, Vec<(Key, u32)>) {
        let mut windows = self.lock();
        let (mut summaries, mut opening) = (Vec::new(), Vec::new());
        for viewing in viewings {
            let key = Key { principal: viewer.principal.clone(), purpose: viewing.purpose, subject: viewing.subject };
            if let Some(window) = windows.get_mut(&key)
                && now.0 - window.began.0 < WINDOW_MS
            {
                window.later = window.later.saturating_add(viewing.fields);
                continue;
            }
            if let Some((old, window)) = windows.remove_entry(&key)
                && window.later > 0
            {
                summaries.push(summary(&old, &window));
            }
            opening.push((key, viewing.fields));
        }
        (summaries, opening)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Window>> {
        self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn first_entry(viewer: &Viewer, key: &Key, fields: u32, now: Millis) -> AccessEntry {
    AccessEntry {
        at: now,
        principal: key.principal.clone(),
        purpose: key.purpose.clone(),
        subject: key.subject,
        route: viewer.route.into(),
        fields,
        reason: viewer.reason.clone(),
        request: viewer.request.clone(),
    }
}

/// The entry that says how many more values a window saw.
fn summary(key: &Key, window: &Window) -> AccessEntry {
    AccessEntry {
        at: Millis(window.began.0 + WINDOW_MS),
        principal: key.principal.clone(),
        purpose: key.purpose.clone(),
        subject: key.subject,
        route: window.route.into(),
        fields: window.later,
        reason: "later reads of the same minute".into(),
        request: String::new(),
    }
}
