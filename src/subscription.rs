//! Following the log: catch up page by page, then live.
//!
//! Owns: the order of frames of one subscriber. Must not know: SSE syntax, HTTP. Pull-driven: a slow subscriber holds no
//! memory here, and one that falls too far behind is told so and let go. Every page is read under its own lease and
//! fences (R12), so a subscriber never gets a value after its erasure returned.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::sync::watch;

use crate::event::{EventType, Position, StreamName};
use crate::eventlog::{Direction, Filter, ReadQuery};
use crate::read::{ReadFailed, Reader, Rendered, RenderedEvent, Viewer};

/// What a subscriber follows.
#[derive(Clone, Debug)]
pub struct Subscription {
    /// One stream, or all.
    pub stream: Option<StreamName>,
    /// First revision or position to deliver.
    pub from: u64,
    /// Which events.
    pub filter: Filter,
    /// Whether the system's own events are delivered as events.
    pub system: bool,
    /// Events per page.
    pub page: usize,
    /// Bytes per page.
    pub page_bytes: usize,
}

/// The next thing to tell a subscriber.
pub enum Frame {
    /// Events, to be written under the page's lease.
    Page(Box<Rendered>),
    /// A person's data is gone from here on: purge copies.
    Erasure(RenderedEvent),
    /// Everything up to here has been delivered; from now on live.
    CaughtUp {
        /// The log's next position.
        head: u64,
    },
    /// Nothing happened for a while.
    Heartbeat,
    /// The subscriber was live and is now more than the limit behind.
    FellBehind,
    /// The log is closing.
    End,
}

/// Events a live subscriber may be behind before it is let go.
pub const MOST_BEHIND: u64 = 50_000;

/// The system event that readers of any category are told of: from its position on, a person's data is gone.
pub const ERASURE_EVENT: &str = "erasure-fenced";

/// One subscriber's place.
pub struct Follower {
    reader: Reader,
    viewer: Viewer,
    subscription: Subscription,
    next: u64,
    erasures: Erasures,
    head: watch::Receiver<u64>,
    live: bool,
    heartbeat: Duration,
}

/// Erasures ahead of the subscriber: events are delivered only up to the next one, so frames come in log order.
struct Erasures {
    /// First position not yet searched.
    next: u64,
    waiting: VecDeque<RenderedEvent>,
}

impl Follower {
    /// A follower at the beginning of its subscription. `position` is where erasures begin to matter to it.
    pub fn new(reader: Reader, viewer: Viewer, subscription: Subscription, position: u64, heartbeat: Duration) -> Self {
        let head = reader.log().watch();
        let next = subscription.from;
        let erasures = Erasures { next: position, waiting: VecDeque::new() };
        Self { reader, viewer, subscription, next, erasures, head, live: false, heartbeat }
    }

    /// Waits for the next frame.
    ///
    /// # Errors
    /// [`ReadFailed`]; the subscriber may come back with its last id.
    pub async fn next(&mut self) -> Result<Frame, ReadFailed> {
        loop {
            let head = *self.head.borrow_and_update();
            if self.live && self.subscription.stream.is_none() && head.saturating_sub(self.next) > MOST_BEHIND {
                return Ok(Frame::FellBehind);
            }
            self.look_for_erasures(head).await?;
            if let Some(until) = self.until() {
                let page = self.reader.page(self.query(until), &self.viewer).await?;
                if !page.events.is_empty() {
                    self.advance(&page);
                    return Ok(Frame::Page(Box::new(page)));
                }
            }
            if let Some(erasure) = self.erasures.waiting.pop_front() {
                if self.subscription.stream.is_none() {
                    self.next = self.next.max(erasure.position.0 + 1);
                }
                return Ok(Frame::Erasure(erasure));
            }
            // The cursor moves over events that the filter left out.
            if self.subscription.stream.is_none() {
                self.next = self.next.max(self.erasures.next);
            }
            if *self.head.borrow() > self.erasures.next {
                continue;
            }
            if !self.live {
                self.live = true;
                return Ok(Frame::CaughtUp { head: self.erasures.next });
            }
            match tokio::time::timeout(self.heartbeat, self.head.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ok(Frame::End),
                Err(_) => return Ok(Frame::Heartbeat),
            }
        }
    }

    /// Searches the log for erasures up to `head`.
    async fn look_for_erasures(&mut self, head: u64) -> Result<(), ReadFailed> {
        if !self.erasures.waiting.is_empty() || self.erasures.next >= head {
            return Ok(());
        }
        let query = ReadQuery {
            stream: None,
            from: Some(self.erasures.next),
            direction: Direction::Forward,
            limit: 100,
            max_bytes: self.subscription.page_bytes,
            until: Some(Position(head - 1)),
            filter: Filter { types: EventType::parse_any(ERASURE_EVENT).into_iter().collect(), ..Filter::default() },
            system: true,
        };
        let page = self.reader.page(query, &self.viewer).await?;
        self.erasures.next = page.next.unwrap_or(head);
        // A caller's own event may have the same type; only the system's streams speak of erasures.
        self.erasures.waiting.extend(page.events.into_iter().filter(|event| event.system));
        Ok(())
    }

    /// Events may be delivered up to here; `None` when an erasure is next.
    fn until(&self) -> Option<Position> {
        let searched = self.erasures.next;
        let limit = self.erasures.waiting.front().map_or(searched, |erasure| erasure.position.0);
        limit.checked_sub(1).map(Position)
    }

    fn advance(&mut self, page: &Rendered) {
        let last = page.events.last();
        self.next = match (page.next, self.subscription.stream.is_some()) {
            (Some(next), _) => next,
            (None, true) => last.map_or(self.next, |event| event.revision.0 + 1),
            (None, false) => last.map_or(self.next, |event| event.position.0 + 1),
        };
    }

    fn query(&self, until: Position) -> ReadQuery {
        ReadQuery {
            stream: self.subscription.stream.clone(),
            from: Some(self.next),
            direction: Direction::Forward,
            limit: self.subscription.page,
            max_bytes: self.subscription.page_bytes,
            until: Some(until),
            filter: self.subscription.filter.clone(),
            system: self.subscription.system,
        }
    }
}
