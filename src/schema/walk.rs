//! The static walk over a schema: every subschema that can speak about a place in an event, and which place.
//!
//! Owns: schema positions, local references, cycles, and the search for keywords of ours that the walk does not reach.
//! Must not know: what a mark says. Keeps: a mark is either reached, with a finite pattern that covers every place it
//! applies to, or the schema is refused.

use std::collections::{BTreeSet, HashSet};

use jsonschema::Draft;
use serde_json::{Map, Value};

use super::Violation;
use super::pattern::{Pattern, Step};

/// The keyword that marks a subschema as personal.
pub(super) const MARK: &str = "x-personal-data";
/// The keyword that names the people of an event, at the root.
pub(super) const ROLES: &str = "x-data-subjects";

/// Subschemas visited, references followed, before a schema counts as too complex.
const MAX_NODES: usize = 20_000;
/// Longest way from the root to a subschema, references included.
const MAX_DEPTH: usize = 100;

/// A subschema and the place it speaks about.
pub(super) struct Node<'s> {
    pub schema: &'s Value,
    /// `#/properties/name`
    pub location: String,
    pub pattern: Pattern,
    parent: Option<usize>,
    depth: usize,
    /// No keyword on the way here looks at more than its own place, so exchanging the value at this place for another
    /// one that this subschema accepts cannot make the event invalid.
    pub plain: bool,
    /// Applies whenever its place exists; not under a condition or an alternative.
    pub certain: bool,
}

/// Everything reached.
pub(super) struct Walked<'s> {
    pub nodes: Vec<Node<'s>>,
    cyclic: HashSet<String>,
}

/// Walks a schema whose references have been checked.
///
/// # Errors
/// When it is too complex, or a reference leads to itself without entering the event.
pub(super) fn walk(root: &Value, draft: Draft) -> Result<Walked<'_>, Violation> {
    let mut walked = Walked { nodes: Vec::new(), cyclic: HashSet::new() };
    let start = Node {
        schema: root,
        location: "#".into(),
        pattern: Pattern::default(),
        parent: None,
        depth: 0,
        plain: true,
        certain: true,
    };
    let mut open = vec![start];
    while let Some(node) = open.pop() {
        if walked.nodes.len() >= MAX_NODES || node.depth > MAX_DEPTH {
            return Err(Violation::new("schema-too-complex", &node.location, "the schema has too many subschemas")
                .hint("references multiply: name fewer alternatives, or nest less"));
        }
        if let Some(ancestor) = walked.ancestor(&node) {
            if ancestor.pattern == node.pattern {
                return Err(Violation::new("schema-invalid", &node.location, "a reference leads back to itself"));
            }
            walked.cyclic.insert(node.location);
            continue;
        }
        let at = walked.nodes.len();
        let harmless = node.plain && harmless(node.schema);
        for edge in edges(root, node.schema, draft) {
            open.push(Node {
                schema: edge.schema,
                location: edge.to.unwrap_or_else(|| format!("{}/{}", node.location, edge.suffix)),
                pattern: edge.step.map_or_else(|| node.pattern.clone(), |step| node.pattern.child(step)),
                parent: Some(at),
                depth: node.depth + 1,
                plain: harmless,
                certain: node.certain && edge.certain,
            });
        }
        walked.nodes.push(node);
    }
    Ok(walked)
}

impl<'s> Walked<'s> {
    fn ancestor(&self, node: &Node<'s>) -> Option<&Node<'s>> {
        let mut at = node.parent;
        while let Some(index) = at {
            let above = &self.nodes[index];
            if above.location == node.location {
                return Some(above);
            }
            at = above.parent;
        }
        None
    }

    /// Whether the node lies on a reference cycle, so that it also applies at ever deeper places.
    pub fn recurs(&self, node: &Node<'s>) -> bool {
        let mut at = Some(node);
        while let Some(node) = at {
            if self.cyclic.contains(&node.location) {
                return true;
            }
            at = node.parent.map(|index| &self.nodes[index]);
        }
        false
    }

    /// Every member name the schema speaks of: safe to show, being the schema's and not an event's.
    pub fn names(&self) -> HashSet<String> {
        let lists = self.nodes.iter().filter_map(|node| node.schema.get("properties")?.as_object());
        lists.flat_map(Map::keys).cloned().collect()
    }
}

struct Edge<'s> {
    schema: &'s Value,
    suffix: String,
    /// Location of a reference's target.
    to: Option<String>,
    step: Option<Step>,
    certain: bool,
}

