//! The people of a schema: the keyword `x-data-subjects`, read.
//!
//! Owns: what a role may say, and how it finds its person in an event: an id at one place per person, or a natural key
//! at places of its own. Must not know: marks, whether the person is known. Keeps: a member that would have no effect is
//! refused; every place that a role names is described by the schema.

use std::borrow::Cow;

use serde_json::{Map, Value};

use super::walk::{Node, ROLES, Walked, escape};
use super::{NaturalSite, SubjectSite, Violation};
use crate::event::{NaturalKey, NaturalKeyError, Pointer, SubjectKey};

/// A role of `x-data-subjects`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Role {
    pub name: String,
    pub found: By,
}

/// How a role finds its person.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum By {
    /// By the id at this place, which may hold `*`; `scope` counts the tokens up to and including the last `*`, which a
    /// field of this role shares with its id.
    Id { at: Pointer, scope: usize },
    /// By the values at these places. `also`: where a further natural key of the same person stands, if it does.
    NaturalKey { resolve: Vec<Pointer>, also: Vec<Pointer> },
}

impl Role {
    /// Where the id stands, for roles that have one.
    pub fn id(&self) -> Option<&Pointer> {
        match &self.found {
            By::Id { at, .. } => Some(at),
            By::NaturalKey { .. } => None,
        }
    }

    /// The tokens that a field of this role shares with its id.
    pub fn shared(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let (at, scope) = match &self.found {
            By::Id { at, scope } => (Some(at), *scope),
            By::NaturalKey { .. } => (None, 0),
        };
        at.into_iter().flat_map(Pointer::tokens).take(scope)
    }

    /// Where the id of a field's owner stands, `*` resolved by the field's own place.
    pub fn id_for(&self, field: &Pointer) -> Option<Pointer> {
        let By::Id { at, scope } = &self.found else { return None };
        if *scope == 0 {
            return Some(at.clone());
        }
        let tokens = field.tokens().take(*scope).chain(at.tokens().skip(*scope));
        Some(tokens.fold(Pointer::root(), |at, token| at.child(&token)))
    }

    /// What decides who the person is: roles of two schemas that differ in this mean other people. The name counts for
    /// natural keys only, whose tags it is part of. A further key may be added, but not taken away or moved.
    pub fn means_same_people(&self, later: &Self) -> bool {
        match (&self.found, &later.found) {
            (By::Id { at, .. }, By::Id { at: other, .. }) => at == other,
            (By::NaturalKey { resolve, also }, By::NaturalKey { resolve: others, also: further }) => {
                self.name == later.name && resolve == others && (also.is_empty() || also == further)
            }
            _ => false,
        }
    }

    /// The person of a role that is found by natural key.
    ///
    /// # Errors
    /// Every part that is missing or cannot be one: its place and what is wrong.
    pub fn natural(&self, data: &Value) -> Option<Result<SubjectSite, Vec<Wrong>>> {
        let By::NaturalKey { resolve, also } = &self.found else { return None };
        Some(self.site(resolve, also, data))
    }

    fn site(&self, resolve: &[Pointer], also: &[Pointer], data: &Value) -> Result<SubjectSite, Vec<Wrong>> {
        let mut wrong = Vec::new();
        let key = self.key(resolve, data, &mut wrong);
        // What both keys share (an account, say) is always there and says nothing about whether there is a second one.
        let own: Vec<&Pointer> = also.iter().filter(|place| !resolve.contains(place)).collect();
        let further = if own.iter().all(|place| present(place, data).is_none()) {
            None
        } else {
            self.key(also, data, &mut wrong).zip(own.first().map(|place| (*place).clone()))
        };
        let (Some(key), true) = (key, wrong.is_empty()) else { return Err(wrong) };
        let also = further.filter(|(other, _)| *other != key);
        let at = resolve.first().cloned().unwrap_or_default();
        Ok(SubjectSite { subject: SubjectKey::Natural(key), path: None, natural: Some(NaturalSite { at, also }) })
    }

    fn key(&self, places: &[Pointer], data: &Value, wrong: &mut Vec<Wrong>) -> Option<NaturalKey> {
        let mut parts = Vec::with_capacity(places.len());
        for place in places {
            match present(place, data) {
                Some(value) => parts.push(value),
                None => {
                    wrong.push((
                        place.clone(),
                        "data-subject-missing",
                        "a part of the person's natural key is missing",
                    ));
                }
            }
        }
        if parts.len() < places.len() {
            return None;
        }
        let refused = match NaturalKey::new(&self.name, &parts) {
            Ok(key) => return Some(key),
            Err(NaturalKeyError::Part { index }) => {
                let place = places.get(index).cloned().unwrap_or_default();
                (place, "subject-id-type", "a part of a natural key is a string, a number or a boolean")
            }
            Err(NaturalKeyError::TooLong | NaturalKeyError::Parts | NaturalKeyError::Role) => {
                let place = places.first().cloned().unwrap_or_default();
                (place, "subject-id-invalid", "the natural key that begins here is too long")
            }
        };
        wrong.push(refused);
        None
    }
}

