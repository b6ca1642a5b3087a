//! An event as a caller sees it: JSON text, spliced together.
//!
//! Owns: the native event shape, placeholders in place and the `redactions` sidecar. Must not know: who may read. The
//! public part is stored with the offsets of its holes, so values and placeholders are copied between slices of it and
//! nothing is parsed; only `redaction=omit` takes the event apart.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;

use super::open::People;
use super::{Opened, ReadFailed, Redaction, RenderedEvent, State};
use crate::clock::Millis;
use crate::event::canonical::push_string;
use crate::event::{ExternalId, Pointer, SubjectRef};
use crate::eventlog::{Fence, ReadError};
use crate::schema::Registry;
use crate::schema::{Placeholder, PlaceholderFacts};
use crate::sealing::meta::Site;

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
    pub people: &'a People,
}

/// A place in the public part of an event where something else is shown than is stored there: a personal field, after
/// looking at every slot it is in, or a pseudonym whose external id the viewer may see.
struct Place<'e> {
    path: &'e str,
    at: usize,
    shown: Shown<'e>,
}

enum Shown<'e> {
    Value(&'e str),
    Redacted { state: &'e State, subject: SubjectRef },
    Id(&'e ExternalId),
}

impl Shown<'_> {
    /// A value beats a state.
    fn rank(&self) -> u8 {
        match self {
            Self::Value(_) | Self::Id(_) => 5,
            Self::Redacted { state, .. } => state.rank(),
        }
    }

    /// Length of what is stored in its place: `null`, or a pseudonym in quotes.
    fn stored_len(&self) -> usize {
        match self {
            Self::Value(_) | Self::Redacted { .. } => 4,
            Self::Id(_) => SubjectRef::TEXT_LEN + 2,
        }
    }
}

impl Renderer<'_> {
    /// Renders the events of a page into one buffer, and counts. `named` is whose pseudonyms stand in the public parts, in
    /// page order.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] when an offset or plaintext contradicts the format.
    pub fn page(
        &self,
        events: &[Opened<'_>],
        named: &[Option<SubjectRef>],
    ) -> Result<(Vec<RenderedEvent>, Counts), ReadFailed> {
        let mut counts = Counts::default();
        let size =
            |opened: &Opened<'_>| opened.event.public.len() + opened.event.sealed.as_ref().map_or(0, Bytes::len) + 384;
        let mut out = String::with_capacity(events.iter().map(size).sum());
        let mut ends = Vec::with_capacity(events.len());
        let mut named = named.iter();
        let mut places = Vec::new();
        // What was recorded together has the same time.
        let mut recorded = (Millis(0), Millis(0).rfc3339());
        for opened in events {
            if recorded.0 != opened.event.recorded {
                recorded = (opened.event.recorded, opened.event.recorded.rfc3339());
            }
            places.clear();
            self.places(opened, named.by_ref(), &mut places, &mut counts)?;
            Self::head(opened, &recorded.1, &mut out);
            out.push_str(",\"data\":");
            self.data(opened, &places, &mut out).ok_or_else(|| corrupt(opened, "meta"))?;
            Self::redactions(&places, &mut out);
            out.push('}');
            ends.push(out.len());
        }
        let text = Bytes::from(out);
        let begins = std::iter::once(0).chain(ends.iter().copied());
        let rendered = events.iter().zip(begins.zip(&ends)).map(|(opened, (from, to))| RenderedEvent {
            position: opened.event.position,
            revision: opened.event.revision,
            system: opened.event.stream.is_system(),
            json: text.slice(from..*to),
        });
        Ok((rendered.collect(), counts))
    }

    /// Every place of an event where something else is shown, in document order. Takes as many of `named` as the event has
    /// ids.
    fn places<'e>(
        &'e self,
        opened: &'e Opened<'_>,
        named: &mut std::slice::Iter<'_, Option<SubjectRef>>,
        places: &mut Vec<Place<'e>>,
        counts: &mut Counts,
    ) -> Result<(), ReadFailed> {
        for (slot, meta) in opened.slots.iter().zip(&opened.meta.slots) {
            for site in &meta.fields {
                let (state, subject) = match slot {
                    Err((state, subject)) => (state, *subject),
                    // Until its value is found.
                    Ok(_) => (&State::Unavailable, SubjectRef([0; 16])),
                };
                put(places, site, Shown::Redacted { state, subject });
            }
            if let Ok(slot) = slot {
                let value = |path: Cow<'_, str>, text| {
                    if let Some(site) = meta.fields.iter().find(|site| site.0 == path) {
                        put(places, site, Shown::Value(text));
                    }
                };
                slot.each_field(value).map_err(|_| corrupt(opened, "sealed"))?;
            }
        }
        for place in &*places {
            match &place.shown {
                Shown::Redacted { state, .. } => *counts.redacted.entry(state.as_str()).or_default() += 1,
                Shown::Value(_) | Shown::Id(_) => counts.opened += 1,
            }
        }
        for (site, subject) in opened.meta.ids.iter().zip(named) {
            let subject = subject.ok_or_else(|| corrupt(opened, "meta"))?;
            if let Some(id) = self.people.get(&subject) {
                places.push(Place { path: &site.0, at: site.1, shown: Shown::Id(id) });
            }
        }
        places.sort_by_key(|place| place.at);
        Ok(())
    }

    /// The payload with values, placeholders and external ids in place. `None` when an offset is wrong.
    fn data(&self, opened: &Opened<'_>, places: &[Place<'_>], out: &mut String) -> Option<()> {
        let public: &str = &opened.event.public;
        let start = out.len();
        let mut from = 0;
        for place in places {
            out.push_str(public.get(from..place.at)?);
            match &place.shown {
                Shown::Value(text) => out.push_str(text),
                Shown::Redacted { state, .. } => out.push_str(&self.stand_in(opened, place.path, state)),
                Shown::Id(id) => push_string(out, id.expose()),
            }
            from = place.at + place.shown.stored_len();
        }
        out.push_str(public.get(from..)?);
        if self.redaction == Redaction::Omit {
            let kept = omit(&out[start..], places)?;
            out.truncate(start);
            out.push_str(&kept);
        }
        Some(())
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

    fn head(opened: &Opened<'_>, recorded: &str, out: &mut String) {
        use std::fmt::Write;
        let event = opened.event;
        // Writing to a String cannot fail; ids, names and times need no escapes.
        out.push_str("{\"id\":\"");
        event.id.push_to(out);
        out.extend(["\",\"stream\":\"", event.stream.as_str()]);
        let _ = write!(out, "\",\"revision\":{},\"position\":{}", event.revision.0, event.position.0);
        out.extend([",\"type\":\"", event.event_type.as_str(), "\""]);
        if let Some(version) = event.schema_version {
            let _ = write!(out, ",\"schema_version\":{version}");
        }
        let time = opened.meta.time.as_deref().unwrap_or(recorded);
        out.extend([",\"time\":\"", time, "\",\"recorded_at\":\"", recorded, "\""]);
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

    fn redactions(places: &[Place<'_>], out: &mut String) {
        let mut first = true;
        for place in places {
            let Shown::Redacted { state, subject } = &place.shown else { continue };
            out.push_str(if first { ",\"redactions\":[" } else { "," });
            first = false;
            out.push_str("{\"path\":");
            push_string(out, &format!("/data{}", place.path));
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

/// Shows this at a site, unless something better is shown there already.
fn put<'e>(places: &mut Vec<Place<'e>>, site: &'e Site<'_>, shown: Shown<'e>) {
    match places.iter_mut().find(|place| place.path == site.0) {
        Some(known) if known.shown.rank() < shown.rank() => known.shown = shown,
        Some(_) => {}
        None => places.push(Place { path: &site.0, at: site.1, shown }),
    }
}

fn corrupt(opened: &Opened<'_>, column: &'static str) -> ReadError {
    ReadError::Corrupt { table: "events", column, row: opened.event.position.0 }
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
fn omit(text: &str, places: &[Place<'_>]) -> Option<String> {
    let mut data: Value = serde_json::from_str(text).ok()?;
    for place in places.iter().filter(|place| matches!(place.shown, Shown::Redacted { .. })) {
        let (parent, last) = place.path.rsplit_once('/')?;
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
