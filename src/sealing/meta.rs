//! The metadata of a stored event: what it says besides its payload, and where its holes are.
//!
//! Owns: the canonical JSON of the `meta` column (`docs/formats.md`). Must not know: storage. Holds no personal value;
//! byte offsets point into the canonical public part, so that a reader splices instead of parsing.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::envelope::paths_digest;
use super::scan::{Scan, Unreadable};
use crate::event::SubjectRef;
use crate::event::canonical::{push_canonical, push_string};

/// Metadata as written. Borrows from the event.
#[derive(Debug, Default)]
pub struct MetaDraft<'a> {
    /// Who acted.
    pub actor: Option<&'a str>,
    /// Cause.
    pub causation_id: Option<&'a str>,
    /// Correlation.
    pub correlation_id: Option<&'a str>,
    /// `CloudEvents` source.
    pub source: Option<&'a str>,
    /// `CloudEvents` id that is not a UUID.
    pub source_id: Option<&'a str>,
    /// When it happened, RFC 3339.
    pub time: Option<String>,
    /// Pseudonyms in the public part: pointer and offset.
    pub ids: Vec<(&'a str, usize)>,
    /// People found by natural key: role and pseudonym.
    pub roles: BTreeMap<String, String>,
    /// In-line marks: pointer, category, placeholder.
    pub marks: Vec<(&'a str, Option<&'a str>, Option<&'a Value>)>,
    /// The slots, in the order of their envelopes.
    pub slots: Vec<SlotDraft<'a>>,
}

/// One slot as written.
#[derive(Debug)]
pub struct SlotDraft<'a> {
    /// Pseudonyms and generations, ascending.
    pub owners: Vec<(SubjectRef, u32)>,
    /// Purpose.
    pub purpose: &'a str,
    /// Pointer and offset of each field, by pointer.
    pub fields: Vec<(&'a str, usize)>,
}

impl MetaDraft<'_> {
    /// Canonical JSON: the members that are present, by name.
    pub fn to_text(&self) -> String {
        let mut out = String::with_capacity(256);
        out.push('{');
        text(&mut out, "actor", self.actor);
        text(&mut out, "causation_id", self.causation_id);
        text(&mut out, "correlation_id", self.correlation_id);
        list(&mut out, "ids", &self.ids, site);
        list(&mut out, "marks", &self.marks, |out, (path, category, shown)| {
            out.push('[');
            push_string(out, path);
            out.push(',');
            match category {
                Some(category) => push_string(out, category),
                None => out.push_str("null"),
            }
            out.push(',');
            push_canonical(out, shown.unwrap_or(&Value::Null));
            out.push(']');
        });
        if !self.roles.is_empty() {
            name(&mut out, "roles");
            push_canonical(&mut out, &json!(self.roles));
        }
        list(&mut out, "slots", &self.slots, SlotDraft::write);
        text(&mut out, "source", self.source);
        text(&mut out, "source_id", self.source_id);
        text(&mut out, "time", self.time.as_deref());
        out.push('}');
        out
    }
}

impl SlotDraft<'_> {
    fn write(out: &mut String, slot: &Self) {
        out.push('{');
        list(out, "fields", &slot.fields, site);
        list(out, "owners", &slot.owners, |out, (subject, generation)| {
            write!(out, "[\"{subject}\",{generation}]").expect("writing to a string cannot fail");
        });
        text(out, "purpose", Some(slot.purpose));
        out.push('}');
    }
}

/// The name of an object's next member: one of ours, none of which needs an escape.
fn name(out: &mut String, name: &str) {
    out.push_str(if out.ends_with('{') { "\"" } else { ",\"" });
    out.push_str(name);
    out.push_str("\":");
}

fn text(out: &mut String, member: &str, text: Option<&str>) {
    if let Some(text) = text {
        name(out, member);
        push_string(out, text);
    }
}

/// A member that is a list; left out when it is empty.
fn list<T>(out: &mut String, member: &str, items: &[T], item: impl Fn(&mut String, &T)) {
    if items.is_empty() {
        return;
    }
    name(out, member);
    for (at, each) in items.iter().enumerate() {
        out.push(if at == 0 { '[' } else { ',' });
        item(out, each);
    }
    out.push(']');
}

fn site(out: &mut String, (path, at): &(&str, usize)) {
    out.push('[');
    push_string(out, path);
    write!(out, ",{at}]").expect("writing to a string cannot fail");
}

/// Metadata as read. Borrows from the stored text.
#[derive(Debug, Default)]
pub struct Meta<'a> {
    /// Who acted.
    pub actor: Option<Cow<'a, str>>,
    /// Cause.
    pub causation_id: Option<Cow<'a, str>>,
    /// Correlation.
    pub correlation_id: Option<Cow<'a, str>>,
    /// `CloudEvents` source.
    pub source: Option<Cow<'a, str>>,
    /// `CloudEvents` id that is not a UUID.
    pub source_id: Option<Cow<'a, str>>,
    /// When it happened, RFC 3339.
    pub time: Option<Cow<'a, str>>,
    /// Pseudonyms in the public part.
    pub ids: Vec<Site<'a>>,
    /// People found by natural key: pseudonym by role.
    pub roles: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    /// In-line marks.
    pub marks: Vec<InlineMeta<'a>>,
    /// Slots.
    pub slots: Vec<SlotMeta<'a>>,
}

