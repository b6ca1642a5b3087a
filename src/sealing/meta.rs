//! The metadata of a stored event: what it says besides its payload, and where its holes are.
//!
//! Owns: the canonical JSON of the `meta` column (`docs/formats.md`). Must not know: storage. Holds no personal value;
//! byte offsets point into the canonical public part, so that a reader splices instead of parsing.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::envelope::paths_digest;
use super::scan::{Scan, Unreadable};
use crate::event::canonical::canonical;

/// Metadata as written.
#[derive(Debug, Default)]
pub struct MetaDraft {
    /// The caller's context, without the payload: plain members that are present.
    pub members: Map<String, Value>,
    /// Pseudonyms in the public part: pointer and offset.
    pub ids: Vec<(String, usize)>,
    /// People found by natural key: role and pseudonym.
    pub roles: BTreeMap<String, String>,
    /// In-line marks: pointer, category, placeholder.
    pub marks: Vec<(String, Option<String>, Option<Value>)>,
    /// The slots, in the order of their envelopes.
    pub slots: Vec<SlotDraft>,
}

/// One slot as written.
#[derive(Debug)]
pub struct SlotDraft {
    /// Pseudonyms and generations, ascending.
    pub owners: Vec<(String, u32)>,
    /// Purpose.
    pub purpose: String,
    /// Pointer and offset of each field, by pointer.
    pub fields: Vec<(String, usize)>,
}

impl MetaDraft {
    /// Canonical JSON.
    pub fn to_text(&self) -> String {
        let mut members = self.members.clone();
        let mut put = |key: &str, list: Vec<Value>| {
            if !list.is_empty() {
                members.insert(key.to_owned(), Value::Array(list));
            }
        };
        put("ids", self.ids.iter().map(|(path, at)| json!([path, at])).collect());
        put("marks", self.marks.iter().map(|(path, category, shown)| json!([path, category, shown])).collect());
        put("slots", self.slots.iter().map(SlotDraft::to_value).collect());
        if !self.roles.is_empty() {
            members.insert("roles".to_owned(), json!(self.roles));
        }
        canonical(&Value::Object(members))
    }
}

impl SlotDraft {
    fn to_value(&self) -> Value {
        json!({"owners": self.owners, "purpose": self.purpose, "fields": self.fields})
    }
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

    #[test]
    fn what_is_written_is_read() {
        let draft = MetaDraft {
            members: json!({"actor": "user:1"}).as_object().cloned().unwrap_or_default(),
            ids: vec![("/id".into(), 6)],
            roles: [("contact\"".to_owned(), "ds_1".to_owned())].into(),
            marks: vec![("/e\"".into(), None, Some(json!("gone")))],
            slots: vec![SlotDraft {
                owners: vec![("ds_0".into(), 2)],
                purpose: "general".into(),
                fields: vec![("/e\"".into(), 40)],
            }],
        };
        let text = draft.to_text();
        let meta = Meta::parse(&text).unwrap();
        assert_eq!(meta.actor.as_deref(), Some("user:1"));
        assert_eq!((meta.ids[0].0.as_ref(), meta.ids[0].1), ("/id", 6));
        assert_eq!(meta.roles.get("contact\"").map(AsRef::as_ref), Some("ds_1"));
        assert_eq!(meta.marks[0].2.unwrap().get(), "\"gone\"");
        assert_eq!(meta.slots[0].owners[0].1, 2);
        assert_eq!(MetaDraft::default().to_text(), "{}", "what an event does not have leaves no trace in its metadata");
        assert_eq!(Meta::parse("{\"x\":1}").unwrap_err(), MetaError);
        assert_eq!(Meta::parse("{\"slots\":[{\"owners\":[],\"purpose\":\"a\"}]}").unwrap_err(), MetaError);
        for cut in (0..text.len()).filter(|cut| text.is_char_boundary(*cut)) {
            assert_eq!(Meta::parse(&text[..cut]).unwrap_err(), MetaError, "cut at {cut}");
        }
    }
}
