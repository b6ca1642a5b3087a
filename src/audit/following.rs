//! An event log as seen by a process that is not the only one that decides.
//!
//! Owns: nothing but the order: before an event is handed on, the version of the schema that it was validated against is known
//! here. Otherwise its placeholders could not be shown, and a projection would handle it as if it had no schema.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use tokio::sync::watch;

use super::Decisions;
use crate::clock::Millis;
use crate::event::{Category, Position, StreamName, SubjectRef};
use crate::eventlog::{
    AccessRow, Appended, AuditRow, Batch, CommitError, ErasureRow, EventLog, Fences, FootprintRow, Head, Page,
    ReadError, ReadQuery, Refused, RequestRow, StreamInfo,
};
use crate::merkle::Hash;

/// A log in front of which decisions are followed.
pub struct FollowingLog {
    inner: Arc<dyn EventLog>,
    decisions: Arc<Decisions>,
}

impl FollowingLog {
    /// In front of `inner`, which `decisions` read.
    pub fn new(inner: Arc<dyn EventLog>, decisions: Arc<Decisions>) -> Self {
        Self { inner, decisions }
    }

    async fn known(&self, page: &Page) -> Result<(), ReadError> {
        let strange = |event: &crate::eventlog::StoredEvent| {
            event.schema_version.is_some_and(|version| !self.decisions.knows(event.event_type.as_str(), version))
        };
        // An event of a version that is in no record at all is the verifier's to complain about.
        if page.events.iter().any(strange) && self.decisions.catch_up().await.is_err() {
            return Err(ReadError::Unavailable { reason: "the record of decisions cannot be read" });
        }
        Ok(())
    }
}

impl EventLog for FollowingLog {
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Vec<Result<Appended, Refused>>, CommitError>> {
        self.inner.commit(batch)
    }

    fn read(&self, query: ReadQuery) -> BoxFuture<'_, Result<Page, ReadError>> {
        Box::pin(async move {
            let page = self.inner.read(query).await?;
            self.known(&page).await?;
            Ok(page)
        })
    }

    fn audit_rows(&self, from: Position, limit: usize) -> BoxFuture<'_, Result<Vec<AuditRow>, ReadError>> {
        self.inner.audit_rows(from, limit)
    }

    fn hashes(&self, level: u8, from: u64, count: usize) -> BoxFuture<'_, Result<Vec<(u64, Hash)>, ReadError>> {
        self.inner.hashes(level, from, count)
    }

    fn head(&self) -> BoxFuture<'_, Result<Head, ReadError>> {
        self.inner.head()
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.inner.watch()
    }

    fn stream(&self, name: StreamName) -> BoxFuture<'_, Result<Option<StreamInfo>, ReadError>> {
        self.inner.stream(name)
    }

    fn streams(
        &self,
        after: Option<String>,
        category: Option<Category>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<StreamInfo>, ReadError>> {
        self.inner.streams(after, category, limit)
    }

    fn position_at(&self, time: Millis) -> BoxFuture<'_, Result<Option<Position>, ReadError>> {
        self.inner.position_at(time)
    }

    fn footprint(
        &self,
        subject: SubjectRef,
        after: Option<(Position, i32)>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<FootprintRow>, ReadError>> {
        self.inner.footprint(subject, after, limit)
    }

    fn fences(&self, subjects: Vec<SubjectRef>) -> BoxFuture<'_, Result<Fences, ReadError>> {
        self.inner.fences(subjects)
    }

    fn erasures(&self, after: u64, limit: usize) -> BoxFuture<'_, Result<Vec<ErasureRow>, ReadError>> {
        self.inner.erasures(after, limit)
    }

    fn erasure_of(&self, request: String) -> BoxFuture<'_, Result<Option<ErasureRow>, ReadError>> {
        self.inner.erasure_of(request)
    }

    fn requests(
        &self,
        status: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<RequestRow>, ReadError>> {
        self.inner.requests(status, after, limit)
    }

    fn request_counts(&self) -> BoxFuture<'_, Result<Vec<(String, u64)>, ReadError>> {
        self.inner.request_counts()
    }

    fn access_log(
        &self,
        subject: Option<SubjectRef>,
        before: Option<u64>,
        limit: usize,
    ) -> BoxFuture<'_, Result<Vec<AccessRow>, ReadError>> {
        self.inner.access_log(subject, before, limit)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.inner.close()
    }
}
