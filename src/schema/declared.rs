//! One `x-personal-data` keyword, read.
//!
//! Owns: the members a mark may have and what they default to. Must not know: where the mark stands in an event. Keeps:
//! an unknown member is refused, for a typing error must not weaken a mark.

use serde_json::{Map, Value};

use super::Violation;
use super::role::Role;
use super::walk::{MARK, escape};
use crate::event::Purpose;

/// Longest name of a kind of data, in bytes.
const CATEGORY_LIMIT: usize = 128;

/// A mark, parsed.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Declared {
    pub roles: Vec<String>,
    pub joint: bool,
    pub purposes: Vec<Purpose>,
    pub category: Option<String>,
    pub special: bool,
    pub placeholder: Option<Value>,
}

impl Declared {
    /// Parses a mark; every problem is reported.
    pub fn parse(mark: &Value, location: &str, roles: &[Role]) -> Result<Self, Vec<Violation>> {
        let place = format!("{location}/{MARK}");
        let mut problems = Vec::new();
        let Value::Object(object) = mark else {
            return Err(vec![Violation::new("personal-mark-invalid", place, "a mark is an object")]);
        };
        let mut refuse = |code, key: &str, message: &str| {
            problems.push(Violation::new(code, format!("{place}{key}"), message));
        };
        for key in object.keys() {
            match key.as_str() {
                "subject" | "subjects" | "erase_when" | "category" | "purposes" | "special" | "placeholder" => {}
                "searchable" => {
                    refuse("searchable-not-supported", "/searchable", "searching personal fields is not supported");
                }
                other => refuse("personal-mark-invalid", &format!("/{}", escape(other)), "not known in a mark"),
            }
        }
        let names = subjects(object).unwrap_or_else(|message| {
            refuse("personal-mark-invalid", "", message);
            Vec::new()
        });
        for name in names.iter().filter(|name| !roles.iter().any(|role| role.name == **name)) {
            refuse("subject-role-unknown", "", &format!("`x-data-subjects` has no usable role `{name}`"));
        }
        let joint = erase_when(object).unwrap_or_else(|message| {
            refuse("personal-mark-invalid", "/erase_when", message);
            true
        });
        let purposes = purposes(object.get("purposes")).unwrap_or_else(|message| {
            refuse("personal-mark-invalid", "/purposes", message);
            Vec::new()
        });
        let category = match object.get("category").map(|value| value.as_str().filter(|text| is_category(text))) {
            Some(None) => {
                refuse(
                    "personal-mark-invalid",
                    "/category",
                    "a category is 1 to 128 of the characters A-Z a-z 0-9 . _ -",
                );
                None
            }
            other => other.flatten().map(str::to_owned),
        };
        let special = object.get("special").map_or(Some(false), Value::as_bool).unwrap_or_else(|| {
            refuse("personal-mark-invalid", "/special", "must be true or false");
            false
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let joint = joint && names.len() > 1;
        Ok(Self { roles: names, joint, purposes, category, special, placeholder: object.get("placeholder").cloned() })
    }
}

fn subjects(object: &Map<String, Value>) -> Result<Vec<String>, &'static str> {
    match (object.get("subject"), object.get("subjects")) {
        (Some(Value::String(one)), None) => Ok(vec![one.clone()]),
        (None, Some(Value::Array(many))) if !many.is_empty() => {
            let names: Option<Vec<String>> = many.iter().map(|name| name.as_str().map(str::to_owned)).collect();
            let mut names = names.ok_or("`subjects` is a list of roles")?;
            names.sort();
            names.dedup();
            Ok(names)
        }
        _ => Err("a mark names one role as `subject`, or several as `subjects`"),
    }
}

fn erase_when(object: &Map<String, Value>) -> Result<bool, &'static str> {
    match object.get("erase_when").map(Value::as_str) {
        None | Some(Some("any")) => Ok(true),
        Some(Some("all")) if object.contains_key("subjects") => Ok(false),
        Some(Some("all")) => Err("`all` needs `subjects`"),
        Some(_) => Err("must be `any` or `all`"),
    }
}

/// Purposes as declared in a mark, sorted and distinct; absent means `general`.
pub(super) fn purposes(declared: Option<&Value>) -> Result<Vec<Purpose>, &'static str> {
    let Some(declared) = declared else { return Ok(vec![Purpose::general()]) };
    let parse = |value: &Value| value.as_str().and_then(|text| Purpose::parse(text).ok());
    let list = declared.as_array().filter(|list| !list.is_empty() && list.len() <= 16);
    let list = list.ok_or("a list of 1 to 16 purposes")?;
    let mut purposes: Vec<Purpose> =
        list.iter().map(parse).collect::<Option<_>>().ok_or("a purpose is 1 to 64 of the characters a-z 0-9 . _ -")?;
    purposes.sort();
    purposes.dedup();
    Ok(purposes)
}

/// Whether a text can name a kind of data. It is stored in the clear.
pub(super) fn is_category(text: &str) -> bool {
    (1..=CATEGORY_LIMIT).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
}
