//! When an answer is due: Art. 12(3) GDPR, one month from receipt, counted by Regulation (EEC, Euratom) 1182/71.
//!
//! The period ends with the day of the next month that has the date of receipt, or with the last day of that month if
//! there is no such date; a Saturday or Sunday moves it to the next Monday. Public holidays differ by country and are
//! not counted, which never makes the deadline later than the law does.

use chrono::{DateTime, Datelike, Days, Months, NaiveTime, Utc, Weekday};

use crate::clock::Millis;

/// The last moment of the last day: the time of day of the receipt is kept, so that the deadline is never late.
pub fn due(received: Millis) -> Millis {
    let at = DateTime::<Utc>::from_timestamp_millis(received.0).unwrap_or(DateTime::<Utc>::MIN_UTC);
    let end = at.checked_add_months(Months::new(1)).unwrap_or(at);
    let days = match end.weekday() {
        Weekday::Sat => 2,
        Weekday::Sun => 1,
        _ => 0,
    };
    let moved = end.checked_add_days(Days::new(days)).unwrap_or(end);
    let moved = if days > 0 { moved.with_time(NaiveTime::MIN).single().unwrap_or(moved) } else { moved };
    Millis(moved.timestamp_millis())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regulation_1182_71() {
        let date = |text: &str| Millis::parse_rfc3339(&format!("{text}T10:00:00Z")).unwrap();
        for (received, end) in [
            ("2026-03-05", "2026-04-06"), // 5 April 2026 is a Sunday
            ("2027-03-05", "2027-04-05"),
            ("2026-08-31", "2026-09-30"),
            ("2028-01-31", "2028-02-29"),
            ("2027-01-31", "2027-03-01"), // 28 February 2027 is a Sunday
            ("2026-11-21", "2026-12-21"),
        ] {
            assert_eq!(&due(date(received)).rfc3339()[..10], end, "{received}");
        }
    }
}
