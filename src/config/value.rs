//! Values of settings as text: one grammar for the file, the environment and the flags.
//!
//! Owns: parsing, showing and ranges. Must not know: which settings there are.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::{LeakGuard, SchemaPolicy};
use crate::telemetry::{LogFormat, LogLevel};

/// The rule that a setting's text breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rule {
    /// Not of the kind needed.
    #[error("is not {kind}")]
    Kind {
        /// What is needed, with an example.
        kind: &'static str,
    },
    /// None of the words allowed.
    #[error("is not one of {words}{}", did_you_mean(.nearest.as_ref()))]
    Word {
        /// The words allowed.
        words: String,
        /// The one that was probably meant.
        nearest: Option<String>,
    },
    /// Too small or too large.
    #[error("is outside {least} to {most}; the nearest allowed value is {nearest}")]
    Range {
        /// The least value allowed.
        least: String,
        /// The greatest value allowed.
        most: String,
        /// The allowed value nearest to the one given.
        nearest: String,
    },
    /// In one directory with something that has to be apart.
    #[error("is in one directory with {other}, or one in the other: whoever copies the one would copy both")]
    Together {
        /// Name of the other setting.
        other: &'static str,
    },
    /// Larger than a setting it has to fit into.
    #[error("is larger than {other}, which it has to fit into; lower it, or raise {other}")]
    Exceeds {
        /// Name of the other setting.
        other: &'static str,
    },
    /// Too large together with another setting.
    #[error("makes {bound} with {other}, and {most} is the most: so long a backup could open what was forgotten")]
    Sum {
        /// Name of the other setting.
        other: &'static str,
        /// Both together.
        bound: String,
        /// The most allowed.
        most: String,
    },
}

/// `; did you mean "…"?`, or nothing.
pub(super) fn did_you_mean(nearest: Option<&String>) -> String {
    nearest.map(|word| format!("; did you mean \"{word}\"?")).unwrap_or_default()
}

/// The candidate that a misspelt word most likely stands for.
pub(super) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<String> {
    let limit = word.len().div_ceil(3).max(1);
    let scored = candidates.map(|candidate| (distance(word, candidate), candidate));
    scored.filter(|(distance, _)| *distance <= limit).min().map(|(_, candidate)| candidate.to_owned())
}

/// Edits (insert, remove, replace) from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(!x.eq_ignore_ascii_case(&y));
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A setting's type.
pub(super) trait Value: Sized {
    /// Reads a text.
    fn parse(text: &str) -> Result<Self, Rule>;
    /// Writes a text that `parse` takes.
    fn show(&self) -> String;
}

/// Refuses what is outside the range.
pub(super) fn in_range<T: Value + PartialOrd>(value: &T, range: &RangeInclusive<T>) -> Result<(), Rule> {
    if range.contains(value) {
        return Ok(());
    }
    let nearest = if value < range.start() { range.start() } else { range.end() };
    Err(Rule::Range { least: range.start().show(), most: range.end().show(), nearest: nearest.show() })
}

macro_rules! from_str_value {
    ($($type:ty => $kind:literal;)+) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, Rule> {
                text.parse().map_err(|_| Rule::Kind { kind: $kind })
            }

            fn show(&self) -> String {
                self.to_string()
            }
        }
    )+};
}

from_str_value! {
    usize => "a whole number";
    u32 => "a whole number";
    bool => "true or false";
    SocketAddr => "an address with a port such as 127.0.0.1:7017";
}

macro_rules! word_value {
    ($($type:ty),+) => {$(
        impl Value for $type {
            fn parse(text: &str) -> Result<Self, Rule> {
                parse_word(text)
            }

            fn show(&self) -> String {
                show_word(self)
            }
        }
    )+};
}

word_value!(SchemaPolicy, LeakGuard, LogFormat, LogLevel);

fn parse_word<E: ValueEnum>(text: &str) -> Result<E, Rule> {
    E::from_str(text, false).map_err(|_| {
        let words: Vec<String> = E::value_variants().iter().map(show_word).collect();
        Rule::Word { nearest: nearest(text, words.iter().map(String::as_str)), words: words.join(", ") }
    })
}

