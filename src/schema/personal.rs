//! What in an event type is personal, and whose it is: the marks of a schema and their people.
//!
//! Owns: the meaning of `x-personal-data`, and every reason to refuse a mark or the place of an id. Must not know: events,
//! keys. Keeps: a mark that would not take effect, exactly and everywhere, is refused; so is an id that could not be
//! replaced by a pseudonym.

use std::sync::Arc;

use jsonschema::Validator;
use serde_json::Value;

use super::Violation;
use super::declared::Declared;
use super::document::Parts;
use super::pattern::Pattern;
use super::placeholder::{self, Placeholder};
use super::role::{self, Role};
use super::walk::{MARK, Node, ROLES, Walked, escape};
use crate::event::{Pointer, Purpose, SubjectRef};

/// A place that a schema marks as personal.
#[derive(Clone, Debug, PartialEq)]
pub struct FieldMark {
    /// Where in `data`; `*` for every element or member.
    pub pointer: Pointer,
    /// Whose data it is: names of roles, sorted.
    pub roles: Vec<String>,
    /// `true`: hidden when any owner is erased (`erase_when: any`, more than one owner).
    pub joint: bool,
    /// Why it is processed: sorted, distinct, at least one.
    pub purposes: Vec<Purpose>,
    /// Kind of data, for example `contact.email`.
    pub category: Option<String>,
    /// Whether it is of a special category (Art. 9).
    pub special: bool,
    /// What is shown when it is gone.
    pub placeholder: Placeholder,
}

/// A mark and what it means for events.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    pub pattern: Pattern,
    pub field: Arc<FieldMark>,
    /// Purposes and category as events carry them, made once for all of them.
    pub purposes: Arc<[Purpose]>,
    pub category: Option<Arc<str>>,
    /// Indexes into the schema's roles.
    pub roles: Vec<usize>,
}

impl Mark {
    /// Every place in an event's data that the mark means, in document order.
    pub fn places(&self, data: &Value) -> impl Iterator<Item = Pointer> + use<> {
        let open = self.pattern.has_open_step();
        // Without an open step the place is the same in every event.
        let single = (!open && self.pattern.is_in(data)).then(|| self.field.pointer.clone());
        let several = if open { self.pattern.expand(data) } else { Vec::new() };
        single.into_iter().chain(several)
    }
}

/// Marks and roles of a schema.
pub(super) struct Personal {
    pub marks: Vec<Mark>,
    pub roles: Vec<Role>,
    pub plain: bool,
}

/// Finds the marks and roles of a schema.
///
/// # Errors
/// Everything that would keep a mark from taking effect.
pub(super) fn find(
    root: &Value,
    walked: &Walked<'_>,
    marked: &[String],
    parts: &Parts,
) -> Result<Personal, Vec<Violation>> {
    let mut violations = unreachable(walked, marked);
    let roles = role::roles(root, &mut violations);
    let mut found: Vec<Found<'_, '_>> = Vec::new();
    for node in walked.nodes.iter().filter(|node| node.schema.get(MARK).is_some()) {
        match Declared::parse(&node.schema[MARK], &node.location, &roles) {
            Ok(declared) => found.push(Found { node, declared }),
            Err(mut more) => violations.append(&mut more),
        }
    }
    found.sort_by_cached_key(|f| (f.node.pattern.has_open_step(), f.node.pattern.pointer(), f.node.location.clone()));
    for mark in &found {
        placed(mark, &roles, &mut violations);
    }
    conflicts(&found, &mut violations);
    ids(walked, &roles, &found, parts, &mut violations);
    role::natural_keys(walked, &roles, &mut violations);
    dedup(&mut violations);
    if !violations.is_empty() {
        return Err(violations);
    }
    let plain = is_plain(walked, &found, &roles);
    let mut marks: Vec<Mark> = Vec::new();
    for mark in &found {
        match mark.settle(walked, &found, parts, &roles) {
            Ok(mark) if marks.iter().any(|m| m.pattern == mark.pattern) => {}
            Ok(mark) => marks.push(mark),
            Err(violation) => violations.push(violation),
        }
    }
    dedup(&mut violations);
    if violations.is_empty() { Ok(Personal { marks, roles, plain }) } else { Err(violations) }
}

struct Found<'w, 's> {
    node: &'w Node<'s>,
    declared: Declared,
}

impl Found<'_, '_> {
    /// The placeholder must satisfy every subschema that surely speaks about the place, its own first of all.
    fn settle(&self, walked: &Walked<'_>, all: &[Self], parts: &Parts, roles: &[Role]) -> Result<Mark, Violation> {
        let about = walked.nodes.iter().filter(|node| {
            let marked = all.iter().any(|mark| std::ptr::eq(mark.node, *node));
            (node.certain || marked) && node.pattern.overlaps(&self.node.pattern)
        });
        let mut locations: Vec<&str> = about.map(|node| node.location.as_str()).collect();
        locations.sort_unstable();
        locations.dedup();
        let validators: Vec<Validator> = locations.iter().map(|at| parts.compile(at)).collect::<Result<_, _>>()?;
        let validators: Vec<&Validator> = validators.iter().collect();
        let declared = &self.declared;
        let category = declared.category.as_deref();
        let placeholder =
            placeholder::settle(declared.placeholder.as_ref(), category, &validators, &self.node.location)?;
        let indexes = roles.iter().enumerate().filter(|(_, role)| declared.roles.contains(&role.name));
        Ok(Mark {
            pattern: self.node.pattern.clone(),
            purposes: declared.purposes.clone().into(),
            category: category.map(Arc::from),
            roles: indexes.map(|(at, _)| at).collect(),
            field: Arc::new(FieldMark {
                pointer: self.node.pattern.pointer(),
                roles: declared.roles.clone(),
                joint: declared.joint,
                purposes: declared.purposes.clone(),
                category: declared.category.clone(),
                special: declared.special,
                placeholder,
            }),
        })
    }
}

