//! Whether a new version goes with the earlier ones: for readers, and for the people in the events.
//!
//! Owns: the modes, the report, and the comparison of marks. Must not know: stored events (the caller tries them with
//! `Candidate::breaks`). Keeps: a version that protects less than the one before never passes unnoticed.

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::Violation;
use super::compat_rules::differences;
use super::document::Compiled;
use super::personal::Mark;
use super::role::Role;
use super::walk::{MARK, ROLES, escape};

/// How versions of a type must relate. Backward: new readers understand old events. Forward: old readers understand new
/// events. Transitive: with all versions, not only the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Compatibility {
    /// Anything goes.
    None,
    /// Backward, the version before.
    Backward,
    /// Forward, the version before.
    Forward,
    /// Both, the version before.
    Full,
    /// Backward, all versions.
    #[default]
    BackwardTransitive,
    /// Forward, all versions.
    ForwardTransitive,
    /// Both, all versions.
    FullTransitive,
}

impl Compatibility {
    fn backward(self) -> bool {
        matches!(self, Self::Backward | Self::Full | Self::BackwardTransitive | Self::FullTransitive)
    }

    fn forward(self) -> bool {
        matches!(self, Self::Forward | Self::Full | Self::ForwardTransitive | Self::FullTransitive)
    }

    fn transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }
}

/// One incompatible change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CompatError {
    /// JSON Pointer into the new schema: `/properties/contact_method`.
    pub pointer: String,
    /// What kind of change: `required-added`, `type-narrowed`, ….
    pub rule: &'static str,
    /// What the earlier version says.
    pub old: String,
    /// What the new one says.
    pub new: String,
    /// The earlier version.
    pub version: u32,
    /// What to do about it.
    pub hint: String,
}

/// Result of comparing a schema with earlier versions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompatReport {
    /// By which rule.
    pub mode: Compatibility,
    /// With how many versions.
    pub checked_versions: u32,
    /// What is incompatible; empty when nothing is.
    pub errors: Vec<CompatError>,
}

impl Serialize for CompatReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("CompatReport", 4)?;
        out.serialize_field("compatible", &self.errors.is_empty())?;
        out.serialize_field("mode", &self.mode)?;
        out.serialize_field("checked", &serde_json::json!({ "versions": self.checked_versions }))?;
        out.serialize_field("errors", &self.errors)?;
        out.end()
    }
}

/// Compares a new schema with the earlier versions, oldest first.
pub(super) fn check(mode: Compatibility, earlier: &[(u32, &Value)], new: &Value) -> CompatReport {
    let from = match (mode, earlier.len()) {
        (Compatibility::None, all) => all,
        (mode, _) if mode.transitive() => 0,
        (_, all) => all.saturating_sub(1),
    };
    let mut errors = Vec::new();
    for (version, old) in &earlier[from..] {
        if mode.backward() {
            errors.extend(differences(old, new).into_iter().map(|found| found.backward(*version)));
        }
        if mode.forward() {
            errors.extend(differences(new, old).into_iter().map(|found| found.forward(*version)));
        }
    }
    CompatReport { mode, checked_versions: (earlier.len() - from) as u32, errors }
}

/// Where the new version protects less than, or differently from, the latest: marks removed or re-pointed, ids no longer
/// replaced by pseudonyms.
pub(super) fn exposed(old: &Compiled, new: &Compiled) -> Vec<Violation> {
    let mut found = Vec::new();
    for role in &old.roles {
        if !new.roles.iter().any(|other| role.means_same_people(other)) {
            let message = match role.id() {
                Some(id) => format!("ids at {id} would be stored as they come"),
                None => "people would no longer be found by this natural key".to_owned(),
            };
            found.push(
                Violation::new("privacy-id-removed", format!("#/{ROLES}/{}", escape(&role.name)), message)
                    .hint("the data-protection officer must acknowledge this"),
            );
        }
    }
    for mark in &old.marks {
        let place = mark.field.pointer.to_string();
        let problem = match new.marks.iter().find(|other| other.pattern.covers_start_of(&mark.pattern)) {
            None => Some(("privacy-mark-removed", format!("`{MARK}` at {place} is gone"))),
            Some(other) => {
                weaker(old, mark, new, other).map(|what| ("privacy-mark-changed", format!("{what} at {place}")))
            }
        };
        if let Some((code, message)) = problem {
            found.push(Violation::new(code, place, message).hint("the data-protection officer must acknowledge this"));
        }
    }
    found
}

