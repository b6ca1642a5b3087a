//! JSON Pointers (RFC 6901), and patterns of them in which `*` stands for every element or member.
//!
//! Owns: parsing, escaping, matching. Must not know: what is pointed at.

use serde_json::Value;

/// A text that is not a JSON Pointer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a JSON Pointer (RFC 6901)")]
pub struct PointerError;

/// A parsed JSON Pointer: the unescaped reference tokens. In a pattern the token `*` matches any one token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Pointer(Vec<String>);

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
        if text.is_empty() {
            return Ok(Self::root());
        }
        let tokens = text.strip_prefix('/').ok_or(PointerError)?.split('/');
        tokens.map(unescape).collect::<Result<_, _>>().map(Self)
    }

    /// The unescaped tokens.
    pub fn tokens(&self) -> &[String] {
        &self.0
    }

    /// This pointer with one more token.
    #[must_use]
    pub fn child(&self, token: &str) -> Self {
        let mut tokens = self.0.clone();
        tokens.push(token.to_owned());
        Self(tokens)
    }

    /// Whether this pointer, read as a pattern, matches `other`: token by token, `*` matching any.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.len() == other.0.len() && self.0.iter().zip(&other.0).all(|(p, t)| p == "*" || p == t)
    }

    /// Whether this pointer is `other` or an ancestor of it.
    pub fn contains(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The value pointed at.
    pub fn lookup<'v>(&self, document: &'v Value) -> Option<&'v Value> {
        self.0.iter().try_fold(document, |value, token| step(value, token))
    }

    /// Every place in `document` that this pattern matches, with its value, in document order.
    pub fn expand<'v>(&self, document: &'v Value) -> Vec<(Self, &'v Value)> {
        let mut found = vec![(Self::root(), document)];
        for token in &self.0 {
            found = found.into_iter().flat_map(|(at, value)| children(&at, value, token)).collect();
        }
        found
    }
}

impl std::fmt::Display for Pointer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for token in &self.0 {
            write!(f, "/{}", token.replace('~', "~0").replace('/', "~1"))?;
        }
        Ok(())
    }
}

fn unescape(token: &str) -> Result<String, PointerError> {
    let mut out = String::with_capacity(token.len());
    let mut chars = token.chars();
    while let Some(c) = chars.next() {
        match (c, c == '~') {
            (_, false) => out.push(c),
            (_, true) => match chars.next() {
                Some('0') => out.push('~'),
                Some('1') => out.push('/'),
                _ => return Err(PointerError),
            },
        }
    }
    Ok(out)
}

fn step<'v>(value: &'v Value, token: &str) -> Option<&'v Value> {
    match value {
        Value::Object(members) => members.get(token),
        Value::Array(items) if token == "0" || !token.starts_with('0') => items.get(token.parse::<usize>().ok()?),
        _ => None,
    }
}

fn children<'v>(at: &Pointer, value: &'v Value, token: &str) -> Vec<(Pointer, &'v Value)> {
    if token != "*" {
        return step(value, token).map(|inner| (at.child(token), inner)).into_iter().collect();
    }
    match value {
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (at.child(&i.to_string()), item)).collect(),
        Value::Object(members) => members.iter().map(|(key, item)| (at.child(key), item)).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn escapes_round_trip() {
        for text in ["", "/a", "/a~1b/~0", "/", "/a//b"] {
            assert_eq!(Pointer::parse(text).unwrap().to_string(), text);
        }
        for bad in ["a", "/~2", "/~"] {
            assert_eq!(Pointer::parse(bad), Err(PointerError));
        }
    }

    #[test]
    fn patterns_expand() {
        let document = json!({"guests": [{"id": 1}, {}, {"id": 3}]});
        let found = Pointer::parse("/guests/*/id").unwrap().expand(&document);
        let paths: Vec<String> = found.iter().map(|(at, _)| at.to_string()).collect();
        assert_eq!(paths, ["/guests/0/id", "/guests/2/id"]);
        assert_eq!(Pointer::parse("/guests/00/id").unwrap().lookup(&document), None);
    }
}
