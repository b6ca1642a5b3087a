//! Problems of the server (RFC 9457), shown to a person: what failed, where, and what to do.
//!
//! Owns: reading a problem and laying it out. Must not know: exit codes, commands.

use serde::Deserialize;

use super::output::printable;

/// A problem document. Members that are missing stay empty.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// HTTP status.
    pub status: u16,
    /// Stable code, for example `wrong-expected-revision`.
    pub code: String,
    /// What failed.
    pub title: String,
    /// More about this case.
    pub detail: String,
    /// More, where a query or filter is at fault.
    pub message: String,
    /// What to do.
    pub hint: String,
    /// Everything that is wrong, at once.
    pub errors: Vec<Fault>,
    /// Names the request in the server's log.
    pub request_id: String,
    /// Page that explains the code.
    pub docs: String,
    /// What a projection stopped at.
    pub cause: serde_json::Value,
    /// When to try again, from `Retry-After`.
    #[serde(skip)]
    pub retry_after: Option<String>,
}

/// One thing that is wrong.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// Stable code.
    pub code: String,
    /// Where.
    pub pointer: String,
    /// What.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl Problem {
    /// The problem in a response's body; whatever the body is, there is one.
    pub fn of(status: u16, body: &[u8], retry_after: Option<String>) -> Self {
        let mut problem: Self = serde_json::from_slice(body).unwrap_or_default();
        problem.status = status;
        problem.retry_after = retry_after;
        if problem.title.is_empty() {
            let reason = hyper::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
            let reason = reason.map(|reason| format!(" {reason}")).unwrap_or_default();
            problem.title = format!("the server answered {status}{reason}");
        }
        problem
    }
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let known = if self.code.is_empty() { String::new() } else { format!(" ({}, {})", self.code, self.status) };
        f.write_str(&printable(&format!("{}{known}", self.title)))?;
        for text in [&self.detail, &self.message].into_iter().filter(|text| !text.is_empty()) {
            write!(f, "\n  {}", printable(text))?;
        }
        if !self.hint.is_empty() {
            write!(f, "\n  hint: {}", printable(&self.hint))?;
        }
        for fault in &self.errors {
            let gap = if fault.pointer.is_empty() { "" } else { "  " };
            write!(f, "\n  {}{gap}{}", printable(&fault.pointer), printable(&fault.message))?;
            if let Some(hint) = &fault.hint {
                write!(f, "\n    hint: {}", printable(hint))?;
            }
        }
        if let Some(why) = self.cause.get("message").and_then(serde_json::Value::as_str) {
            let position = self.cause.get("position").unwrap_or(&serde_json::Value::Null);
            let code = self.cause.get("code").and_then(serde_json::Value::as_str).unwrap_or_default();
            write!(f, "\n  stopped at position {position}: {} ({})", printable(why), printable(code))?;
        }
        if let Some(seconds) = &self.retry_after {
            write!(f, "\n  try again in {} s", printable(seconds))?;
        }
        for (label, text) in [("request", &self.request_id), ("see", &self.docs)] {
            if !text.is_empty() {
                write!(f, "\n  {label}: {}", printable(text))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shows_everything_that_is_wrong() {
        let body = br#"{"title":"Event does not match contact-created v1","status":422,"code":"schema-violation",
            "request_id":"r1","errors":[{"pointer":"/0/data/name","message":"is missing","hint":"add it"},
            {"pointer":"/0/data/x","message":"is not allowed\u001b[2J"}]}"#;
        assert_eq!(
            Problem::of(422, body, None).to_string(),
            "Event does not match contact-created v1 (schema-violation, 422)\n  /0/data/name  is missing\n    hint: add \
             it\n  /0/data/x  is not allowed\u{fffd}[2J\n  request: r1"
        );
    }

    #[test]
    fn any_body_makes_a_problem() {
        let problem = Problem::of(503, b"<html>", Some("5".to_owned()));
        assert_eq!(problem.to_string(), "the server answered 503 Service Unavailable\n  try again in 5 s");
    }
}
