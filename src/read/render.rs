//! An event as a caller sees it: JSON text, spliced together.
//!
//! Owns: the native event shape, placeholders in place and the `redactions` sidecar. Must not know: who may read. The
//! public part is stored with the offsets of its holes, so values and placeholders are copied between slices of it and
//! nothing is parsed; only `redaction=omit` takes the event apart.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use super::{Opened, ReadFailed, Redaction, RenderedEvent, State, pseudonym};
use crate::event::canonical::push_string;
use crate::event::{ExternalId, Pointer, SubjectRef};
use crate::eventlog::{Fence, ReadError};
use crate::schema::Registry;
use crate::schema::{Placeholder, PlaceholderFacts};

/// What a page showed.
#[derive(Debug, Default)]
pub struct Counts {
    /// Values in clear.
    pub opened: u64,
    /// Values redacted, by state.
    pub redacted: BTreeMap<&'static str, u64>,
}

/// Renders the events of one page.
pub struct Renderer<'a> {
    /// For placeholders.
    pub registry: &'a Registry,
    /// How redactions look.
    pub redaction: Redaction,
    /// External ids that this viewer may see.
    pub people: &'a HashMap<SubjectRef, ExternalId>,
}

/// One personal field of an event, after looking at every slot it is in.
struct Field<'e> {
    path: &'e str,
    at: usize,
    shown: Shown<'e>,
}

/// The values of one opened slot: pointer and raw JSON text.
type Values<'e> = Vec<(Cow<'e, str>, &'e str)>;

enum Shown<'e> {
    Value(&'e str),
    Redacted { state: &'e State, subject: SubjectRef },
}

impl Shown<'_> {
    /// A value beats a state.
    fn rank(&self) -> u8 {
        match self {
            Self::Value(_) => 5,
            Self::Redacted { state, .. } => state.rank(),
        }
    }
}