fn edges<'s>(root: &'s Value, schema: &'s Value, draft: Draft) -> Vec<Edge<'s>> {
    let mut out = Vec::new();
    let Value::Object(object) = schema else { return out };
    let mut push = |suffix: String, schema: &'s Value, step: Option<Step>, certain: bool| {
        out.push(Edge { schema, suffix, to: None, step, certain });
    };
    let names = || -> BTreeSet<String> {
        object.get("properties").and_then(Value::as_object).map(|p| p.keys().cloned().collect()).unwrap_or_default()
    };
    for (name, inner) in members(object, "properties") {
        push(format!("properties/{}", escape(name)), inner, Some(Step::Key(name.clone())), true);
    }
    for (regex, inner) in members(object, "patternProperties") {
        let except = names().into_iter().filter(|name| !may_match(regex, name)).collect();
        push(format!("patternProperties/{}", escape(regex)), inner, Some(Step::Members { except }), true);
    }
    for keyword in ["additionalProperties", "unevaluatedProperties"] {
        if let Some(inner) = object.get(keyword) {
            push(keyword.into(), inner, Some(Step::Members { except: names() }), true);
        }
    }
    let prefix = if draft == Draft::Draft202012 { "prefixItems" } else { "items" };
    let fixed = object.get(prefix).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    for (at, inner) in fixed.iter().enumerate() {
        push(format!("{prefix}/{at}"), inner, Some(Step::Index(at)), true);
    }
    match object.get("items") {
        Some(Value::Array(_)) => {
            if let Some(inner) = object.get("additionalItems") {
                push("additionalItems".into(), inner, Some(Step::Items { from: fixed.len() }), true);
            }
        }
        Some(inner) => push("items".into(), inner, Some(Step::Items { from: fixed.len() }), true),
        None => {}
    }
    if let Some(inner) = object.get("unevaluatedItems") {
        push("unevaluatedItems".into(), inner, Some(Step::Items { from: 0 }), true);
    }
    for (keyword, certain) in [("allOf", true), ("anyOf", false), ("oneOf", false)] {
        for (at, inner) in object.get(keyword).and_then(Value::as_array).into_iter().flatten().enumerate() {
            push(format!("{keyword}/{at}"), inner, None, certain);
        }
    }
    for keyword in ["if", "then", "else"] {
        if let Some(inner) = object.get(keyword) {
            push(keyword.into(), inner, None, false);
        }
    }
    for keyword in ["dependentSchemas", "dependencies"] {
        for (name, inner) in members(object, keyword).filter(|(_, inner)| !inner.is_array()) {
            push(format!("{keyword}/{}", escape(name)), inner, None, false);
        }
    }
    if let Some((target, to)) = object.get("$ref").and_then(|reference| resolve(root, reference)) {
        out.push(Edge { schema: target, suffix: String::new(), to: Some(to), step: None, certain: true });
    }
    out
}

fn members<'s>(object: &'s Map<String, Value>, keyword: &str) -> impl Iterator<Item = (&'s String, &'s Value)> {
    object.get(keyword).and_then(Value::as_object).into_iter().flatten()
}

/// Asks the validator's own regex engine, so that the answer is the validator's; an engine that cannot say means yes.
fn may_match(regex: &str, name: &str) -> bool {
    let schema = serde_json::json!({ "pattern": regex });
    super::document::options(Draft::Draft202012)
        .build(&schema)
        .map_or(true, |validator| validator.is_valid(&Value::String(name.to_owned())))
}

/// Follows a local reference (`#`, `#/…`): the target and its location.
pub(super) fn resolve<'s>(root: &'s Value, reference: &Value) -> Option<(&'s Value, String)> {
    let fragment = reference.as_str()?.strip_prefix('#')?;
    let text = percent_decode(fragment)?;
    let target = root.pointer(&text)?;
    (target.is_object() || target.is_boolean()).then(|| (target, format!("#{text}")))
}

fn percent_decode(text: &str) -> Option<String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        if bytes[at] == b'%' {
            let mut byte = [0];
            hex::decode_to_slice(bytes.get(at + 1..at + 3)?, &mut byte).ok()?;
            out.push(byte[0]);
            at += 3;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(out).ok()
}

