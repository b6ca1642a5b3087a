//! From a caller's event to a validated, marked one.
//!
//! Owns: finding the people and the personal values of one event. Must not know: keys, storage; whether a person is
//! known. Keeps: every place that a mark means is in the result, or the event is refused; no value in a message.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use super::document::Compiled;
use super::inline::{self, Inline};
use super::{
    CategorySettings, Finding, LeakGuard, PersonalField, Placeholder, Prepared, SchemaPolicy, SubjectSite, Violation,
};
use super::{erased, lint};
use crate::event::{NewEvent, Pointer, Purpose, StreamName, SubjectKey};

/// What the registry knows about an event before looking into it.
pub(super) struct Rules<'r> {
    pub settings: &'r CategorySettings,
    /// What the stream's name looks like, where the leak guard looks.
    pub stream_shape: Option<&'static str>,
    pub schema: Option<(u32, &'r Compiled)>,
}

/// Validates and marks one event.
///
/// # Errors
/// Everything wrong with it, at once.
pub(super) fn prepare<'e>(mut event: Cow<'e, NewEvent>, rules: &Rules<'_>) -> Result<Prepared<'e>, Vec<Violation>> {
    let mut violations = Vec::new();
    let marks = inline::collect(&mut event, &mut violations);
    if rules.settings.schema_policy == SchemaPolicy::Sealed {
        violations.extend(marks.iter().map(|inline| {
            Violation::new("in-line-marks-refused", &inline.shown, "this category takes no in-line marks")
                .hint("mark the field in the schema of the event type")
        }));
    }
    let mut work = Work { compiled: rules.schema.map(|(_, compiled)| compiled), ..Work::default() };
    if let Some(compiled) = work.compiled {
        violations.append(&mut compiled.violations(&event.data));
        work.people(compiled, &event.data, &mut violations);
        work.declared(compiled, &event.data, &mut violations);
    }
    for inline in &marks {
        work.inline(inline, &event.data, rules.settings, &mut violations);
    }
    work.nesting(&event.data, &mut violations);
    let findings = leaks(&event, &work, rules);
    if rules.settings.leak_guard == LeakGuard::Reject {
        violations.extend(findings.iter().map(refuse_leak));
    }
    if !violations.is_empty() {
        return Err(violations);
    }
    if let Some((_, compiled)) = rules.schema {
        work.complete(compiled, &event.data)?;
        erased::check(compiled, &event.data, &work.subjects, &work.fields)?;
    }
    Ok(Prepared {
        schema_version: rules.schema.map(|(version, _)| version),
        subjects: work.subjects,
        fields: work.fields,
        findings,
        event,
    })
}

#[derive(Default)]
struct Work<'r> {
    compiled: Option<&'r Compiled>,
    subjects: Vec<SubjectSite>,
    /// Index of the first site of each person; owners are given by it, so that one person is one owner.
    people: HashMap<SubjectKey, usize>,
    /// Person at each id's place.
    sites: BTreeMap<Pointer, usize>,
    /// Person of each role that is found by natural key.
    naturals: HashMap<usize, usize>,
    fields: Vec<PersonalField>,
    by_path: BTreeMap<Pointer, usize>,
}

