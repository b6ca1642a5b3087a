//! A schema document, compiled: checked against its dialect, its marks found, its placeholders settled.
//!
//! Owns: the limits on schemas, the dialects, the validator and the wording of what it reports. Must not know: versions,
//! categories. Keeps: no text from an event enters a message or a pointer; nothing is ever fetched.

use std::collections::HashSet;
use std::sync::Arc;

use jsonschema::error::{TypeKind, ValidationErrorKind as Kind};
use jsonschema::{
    Draft, PatternOptions, Registry as Resources, Resource, ValidationError, ValidationOptions, Validator,
};
use serde_json::Value;

use super::personal::{self, FieldMark, Mark};
use super::role::Role;
use super::{Violation, walk};
use crate::event::canonical::canonical;

/// Bytes of a schema in canonical form.
const MAX_BYTES: usize = 256 * 1024;
/// Nesting of a schema document.
const MAX_DEPTH: usize = 64;
/// JSON values in a schema document.
const MAX_VALUES: usize = 10_000;
/// Bytes of a compiled regular expression.
const MAX_REGEX: usize = 1 << 20;
/// Violations reported for one event.
const MAX_REPORTED: usize = 100;
/// Under this name a schema refers to itself when one of its parts is compiled alone.
const SELF_URI: &str = "urn:oubliette:schema";

/// A compiled schema.
pub(super) struct Compiled {
    pub schema: Arc<Value>,
    validator: Validator,
    pub marks: Vec<Mark>,
    pub fields: Arc<[Arc<FieldMark>]>,
    pub roles: Vec<Role>,
    names: HashSet<String>,
    /// No constraint can see across personal fields: an erased event is valid because each placeholder is.
    pub plain: bool,
}

impl std::fmt::Debug for Compiled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compiled").field("schema", &self.schema).finish_non_exhaustive()
    }
}

impl Compiled {
    /// Checks and compiles a schema.
    ///
    /// # Errors
    /// Everything wrong with it, as far as one pass can tell.
    pub fn new(schema: &Value) -> Result<Self, Vec<Violation>> {
        within_limits(schema).map_err(|violation| vec![violation])?;
        let draft = dialect(schema).map_err(|violation| vec![violation])?;
        let scan = walk::scan(schema, draft);
        if !scan.violations.is_empty() {
            return Err(scan.violations);
        }
        let invalid = |error: &ValidationError<'_>| {
            let message = match error.kind() {
                Kind::Format { format } if format == "regex" => "not a regular expression we accept".to_owned(),
                _ => format!("not a valid schema: {}", describe(error).0),
            };
            vec![Violation::new("schema-invalid", format!("#{}", error.instance_path()), message)]
        };
        jsonschema::meta::validate(&with_dialect(schema, draft)).map_err(|error| invalid(&error))?;
        // The walk bounds what compiling may have to follow, so it comes first.
        let walked = walk::walk(schema, draft).map_err(|violation| vec![violation])?;
        let validator = options(draft).build(&with_dialect(schema, draft)).map_err(|error| invalid(&error))?;
        let parts = Parts::new(schema, draft).map_err(|violation| vec![violation])?;
        let found = personal::find(schema, &walked, &scan.marks, &parts)?;
        Ok(Self {
            schema: Arc::new(schema.clone()),
            validator,
            fields: found.marks.iter().map(|mark| Arc::clone(&mark.field)).collect(),
            marks: found.marks,
            roles: found.roles,
            names: walked.names(),
            plain: found.plain,
        })
    }

    /// Whether an event's data is valid; the quick question.
    pub fn accepts(&self, data: &Value) -> bool {
        self.validator.is_valid(data)
    }

    /// Everything in which an event's data breaks the schema.
    pub fn violations(&self, data: &Value) -> Vec<Violation> {
        if self.validator.is_valid(data) {
            return Vec::new();
        }
        let found = self.validator.iter_errors(data).take(MAX_REPORTED);
        found.map(|error| self.violation(data, &error)).collect()
    }

    /// A pointer into the event in which every name that is not the schema's own reads `*`: names can be personal too.
    pub fn shown(&self, data: &Value, tokens: impl IntoIterator<Item: AsRef<str>>) -> String {
        let mut out = String::from("/data");
        let mut value = Some(data);
        for token in tokens {
            let token = token.as_ref();
            let is_array = matches!(value, Some(Value::Array(_)));
            let known = is_array || self.names.contains(token);
            out.push('/');
            out.push_str(&if known { walk::escape(token) } else { "*".to_owned() });
            value = match value {
                Some(Value::Array(items)) => token.parse::<usize>().ok().and_then(|at| items.get(at)),
                Some(Value::Object(members)) => members.get(token),
                _ => None,
            };
        }
        out
    }

    fn violation(&self, data: &Value, error: &ValidationError<'_>) -> Violation {
        let path = error.instance_path().to_string();
        let tokens: Vec<String> = path.split('/').skip(1).map(|t| t.replace("~1", "/").replace("~0", "~")).collect();
        let mut pointer = self.shown(data, &tokens);
        if let Kind::Required { property: Value::String(name) } = error.kind() {
            pointer.push('/');
            pointer.push_str(&walk::escape(name));
        }
        let (message, mut hint) = describe(error);
        if let Kind::AdditionalProperties { .. } = error.kind() {
            hint = self.allowed(error);
        }
        Violation { code: "schema-violation", pointer, message, hint }
    }

    /// The names the schema allows where a name was refused.
    fn allowed(&self, error: &ValidationError<'_>) -> Option<String> {
        let place = error.schema_path().to_string();
        let parent = self.schema.pointer(place.rsplit_once('/')?.0)?;
        let names: Vec<&str> = parent.get("properties")?.as_object()?.keys().take(30).map(String::as_str).collect();
        Some(format!("the schema allows: {}", names.join(", ")))
    }
}

