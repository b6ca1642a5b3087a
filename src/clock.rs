//! Time as an argument.
//!
//! Owns: the only calls to the system's clocks. Must not know: what the time is used for. No safety property rests on
//! the wall clock: order comes from positions, and leases are counted on a clock that nobody sets and that goes on while
//! the machine is suspended.

use std::ops::Add;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};

/// Milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millis(pub i64);

impl Millis {
    /// RFC 3339 with milliseconds and `Z`, for example `2026-11-21T10:00:03.120Z`.
    pub fn rfc3339(self) -> String {
        DateTime::<Utc>::from_timestamp_millis(self.0)
            .unwrap_or(DateTime::<Utc>::MIN_UTC)
            .to_rfc3339_opts(SecondsFormat::Millis, true)
    }

    /// Parses an RFC 3339 time. `None` when it is not one.
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|time| Self(time.timestamp_millis()))
    }
}

/// A clock: the system's, or one that tests move by hand.
#[derive(Clone)]
pub enum Clock {
    /// The operating system's wall clock.
    System,
    /// A clock that stands until it is moved.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A manual clock that starts at `at`.
    pub fn manual(at: Millis) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(at.0)))
    }

    /// The present time.
    #[allow(clippy::disallowed_methods, reason = "the one place that may ask the system")]
    pub fn now(&self) -> Millis {
        match self {
            Self::System => Millis(Utc::now().timestamp_millis()),
            Self::Manual(at) => Millis(at.load(Ordering::SeqCst)),
        }
    }

    /// Moves a manual clock by `by` milliseconds; the system's clock stays as it is.
    pub fn advance(&self, by: i64) {
        if let Self::Manual(at) = self {
            at.fetch_add(by, Ordering::SeqCst);
        }
    }
}

/// A moment on the clock that leases are counted on: time since the machine was started, including suspension
/// (`CLOCK_BOOTTIME`; Rust's `Instant` stops while a machine is suspended). Never compared between machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Boottime(Duration);

impl Boottime {
    /// Before every other moment.
    pub const ZERO: Self = Self(Duration::ZERO);
    /// After every other moment.
    pub const NEVER: Self = Self(Duration::MAX);

    /// The present moment.
    pub fn now() -> Self {
        #[cfg(target_os = "linux")]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Boottime;
        #[cfg(not(target_os = "linux"))]
        const ID: rustix::time::ClockId = rustix::time::ClockId::Monotonic;
        let now = rustix::time::clock_gettime(ID);
        Self(Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32))
    }

    /// A moment from a distance to the clock's beginning, for models and tests.
    pub const fn at(since_start: Duration) -> Self {
        Self(since_start)
    }

    /// How long it is since an earlier moment; zero when it is not earlier.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// How long it is until a later moment; zero when it is not later.
    pub fn until(self, later: Self) -> Duration {
        later.since(self)
    }
}

impl Add<Duration> for Boottime {
    type Output = Self;

    fn add(self, more: Duration) -> Self {
        Self(self.0.saturating_add(more))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_round_trip() {
        let at = Millis(1_700_000_000_123);
        assert_eq!(at.rfc3339(), "2023-11-14T22:13:20.123Z");
        assert_eq!(Millis::parse_rfc3339(&at.rfc3339()), Some(at));
        assert_eq!(Millis::parse_rfc3339("yesterday"), None);
    }

    #[test]
    fn manual_clock_moves_only_by_hand() {
        let clock = Clock::manual(Millis(5));
        clock.advance(10);
        assert_eq!(clock.now(), Millis(15));
    }

    #[test]
    fn the_clock_of_leases_moves_forward() {
        let one = Boottime::now();
        std::thread::sleep(Duration::from_millis(2));
        let two = Boottime::now();
        assert!(two.since(one) >= Duration::from_millis(2) && one.since(two) == Duration::ZERO);
        assert_eq!((one + Duration::from_secs(5)).since(one), Duration::from_secs(5));
        assert!(Boottime::NEVER + Duration::from_secs(1) == Boottime::NEVER && Boottime::ZERO < one);
    }
}
