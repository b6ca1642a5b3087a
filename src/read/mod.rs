//! Reading: a page of sealed events becomes what this caller may see.
//!
//! Owns: the order of a read (lease, page and fences in one snapshot, keys, access log, rendering) and the decision what
//! each personal value shows. Must not know: HTTP. Keeps invariants 5 (a lease is held before the snapshot is read) and
//! 6 (*erased* comes from a fence only; a key that cannot be had is `unavailable`).

pub mod access;
pub mod open;
pub mod render;
mod roles;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join;

pub use roles::roles;

use crate::clock::Clock;
use crate::event::{Position, Revision, StoreId, SubjectKey, SubjectRef};
use crate::eventlog::{EventLog, Fence, Page, ReadError, ReadQuery, StoredEvent};
use crate::keystore::CachedKeystore;
use crate::keystore::lease::{Lease, Leases};
use crate::keystore::{KeystoreError, Resolved};
use crate::schema::Registry;
use crate::sealing::OpenedSlot;
use crate::sealing::meta::Meta;
use access::{AccessLog, AccessRefused, Viewing};
use open::People;

/// How redacted values are shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Redaction {
    /// A typed placeholder that validates against the schema.
    #[default]
    Typed,
    /// `{"$redacted":{…}}`.
    Marker,
    /// `null`.
    Null,
    /// The member is left out; in an array, `null`.
    Omit,
}

/// For which purposes personal values are shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purposes {
    /// None: everything personal is withheld.
    None,
    /// Every purpose.
    All,
    /// These.
    These(Vec<String>),
}

impl Purposes {
    /// Whether values processed for this purpose are shown.
    pub fn allow(&self, purpose: &str) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::These(list) => list.iter().any(|known| known == purpose),
        }
    }
}

/// Who reads, and how.
#[derive(Clone, Debug)]
pub struct Viewer {
    /// Public id of the API key.
    pub principal: String,
    /// What may be shown.
    pub purposes: Purposes,
    /// How redactions look.
    pub redaction: Redaction,
    /// Whether values whose keys cannot be reached are shown as `unavailable` rather than failing the read.
    pub partial: bool,
    /// The stated reason.
    pub reason: String,
    /// Route template, for the access log.
    pub route: &'static str,
    /// Request id.
    pub request: String,
}

/// Why a value is not shown.
#[derive(Clone, Debug)]
pub enum State {
    /// A fence: erased, expired or restricted.
    Fenced(Arc<Fence>),
    /// Keys cannot be reached.
    Unavailable,
    /// This caller may not.
    Withheld,
}

impl State {
    /// The word in answers.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Fenced(fence) => fence.state.as_str(),
            Self::Unavailable => "unavailable",
            Self::Withheld => "withheld",
        }
    }

    /// Of two states of one value the one that leaves more hope is told, the larger number: what is still somewhere is
    /// not erased.
    pub fn rank(&self) -> u8 {
        match self {
            Self::Unavailable => 4,
            Self::Withheld => 3,
            Self::Fenced(fence) => match fence.state {
                crate::eventlog::FenceState::Restricted => 2,
                crate::eventlog::FenceState::Expired => 1,
                crate::eventlog::FenceState::Erased => 0,
            },
        }
    }
}

/// One event with what could be opened of it.
pub struct Opened<'p> {
    /// As stored.
    pub event: &'p StoredEvent,
    /// Its metadata.
    pub meta: &'p Meta<'p>,
    /// Per slot: the values, or why not, and whose slot decided it.
    pub slots: &'p [Result<OpenedSlot, (State, SubjectRef)>],
}

