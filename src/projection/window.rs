//! Windows of time: which ones an event belongs to, and which one answers a query.
//!
//! Owns: the arithmetic of windows. Must not know: rows, aggregates, clocks. Every answer depends only on what the log
//! recorded and on arguments, so that a rebuild puts every event where it was before.

use serde_json::Value;

use super::definition::Window;
use crate::clock::Millis;

/// The years 0000 to 9999 in milliseconds since 1970.
const YEARS: std::ops::RangeInclusive<i64> = -62_167_219_200_000..=253_402_300_799_999;

/// One window: from `start`, inclusive, for `size` milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slice {
    /// Begin, a multiple of the size since 1970-01-01T00:00Z.
    pub start: Millis,
    /// Length in milliseconds.
    pub size: i64,
}

impl Slice {
    /// End, exclusive.
    pub fn end(self) -> Millis {
        Millis(self.start.0.saturating_add(self.size))
    }
}

/// The lengths of windows that are kept, ascending: the size, then the rollups. A query's step must be a multiple of one.
pub fn sizes(window: &Window) -> impl Iterator<Item = i64> {
    std::iter::once(window.size).chain(window.rollup.iter().copied()).filter(|size| *size > 0)
}

/// The windows that a time falls into: one per length that is kept.
pub fn windows(window: &Window, time: Millis) -> Vec<Slice> {
    sizes(window).map(|size| Slice { start: bucket(time, size), size }).collect()
}

/// Whether every window that a time falls into begins at a time that RFC 3339 can show: the begin is in the row's key, as
/// text, and is read back from there.
pub fn can_be_shown(window: &Window, time: Millis) -> bool {
    windows(window, time).iter().all(|slice| YEARS.contains(&slice.start.0))
}

/// Whether an event comes too late to be counted: the log recorded it more than `late` after its own time. It is
/// compared with the event's own record and not with the newest event seen, so that the answer needs no state and is the
/// same in every rebuild. An event from the future is never late.
pub fn is_late(window: &Window, time: Millis, recorded: Millis) -> bool {
    window.late.is_some_and(|late| recorded.0.saturating_sub(time.0) > late)
}

/// Whether a window is to be removed: it ended more than `keep` before `now`. Rollups follow the same rule with their own
/// end, so a longer window outlives the shorter ones in it.
pub fn is_expired(window: &Window, slice: Slice, now: Millis) -> bool {
    window.keep.is_some_and(|keep| now.0.saturating_sub(slice.end().0) > keep)
}

/// The longest windows that a query with this step can be answered from; the fewest rows to merge. `None` when no length
/// divides the step: refused, with [`sizes`] as the steps that are allowed, and their multiples.
pub fn coarsest(window: &Window, step: i64) -> Option<i64> {
    sizes(window).filter(|size| step > 0 && step % size == 0).max()
}

/// Begin of the step that a time, or a window's begin, falls into. Steps count from 1970-01-01T00:00Z in both directions;
/// a step that is not positive leaves the time as it is.
pub fn bucket(time: Millis, step: i64) -> Millis {
    // Only within one step of the earliest number can this saturate; no time that `time_of` lets in is near it.
    if step > 0 { Millis(time.0.saturating_sub(time.0.rem_euclid(step))) } else { time }
}

