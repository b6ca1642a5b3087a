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
use crate::event::{SubjectMap, SubjectRef};
use crate::eventlog::AccessEntry;

/// Length of a window in milliseconds.
pub const WINDOW_MS: i64 = 60_000;

/// Most open windows. Beyond it no new one is opened: then every read gets an entry of its own.
const MOST_WINDOWS: usize = 100_000;

/// The access log could not be written, so the read must not happen.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the access log cannot be written")]
pub struct AccessRefused(#[from] SubmitError);

/// A read that is about to happen. The same person and purpose may come several times.
#[derive(Clone, Copy, Debug)]
pub struct Viewing<'a> {
    /// Whose data.
    pub subject: SubjectRef,
    /// For which purpose.
    pub purpose: &'a str,
    /// How many values.
    pub fields: u32,
}

/// The access log.
pub struct AccessLog {
    writer: Writer,
    windows: Mutex<Windows>,
}

/// Open windows by principal.
#[derive(Default)]
struct Windows {
    seen: HashMap<String, Seen>,
    /// How many there are.
    open: usize,
}

/// What one principal has seen.
#[derive(Default)]
struct Seen {
    /// The purposes of the windows below, which name them by place.
    purposes: Vec<String>,
    /// Everything about a person in one place: there are many, and most are seen for the same few purposes.
    people: SubjectMap<SubjectRef, Vec<Window>>,
}

#[derive(Clone, Copy)]
struct Window {
    purpose: usize,
    began: Millis,
    /// Values seen after the entry that opened the window.
    later: u32,
    route: &'static str,
}

impl Seen {
    /// Place of a purpose.
    fn purpose(&mut self, name: &str) -> usize {
        self.purposes.iter().position(|known| known == name).unwrap_or_else(|| {
            self.purposes.push(name.to_owned());
            self.purposes.len() - 1
        })
    }

    /// Opens a window, or adds to the one that is open. How many that makes more.
    fn open(&mut self, subject: SubjectRef, window: Window) -> usize {
        let windows = self.people.entry(subject).or_default();
        if let Some(known) = windows.iter_mut().find(|known| known.purpose == window.purpose) {
            known.later = known.later.saturating_add(window.later);
            return 0;
        }
        windows.push(window);
        1
    }
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
    pub async fn record(
        &self,
        viewer: &Viewer,
        viewings: impl IntoIterator<Item = Viewing<'_>>,
        now: Millis,
    ) -> Result<(), AccessRefused> {
        let (mut entries, opening) = self.count(viewer, viewings, now);
        if opening.is_empty() {
            return Ok(());
        }
        entries.extend(opening.iter().map(|viewing| first_entry(viewer, viewing, now)));
        self.writer.record_access(entries).await?;
        // Only now: a window opened before its entry is durable would let another read of the minute leave unlogged.
        let mut windows = self.lock();
        let Windows { seen, open } = &mut *windows;
        let seen = seen.entry(viewer.principal.clone()).or_default();
        for viewing in opening.iter().take(MOST_WINDOWS.saturating_sub(*open)) {
            let purpose = seen.purpose(viewing.purpose);
            *open += seen.open(viewing.subject, Window { purpose, began: now, later: 0, route: viewer.route });
        }
        Ok(())
    }

    /// Writes the counts of windows that are over. Called on a timer and at shutdown.
    ///
    /// # Errors
    /// [`AccessRefused`] when the log cannot be written; the counts are kept for the next call.
    pub async fn flush(&self, now: Millis, all: bool) -> Result<(), AccessRefused> {
        let over = self.close(now, all);
        if over.is_empty() {
            return Ok(());
        }
        let entry = |(principal, purpose, subject, window): &(String, String, SubjectRef, Window)| {
            summary(principal, purpose, *subject, window)
        };
        if let Err(error) = self.writer.record_access(over.iter().map(entry).collect()).await {
            let mut windows = self.lock();
            let Windows { seen, open } = &mut *windows;
            for (principal, purpose, subject, window) in over {
                let seen = seen.entry(principal).or_default();
                let purpose = seen.purpose(&purpose);
                *open += seen.open(subject, Window { purpose, ..window });
            }
            return Err(AccessRefused(error));
        }
        Ok(())
    }