impl Renderer<'_> {
    /// Renders one event.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] when an offset or plaintext contradicts the format.
    pub fn event(&self, opened: &Opened<'_>, counts: &mut Counts) -> Result<RenderedEvent, ReadFailed> {
        let event = opened.event;
        let corrupt = |column| ReadError::Corrupt { table: "events", column, row: event.position.0 };
        let values = opened
            .slots
            .iter()
            .map(|slot| slot.as_ref().ok().map(crate::sealing::OpenedSlot::fields).transpose())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| corrupt("sealed"))?;
        let fields = Self::fields(opened, &values);
        for field in &fields {
            match &field.shown {
                Shown::Value(_) => counts.opened += 1,
                Shown::Redacted { state, .. } => *counts.redacted.entry(state.as_str()).or_default() += 1,
            }
        }
        let data = self.data(opened, &fields).ok_or_else(|| corrupt("meta"))?;
        let mut out = String::with_capacity(data.len() + 512);
        Self::head(opened, &mut out);
        out.push_str(",\"data\":");
        out.push_str(&data);
        Self::redactions(&fields, &mut out);
        out.push('}');
        Ok(RenderedEvent {
            position: event.position,
            revision: event.revision,
            system: event.stream.is_system(),
            json: out.into_bytes(),
        })
    }

    /// Every personal field once, in document order.
    fn fields<'e>(opened: &'e Opened<'_>, values: &'e [Option<Values<'e>>]) -> Vec<Field<'e>> {
        let mut fields: Vec<Field<'e>> = Vec::new();
        for ((slot, meta), values) in opened.slots.iter().zip(&opened.meta.slots).zip(values) {
            for site in &meta.fields {
                let value = values.as_ref().and_then(|list| list.iter().find(|(path, _)| *path == site.0));
                let shown = match (slot, value) {
                    (_, Some((_, text))) => Shown::Value(text),
                    (Err((state, subject)), _) => Shown::Redacted { state, subject: *subject },
                    (Ok(_), None) => Shown::Redacted { state: &State::Unavailable, subject: SubjectRef([0; 16]) },
                };
                match fields.iter_mut().find(|field| field.path == site.0) {
                    Some(known) if known.shown.rank() < shown.rank() => known.shown = shown,
                    Some(_) => {}
                    None => fields.push(Field { path: &site.0, at: site.1, shown }),
                }
            }
        }
        fields.sort_by_key(|field| field.at);
        fields
    }

    /// The payload with values, placeholders and external ids in place. `None` when an offset is wrong.
    fn data(&self, opened: &Opened<'_>, fields: &[Field<'_>]) -> Option<String> {
        let public = opened.event.public.as_str();
        let mut pieces: Vec<(usize, usize, Cow<'_, str>)> = Vec::with_capacity(fields.len() + opened.meta.ids.len());
        for field in fields {
            let text = match &field.shown {
                Shown::Value(text) => Cow::Borrowed(*text),
                Shown::Redacted { state, .. } => Cow::Owned(self.stand_in(opened, field.path, state)),
            };
            pieces.push((field.at, 4, text));
        }
        for site in &opened.meta.ids {
            let subject = pseudonym(public, site.1)?;
            if let Some(id) = self.people.get(&subject) {
                let mut text = String::new();
                push_string(&mut text, id.expose());
                pieces.push((site.1, SubjectRef::TEXT_LEN + 2, Cow::Owned(text)));
            }
        }
        pieces.sort_by_key(|piece| piece.0);
        let mut out = String::with_capacity(public.len() + 256);
        let mut from = 0;
        for (at, len, text) in pieces {
            out.push_str(public.get(from..at)?);
            out.push_str(&text);
            from = at + len;
        }
        out.push_str(public.get(from..)?);
        if self.redaction == Redaction::Omit { omit(&out, fields) } else { Some(out) }
    }

    /// What stands in place of a value that is not shown.
    fn stand_in(&self, opened: &Opened<'_>, path: &str, state: &State) -> String {
        match self.redaction {
            Redaction::Null | Redaction::Omit => "null".to_owned(),
            Redaction::Typed => self.placeholder(opened, path, state),
            Redaction::Marker => marker(state).to_string(),
        }
    }

    fn placeholder(&self, opened: &Opened<'_>, path: &str, state: &State) -> String {
        let inline = opened.meta.marks.iter().find(|mark| mark.0 == path);
        let (placeholder, category) = if let Some(mark) = inline {
            let declared = mark.2.and_then(|raw| serde_json::from_str::<Value>(raw.get()).ok());
            (declared.map(Placeholder::new), mark.1.as_deref().map(str::to_owned))
        } else {
            let event = opened.event;
            let mark = Pointer::parse(path).ok().and_then(|pointer| {
                self.registry.placeholder(event.event_type.as_str(), event.schema_version, &pointer)
            });
            (mark.as_ref().map(|mark| mark.placeholder.clone()), mark.and_then(|mark| mark.category.clone()))
        };
        let Some(placeholder) = placeholder else { return "null".to_owned() };
        with_facts(state, category.as_deref(), |facts| placeholder.render(facts))
    }

    fn head(opened: &Opened<'_>, out: &mut String) {
        use std::fmt::Write;
        let event = opened.event;
        let recorded = event.recorded.rfc3339();
        // Writing to a String cannot fail; ids, names and times need no escapes.
        let _ = write!(
            out,
            "{{\"id\":\"{}\",\"stream\":\"{}\",\"revision\":{},\"position\":{},\"type\":\"{}\"",
            event.id, event.stream, event.revision.0, event.position.0, event.event_type
        );
        if let Some(version) = event.schema_version {
            let _ = write!(out, ",\"schema_version\":{version}");
        }
        let time = opened.meta.time.as_deref().unwrap_or(&recorded);
        let _ = write!(out, ",\"time\":\"{time}\",\"recorded_at\":\"{recorded}\"");
        // Pseudonyms, like those in the data: they group the events of a person for every reader.
        for (at, (role, subject)) in opened.meta.roles.iter().enumerate() {
            out.push_str(if at == 0 { ",\"subjects\":{" } else { "," });
            push_string(out, role);
            let _ = write!(out, ":\"{subject}\"");
        }
        if !opened.meta.roles.is_empty() {
            out.push('}');
        }
        let context = [
            ("actor", &opened.meta.actor),
            ("correlation_id", &opened.meta.correlation_id),
            ("causation_id", &opened.meta.causation_id),
            ("source", &opened.meta.source),
            ("source_id", &opened.meta.source_id),
        ];
        for (key, value) in context {
            if let Some(text) = value {
                let _ = write!(out, ",\"{key}\":");
                push_string(out, text);
            }
        }
    }

    fn redactions(fields: &[Field<'_>], out: &mut String) {
        let mut first = true;
        for field in fields {
            let Shown::Redacted { state, subject } = &field.shown else { continue };
            out.push_str(if first { ",\"redactions\":[" } else { "," });
            first = false;
            out.push_str("{\"path\":");
            push_string(out, &format!("/data{}", field.path));
            out.push_str(",\"state\":\"");
            out.push_str(state.as_str());
            out.push('"');
            if subject.0 != [0; 16] {
                out.push_str(",\"subject\":\"");
                out.push_str(&subject.to_string());
                out.push('"');
            }
            if let State::Fenced(fence) = state {
                out.push_str(",\"basis\":");
                push_string(out, &fence.basis);
                out.push_str(",\"at\":\"");
                out.push_str(&fence.at.rfc3339());
                out.push_str("\",\"request\":");
                push_string(out, &fence.request);
            }
            out.push('}');
        }
        if !first {
            out.push(']');
        }
    }
}

/// `gdpr:A17-1-b` as `17(1)(b)`: the article as people write it.
pub fn article(basis: &str) -> String {
    let mut parts = basis.trim_start_matches("gdpr:A").split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + "(" + part + ")")
}

