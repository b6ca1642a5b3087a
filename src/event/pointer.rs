//! JSON Pointers (RFC 6901), and patterns of them in which `*` stands for every element or member.
//!
//! Owns: parsing, escaping, matching, and following several of them through one document. Must not know: what is pointed
//! at.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Value;

/// A text that is not a JSON Pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JSON Pointer (RFC 6901)")]
pub struct PointerError;

/// A parsed JSON Pointer. In a pattern the token `*` matches any one token. Kept as its text, of which there is exactly
/// one for each list of tokens; cheap to clone, so that a place which a schema names is written once for all events.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub struct Pointer(Arc<str>);

impl Pointer {
    /// The whole document.
    pub fn root() -> Self {
        Self::default()
    }

    /// Parses `/a/b~1c`; the empty text is the root.
    ///
    /// # Errors
    /// [`PointerError`] when the text neither is empty nor begins with `/`, or has a bad escape.
    pub fn parse(text: &str) -> Result<Self, PointerError> {
        let mut escapes = text.split('~').skip(1);
        let well_formed = text.is_empty() || text.starts_with('/');
        if well_formed && escapes.all(|rest| rest.starts_with(['0', '1'])) {
            Ok(Self(text.into()))
        } else {
            Err(PointerError)
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the whole document.
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// How many tokens it has.
    pub fn depth(&self) -> usize {
        self.0.split('/').count() - 1
    }

    /// The unescaped tokens.
    pub fn tokens(&self) -> impl Iterator<Item = Cow<'_, str>> + Clone {
        self.0.split('/').skip(1).map(unescaped)
    }

    /// This pointer with one more token.
    #[must_use]
    pub fn child(&self, token: &str) -> Self {
        Self(join(&self.0, token).into())
    }

    /// Whether this pointer, read as a pattern, matches `other`: token by token, `*` matching any.
    pub fn matches(&self, other: &Self) -> bool {
        let (mut pattern, mut tokens) = (self.tokens(), other.tokens());
        loop {
            match (pattern.next(), tokens.next()) {
                (None, None) => return true,
                (Some(p), Some(t)) if p == "*" || p == t => {}
                _ => return false,
            }
        }
    }

    /// Whether this pointer is `other` or an ancestor of it.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.strip_prefix(&*self.0).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// The value pointed at.
    pub fn lookup<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.tokens().try_fold(document, |value, token| step(value, &token))
    }

    /// Every place in `document` that this pattern matches, with its value, in document order.
    pub fn expand<'v>(&self, document: &'v Value) -> Vec<(Self, &'v Value)> {
        if self.tokens().all(|token| token != "*") {
            return self.lookup(document).map(|value| (self.clone(), value)).into_iter().collect();
        }
        let mut found = vec![(String::new(), document)];
        for token in self.tokens() {
            found = found.into_iter().flat_map(|(at, value)| children(&at, value, &token)).collect();
        }
        found.into_iter().map(|(at, value)| (Self(at.into()), value)).collect()
    }
}

/// Token by token, as they are written: whatever lies inside a place follows it directly.
impl Ord for Pointer {
    fn cmp(&self, other: &Self) -> Ordering {
        // The end of a token comes before every byte that it could go on with.
        let rank = |byte| if byte == b'/' { 0 } else { u16::from(byte) + 1 };
        self.0.bytes().map(rank).cmp(other.0.bytes().map(rank))
    }
}

impl PartialOrd for Pointer {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Several places of a document, while it is walked: those that are here or further inside.
#[derive(Clone, Copy, Debug)]
pub struct Ahead<'p> {
    /// With the caller's number of each, in order.
    places: &'p [(&'p Pointer, usize)],
    /// So many bytes of their texts lead here.
    walked: usize,
}

impl<'p> Ahead<'p> {
    /// Nothing.
    pub const NONE: Self = Self { places: &[], walked: 0 };

    /// From the root of the document. Numbers are the caller's own; of equal places the lowest counts.
    pub fn from_root(places: &'p mut [(&'p Pointer, usize)]) -> Self {
        places.sort_unstable();
        Self { places, walked: 0 }
    }

    /// Whether nothing is left.
    pub fn is_empty(self) -> bool {
        self.places.is_empty()
    }

    /// The number of the place that is just here.
    pub fn here(self) -> Option<usize> {
        let (place, number) = self.places.first()?;
        (place.0.len() == self.walked).then_some(*number)
    }

    /// What is left inside a member or element.
    #[must_use]
    pub fn inside(self, token: &str) -> Self {
        let token = escaped(token);
        let (places, walked) = (self.places, self.walked + 1 + token.len());
        let leads = |(place, _): &(&Pointer, usize)| {
            let rest = place.0.as_bytes()[self.walked..].strip_prefix(b"/");
            let after = rest.and_then(|rest| rest.strip_prefix(token.as_bytes()));
            after.is_some_and(|after| after.first().is_none_or(|byte| *byte == b'/'))
        };
        // Of few, looking at each is quicker than a search.
        let from = if places.len() <= FEW {
            places.iter().position(leads).unwrap_or(places.len())
        } else {
            let next = |place: &Pointer| place.0[self.walked..].split('/').nth(1).map(|next| next.cmp(&token));
            places.partition_point(|(place, _)| next(place).is_none_or(|next| next == Ordering::Less))
        };
        let rest = &places[from..];
        Self { places: &rest[..rest.partition_point(leads)], walked }
    }
}