impl Work<'_> {
    fn shown(&self, data: &Value, path: &Pointer) -> String {
        match self.compiled {
            Some(compiled) => compiled.shown(data, path.tokens()),
            None => path.tokens().fold(String::from("/data"), |mut out, token| {
                lint::push_token(&mut out, &token);
                out
            }),
        }
    }

    /// Every id that stands in the event, whether or not a field needs it: each is stored as a pseudonym.
    fn people(&mut self, compiled: &Compiled, data: &Value, violations: &mut Vec<Violation>) {
        for (index, role) in compiled.roles.iter().enumerate() {
            match role.natural(data) {
                Some(Ok(site)) => self.natural(index, site),
                Some(Err(wrong)) => violations.extend(
                    wrong.into_iter().map(|(at, code, message)| Violation::new(code, self.shown(data, &at), message)),
                ),
                None => {}
            }
            for (path, value) in role.id().map(|id| id.expand(data)).unwrap_or_default() {
                if value.is_null() || self.sites.contains_key(&path) {
                    continue;
                }
                match subject(value) {
                    Ok(subject) => self.site(subject, path),
                    Err((code, message)) => violations.push(Violation::new(code, self.shown(data, &path), message)),
                }
            }
        }
    }

    fn site(&mut self, subject: SubjectKey, path: Pointer) {
        let index = *self.people.entry(subject.clone()).or_insert(self.subjects.len());
        self.sites.insert(path.clone(), index);
        self.subjects.push(SubjectSite { subject, path: Some(path), natural: None });
    }

    fn natural(&mut self, role: usize, site: SubjectSite) {
        let index = self.subjects.len();
        self.people.insert(site.subject.clone(), index);
        self.naturals.insert(role, index);
        self.subjects.push(site);
    }

    /// The values that the schema marks.
    fn declared(&mut self, compiled: &Compiled, data: &Value, violations: &mut Vec<Violation>) {
        for mark in &compiled.marks {
            for path in mark.places(data) {
                if self.by_path.contains_key(&path) {
                    continue;
                }
                let mut owners = Vec::new();
                for (index, role) in mark.roles.iter().map(|index| (*index, &compiled.roles[*index])) {
                    let Some(id) = role.id_for(&path) else {
                        // Without one the natural key has been refused already.
                        owners.extend(self.naturals.get(&index));
                        continue;
                    };
                    match self.sites.get(&id) {
                        Some(owner) => owners.push(*owner),
                        None if id.lookup(data).is_some_and(|value| !value.is_null()) => {} // refused as an id already
                        None => violations.push(
                            Violation::new("data-subject-missing", self.shown(data, &id), "whose personal data is it?")
                                .hint(format!("{} is personal data of the person named here", self.shown(data, &path))),
                        ),
                    }
                }
                let field = PersonalField {
                    path,
                    owners,
                    joint: mark.field.joint,
                    purposes: Arc::clone(&mark.purposes),
                    category: mark.category.clone(),
                    inline_placeholder: None,
                    inline: false,
                };
                self.field(field);
            }
        }
    }

    fn field(&mut self, mut field: PersonalField) {
        field.owners.sort_unstable();
        field.owners.dedup();
        field.joint &= field.owners.len() > 1;
        self.by_path.insert(field.path.clone(), self.fields.len());
        self.fields.push(field);
    }

    /// A mark that came with the event: new, equal to one that is there already, or refused. Two in-line marks may name
    /// two people for one place: then it is hidden when either is erased.
    fn inline(&mut self, inline: &Inline, data: &Value, settings: &CategorySettings, violations: &mut Vec<Violation>) {
        let mark = &inline.mark;
        let Some(value) = mark.path.lookup(data).filter(|_| !mark.path.is_root()) else {
            return; // refused already
        };
        let known = self.people.get(&mark.subject).copied();
        let purposes = sorted(&mark.purposes);
        let conflict =
            || Violation::new("personal-mark-conflict", &inline.shown, "another mark about this place differs");
        if let Some(&index) = self.by_path.get(&mark.path) {
            let same_purposes = mark.purposes.is_empty() || *self.fields[index].purposes == purposes;
            let category_agrees =
                mark.category.is_none() || self.fields[index].category.as_deref() == mark.category.as_deref();
            let owner = match known {
                Some(owner) => owner,
                None if self.fields[index].inline => self.person(&mark.subject),
                None => return violations.push(conflict()),
            };
            let field = &mut self.fields[index];
            if field.inline {
                let placeholder_agrees = mark.placeholder.is_none() || field.inline_placeholder == mark.placeholder;
                if *field.purposes != purposes || !category_agrees || !placeholder_agrees {
                    return violations.push(conflict());
                }
                if !field.owners.contains(&owner) {
                    field.owners.push(owner);
                    field.owners.sort_unstable();
                    field.joint = true;
                }
            } else if !same_purposes || !category_agrees || field.owners != [owner] || mark.placeholder.is_some() {
                violations.push(conflict());
            }
            return;
        }
        let owner = self.person(&mark.subject);
        let by_category = mark.category.as_ref().and_then(|category| settings.placeholders.get(category));
        let declared = mark.placeholder.as_ref().or(by_category);
        // Settled now: when it is needed the value is gone, and with it the type that the default goes by.
        let placeholder = Placeholder::inline_default(value, mark.category.as_deref(), declared);
        self.field(PersonalField {
            path: mark.path.clone(),
            owners: vec![owner],
            joint: false,
            purposes: purposes.into(),
            category: mark.category.as_deref().map(Arc::from),
            inline_placeholder: Some(placeholder.value().clone()),
            inline: true,
        });
    }

    fn person(&mut self, subject: &SubjectKey) -> usize {
        if let Some(index) = self.people.get(subject) {
            return *index;
        }
        let index = self.subjects.len();
        self.people.insert(subject.clone(), index);
        self.subjects.push(SubjectSite { subject: subject.clone(), path: None, natural: None });
        index
    }

    /// No personal value lies inside another, and none contains an id.
    fn nesting(&self, data: &Value, violations: &mut Vec<Violation>) {
        let mut places: Vec<(&Pointer, bool)> = self.by_path.keys().map(|path| (path, true)).collect();
        for id in self.sites.keys() {
            if self.by_path.contains_key(id) {
                violations.push(sealed_id(self.shown(data, id)));
            } else {
                places.push((id, false));
            }
        }
        places.sort_unstable();
        // In pointer order everything inside a place follows it directly.
        let mut above: Option<&Pointer> = None;
        for (path, is_field) in places {
            match above.filter(|above| above.contains(path)) {
                Some(_) if is_field => violations.push(Violation::new(
                    "personal-mark-nested",
                    self.shown(data, path),
                    "one mark lies inside another",
                )),
                Some(_) => violations.push(sealed_id(self.shown(data, path))),
                None if is_field => above = Some(path),
                None => {}
            }
        }
    }

    /// Fails closed: whatever the marks of the schema mean in this event must be among the fields, with an owner each.
    fn complete(&self, compiled: &Compiled, data: &Value) -> Result<(), Vec<Violation>> {
        let mut meant = compiled.marks.iter().flat_map(|mark| mark.places(data));
        let all_found = meant.all(|path| self.by_path.contains_key(&path));
        if all_found && self.fields.iter().all(|field| !field.owners.is_empty()) {
            return Ok(());
        }
        Err(vec![Violation::new("personal-mark-invalid", "/data", "a marked value could not be attributed")])
    }
}