/// Marks that the walk did not reach, or reached only on the first round of a recursion.
fn unreachable(walked: &Walked<'_>, marked: &[String]) -> Vec<Violation> {
    let reached = |location: &String| {
        let mut nodes = walked.nodes.iter().filter(|node| node.location == **location).peekable();
        nodes.peek().is_some() && nodes.all(|node| !walked.recurs(node))
    };
    let lost = marked.iter().filter(|location| !reached(location));
    lost.map(|location| {
        Violation::new("personal-mark-unreachable", format!("{location}/{MARK}"), "the mark cannot take effect here")
            .hint("marks do not work under `not`, `contains`, unused definitions or recursive references: mark the whole object above instead")
    })
    .collect()
}

/// What can be wrong with the place of one mark.
fn placed(mark: &Found<'_, '_>, roles: &[Role], violations: &mut Vec<Violation>) {
    let at = format!("{}/{MARK}", mark.node.location);
    let pattern = &mark.node.pattern;
    if pattern.is_root() {
        violations.push(
            Violation::new("personal-mark-root", &at, "the whole event cannot be personal")
                .hint("mark its members: the ids of the people in it must stay readable"),
        );
    }
    if pattern.has_literal_star() {
        violations.push(Violation::new("personal-mark-ambiguous", &at, "a member named `*` cannot hold personal data"));
    }
    for role in roles.iter().filter(|role| mark.declared.roles.contains(&role.name)) {
        if !pattern.begins_with(role.shared()) {
            violations.push(
                Violation::new(
                    "subject-role-ambiguous",
                    &at,
                    "the role names one person per element, and this field stands outside the elements",
                )
                .hint("move the field beside the id, or mark it with another role"),
            );
        }
    }
    // Whether or not the mark names the role: every id must stay readable as a pseudonym.
    if roles.iter().filter_map(Role::id).any(|id| pattern.overlaps_pointer(id, true)) {
        violations.push(
            Violation::new("subject-id-sealed", &at, "the mark covers the id of a person")
                .hint("ids stay readable as pseudonyms: mark the members beside the id"),
        );
    }
}

/// Two marks about one place must say the same; one inside the other is never needed.
fn conflicts(found: &[Found<'_, '_>], violations: &mut Vec<Violation>) {
    for (at, one) in found.iter().enumerate() {
        for other in &found[at + 1..] {
            let (a, b) = (&one.node.pattern, &other.node.pattern);
            let place = format!("{}/{MARK}", other.node.location);
            if a.overlaps(b) {
                if one.declared != other.declared {
                    violations.push(
                        Violation::new("personal-mark-conflict", place, "two marks about the same place differ")
                            .hint(format!("the other mark stands at {}", one.node.location)),
                    );
                }
            } else if a.overlaps_start_of(b) || b.overlaps_start_of(a) {
                violations.push(
                    Violation::new("personal-mark-nested", place, "one mark lies inside another")
                        .hint(format!("the other mark stands at {}", one.node.location)),
                );
            }
        }
    }
}

/// Every id must be described, and its description must accept a pseudonym.
fn ids(walked: &Walked<'_>, roles: &[Role], found: &[Found<'_, '_>], parts: &Parts, violations: &mut Vec<Violation>) {
    let pseudonym = Value::String(SubjectRef([0x7f; 16]).to_string());
    for (role, id) in roles.iter().filter_map(|role| Some((role, role.id()?))) {
        let place = format!("#/{ROLES}/{}/id", escape(&role.name));
        let about: Vec<&Node<'_>> = walked.nodes.iter().filter(|n| n.pattern.describes_pointer(id)).collect();
        if about.is_empty() {
            violations.push(
                Violation::new("subject-id-unknown", &place, "the schema does not describe this place")
                    .hint("the id is a JSON Pointer into the event's data, with `*` for every element"),
            );
        } else if about.iter().any(|node| walked.recurs(node)) && !found.is_empty() {
            violations.push(Violation::new("subject-id-unknown", &place, "the place of the id is recursive"));
        }
        let certain: Vec<_> = about.iter().filter(|node| node.certain).collect();
        let mut accept = certain.iter().map(|node| parts.compile(&node.location).is_ok_and(|v| v.is_valid(&pseudonym)));
        if !accept.all(|accepts| accepts) {
            violations.push(
                Violation::new("subject-id-type", &place, "the schema of the id does not accept a pseudonym").hint(
                    "ids are stored as `ds_` and 32 hexadecimal digits: use a string without format, pattern or enum",
                ),
            );
        }
    }
}

fn is_plain(walked: &Walked<'_>, found: &[Found<'_, '_>], roles: &[Role]) -> bool {
    let about = |node: &&Node<'_>| {
        found.iter().any(|mark| mark.node.pattern.overlaps(&node.pattern))
            || roles.iter().filter_map(Role::id).any(|id| node.pattern.describes_pointer(id))
    };
    walked.nodes.iter().filter(about).all(|node| node.plain)
}

fn dedup(violations: &mut Vec<Violation>) {
    let mut seen = std::collections::HashSet::new();
    violations.retain(|violation| seen.insert((violation.code, violation.pointer.clone())));
}