/// A page that holds opened personal data. The lease must be checked before every write of it.
pub struct Rendered {
    /// One JSON text per event.
    pub events: Vec<RenderedEvent>,
    /// Where the next page begins.
    pub next: Option<u64>,
    /// The log's next position at the time of reading.
    pub head: u64,
    /// Last revision of the stream, for stream reads.
    pub last_revision: Option<Revision>,
    /// Latest erasure epoch in the page, for its `ETag`.
    pub epoch: u64,
    /// Whether anything was unavailable: such a page must not be cached under an `ETag`.
    pub unavailable: bool,
    /// Values shown in clear.
    pub opened: u64,
    /// Values not shown, by state.
    pub redacted: Vec<(&'static str, u64)>,
    /// Held until the last byte has left.
    pub lease: Lease,
}

/// One rendered event.
pub struct RenderedEvent {
    /// Position.
    pub position: Position,
    /// Revision in its stream.
    pub revision: Revision,
    /// Whether it is one of the system's own.
    pub system: bool,
    /// JSON text, a part of what the page's events share.
    pub json: Bytes,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadFailed {
    /// The access log cannot be written: nothing personal is shown.
    #[error(transparent)]
    AccessLog(#[from] AccessRefused),
    /// Keys cannot be reached and the caller did not ask for a partial answer.
    #[error("keys are unavailable")]
    KeysUnavailable(#[from] KeystoreError),
    /// Some keys are neither there nor recorded as destroyed.
    #[error("a key is unknown")]
    KeyUnknown,
    /// The log cannot be read.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The keystore is behind the erasure record: no personal data is served until it has caught up.
    #[error("the erasure record has not been applied to the keystore")]
    ErasureRecordBehind,
}

/// What a [`Reader`] is made of.
#[derive(Clone)]
pub struct Parts {
    /// The log.
    pub log: Arc<dyn EventLog>,
    /// The keys.
    pub keys: Arc<CachedKeystore>,
    /// Leases of answers in flight.
    pub leases: Arc<Leases>,
    /// For placeholders.
    pub registry: Arc<Registry>,
    /// The log of personal reads.
    pub access: Arc<AccessLog>,
    /// Time.
    pub clock: Clock,
    /// Whether the keystore has seen every erasure in the record.
    pub level: Arc<AtomicBool>,
}

/// Reads pages.
#[derive(Clone)]
pub struct Reader {
    parts: Parts,
    store: StoreId,
}

impl Reader {
    /// A reader over these parts.
    pub fn new(parts: Parts, store: StoreId) -> Self {
        Self { parts, store }
    }

    /// The log, for reads that show no event.
    pub fn log(&self) -> &Arc<dyn EventLog> {
        &self.parts.log
    }

    /// Finds the pseudonym of a person still known, by external id or natural key (never by pseudonym);
    /// recorded like any other personal read.
    ///
    /// # Errors
    /// [`ReadFailed`].
    pub async fn lookup(&self, key: SubjectKey, viewer: &Viewer) -> Result<Option<SubjectRef>, ReadFailed> {
        if !self.parts.level.load(Ordering::SeqCst) {
            return Err(ReadFailed::ErasureRecordBehind);
        }
        let found = match key {
            SubjectKey::External(id) => self.parts.keys.resolve(vec![id]).await?,
            SubjectKey::Natural(key) => self.parts.keys.resolve_natural(vec![key]).await?,
            SubjectKey::Ref(_) => return Ok(None),
        };
        let Some(Resolved::Known(subject)) = found.first().copied() else { return Ok(None) };
        // The keystore forgets the id some time after the fence; whoever asks from the fence on is told nothing.
        if self.parts.log.fences(vec![subject]).await?.covering(&subject, "$identity", 0).is_some() {
            return Ok(None);
        }
        let viewing = Viewing { subject, purpose: "$identity", fields: 1 };
        self.parts.access.record(viewer, [viewing], self.parts.clock.now()).await?;
        Ok(Some(subject))
    }

    /// Reads and renders one page.
    ///
    /// # Errors
    /// [`ReadFailed`].
    pub async fn page(&self, query: ReadQuery, viewer: &Viewer) -> Result<Rendered, ReadFailed> {
        if viewer.purposes != Purposes::None && !self.parts.level.load(Ordering::SeqCst) {
            return Err(ReadFailed::ErasureRecordBehind);
        }
        // A forget that fences after this line waits for the lease, one that fenced before it is in the snapshot.
        let lease = self.parts.leases.begin();
        let page = self.parts.log.read(query.clone()).await?;
        let attempt = self.render(&page, viewer, lease).await?;
        if !attempt.missing {
            return Ok(attempt.rendered);
        }
        // A key was gone although the snapshot had no fence for it: the fence may be newer than the snapshot. Only a
        // snapshot that shows the fence may say "erased"; if there is none, the key is unavailable, not erased.
        drop(attempt);
        let lease = self.parts.leases.begin();
        let page = self.parts.log.read(query).await?;
        let attempt = self.render(&page, viewer, lease).await?;
        if attempt.missing && !viewer.partial {
            return Err(ReadFailed::KeyUnknown);
        }
        Ok(attempt.rendered)
    }

    async fn render(&self, page: &Page, viewer: &Viewer, mut lease: Lease) -> Result<Attempt, ReadFailed> {
        let metas = open::metas(page)?;
        let mut plan = open::plan(page, &metas, viewer);
        let keys = match self.parts.keys.fetch(std::mem::take(&mut plan.wanted)).await {
            Ok(fetched) => Some(fetched),
            Err(error) if !viewer.partial => return Err(error.into()),
            Err(_) => None,
        };
        let opened = open::open(self.store, page, &metas, &plan, keys.as_deref());
        let events = opened.events(page, &metas);
        let named = open::named(page, &metas);
        let people = self.external_ids(page, &named, viewer).await?;
        let nameless = people.is_none();
        let people = people.unwrap_or_default();
        let viewings = open::viewings(&opened, &metas, &plan, &named, &people);
        lease.narrow(viewings.clone().map(|viewing| viewing.subject));
        let renderer =
            render::Renderer { registry: &self.parts.registry, redaction: viewer.redaction, people: &people };
        // Nothing leaves before both are done.
        let recorded = self.parts.access.record(viewer, viewings, self.parts.clock.now());
        let (recorded, rendered) = join(recorded, async { renderer.page(&events, &named) }).await;
        recorded?;
        let (events, counts) = rendered?;
        let rendered = Rendered {
            events,
            next: page.next,
            head: page.head,
            last_revision: page.last_revision,
            epoch: page.fences.epoch(),
            unavailable: nameless || counts.redacted.contains_key("unavailable"),
            opened: counts.opened,
            redacted: counts.redacted.into_iter().collect(),
            lease,
        };
        Ok(Attempt { rendered, missing: opened.missing })
    }

    /// External ids of the people who are named in the page, for viewers who may see personal data. A person under a
    /// whole-person fence has none any more. `None` when they cannot be had and the viewer takes a partial answer.
    async fn external_ids(
        &self,
        page: &Page,
        named: &[Option<SubjectRef>],
        viewer: &Viewer,
    ) -> Result<Option<People>, ReadFailed> {
        if viewer.purposes == Purposes::None {
            return Ok(Some(People::default()));
        }
        let fenced = |subject: &SubjectRef| page.fences.covering(subject, "$identity", 0).is_some();
        let mut refs: Vec<SubjectRef> = named.iter().flatten().filter(|subject| !fenced(subject)).copied().collect();
        refs.sort_unstable();
        refs.dedup();
        match self.parts.keys.external_ids(refs.clone()).await {
            Ok(found) => Ok(Some(People::new(refs, found))),
            Err(_) if viewer.partial => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

struct Attempt {
    rendered: Rendered,
    missing: bool,
}
