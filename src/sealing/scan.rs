//! Reading the canonical JSON that `sealing` writes, without a parser that would take any other.
//!
//! Owns: objects with their keys in order, lists, texts and whole numbers, with nothing between the tokens. Must not know:
//! what is in them. Whatever is rare (a text with escapes, a value of any shape) is left to the general parser. Metadata is
//! read once for every event that is shown, so this is on the way of every read.

use std::borrow::Cow;
use std::str::FromStr;

use serde::Deserialize;

/// The text is not in the form that is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unreadable;

type Result<T> = std::result::Result<T, Unreadable>;

/// What is still to be read of a text.
pub(super) struct Scan<'a> {
    rest: &'a str,
}

impl<'a> Scan<'a> {
    /// Reads the whole of a text.
    pub fn whole<T>(text: &'a str, read: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let mut scan = Self { rest: text };
        let value = read(&mut scan)?;
        if scan.rest.is_empty() { Ok(value) } else { Err(Unreadable) }
    }

    /// An object: `member` reads the value of each key. Keys come in order, so none comes twice.
    pub fn object(&mut self, mut member: impl FnMut(&mut Self, &str) -> Result<()>) -> Result<()> {
        let mut before: Option<Cow<'a, str>> = None;
        self.enclosed('{', '}', |scan| {
            let key = scan.text()?;
            if before.as_ref().is_some_and(|before| *before >= key) {
                return Err(Unreadable);
            }
            scan.token(':')?;
            member(scan, &key)?;
            before = Some(key);
            Ok(())
        })
    }

    /// A list, mostly of up to so many items.
    pub fn list<T>(&mut self, usual: usize, mut item: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let mut items = Vec::with_capacity(usual);
        self.enclosed('[', ']', |scan| {
            items.push(item(scan)?);
            Ok(())
        })?;
        Ok(items)
    }

    /// A list of exactly two.
    pub fn pair<A, B>(
        &mut self,
        first: impl FnOnce(&mut Self) -> Result<A>,
        second: impl FnOnce(&mut Self) -> Result<B>,
    ) -> Result<(A, B)> {
        self.token('[')?;
        let first = first(self)?;
        self.token(',')?;
        let second = second(self)?;
        self.token(']')?;
        Ok((first, second))
    }

    /// A text.
    pub fn text(&mut self) -> Result<Cow<'a, str>> {
        let inner = self.rest.strip_prefix('"').ok_or(Unreadable)?;
        let end = inner.bytes().position(|byte| byte == b'"' || byte == b'\\' || byte < b' ').ok_or(Unreadable)?;
        if inner.as_bytes()[end] != b'"' {
            return self.value().map(Cow::Owned);
        }
        let (text, rest) = inner.split_at(end);
        self.rest = &rest[1..];
        Ok(Cow::Borrowed(text))
    }

    /// A whole number, not below zero.
    pub fn number<T: FromStr>(&mut self) -> Result<T> {
        let end = self.rest.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(self.rest.len());
        let (digits, rest) = self.rest.split_at(end);
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(Unreadable);
        }
        self.rest = rest;
        digits.parse().map_err(|_| Unreadable)
    }

    /// A value of any shape, by the general parser.
    pub fn value<T: Deserialize<'a>>(&mut self) -> Result<T> {
        let mut values = serde_json::Deserializer::from_str(self.rest).into_iter();
        let value = values.next().ok_or(Unreadable)?.map_err(|_| Unreadable)?;
        self.rest = &self.rest[values.byte_offset()..];
        Ok(value)
    }

    fn enclosed(&mut self, open: char, close: char, mut each: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        self.token(open)?;
        if self.token(close).is_ok() {
            return Ok(());
        }
        loop {
            each(self)?;
            if self.token(close).is_ok() {
                return Ok(());
            }
            self.token(',')?;
        }
    }

    fn token(&mut self, token: char) -> Result<()> {
        self.rest = self.rest.strip_prefix(token).ok_or(Unreadable)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(text: &str) -> Result<Vec<Cow<'_, str>>> {
        Scan::whole(text, |scan| scan.list(1, Scan::text))
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(texts("[]"), Ok(vec![]));
        assert_eq!(texts(r#"["a","","ü\"\\\u0001"]"#), Ok(vec!["a".into(), "".into(), "ü\"\\\u{1}".into()]));
        let pair = |text| Scan::whole(text, |scan| scan.pair(Scan::text, Scan::number::<u32>));
        assert_eq!(pair(r#"["x",0]"#), Ok(("x".into(), 0)));
        assert_eq!(pair(r#"["x",4294967295]"#), Ok(("x".into(), u32::MAX)));
        let mut seen = Vec::new();
        let object = |scan: &mut Scan<'_>| {
            scan.object(|scan, key| {
                seen.push((key.to_owned(), scan.value::<serde_json::Value>()?.to_string()));
                Ok(())
            })
        };
        assert_eq!(Scan::whole(r#"{"a":{"b":[1,null]},"b":"x"}"#, object), Ok(()));
        assert_eq!(seen, [("a".to_owned(), r#"{"b":[1,null]}"#.to_owned()), ("b".to_owned(), "\"x\"".to_owned())]);
    }

    #[test]
    fn nothing_else_is() {
        let wrong = [
            "",
            "[",
            "[]]",
            "[] ",
            " []",
            "[\"a\",]",
            "[,\"a\"]",
            "[\"a\" ]",
            "[\"a\"\"b\"]",
            "[a]",
            "[\"a]",
            "[\"\\x\"]",
        ];
        for text in wrong.into_iter().chain(["[\"a\nb\"]", "[\"\\ud800\"]", "{}", "null", "[null]"]) {
            assert_eq!(texts(text), Err(Unreadable), "{text}");
        }
        for text in ["", "-1", "+1", "01", "1.0", "1e2", "4294967296", "1,"] {
            assert_eq!(Scan::whole(text, Scan::number::<u32>), Err(Unreadable), "{text}");
        }
        for text in [r#"{"b":1,"a":2}"#, r#"{"a":1,"a":2}"#, r#"{"a":1,}"#, r#"{"a" :1}"#, r#"{"a":1 }"#, r"{a:1}"] {
            let object = |scan: &mut Scan<'_>| scan.object(|scan, _| scan.number::<u8>().map(drop));
            assert_eq!(Scan::whole(text, object), Err(Unreadable), "{text}");
        }
    }
}
