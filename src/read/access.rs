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

/// Open windows by view, then by person: a page has many people but one principal and few purposes, which are so looked
/// up once and not for each person.
type Windows = HashMap<View, HashMap<SubjectRef, Window>>;

#[derive(PartialEq, Eq, Hash, Clone)]
struct View {
    principal: String,
    purpose: String,
}

impl View {
    fn of(viewer: &Viewer, purpose: &str) -> Self {
        Self { principal: viewer.principal.clone(), purpose: purpose.to_owned() }
    }
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
        let mut open: usize = windows.values().map(HashMap::len).sum();
        for one_purpose in opening.chunk_by(|a, b| a.purpose == b.purpose) {
            let people = windows.entry(View::of(viewer, one_purpose[0].purpose)).or_default();
            for viewing in one_purpose.iter().take(MOST_WINDOWS.saturating_sub(open)) {
                people.entry(viewing.subject).or_insert(Window { began: now, later: 0, route: viewer.route });
            }
            open += one_purpose.len();
        }
        Ok(())
    }

    /// Writes the counts of windows that are over. Called on a timer and at shutdown.
    ///
    /// # Errors
    /// [`AccessRefused`] when the log cannot be written; the counts are kept for the next call.
    pub async fn flush(&self, now: Millis, all: bool) -> Result<(), AccessRefused> {
        let mut over: Vec<(View, SubjectRef, Window)> = Vec::new();
        self.lock().retain(|view, people| {
            let done = people.extract_if(|_, window| all || is_over(window, now));
            over.extend(done.map(|(subject, window)| (view.clone(), subject, window)));
            !people.is_empty()
        });
        over.retain(|(_, _, window)| window.later > 0);
        if over.is_empty() {
            return Ok(());
        }
        let entries = over.iter().map(|(view, subject, window)| summary(view, *subject, window)).collect();
        if let Err(error) = self.writer.record_access(entries).await {
            let mut windows = self.lock();
            for (view, subject, window) in over {
                let people = windows.entry(view).or_default();
                let kept = people.entry(subject).or_insert(Window { later: 0, ..window });
                kept.later = kept.later.saturating_add(window.later);
            }
            return Err(AccessRefused(error));
        }
        Ok(())
    }

    /// Counts what open windows cover. Gives summaries of windows that are over, and the reads that need an entry: each
    /// person and purpose once, by purpose.
    fn count<'v>(
        &self,
        viewer: &Viewer,
        viewings: impl IntoIterator<Item = Viewing<'v>>,
        now: Millis,
    ) -> (Vec<AccessEntry>, Vec<Viewing<'v>>) {
        let (mut summaries, mut opening) = (Vec::new(), Vec::<Viewing<'v>>::new());
        let mut windows = self.lock();
        let mut viewings = viewings.into_iter().peekable();
        while let Some(first) = viewings.next() {
            let purpose = first.purpose;
            let view = View::of(viewer, purpose);
            let mut people = windows.get_mut(&view);
            let same = std::iter::from_fn(|| viewings.next_if(|viewing| viewing.purpose == purpose));
            for viewing in std::iter::once(first).chain(same) {
                match people.as_mut().and_then(|people| people.get_mut(&viewing.subject)) {
                    Some(window) if !is_over(window, now) => window.later = window.later.saturating_add(viewing.fields),
                    found => {
                        let counted = found.filter(|window| window.later > 0);
                        summaries.extend(counted.map(|window| summary(&view, viewing.subject, window)));
                        people.as_mut().map(|people| people.remove(&viewing.subject));
                        opening.push(viewing);
                    }
                }
            }
        }
        drop(windows);
        opening.sort_unstable_by_key(|viewing| (viewing.purpose, viewing.subject));
        opening.dedup_by(|again, kept| {
            let same = (again.purpose, again.subject) == (kept.purpose, kept.subject);
            kept.fields = if same { kept.fields.saturating_add(again.fields) } else { kept.fields };
            same
        });
        (summaries, opening)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Windows> {
        self.windows.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

fn is_over(window: &Window, now: Millis) -> bool {
    now.0 - window.began.0 >= WINDOW_MS
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
fn summary(view: &View, subject: SubjectRef, window: &Window) -> AccessEntry {
    AccessEntry {
        at: Millis(window.began.0 + WINDOW_MS),
        principal: view.principal.clone(),
        purpose: view.purpose.clone(),
        subject,
        route: window.route.into(),
        fields: window.later,
        reason: "later reads of the same minute".into(),
        request: String::new(),
    }
}
