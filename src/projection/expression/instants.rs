//! Functions of days and instants.
//!
//! Owns: `date`, `latest`, `earliest`, `local`. A day is an instant too: its beginning in UTC. Texts stay texts: an
//! answer is one of the arguments, or a text in the form that columns of dates and timestamps hold. Must not know: the
//! present time.

#![allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "the interpreter fixes the signature")]

use cel::ExecutionError;
use cel::common::types::{CelNull, CelString, CelTimestamp};
use cel::common::value::{CowVal, Val};
use chrono::{DateTime, Datelike, Duration, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, TimeZone, Utc};
use chrono_tz::Tz;

use super::functions::{is_null, text_value, wrong_types};

/// Minutes that a zone may skip at once: Samoa skipped a whole day.
const LONGEST_GAP: i64 = 26 * 60;

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// `date(x)`.
pub(super) fn date<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    match args.as_slice() {
        [null] if is_null(null.as_ref()) => Ok(CowVal::owned(CelNull)),
        [value] => Ok(text_value(day("date", value.as_ref(), &args)?.format("%Y-%m-%d").to_string())),
        _ => Err(wrong_types("date", &args)),
    }
}

/// `latest(a, b)`.
pub(super) fn latest<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    choose("latest", args, |a, b| a >= b)
}

/// `earliest(a, b)`.
pub(super) fn earliest<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    choose("earliest", args, |a, b| a <= b)
}

/// `local(day, 'HH:MM', zone)`.
pub(super) fn local<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    if args.iter().any(|value| is_null(value.as_ref())) {
        return Ok(CowVal::owned(CelNull));
    }
    let [on, time, zone] = args.as_slice() else { return Err(wrong_types("local", &args)) };
    let (Some(time), Some(zone)) = (time.downcast_ref::<CelString>(), zone.downcast_ref::<CelString>()) else {
        return Err(wrong_types("local", &args));
    };
    let on = day("local", on.as_ref(), &args)?;
    let time = time_of_day(time.inner()).ok_or_else(|| impossible("local"))?;
    let zone: Tz = zone.inner().parse().map_err(|_| impossible("local"))?;
    let at = instant_of(on.and_time(time), zone).ok_or_else(|| impossible("local"))?;
    Ok(text_value(at.to_rfc3339_opts(SecondsFormat::Secs, true)))
}

/// The error of an argument that means nothing. It does not say what the argument was.
fn impossible(function: &str) -> ExecutionError {
    ExecutionError::function_error(function, "")
}

fn choose<'b, 'v>(
    name: &str,
    args: Args<'b, 'v>,
    first: impl Fn(DateTime<Utc>, DateTime<Utc>) -> bool,
) -> Answer<'b, 'v> {
    let [a, b] = args.as_slice() else { return Err(wrong_types(name, &args)) };
    let known = |value: &CowVal<'b, 'v>| {
        if is_null(value.as_ref()) { Ok(None) } else { instant(name, value.as_ref(), &args).map(Some) }
    };
    let index = match (known(a)?, known(b)?) {
        (Some(a), Some(b)) => usize::from(!first(a, b)),
        (None, _) => 1,
        (Some(_), None) => 0,
    };
    args.into_iter().nth(index).ok_or(ExecutionError::MissingArgumentOrTarget)
}

/// The instant of a timestamp, an RFC 3339 text or a date.
fn instant(name: &str, value: &(dyn Val + '_), args: &[CowVal<'_, '_>]) -> Result<DateTime<Utc>, ExecutionError> {
    if let Some(at) = value.downcast_ref::<CelTimestamp>() {
        return Ok(at.inner().with_timezone(&Utc));
    }
    let text = value.downcast_ref::<CelString>().ok_or_else(|| wrong_types(name, args))?.inner();
    let at = match parse_day(text) {
        Some(day) => Some(day.and_time(NaiveTime::MIN).and_utc()),
        None => DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc)),
    };
    at.filter(|at| (1..=9999).contains(&at.year())).ok_or_else(|| impossible(name))
}

fn day(name: &str, value: &(dyn Val + '_), args: &[CowVal<'_, '_>]) -> Result<NaiveDate, ExecutionError> {
    instant(name, value, args).map(|at| at.date_naive())
}

/// `2026-11-21` and nothing else.
fn parse_day(text: &str) -> Option<NaiveDate> {
    let shape = |(n, byte): (usize, u8)| if n == 4 || n == 7 { byte == b'-' } else { byte.is_ascii_digit() };
    (text.len() == 10 && text.bytes().enumerate().all(shape)).then(|| text.parse().ok())?
}

/// `07:00` or `07:00:30`.
fn time_of_day(text: &str) -> Option<NaiveTime> {
    let shape = |(n, byte): (usize, u8)| if n % 3 == 2 { byte == b':' } else { byte.is_ascii_digit() };
    if !text.bytes().enumerate().all(shape) {
        return None;
    }
    let part = |n: usize| text.get(n..n + 2).and_then(|part| part.parse::<u32>().ok());
    match text.len() {
        5 => NaiveTime::from_hms_opt(part(0)?, part(3)?, 0),
        8 => NaiveTime::from_hms_opt(part(0)?, part(3)?, part(6)?),
        _ => None,
    }
}

/// The instant that clocks in a zone show a time: the first of two, and the end of the gap for a time they skip.
fn instant_of(local: NaiveDateTime, zone: Tz) -> Option<DateTime<Utc>> {
    let shown = |local: NaiveDateTime| zone.from_local_datetime(&local).earliest();
    if let Some(at) = shown(local) {
        return Some(at.with_timezone(&Utc));
    }
    let minute = (1..=LONGEST_GAP).find(|minute| shown(local + Duration::minutes(*minute)).is_some())?;
    let before = local + Duration::minutes(minute - 1);
    let at = (1..=60).find_map(|second| shown(before + Duration::seconds(second)))?;
    Some(at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn utc(local: &str, zone: Tz) -> String {
        let local = NaiveDateTime::parse_from_str(local, "%Y-%m-%d %H:%M:%S").unwrap();
        instant_of(local, zone).unwrap().to_rfc3339_opts(SecondsFormat::Secs, true)
    }

    #[test]
    fn clocks_that_change() {
        assert_eq!(utc("2026-07-01 07:00:00", Tz::Europe__Madrid), "2026-07-01T05:00:00Z");
        assert_eq!(utc("2026-03-29 02:30:00", Tz::Europe__Madrid), "2026-03-29T01:00:00Z", "skipped");
        assert_eq!(utc("2026-03-29 02:00:00", Tz::Europe__Madrid), "2026-03-29T01:00:00Z", "skipped");
        assert_eq!(utc("2026-10-25 02:30:00", Tz::Europe__Madrid), "2026-10-25T00:30:00Z", "twice");
        assert_eq!(utc("2011-12-30 12:00:00", Tz::Pacific__Apia), "2011-12-30T10:00:00Z", "a day skipped");
    }

    #[test]
    fn times_and_days_have_one_form() {
        assert!(time_of_day("07:00").is_some() && time_of_day("23:59:59").is_some());
        for text in ["7:00", "24:00", "07:60", "0700", "07:00:", "07-00", "é7:00", ""] {
            assert_eq!(time_of_day(text), None, "{text}");
        }
        assert!(parse_day("2026-02-28").is_some());
        for text in ["2026-02-30", "2026-2-28", "+026-02-28", "2026-02-28Z", "éé26-02-8"] {
            assert_eq!(parse_day(text), None, "{text}");
        }
    }
}