/// A place in an event, a code, and what is wrong there.
pub(super) type Wrong = (Pointer, &'static str, &'static str);

/// `null` counts as absent: optional members are often written so.
fn present<'v>(place: &Pointer, data: &'v Value) -> Option<&'v Value> {
    place.lookup(data).filter(|value| !value.is_null())
}

/// Reads the roles of a schema.
pub(super) fn roles(root: &Value, violations: &mut Vec<Violation>) -> Vec<Role> {
    let Some(declared) = root.get(ROLES) else { return Vec::new() };
    let Value::Object(declared) = declared else {
        violations.push(Violation::new("subject-roles-invalid", format!("#/{ROLES}"), "must be an object of roles"));
        return Vec::new();
    };
    let mut out = Vec::new();
    for (name, role) in declared {
        match parse(name, role) {
            Ok(role) => out.push(role),
            Err(violation) => violations.push(violation),
        }
    }
    out
}

/// Every place of a natural key must be described, or a typing error would refuse every event.
pub(super) fn natural_keys(walked: &Walked<'_>, roles: &[Role], violations: &mut Vec<Violation>) {
    for role in roles {
        let By::NaturalKey { resolve, also } = &role.found else { continue };
        for (member, places) in [("resolve", resolve), ("also", also)] {
            for (index, place) in places.iter().enumerate() {
                // `additionalProperties: false` speaks about every place that is not there.
                let describes =
                    |node: &Node<'_>| node.pattern.describes_pointer(place) && *node.schema != Value::Bool(false);
                if !walked.nodes.iter().any(describes) {
                    let at = format!("#/{ROLES}/{}/{member}/{index}", escape(&role.name));
                    violations.push(
                        Violation::new("subject-id-unknown", at, "the schema does not describe this place")
                            .hint("the parts of a natural key are JSON Pointers into the event's data"),
                    );
                }
            }
        }
    }
}

fn parse(name: &str, role: &Value) -> Result<Role, Violation> {
    let place = format!("#/{ROLES}/{}", escape(name));
    let refuse = |message: &str| Violation::new("subject-roles-invalid", &place, message);
    if name.is_empty() || name.len() > NaturalKey::ROLE_LIMIT {
        return Err(refuse("a role's name has 1 to 128 bytes"));
    }
    let object = role.as_object().ok_or_else(|| refuse("a role is an object with `id` or `resolve`"))?;
    let natural = object.contains_key("resolve");
    if natural && object.contains_key("id") {
        return Err(refuse("a role has `id` or `resolve`, not both"));
    }
    let known: &[&str] = if natural { &["resolve", "also"] } else { &["id"] };
    if let Some(unknown) = object.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(refuse(&format!(
            "`{unknown}` is not known here; a role has `id`, or `resolve` and perhaps `also`"
        )));
    }
    let found = if natural { parse_natural(object) } else { parse_id(object) };
    Ok(Role { name: name.to_owned(), found: found.map_err(refuse)? })
}

fn parse_id(object: &Map<String, Value>) -> Result<By, &'static str> {
    let id = object.get("id").and_then(Value::as_str).ok_or("`id` is a JSON Pointer")?;
    let at = Pointer::parse(id).map_err(|_| "`id` is not a JSON Pointer")?;
    if at.tokens().last().is_none_or(|last| last == "*") && at.depth() < 2 {
        return Err("`id` names a member of the event, or an element of one");
    }
    let scope = at.tokens().enumerate().filter(|(_, token)| token == "*").last().map_or(0, |(at, _)| at + 1);
    Ok(By::Id { at, scope })
}

fn parse_natural(object: &Map<String, Value>) -> Result<By, &'static str> {
    let resolve = places(&object["resolve"])?;
    let also = object.get("also").map_or(Ok(Vec::new()), places)?;
    if !also.is_empty() && (also.len() != resolve.len() || also == resolve) {
        return Err("`also` names another place for each part of `resolve`, or the same one where that part stays");
    }
    Ok(By::NaturalKey { resolve, also })
}

fn places(declared: &Value) -> Result<Vec<Pointer>, &'static str> {
    const WRONG: &str = "a natural key is a list of 1 to 8 JSON Pointers, distinct and without `*`";
    let list = declared.as_array().filter(|list| (1..=NaturalKey::MOST_PARTS).contains(&list.len())).ok_or(WRONG)?;
    let mut out: Vec<Pointer> = Vec::with_capacity(list.len());
    for place in list {
        let place = place.as_str().and_then(|text| Pointer::parse(text).ok()).ok_or(WRONG)?;
        let single = !place.is_root() && place.tokens().all(|token| token != "*");
        if !single || out.contains(&place) {
            return Err(WRONG);
        }
        out.push(place);
    }
    Ok(out)
}