/// What makes a mark a different promise to the people in the events. Kinds of data and placeholders may change freely.
fn weaker(old: &Compiled, mark: &Mark, new: &Compiled, other: &Mark) -> Option<&'static str> {
    let owners: Vec<&Role> = mark.roles.iter().map(|index| &old.roles[*index]).collect();
    let others: Vec<&Role> = other.roles.iter().map(|index| &new.roles[*index]).collect();
    let kept = |role: &&Role| others.iter().any(|other| role.means_same_people(other));
    let known = |other: &&Role| owners.iter().any(|role| role.means_same_people(other));
    if owners.len() != others.len() || !owners.iter().all(kept) || !others.iter().all(known) {
        return Some("the people whose data it is change");
    }
    if mark.field.joint != other.field.joint {
        return Some("whose erasure hides it changes");
    }
    if mark.field.purposes != other.field.purposes {
        return Some("the purposes change");
    }
    (mark.field.special && !other.field.special).then_some("it is no longer a special category")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(mode: Compatibility, old: &Value, new: &Value) -> Vec<(&'static str, String)> {
        check(mode, &[(1, old)], new).errors.into_iter().map(|e| (e.rule, e.pointer)).collect()
    }

    fn backward(old: &Value, new: &Value) -> Vec<(&'static str, String)> {
        rules(Compatibility::Backward, old, new)
    }

    #[test]
    fn each_backward_rule() {
        let cases = [
            (
                json!({"properties": {"a": {}}}),
                json!({"properties": {"a": {}}, "required": ["a"]}),
                "required-added",
                "/properties/a",
            ),
            (
                json!({"properties": {"a": {}}, "additionalProperties": false}),
                json!({"properties": {}, "additionalProperties": false}),
                "property-removed",
                "/properties/a",
            ),
            (
                json!({"properties": {"a": {"type": ["string", "null"]}}}),
                json!({"properties": {"a": {"type": "string"}}}),
                "type-narrowed",
                "/properties/a/type",
            ),
            (json!({"type": "number"}), json!({"type": "integer"}), "type-narrowed", "/type"),
            (json!({"enum": [1, 2]}), json!({"enum": [1]}), "enum-narrowed", "/enum"),
            (json!({}), json!({"const": 1}), "enum-narrowed", "/const"),
            (json!({"minLength": 1}), json!({"minLength": 2}), "constraint-tightened", "/minLength"),
            (json!({}), json!({"maxItems": 2}), "constraint-tightened", "/maxItems"),
            (json!({"maximum": 10}), json!({"maximum": 9.5}), "constraint-tightened", "/maximum"),
            (json!({"minimum": 1}), json!({"exclusiveMinimum": 1}), "constraint-tightened", "/exclusiveMinimum"),
            (json!({}), json!({"pattern": "^a"}), "constraint-tightened", "/pattern"),
            (json!({}), json!({"format": "email"}), "constraint-tightened", "/format"),
            (json!({}), json!({"uniqueItems": true}), "constraint-tightened", "/uniqueItems"),
            (
                json!({}),
                json!({"additionalProperties": false}),
                "additional-properties-closed",
                "/additionalProperties",
            ),
            (
                json!({"items": {"type": "string"}}),
                json!({"items": {"type": "integer"}}),
                "type-narrowed",
                "/items/type",
            ),
            (json!({}), json!({"not": {"type": "string"}}), "condition-changed", "/not"),
            (json!({}), json!({"anyOf": [{"type": "string"}]}), "condition-changed", "/anyOf"),
            (
                json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}),
                json!({"$ref": "#/$defs/b", "$defs": {"b": {"type": "string", "maxLength": 3}}}),
                "constraint-tightened",
                "/maxLength",
            ),
        ];
        for (old, new, rule, pointer) in cases {
            assert_eq!(backward(&old, &new), [(rule, pointer.to_owned())], "{old} {new}");
            assert_eq!(backward(&old, &old), []);
            assert_eq!(backward(&new, &new), []);
        }
    }

    #[test]
    fn loosening_is_fine_backward_and_not_forward() {
        let old = json!({"type": "object", "required": ["a"], "additionalProperties": false, "properties": {
            "a": {"type": "string", "maxLength": 5}, "b": {"enum": [1]}}});
        let new = json!({"type": "object", "properties": {"a": {"type": ["string", "null"]}, "b": {"enum": [1, 2]},
            "c": {"type": "integer"}}});
        assert_eq!(backward(&old, &new), []);
        let forward = rules(Compatibility::Forward, &old, &new);
        let kinds: Vec<&str> = forward.iter().map(|(rule, _)| *rule).collect();
        for rule in [
            "required-removed",
            "type-widened",
            "enum-widened",
            "constraint-loosened",
            "property-added",
            "additional-properties-opened",
        ] {
            assert!(kinds.contains(&rule), "{rule} {kinds:?}");
        }
        assert_eq!(rules(Compatibility::None, &new, &old), []);
    }

    #[test]
    fn transitive_modes_look_further_back() {
        let one = json!({"properties": {"a": {"type": "integer"}}});
        let two = json!({"properties": {}});
        let three = json!({"properties": {"a": {"type": "string"}}});
        let earlier = [(1, &one), (2, &two)];
        assert!(check(Compatibility::Backward, &earlier, &three).errors.is_empty());
        let report = check(Compatibility::BackwardTransitive, &earlier, &three);
        assert_eq!((report.checked_versions, report.errors[0].version), (2, 1));
        let shown = serde_json::to_value(&report).unwrap();
        assert_eq!(shown["compatible"], json!(false));
        assert_eq!(shown["mode"], json!("BACKWARD_TRANSITIVE"));
        assert_eq!(shown["checked"]["versions"], json!(2));
        assert_eq!(shown["errors"][0]["rule"], json!("type-narrowed"));
    }

    #[test]
    fn recursive_schemas_end() {
        let tree = json!({"$ref": "#/$defs/n", "$defs": {"n": {"properties": {"c": {"items": {"$ref": "#/$defs/n"}}, "v": {"type": "string"}}}}});
        let mut narrowed = tree.clone();
        narrowed["$defs"]["n"]["properties"]["v"]["type"] = json!("integer");
        assert_eq!(backward(&tree, &tree), []);
        assert_eq!(backward(&tree, &narrowed), [("type-narrowed", "/properties/v/type".to_owned())]);
    }
}
