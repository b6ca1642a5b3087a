//! The invariant that an erased event is always schema-valid, where a schema can see across fields.
//!
//! Owns: the rehearsal of erasures at append. Must not know: why something is erased. Keeps: an event is accepted only
//! if it is valid as stored, with everyone erased, with each person, purpose or value alone hidden. Where the schema
//! looks at each field by itself (`Compiled::plain`) registration has proved this once for all events.

use serde_json::Value;

use super::document::Compiled;
use super::placeholder::{Placeholder, PlaceholderFacts, extremes};
use super::{PersonalField, SubjectSite, Violation};
use crate::event::{Pointer, SubjectKey, SubjectRef};

/// Most fields for which each alone is rehearsed too.
const MAX_SINGLE: usize = 64;

/// Rehearses erasures of one event.
///
/// # Errors
/// `placeholder-invalid`, at the places that an erasure would hide.
pub(super) fn check(
    compiled: &Compiled,
    data: &Value,
    subjects: &[SubjectSite],
    fields: &[PersonalField],
) -> Result<(), Vec<Violation>> {
    if compiled.plain && !fields.iter().any(|field| field.inline) {
        return Ok(());
    }
    let stored = with_pseudonyms(data, subjects);
    if !compiled.accepts(&stored) {
        return Err(vec![
            Violation::new(
                "subject-id-type",
                "/data",
                "with pseudonyms for the ids, the event does not match the schema",
            )
            .hint("ids are stored as `ds_` and 32 hexadecimal digits: no condition may depend on them"),
        ]);
    }
    let hidden: Vec<Value> = fields.iter().map(|field| placeholder(compiled, data, field)).collect();
    for case in cases(subjects.len(), fields) {
        let mut event = stored.clone();
        for index in &case {
            replace(&mut event, &fields[*index].path, &hidden[*index]);
        }
        if !compiled.accepts(&event) {
            return Err(refusals(compiled, data, fields, &case));
        }
    }
    Ok(())
}

/// Sets of fields, by index, that some erasure hides together.
fn cases(people: usize, fields: &[PersonalField]) -> Vec<Vec<usize>> {
    let select = |hides: &dyn Fn(&PersonalField) -> bool| -> Vec<usize> {
        fields.iter().enumerate().filter(|(_, field)| hides(field)).map(|(index, _)| index).collect()
    };
    let mut cases = vec![select(&|_| true)];
    for person in 0..people {
        cases.push(select(&|field| field.owners == [person] || field.joint && field.owners.contains(&person)));
    }
    let mut purposes: Vec<_> = fields.iter().flat_map(|field| field.purposes.iter()).collect();
    purposes.sort();
    purposes.dedup();
    for purpose in purposes {
        cases.push(select(&|field| *field.purposes == [purpose.clone()]));
    }
    if fields.len() <= MAX_SINGLE {
        cases.extend((0..fields.len()).map(|index| vec![index]));
    }
    cases.retain(|case| !case.is_empty());
    // The smallest first, so that the blame falls on as few as possible.
    cases.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    cases.dedup();
    cases
}

fn placeholder(compiled: &Compiled, data: &Value, field: &PersonalField) -> Value {
    let facts: PlaceholderFacts<'_> =
        extremes(field.category.as_deref().unwrap_or_default()).next().unwrap_or_default();
    if !field.inline
        && let Some(mark) = compiled.marks.iter().find(|mark| mark.pattern.matches(&field.path))
    {
        return mark.field.placeholder.rendered(&facts);
    }
    let value = field.path.lookup(data).unwrap_or(&Value::Null);
    Placeholder::inline_default(value, field.category.as_deref(), field.inline_placeholder.as_ref()).rendered(&facts)
}

/// The event as stored: each id replaced by a pseudonym, the same for the same person.
fn with_pseudonyms(data: &Value, subjects: &[SubjectSite]) -> Value {
    let mut event = data.clone();
    for site in subjects {
        let first = subjects.iter().position(|other| other.subject == site.subject).unwrap_or(0);
        let pseudonym = match &site.subject {
            SubjectKey::Ref(subject) => *subject,
            // People found by natural key stand nowhere in the payload.
            SubjectKey::External(_) | SubjectKey::Natural(_) => SubjectRef((0xa0 << 120 | first as u128).to_be_bytes()),
        };
        if let Some(path) = &site.path {
            replace(&mut event, path, &Value::String(pseudonym.to_string()));
        }
    }
    event
}

fn replace(event: &mut Value, path: &Pointer, with: &Value) {
    let place = path.tokens().try_fold(event, |value, token| match value {
        Value::Object(members) => members.get_mut(&*token),
        Value::Array(items) => items.get_mut(token.parse::<usize>().ok()?),
        _ => None,
    });
    if let Some(place) = place {
        *place = with.clone();
    }
}

fn refusals(compiled: &Compiled, data: &Value, fields: &[PersonalField], case: &[usize]) -> Vec<Violation> {
    let place = |index: &usize| compiled.shown(data, fields[*index].path.tokens());
    let refuse = |index: &usize| {
        Violation::new("placeholder-invalid", place(index), "once this is erased, the event would not match the schema")
            .hint("give the field a placeholder that every condition of the schema accepts, or loosen the schema")
    };
    case.iter().take(10).map(refuse).collect()
}