    /// Closes windows; gives those that have something to say.
    fn close(&self, now: Millis, all: bool) -> Vec<(String, String, SubjectRef, Window)> {
        let mut over = Vec::new();
        let mut windows = self.lock();
        let Windows { seen, open } = &mut *windows;
        seen.retain(|principal, Seen { purposes, people }| {
            people.retain(|subject, windows| {
                let done = windows.extract_if(.., |window| all || is_over(window, now)).inspect(|_| *open -= 1);
                let counted = done.filter(|window| window.later > 0);
                over.extend(counted.map(|w| (principal.clone(), purposes[w.purpose].clone(), *subject, w)));
                !windows.is_empty()
            });
            !people.is_empty()
        });
        over
    }

    /// Counts what open windows cover. Gives summaries of windows that are over, and the reads that need an entry: each
    /// person and purpose once.
    fn count<'v>(
        &self,
        viewer: &Viewer,
        viewings: impl IntoIterator<Item = Viewing<'v>>,
        now: Millis,
    ) -> (Vec<AccessEntry>, Vec<Viewing<'v>>) {
        let (mut summaries, mut opening) = (Vec::new(), Vec::<Viewing<'v>>::new());
        let mut windows = self.lock();
        let Windows { seen, open } = &mut *windows;
        let Some(Seen { purposes, people }) = seen.get_mut(&viewer.principal) else {
            drop(windows);
            return (summaries, distinct(viewings.into_iter().collect()));
        };
        for viewing in viewings {
            let named = |window: &Window| purposes[window.purpose] == viewing.purpose;
            let known = people.get_mut(&viewing.subject);
            let known = known.and_then(|known| known.iter().position(named).map(|at| (known, at)));
            match known {
                Some((known, at)) if !is_over(&known[at], now) => {
                    known[at].later = known[at].later.saturating_add(viewing.fields);
                }
                known => {
                    let over = known.map(|(known, at)| known.swap_remove(at)).inspect(|_| *open -= 1);
                    let over = over.filter(|window| window.later > 0);
                    let summed = |window| summary(&viewer.principal, viewing.purpose, viewing.subject, &window);
                    summaries.extend(over.map(summed));
                    opening.push(viewing);
                }
            }
        }
        drop(windows);
        (summaries, distinct(opening))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_over(window: &Window, now: Millis) -> bool {
    now.0 - window.began.0 >= WINDOW_MS
}

/// Each person and purpose once.
fn distinct(mut viewings: Vec<Viewing<'_>>) -> Vec<Viewing<'_>> {
    viewings.sort_unstable_by_key(|viewing| (viewing.subject, viewing.purpose));
    viewings.dedup_by(|again, kept| {
        let same = (again.subject, again.purpose) == (kept.subject, kept.purpose);
        if same {
            kept.fields = kept.fields.saturating_add(again.fields);
        }
        same
    });
    viewings
}

fn first_entry(viewer: &Viewer, viewing: &Viewing<'_>, now: Millis) -> AccessEntry {
    AccessEntry {
        at: now,
        principal: viewer.principal.clone(),
        purpose: viewing.purpose.to_owned(),
        subject: viewing.subject,
        route: viewer.route.into(),
        fields: viewing.fields,
        reason: viewer.reason.clone(),
        request: viewer.request.clone(),
    }
}

/// The entry that says how many more values a window saw.
fn summary(principal: &str, purpose: &str, subject: SubjectRef, window: &Window) -> AccessEntry {
    AccessEntry {
        at: Millis(window.began.0 + WINDOW_MS),
        principal: principal.to_owned(),
        purpose: purpose.to_owned(),
        subject,
        route: window.route.into(),
        fields: window.later,
        reason: "later reads of the same minute".into(),
        request: String::new(),
    }
}