/// Escapes a name as one reference token.
pub(super) fn escape(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Whether a schema on the way to a place looks, besides descending, only at types, names and counts, which stay the
/// same when a value below is exchanged. Everything unknown counts as harmful.
fn harmless(schema: &Value) -> bool {
    const HARMLESS: [&str; 20] = [
        "type",
        "properties",
        "required",
        "additionalProperties",
        "items",
        "prefixItems",
        "additionalItems",
        "minProperties",
        "maxProperties",
        "minItems",
        "maxItems",
        "propertyNames",
        "dependentRequired",
        "$schema",
        "$id",
        "id",
        "$defs",
        "definitions",
        "$ref",
        "format",
    ];
    let Value::Object(object) = schema else { return true };
    let constraining = object.keys().filter(|key| !is_annotation(key));
    let mut count = 0;
    for key in constraining {
        if !HARMLESS.contains(&key.as_str()) {
            return false;
        }
        count += usize::from(!matches!(key.as_str(), "$schema" | "$id" | "id" | "$defs" | "definitions"));
    }
    // Beside a reference every further keyword speaks about the same place a second time.
    !object.contains_key("$ref") || count == 1
}

/// Keywords that say something without constraining.
pub(super) fn is_annotation(key: &str) -> bool {
    matches!(
        key,
        "title"
            | "description"
            | "default"
            | "examples"
            | "example"
            | "$comment"
            | "deprecated"
            | "readOnly"
            | "writeOnly"
    ) || key.starts_with("x-")
}

/// Where the keywords of ours stand, and everything in a schema that we refuse before compiling it.
pub(super) struct Scan {
    pub marks: Vec<String>,
    pub violations: Vec<Violation>,
}

/// Looks at every position of a schema document, reached or not. An unknown keyword is searched as if it were a schema:
/// a mark in it would have no effect, and must be refused rather than ignored.
pub(super) fn scan(root: &Value, draft: Draft) -> Scan {
    let mut scan = Scan { marks: Vec::new(), violations: Vec::new() };
    let mut open: Vec<(&Value, String, bool)> = vec![(root, "#".into(), true)];
    while let Some((value, location, is_schema)) = open.pop() {
        match value {
            Value::Array(items) => {
                let each = items.iter().enumerate().map(|(at, item)| (item, format!("{location}/{at}"), true));
                open.extend(each);
            }
            Value::Object(object) => {
                for (key, inner) in object {
                    let place = format!("{location}/{}", escape(key));
                    if !is_schema {
                        open.push((inner, place, true));
                    } else if key == MARK {
                        scan.marks.push(location.clone());
                    } else if scan.keyword(root, draft, key, inner, &location) {
                        open.push((inner, place, !is_map(key)));
                    }
                }
            }
            _ => {}
        }
    }
    scan
}

fn is_map(key: &str) -> bool {
    const MAPS: [&str; 6] =
        ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"];
    MAPS.contains(&key)
}

impl Scan {
    /// Judges one keyword; `true` when what it holds is to be searched too.
    fn keyword(&mut self, root: &Value, draft: Draft, key: &str, value: &Value, location: &str) -> bool {
        let nested = location != "#";
        let mut refuse = |code, message: &str, hint: &str| {
            let violation = Violation::new(code, format!("{location}/{}", escape(key)), message);
            self.violations.push(if hint.is_empty() { violation } else { violation.hint(hint) });
        };
        match key {
            ROLES if !nested => return false,
            ROLES => refuse("subject-roles-invalid", "`x-data-subjects` may only stand at the root", ""),
            "enum" | "const" | "default" | "examples" | "example" => return false,
            "$ref" if resolve(root, value).is_none() => refuse(
                "reference-not-supported",
                "the reference leads to no schema in this document",
                "only `#` and `#/…` are followed: copy shared definitions into `$defs`",
            ),
            "$dynamicRef" | "$recursiveRef" | "$dynamicAnchor" | "$recursiveAnchor" | "$anchor" | "$vocabulary" => {
                refuse("reference-not-supported", "anchors and dynamic references are not supported", "use `$ref`");
            }
            "$schema" if nested => refuse("schema-invalid", "a schema has one dialect, named at its root", ""),
            "$id" | "id" if nested && value.is_string() && (key == "$id" || draft == Draft::Draft4) => {
                refuse("reference-not-supported", "only the root may have an id", "");
            }
            _ if looks_like_ours(key) => refuse(
                "personal-mark-invalid",
                "an unknown keyword that looks like one of ours",
                "the keywords are `x-personal-data` and, at the root, `x-data-subjects`",
            ),
            _ => {}
        }
        true
    }
}

/// A typing error in a mark would leave a person's data in the clear.
fn looks_like_ours(key: &str) -> bool {
    let plain: String = key.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let plain = plain.strip_prefix('x').unwrap_or(&plain);
    ["personal", "pii", "datasubject"].iter().any(|ours| plain.starts_with(ours)) && !matches!(key, MARK | ROLES)
}
