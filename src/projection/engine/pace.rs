//! How hard a shadow works.
//!
//! Owns: the size of its batches and its rests. Nobody waits for a shadow, but those who append share the machine with it:
//! while nobody appends it goes as fast as it can, and the more others append, the smaller its part. Must not know: what
//! a batch does.

use std::time::{Duration, Instant};

use super::batch::MOST_EVENTS;

/// Events of a batch while others append: short enough that nobody waits long behind it, and too few for several threads.
const FEW_EVENTS: usize = 50;
/// Events per second from which on others are busy.
const BUSY: f64 = 100.0;
/// How many times as long as it worked a shadow rests while others are busy.
const REST: u32 = 3;

/// The pace of one generation.
pub struct Pace {
    shadow: bool,
    head: u64,
    since: Instant,
    rest: u32,
}

impl Pace {
    /// The pace of a generation that begins now; only a shadow rests.
    pub fn new(shadow: bool, head: u64, now: Instant) -> Self {
        Self { shadow, head, since: now, rest: 0 }
    }

    /// Events of the next batch.
    pub fn limit(&self) -> usize {
        if self.rest > 0 { FEW_EVENTS } else { MOST_EVENTS }
    }

    /// How many times as long as it worked it is to rest now.
    pub fn rest(&mut self, head: u64, now: Instant) -> u32 {
        let over = now.saturating_duration_since(self.since);
        // A few batches say more than one.
        if self.shadow && over >= Duration::from_millis(50) {
            self.rest = match head.saturating_sub(self.head) as f64 / over.as_secs_f64() {
                rate if rate >= BUSY => REST,
                rate if rate > 0.0 => 1,
                _ => 0,
            };
            (self.head, self.since) = (head, now);
        }
        self.rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_more_others_append_the_longer_it_rests() {
        let mut now = Instant::now();
        let (mut pace, mut live) = (Pace::new(true, 0, now), Pace::new(false, 0, now));
        let mut head = 0;
        for (appended, rest) in [(0, 0), (1, 1), (1, 1), (50, REST), (0, 0)] {
            now += Duration::from_millis(100);
            head += appended;
            assert_eq!(pace.rest(head, now), rest);
            assert_eq!(pace.limit() == MOST_EVENTS, rest == 0);
            assert_eq!((live.rest(head, now), live.limit()), (0, MOST_EVENTS));
        }
        head += 50;
        assert_eq!(pace.rest(head, now + Duration::from_millis(1)), 0, "too soon to say");
    }
}