/// What an error says, from the schema's side only, and a hint.
fn describe(error: &ValidationError<'_>) -> (String, Option<String>) {
    let plain = |text: &str| (text.to_owned(), None);
    match error.kind() {
        Kind::Required { .. } => {
            (String::from("required property is missing"), Some("add it, or register a version without it".into()))
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            (format!("{} properties that the schema does not have", unexpected.len()), None)
        }
        Kind::Type { kind: TypeKind::Single(one) } => (format!("must be of type {one}"), None),
        Kind::Type { kind: TypeKind::Multiple(many) } => {
            let types: Vec<String> = many.iter().map(|one| one.to_string()).collect();
            (format!("must be of one of the types {}", types.join(", ")), None)
        }
        Kind::Format { format } => (format!("is not in the format `{format}`"), None),
        Kind::Pattern { .. } => plain("does not match the schema's pattern"),
        Kind::MinLength { limit } => (format!("must have at least {limit} characters"), None),
        Kind::MaxLength { limit } => (format!("must have at most {limit} characters"), None),
        Kind::MinItems { limit } => (format!("must have at least {limit} elements"), None),
        Kind::MaxItems { limit } => (format!("must have at most {limit} elements"), None),
        Kind::MinProperties { limit } => (format!("must have at least {limit} members"), None),
        Kind::MaxProperties { limit } => (format!("must have at most {limit} members"), None),
        Kind::Minimum { limit } => (format!("must be {limit} or more"), None),
        Kind::Maximum { limit } => (format!("must be {limit} or less"), None),
        Kind::ExclusiveMinimum { limit } => (format!("must be more than {limit}"), None),
        Kind::ExclusiveMaximum { limit } => (format!("must be less than {limit}"), None),
        Kind::Enum { .. } => plain("is not one of the allowed values"),
        Kind::Constant { .. } => plain("is not the one allowed value"),
        Kind::UniqueItems => plain("has equal elements"),
        Kind::FalseSchema => plain("must not be here"),
        Kind::AnyOf { .. } | Kind::OneOfNotValid { .. } => plain("matches none of the schema's alternatives"),
        Kind::OneOfMultipleValid { .. } => plain("matches more than one of the schema's alternatives"),
        other => (format!("does not satisfy `{}`", other.keyword()), None),
    }
}

/// Validators for parts of a schema, with the whole document around them so that references resolve.
pub(super) struct Parts {
    resources: Resources<'static>,
    draft: Draft,
}

impl Parts {
    fn new(schema: &Value, draft: Draft) -> Result<Self, Violation> {
        let refused = |_| Violation::new("schema-invalid", "#", "the schema cannot be prepared");
        let resource = Resource::from_contents(with_dialect(schema, draft));
        let resources = Resources::new().add(SELF_URI, resource).map_err(refused)?.prepare().map_err(refused)?;
        Ok(Self { resources, draft })
    }