fn show_word<E: ValueEnum>(word: &E) -> String {
    word.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

impl Value for PathBuf {
    fn parse(text: &str) -> Result<Self, Rule> {
        if text.is_empty() { Err(Rule::Kind { kind: "a path" }) } else { Ok(text.into()) }
    }

    fn show(&self) -> String {
        self.display().to_string()
    }
}

const DURATION: &str = "an ISO 8601 duration such as PT5S, PT0.5S, PT1H30M or P7D";

impl Value for Duration {
    fn parse(text: &str) -> Result<Self, Rule> {
        parse_duration(text).ok_or(Rule::Kind { kind: DURATION })
    }

    fn show(&self) -> String {
        show_duration(*self)
    }
}

/// Days, hours, minutes and seconds of ISO 8601, the seconds with a decimal point if need be. Years and months have no
/// fixed length, so they are no durations here.
fn parse_duration(text: &str) -> Option<Duration> {
    let rest = text.strip_prefix('P')?;
    let (days, time) = match rest.split_once('T') {
        Some((_, "")) => return None,
        Some((days, time)) => (days, time),
        None if rest.is_empty() => return None,
        None => (rest, ""),
    };
    let mut total = Duration::ZERO;
    if !days.is_empty() {
        let days: u32 = digits(days.strip_suffix('D')?)?;
        total = Duration::from_secs(u64::from(days) * 86_400);
    }
    let mut rest = time;
    for (unit, seconds) in [('H', 3600), ('M', 60)] {
        if let Some((number, after)) = rest.split_once(unit) {
            total += Duration::from_secs(u64::from(digits(number)?) * seconds);
            rest = after;
        }
    }
    if !rest.is_empty() {
        let number = rest.strip_suffix('S')?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
        if fraction.len() > 9 {
            return None;
        }
        let nanos = digits(fraction)? * 10u32.pow(9 - fraction.len() as u32);
        total += Duration::new(u64::from(digits(whole)?), nanos);
    }
    Some(total)
}

/// Digits only: the standard parser would also take a sign.
fn digits(text: &str) -> Option<u32> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn show_duration(duration: Duration) -> String {
    let (seconds, nanos) = (duration.as_secs(), duration.subsec_nanos());
    if nanos == 0 {
        return match seconds {
            s if s > 0 && s % 86_400 == 0 => format!("P{}D", s / 86_400),
            s if s > 0 && s % 3600 == 0 => format!("PT{}H", s / 3600),
            s if s > 0 && s % 60 == 0 => format!("PT{}M", s / 60),
            s => format!("PT{s}S"),
        };
    }
    format!("PT{seconds}.{}S", format!("{nanos:09}").trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, millis) in
            [("PT5S", 5000), ("PT0.5S", 500), ("PT1H30M", 5_400_000), ("P7D", 604_800_000), ("P1DT1S", 86_401_000)]
        {
            let duration = Duration::parse(text).unwrap();
            assert_eq!(duration, Duration::from_millis(millis), "{text}");
            assert_eq!(Duration::parse(&duration.show()), Ok(duration), "{text}");
        }
        for text in ["", "P", "PT", "5S", "PT5", "P1Y", "P1M", "PT-5S", "PT+5S", "PT5s", "PT5S5M", "PT1.S.S", "P1DT"] {
            assert!(Duration::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn words_and_ranges_suggest() {
        let error = SchemaPolicy::parse("registred").unwrap_err();
        assert_eq!(error.to_string(), "is not one of open, registered, sealed; did you mean \"registered\"?");
        let error = in_range(&31, &(1..=30_usize)).unwrap_err();
        assert_eq!(error.to_string(), "is outside 1 to 30; the nearest allowed value is 30");
        assert_eq!(nearest("liste", ["listen", "lease"].into_iter()), Some("listen".to_owned()));
        assert_eq!(nearest("colour", ["listen", "lease"].into_iter()), None);
    }
}