fn sealed_id(pointer: String) -> Violation {
    Violation::new("subject-id-sealed", pointer, "a mark covers the id of a person").hint("mark the members beside it")
}

fn sorted(purposes: &[Purpose]) -> Vec<Purpose> {
    if purposes.is_empty() {
        return vec![Purpose::general()];
    }
    let mut purposes = purposes.to_vec();
    purposes.sort();
    purposes.dedup();
    purposes
}

/// A person's id as it stands in an event: a text, or a whole number, of which the decimal digits are the id.
fn subject(value: &Value) -> Result<SubjectKey, (&'static str, &'static str)> {
    let parsed = match value {
        Value::String(text) => SubjectKey::parse(text),
        Value::Number(number) if number.is_i64() || number.is_u64() => SubjectKey::parse(&number.to_string()),
        _ => return Err(("subject-id-type", "the id of a person is a string or a whole number")),
    };
    parsed.map_err(|_| ("subject-id-invalid", "not an id of a person that we accept"))
}

fn leaks(event: &NewEvent, work: &Work<'_>, rules: &Rules<'_>) -> Vec<Finding> {
    if rules.settings.leak_guard == LeakGuard::Off {
        return Vec::new();
    }
    let personal = work.fields.iter().map(|field| &field.path);
    let ids = work.subjects.iter().filter_map(|site| site.path.as_ref());
    let mut findings = lint::scan(&event.data, "/data", personal.chain(ids));
    let texts = [
        ("/actor", event.actor.as_deref()),
        ("/correlation_id", event.correlation_id.as_deref()),
        ("/causation_id", event.causation_id.as_deref()),
        ("/source", event.source.as_deref()),
        ("/id", event.source_id.as_deref()),
        ("/type", Some(event.event_type.as_str())),
    ];
    for (pointer, text) in texts {
        if let Some(shape) = text.and_then(lint::shape_of) {
            findings.push(Finding { pointer: pointer.to_owned(), shape });
        }
    }
    if let Some(shape) = rules.stream_shape {
        findings.push(Finding { pointer: "stream".into(), shape });
    }
    findings
}

/// What a stream's name, or the part of it after the category, looks like.
pub(super) fn stream_shape(stream: &StreamName) -> Option<&'static str> {
    let name = stream.as_str();
    let own = name.split_once('-').map_or("", |(_, rest)| rest);
    lint::shape_of(name).or_else(|| lint::shape_of(own))
}

fn refuse_leak(finding: &Finding) -> Violation {
    let message = format!("looks like personal data ({}) and is not marked", finding.shape);
    if matches!(finding.pointer.as_str(), "stream" | "/type") {
        return Violation::new("identifier-looks-personal", &finding.pointer, message)
            .hint("names are never sealed: use an opaque id");
    }
    Violation::new("unmarked-personal-data", &finding.pointer, message)
        .hint("mark it in the schema (`x-personal-data`) or in line, or leave it out")
}