/// So many places are not searched but looked at.
const FEW: usize = 16;

fn unescaped(token: &str) -> Cow<'_, str> {
    if token.as_bytes().contains(&b'~') { token.replace("~1", "/").replace("~0", "~").into() } else { token.into() }
}

fn escaped(token: &str) -> Cow<'_, str> {
    if token.bytes().any(|byte| matches!(byte, b'~' | b'/')) {
        token.replace('~', "~0").replace('/', "~1").into()
    } else {
        token.into()
    }
}

fn join(at: &str, token: &str) -> String {
    format!("{at}/{}", escaped(token))
}

fn step<'v>(value: &'v Value, token: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(token),
        Value::Array(items) if token == "0" || !token.starts_with('0') => items.get(token.parse::<usize>().ok()?),
        _ => None,
    }
}

fn children<'v>(at: &str, value: &'v Value, token: &str) -> Vec<(String, &'v Value)> {
    if token != "*" {
        return step(value, token).map(|inner| (join(at, token), inner)).into_iter().collect();
    }
    match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (format!("{at}/{i}"), item)).collect(),
        Value::Object(members) => members.iter().map(|(key, item)| (join(at, key), item)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pointer(text: &str) -> Pointer {
        Pointer::parse(text).unwrap()
    }

    #[test]
    fn escapes_round_trip() {
        for text in ["", "/a", "/a~1b/~0", "/", "/a//b"] {
            let parsed = pointer(text);
            assert_eq!(parsed.to_string(), text);
            assert_eq!(parsed.tokens().fold(Pointer::root(), |at, token| at.child(&token)), parsed);
        }
        assert_eq!(pointer("/a~1b/~01").tokens().collect::<Vec<_>>(), ["a/b", "~1"]);
        for bad in ["a", "/~2", "/~", "/~~0"] {
            assert_eq!(Pointer::parse(bad), Err(PointerError));
        }
    }

    #[test]
    fn patterns_expand() {
        let document = json!({"guests": [{"id": 1}, {}, {"id": 3}]});
        let found = pointer("/guests/*/id").expand(&document);
        let paths: Vec<String> = found.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(paths, ["/guests/0/id", "/guests/2/id"]);
        assert_eq!(pointer("/guests/2/id").expand(&document), [(pointer("/guests/2/id"), &json!(3))]);
        assert_eq!(pointer("/guests/00/id").lookup(&document), None);
        assert!(pointer("/guests/*/id").matches(&pointer("/guests/7/id")));
        assert!(!pointer("/guests/*").matches(&pointer("/guests/7/id")));
    }

    #[test]
    fn what_lies_inside_a_place_follows_it() {
        let mut places = ["/a/c", "/a-b", "/a", "/a~1b/c", ""].map(pointer);
        places.sort();
        assert_eq!(places.map(|place| place.to_string()), ["", "/a", "/a/c", "/a-b", "/a~1b/c"]);
        assert!(pointer("/a").contains(&pointer("/a/c")) && !pointer("/a").contains(&pointer("/a-b")));
    }

    #[test]
    fn places_are_followed_through_a_document() {
        let places = ["/a/x~0", "/b", "/a", "/a-b", "/a/x~0/y", "/a"].map(pointer);
        let mut numbered: Vec<(&Pointer, usize)> = places.iter().enumerate().map(|(at, place)| (place, at)).collect();
        let root = Ahead::from_root(&mut numbered);
        assert_eq!((root.here(), root.inside("c").is_empty()), (None, true));
        assert_eq!(root.inside("a").here(), Some(2), "of two equal ones the first");
        assert_eq!(root.inside("a").inside("x~").here(), Some(0));
        assert_eq!(root.inside("a").inside("x~").inside("y").here(), Some(4));
        assert_eq!((root.inside("b").here(), root.inside("a-b").here()), (Some(1), Some(3)));
        assert!(root.inside("b").inside("y").is_empty() && Ahead::NONE.inside("a").is_empty());
    }

    #[test]
    fn many_places_are_found_like_few() {
        let places: Vec<Pointer> = (0..200).map(|n| pointer(&format!("/a/{n}/x~1y"))).collect();
        let mut numbered: Vec<(&Pointer, usize)> = places.iter().enumerate().map(|(at, place)| (place, at)).collect();
        let root = Ahead::from_root(&mut numbered);
        for n in 0..200 {
            assert_eq!(root.inside("a").inside(&n.to_string()).inside("x/y").here(), Some(n));
        }
        assert!(root.inside("a").inside("200").is_empty() && root.inside("").is_empty());
    }
}
