//! Durations as ISO 8601 writes them: `PT5M`, `P35D`, `P1DT2H`.
//!
//! Owns: the text form of a fixed number of milliseconds. Must not know: what lasts that long. Years and months are no
//! fixed number of milliseconds and are refused; a day is 24 hours, a week seven days.

use std::fmt::Write;

const SECOND: i64 = 1000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const WEEK: i64 = 7 * DAY;

/// Milliseconds of a duration: `PnW`, or `PnDTnHnMn.nnnS` with at least one part. Units come once and in this order; only
/// seconds may have a fraction, of at most three digits. `None` for any other text and for more than an `i64` holds.
pub fn parse(text: &str) -> Option<i64> {
    let rest = text.strip_prefix('P')?;
    if let Some(weeks) = rest.strip_suffix('W') {
        return number(weeks)?.checked_mul(WEEK);
    }
    let (date, time) = match rest.split_once('T') {
        Some((date, time)) if !time.is_empty() => (date, time),
        None if !rest.is_empty() => (rest, ""),
        _ => return None,
    };
    let days = match date {
        "" => 0,
        date => number(date.strip_suffix('D')?)?.checked_mul(DAY)?,
    };
    let (hours, time) = part(time, 'H', HOUR)?;
    let (minutes, time) = part(time, 'M', MINUTE)?;
    let seconds = match time {
        "" => 0,
        time => seconds(time.strip_suffix('S')?)?,
    };
    days.checked_add(hours)?.checked_add(minutes)?.checked_add(seconds)
}

/// The duration as `PnDTnHnMn.nnnS`, without the parts that are zero; `PT0S` for none at all. What [`parse`] reads back;
/// a negative one, which nothing declares, gets a sign.
pub fn format(millis: i64) -> String {
    let mut out = String::from(if millis < 0 { "-P" } else { "P" });
    let mut rest = millis.unsigned_abs();
    let mut take = |unit: i64| {
        let count = rest / unit.unsigned_abs();
        rest %= unit.unsigned_abs();
        count
    };
    let (days, hours, minutes, seconds, fraction) = (take(DAY), take(HOUR), take(MINUTE), take(SECOND), take(1));
    let push = |out: &mut String, count: u64, unit: char| {
        if count > 0 {
            let _ = write!(out, "{count}{unit}");
        }
    };
    push(&mut out, days, 'D');
    if hours + minutes + seconds + fraction > 0 || millis == 0 {
        out.push('T');
    }
    push(&mut out, hours, 'H');
    push(&mut out, minutes, 'M');
    if fraction > 0 {
        let digits = format!("{fraction:03}");
        let _ = write!(out, "{seconds}.{}S", digits.trim_end_matches('0'));
    } else if seconds > 0 || millis == 0 {
        let _ = write!(out, "{seconds}S");
    }
    out
}

fn number(digits: &str) -> Option<i64> {
    // `parse` alone would take a sign.
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

/// The leading part in this unit, zero when the text begins with another one, and what follows.
fn part(text: &str, unit: char, millis: i64) -> Option<(i64, &str)> {
    match text.split_once(unit) {
        Some((digits, rest)) => Some((number(digits)?.checked_mul(millis)?, rest)),
        None => Some((0, text)),
    }
}

fn seconds(text: &str) -> Option<i64> {
    let Some((whole, fraction)) = text.split_once('.') else { return number(text)?.checked_mul(SECOND) };
    if fraction.is_empty() || fraction.len() > 3 {
        return None;
    }
    let scale = [100, 10, 1][fraction.len() - 1];
    number(whole)?.checked_mul(SECOND)?.checked_add(number(fraction)? * scale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_durations() {
        for (text, millis) in [
            ("PT5M", 5 * MINUTE),
            ("P35D", 35 * DAY),
            ("P1DT2H", DAY + 2 * HOUR),
            ("PT1H30M", 90 * MINUTE),
            ("PT0.25S", 250),
            ("PT0S", 0),
            ("P7D", WEEK),
        ] {
            assert_eq!(parse(text), Some(millis), "{text}");
            assert_eq!(format(millis), *text);
        }
        assert_eq!(parse("P1W"), Some(WEEK));
        assert_eq!(parse("PT90S"), Some(90 * SECOND));
    }

    #[test]
    fn everything_else_is_refused() {
        for text in [
            "",
            "P",
            "PT",
            "P1DT",
            "P1M",
            "P1Y",
            "1D",
            "PT1D",
            "P1H",
            "PT1M1H",
            "PT1H1H",
            "P1W1D",
            "P-1D",
            "-P1D",
            "P+1D",
            "PT1.S",
            "PT.5S",
            "PT1.2345S",
            "PT1.5M",
            "pt5m",
            "PT5m",
            "PT5M ",
            "PTM",
            "P1D1D",
            "P99999999999999999999D",
            "P106751991168D",
            "P106751991167DT24H",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(millis in 0i64..) {
            prop_assert_eq!(parse(&format(millis)), Some(millis));
        }

        #[test]
        fn any_text_has_an_answer(text in "P?[0-9DTHMSW.é-]{0,12}") {
            let _ = parse(&text);
        }
    }
}