impl<'a> Meta<'a> {
    /// Parses stored metadata.
    ///
    /// # Errors
    /// [`MetaError`] when the text is not what this build writes: corruption, not a caller's mistake.
    pub fn parse(text: &'a str) -> Result<Self, MetaError> {
        let mut meta = Self::default();
        Scan::whole(text, |scan| scan.object(|scan, key| meta.member(scan, key))).map_err(|_| MetaError)?;
        Ok(meta)
    }

    fn member(&mut self, scan: &mut Scan<'a>, key: &str) -> Result<(), Unreadable> {
        match key {
            "actor" => self.actor = Some(scan.text()?),
            "causation_id" => self.causation_id = Some(scan.text()?),
            "correlation_id" => self.correlation_id = Some(scan.text()?),
            "ids" => self.ids = scan.list(1, Site::read)?,
            "marks" => self.marks = scan.value()?,
            "roles" => self.roles = scan.value()?,
            "slots" => self.slots = scan.list(1, SlotMeta::read)?,
            "source" => self.source = Some(scan.text()?),
            "source_id" => self.source_id = Some(scan.text()?),
            "time" => self.time = Some(scan.text()?),
            _ => return Err(Unreadable),
        }
        Ok(())
    }
}

/// Stored metadata contradicts the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the stored metadata is not in the format")]
pub struct MetaError;

/// A pointer and the byte offset in the public part at which its `null` or pseudonym begins.
#[derive(Clone, Debug)]
pub struct Site<'a>(pub Cow<'a, str>, pub usize);

impl<'a> Site<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self, Unreadable> {
        scan.pair(Scan::text, Scan::number).map(|(path, at)| Self(path, at))
    }
}

/// Pointer, category and declared placeholder of an in-line mark.
#[derive(Clone, Debug, Deserialize)]
pub struct InlineMeta<'a>(
    #[serde(borrow)] pub Cow<'a, str>,
    #[serde(borrow)] pub Option<Cow<'a, str>>,
    #[serde(borrow)] pub Option<&'a RawValue>,
);

/// One slot as read.
#[derive(Clone, Debug)]
pub struct SlotMeta<'a> {
    /// Owners.
    pub owners: Vec<Owner<'a>>,
    /// Purpose.
    pub purpose: Cow<'a, str>,
    /// Fields.
    pub fields: Vec<Site<'a>>,
}

impl<'a> SlotMeta<'a> {
    /// Digest of the slot's pointers, to which its envelope is bound.
    pub fn paths_digest(&self) -> [u8; 32] {
        let paths: Vec<&str> = self.fields.iter().map(|field| field.0.as_ref()).collect();
        paths_digest(&paths)
    }

    fn read(scan: &mut Scan<'a>) -> Result<Self, Unreadable> {
        let (mut owners, mut purpose, mut fields) = (None, None, None);
        scan.object(|scan, key| {
            match key {
                "fields" => fields = Some(scan.list(4, Site::read)?),
                "owners" => owners = Some(scan.list(1, Owner::read)?),
                "purpose" => purpose = Some(scan.text()?),
                _ => return Err(Unreadable),
            }
            Ok(())
        })?;
        let (Some(owners), Some(purpose), Some(fields)) = (owners, purpose, fields) else { return Err(Unreadable) };
        Ok(Self { owners, purpose, fields })
    }
}

/// Pseudonym and generation.
#[derive(Clone, Debug)]
pub struct Owner<'a>(pub Cow<'a, str>, pub u32);

impl<'a> Owner<'a> {
    fn read(scan: &mut Scan<'a>) -> Result<Self, Unreadable> {
        scan.pair(Scan::text, Scan::number).map(|(subject, generation)| Self(subject, generation))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::canonical::canonical;

    #[test]
    fn what_is_written_is_read() {
        let owner = SubjectRef([0xab; 16]);
        let gone = json!({"b": "gone", "a": 1.5});
        let draft = MetaDraft {
            actor: Some("user:1\n"),
            source: Some("s"),
            time: Some("2026-11-21T10:00:03.120Z".into()),
            ids: vec![("/id", 6), ("/other", 60)],
            roles: [("contact\"".to_owned(), "ds_1".to_owned()), ("\u{e000}".to_owned(), "ds_2".to_owned())].into(),
            marks: vec![("/e\"", None, Some(&gone)), ("/f", Some("x.y"), None)],
            slots: vec![SlotDraft { owners: vec![(owner, 2)], purpose: "general", fields: vec![("/e\"", 40)] }],
            ..MetaDraft::default()
        };
        let text = draft.to_text();
        let meta = Meta::parse(&text).unwrap();
        assert_eq!(text, canonical(&serde_json::from_str(&text).unwrap()));
        assert_eq!((meta.actor.as_deref(), meta.source_id), (Some("user:1\n"), None));
        assert_eq!((meta.ids[0].0.as_ref(), meta.ids[0].1), ("/id", 6));
        assert_eq!(meta.roles.get("contact\"").map(AsRef::as_ref), Some("ds_1"));
        assert_eq!(meta.marks[0].2.unwrap().get(), r#"{"a":1.5,"b":"gone"}"#);
        assert_eq!((meta.slots[0].owners[0].0.as_ref(), meta.slots[0].owners[0].1), (&*owner.to_string(), 2));
        assert_eq!(MetaDraft::default().to_text(), "{}", "what an event does not have leaves no trace in its metadata");
        assert_eq!(Meta::parse("{\"x\":1}").unwrap_err(), MetaError);
        assert_eq!(Meta::parse("{\"slots\":[{\"owners\":[],\"purpose\":\"a\"}]}").unwrap_err(), MetaError);
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            assert_eq!(Meta::parse(&text[..cut]).unwrap_err(), MetaError, "cut at {cut}");
        }
    }
}