/// `{"$redacted":{…}}`
pub fn marker(state: &State) -> Value {
    let mut marker = serde_json::Map::new();
    marker.insert("state".into(), state.as_str().into());
    if let State::Fenced(fence) = state {
        marker.insert("request".into(), fence.request.clone().into());
    }
    Value::from(serde_json::Map::from_iter([("$redacted".to_owned(), Value::Object(marker))]))
}

/// The facts that a placeholder may name: of a fence its article, day and request, of any other state only the word.
pub fn with_facts<T>(state: &State, category: Option<&str>, run: impl FnOnce(&PlaceholderFacts<'_>) -> T) -> T {
    let (article, date, request) = match state {
        State::Fenced(fence) => (article(&fence.basis), day(fence), fence.request.as_str()),
        State::Unavailable | State::Withheld => Default::default(),
    };
    run(&PlaceholderFacts {
        article: &article,
        date: &date,
        request,
        category: category.unwrap_or_default(),
        state: state.as_str(),
    })
}

fn day(fence: &Fence) -> String {
    fence.at.rfc3339().chars().take(10).collect()
}

/// Takes redacted members out. An array keeps its places: there the value stays `null`.
fn omit(text: &str, fields: &[Field<'_>]) -> Option<String> {
    let mut data: Value = serde_json::from_str(text).ok()?;
    for field in fields.iter().filter(|field| matches!(field.shown, Shown::Redacted { .. })) {
        let (parent, last) = field.path.rsplit_once('/')?;
        if let Some(Value::Object(members)) = data.pointer_mut(parent) {
            members.remove(&last.replace("~1", "/").replace("~0", "~"));
        }
    }
    Some(data.to_string())
}

#[cfg(test)]
mod tests {
    use super::article;

    #[test]
    fn articles_read_as_people_write_them() {
        assert_eq!(article("gdpr:A17-1-b"), "17(1)(b)");
        assert_eq!(article("gdpr:A17"), "17");
    }
}