    /// The validator of the subschema at `#/…`.
    ///
    /// # Errors
    /// When it does not compile, which the whole schema having compiled should rule out.
    pub fn compile(&self, location: &str) -> Result<Validator, Violation> {
        let reference = format!("{SELF_URI}{}", percent_encode(location));
        let schema = with_dialect(&serde_json::json!({ "$ref": reference }), self.draft);
        options(self.draft)
            .with_registry(&self.resources)
            .build(&schema)
            .map_err(|_| Violation::new("schema-invalid", location, "the subschema cannot be compiled alone"))
    }
}

/// How every schema is compiled: formats assert, nothing is fetched, regular expressions run in linear time.
pub(super) fn options<'i>(draft: Draft) -> ValidationOptions<'i> {
    jsonschema::options()
        .with_draft(draft)
        .should_validate_formats(true)
        .offline()
        .with_pattern_options(PatternOptions::regex().size_limit(MAX_REGEX).dfa_size_limit(MAX_REGEX))
}

fn percent_encode(location: &str) -> String {
    let mut out = String::with_capacity(location.len());
    for byte in location.bytes() {
        if byte.is_ascii_alphanumeric() || b"#/~-._".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push('%');
            out.push_str(&hex::encode_upper([byte]));
        }
    }
    out
}

fn dialect(schema: &Value) -> Result<Draft, Violation> {
    let unknown = || {
        Violation::new("schema-dialect-unknown", "#/$schema", "not a JSON Schema dialect we know")
            .hint("draft-04, -06, -07, 2019-09 and 2020-12 are supported; without `$schema` it is 2020-12")
    };
    let Some(named) = schema.get("$schema") else { return Ok(Draft::Draft202012) };
    let uri = named.as_str().ok_or_else(unknown)?.trim_end_matches('#');
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://")).ok_or_else(unknown)?;
    match rest {
        "json-schema.org/draft-04/schema" => Ok(Draft::Draft4),
        "json-schema.org/draft-06/schema" => Ok(Draft::Draft6),
        "json-schema.org/draft-07/schema" => Ok(Draft::Draft7),
        "json-schema.org/draft/2019-09/schema" => Ok(Draft::Draft201909),
        "json-schema.org/draft/2020-12/schema" => Ok(Draft::Draft202012),
        _ => Err(unknown()),
    }
}

/// The schema as the validator gets it: its dialect in the canonical spelling, and without an id, which no reference
/// may use.
fn with_dialect(schema: &Value, draft: Draft) -> Value {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        let uri = match draft {
            Draft::Draft4 => "http://json-schema.org/draft-04/schema#",
            Draft::Draft6 => "http://json-schema.org/draft-06/schema#",
            Draft::Draft7 => "http://json-schema.org/draft-07/schema#",
            Draft::Draft201909 => "https://json-schema.org/draft/2019-09/schema",
            _ => "https://json-schema.org/draft/2020-12/schema",
        };
        object.insert("$schema".into(), uri.into());
        object.remove("$id");
        object.remove("id");
    }
    schema
}

fn within_limits(schema: &Value) -> Result<(), Violation> {
    let refuse = |code, message: String| Err(Violation::new(code, "#", message));
    if !schema.is_object() {
        return refuse("schema-invalid", "a schema is a JSON object".into());
    }
    let mut open = vec![(schema, 1)];
    let mut seen = 0;
    while let Some((value, depth)) = open.pop() {
        seen += 1;
        if depth > MAX_DEPTH {
            return refuse("schema-too-complex", format!("nested deeper than {MAX_DEPTH}"));
        }
        if seen > MAX_VALUES {
            return refuse("schema-too-large", format!("more than {MAX_VALUES} values"));
        }
        match value {
            Value::Array(items) => open.extend(items.iter().map(|item| (item, depth + 1))),
            Value::Object(members) => open.extend(members.values().map(|item| (item, depth + 1))),
            _ => {}
        }
    }
    if canonical(schema).len() > MAX_BYTES {
        return refuse("schema-too-large", format!("longer than {MAX_BYTES} bytes"));
    }
    Ok(())
}