/// The time that a value says: RFC 3339 text, or whole milliseconds since 1970-01-01T00:00Z. `None` for anything else and
/// outside of the years 0000 to 9999, which RFC 3339 could not show.
pub fn time_of(value: &Value) -> Option<Millis> {
    let time = match value {
        Value::String(text) => Millis::parse_rfc3339(text)?,
        Value::Number(number) => match (number.as_i64(), number.as_f64()) {
            (Some(whole), _) => Millis(whole),
            // `1.7e12` is stored as `1700000000000`: the event must mean the same before and after.
            (None, Some(float)) if float.fract() == 0.0 && float.abs() < 1e15 => Millis(float as i64),
            _ => return None,
        },
        _ => return None,
    };
    YEARS.contains(&time.0).then_some(time)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::expression::{Expression, Root, Scope};
    use proptest::prelude::*;
    use serde_json::json;

    const MINUTE: i64 = 60_000;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24 * HOUR;

    fn window(size: i64, rollup: &[i64]) -> Window {
        let scope = Scope { roots: &[Root::Data], fold: false, bare: false };
        Window {
            by: Expression::compile("data.at", scope).unwrap(),
            size,
            late: Some(2 * HOUR),
            keep: Some(35 * DAY),
            rollup: rollup.to_vec(),
        }
    }

    fn telematics() -> Window {
        window(5 * MINUTE, &[HOUR, DAY, 7 * DAY])
    }

    #[test]
    fn an_event_falls_into_one_window_per_length() {
        let time = time_of(&json!("2026-11-21T10:03:20.5+02:00")).unwrap();
        let starts: Vec<String> = windows(&telematics(), time).iter().map(|slice| slice.start.rfc3339()).collect();
        assert_eq!(
            starts,
            [
                "2026-11-21T08:00:00.000Z",
                "2026-11-21T08:00:00.000Z",
                "2026-11-21T00:00:00.000Z",
                "2026-11-19T00:00:00.000Z"
            ]
        );
        let before = windows(&telematics(), Millis(-1));
        assert_eq!(before[0], Slice { start: Millis(-5 * MINUTE), size: 5 * MINUTE });
        assert_eq!(before[3], Slice { start: Millis(-7 * DAY), size: 7 * DAY });
    }

    #[test]
    fn late_and_expired_begin_after_the_limit() {
        let w = telematics();
        assert!(!is_late(&w, Millis(0), Millis(2 * HOUR)));
        assert!(is_late(&w, Millis(0), Millis(2 * HOUR + 1)));
        assert!(!is_late(&w, Millis(i64::MAX), Millis(i64::MIN)));
        assert!(!is_late(&Window { late: None, ..telematics() }, Millis(i64::MIN), Millis(i64::MAX)));
        let (short, long) = (Slice { start: Millis(0), size: HOUR }, Slice { start: Millis(0), size: DAY });
        assert!(!is_expired(&w, short, Millis(35 * DAY + HOUR)));
        assert!(is_expired(&w, short, Millis(35 * DAY + HOUR + 1)));
        assert!(!is_expired(&w, long, Millis(35 * DAY + HOUR + 1)));
        assert!(!is_expired(&Window { keep: None, ..telematics() }, short, Millis(i64::MAX)));
    }

    #[test]
    fn the_coarsest_length_that_divides_the_step_answers() {
        let w = telematics();
        let expected =
            [(7 * DAY, 7 * DAY), (14 * DAY, 7 * DAY), (30 * DAY, DAY), (6 * HOUR, HOUR), (HOUR / 2, 5 * MINUTE)];
        for (step, size) in expected {
            assert_eq!(coarsest(&w, step), Some(size));
        }
        for step in [7 * MINUTE, MINUTE, 0, -DAY] {
            assert_eq!(coarsest(&w, step), None);
        }
        assert_eq!(sizes(&w).collect::<Vec<_>>(), [5 * MINUTE, HOUR, DAY, 7 * DAY]);
        assert_eq!(bucket(Millis(-1), 7 * DAY), Millis(-7 * DAY));
    }

    #[test]
    fn times_are_text_or_whole_milliseconds() {
        let at = Some(Millis(1_700_000_000_123));
        assert_eq!(time_of(&json!("2023-11-14T22:13:20.123Z")), at);
        assert_eq!(time_of(&json!(1_700_000_000_123_i64)), at);
        assert_eq!(time_of(&json!(1_700_000_000_123.0)), at);
        assert_eq!(time_of(&json!(-1)), Some(Millis(-1)));
        let not = [json!("2023-11-14"), json!("soon"), json!(null), json!(true), json!([1]), json!(1.5), json!(1e300)];
        let beyond =
            [json!(i64::MIN), json!(u64::MAX), json!(253_402_300_800_000_i64), json!("0000-01-01T00:00:00+01:00")];
        for value in not.iter().chain(&beyond) {
            assert_eq!(time_of(value), None);
        }
    }

    proptest! {
        #[test]
        fn windows_partition_time(time in any::<i32>(), by in -10_000_000i64..10_000_000, size in 1i64..5_000_000, times in 1i64..50) {
            let w = window(size, &[size * times]);
            let (one, two) = (i64::from(time), i64::from(time) + by);
            for (a, b) in windows(&w, Millis(one)).into_iter().zip(windows(&w, Millis(two))) {
                prop_assert!(a.start.0 <= one && one < a.end().0);
                prop_assert_eq!(a.start.0 % a.size, 0);
                // Two windows of one length are the same or do not meet.
                prop_assert_eq!(a == b, (a.start.0..a.end().0).contains(&two));
            }
            let slices = windows(&w, Millis(one));
            prop_assert!(slices[1].start <= slices[0].start && slices[0].end() <= slices[1].end());
            // A step's bucket is the same seen from the event and from any window that answers it.
            prop_assert_eq!(bucket(slices[0].start, size * times), bucket(Millis(one), size * times));
        }

        #[test]
        fn no_time_panics(time: i64, size: i64, step: i64, recorded: i64) {
            let w = window(size, &[step]);
            for slice in windows(&w, Millis(time)) {
                is_expired(&w, slice, Millis(recorded));
            }
            is_late(&w, Millis(time), Millis(recorded));
            coarsest(&w, step);
        }
    }
}
