//! `oubliette projection apply`: definitions of a file, one call each.
//!
//! Owns: cutting a file into definitions, comparing each with the one in force, putting it. Must not know: what a
//! definition means; the server says what is wrong with one.

use serde_json::Value;

use super::super::Context;
use super::super::client::Call;
use super::super::failure::{Exit, Failure};
use super::super::input;
use super::{columns, done, path};
use crate::projection::definition::documents;

/// A definition as a file has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Document {
    /// Its name.
    pub name: String,
    /// The definition.
    pub value: Value,
}

/// What applying something does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// There is none of the name.
    Create,
    /// There is another.
    Change,
    /// It is in force as it is.
    Unchanged,
}

impl Action {
    /// What will be done.
    pub fn planned(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Change => "change",
            Self::Unchanged => "unchanged",
        }
    }

    /// What was done.
    pub fn past(self) -> &'static str {
        match self {
            Self::Create => "created",
            Self::Change => "changed",
            Self::Unchanged => "unchanged",
        }
    }
}

/// Runs the command.
pub async fn run(file: &str, context: &mut Context) -> Result<(), Failure> {
    let found = definitions(&values(&input::file(file)?, file)?, file)?;
    if found.is_empty() {
        return Err(Failure::usage(format!("{file} holds no definition")));
    }
    if context.client.explains() {
        let calls: Vec<String> = found.iter().map(|document| context.client.curl(&call(document))).collect();
        return Err(Failure::Explained(calls.join("\n")));
    }
    let mut all = Vec::new();
    for document in found {
        let action = against(&document, context).await?;
        let version = put(&document, context).await?;
        all.push(done("projection", &document.name, action.past(), &version));
    }
    let shown = [("PROJECTION", "/name"), ("VERSION", "/version"), ("DONE", "/action")];
    let mut rows = context.out.rows(columns(shown));
    for row in all {
        rows.push(row)?;
    }
    Ok(rows.finish()?)
}

/// The documents of a text: YAML, or JSON, which may be a list.
pub fn values(text: &str, file: &str) -> Result<Vec<Value>, Failure> {
    let found = documents(text).map_err(|violation| Failure::usage(format!("{file}: {}", violation.message)))?;
    Ok(found
        .into_iter()
        .flat_map(|value| match value {
            Value::Array(items) => items,
            other => vec![other],
        })
        .collect())
}

/// Every value as a definition.
pub fn definitions(values: &[Value], file: &str) -> Result<Vec<Document>, Failure> {
    values.iter().enumerate().map(|(index, value)| definition(value, index + 1, file)).collect()
}

/// A value as a definition: it says its own name.
pub fn definition(value: &Value, number: usize, file: &str) -> Result<Document, Failure> {
    let name = ["projection", "fold"].iter().find_map(|kind| value.get(kind)?.as_str());
    match name {
        Some(name) => Ok(Document { name: name.to_owned(), value: value.clone() }),
        None => {
            Err(Failure::usage(format!("{file}: document {number} has no `projection:` and no `fold:` with a name")))
        }
    }
}

/// What applying a definition would do.
pub async fn against(document: &Document, context: &mut Context) -> Result<Action, Failure> {
    match context.client.call(&Call::get(path(&document.name))).await {
        Ok(answer) if answer.get("definition") == Some(&document.value) => Ok(Action::Unchanged),
        Ok(answer) => {
            // What the server would refuse is said before anything is changed.
            let versions = (version(&document.value), answer.get("version").and_then(Value::as_u64));
            if let (Some(new), Some(old)) = versions
                && new <= old
            {
                return Err(Failure::conflict(format!(
                    "projection {} differs from version {old}, which is in force, and says version {new}\n  a changed \
                     definition needs a greater version: set `version: {}`",
                    document.name,
                    old + 1
                )));
            }
            Ok(Action::Change)
        }
        Err(failure) if failure.exit() == Exit::NotFound => Ok(Action::Create),
        Err(failure) => Err(failure),
    }
}

/// Puts a definition; answers its version.
pub async fn put(document: &Document, context: &mut Context) -> Result<Value, Failure> {
    let answer = context.client.call(&call(document)).await?;
    Ok(answer.get("version").cloned().unwrap_or_default())
}

/// The call that puts a definition.
pub fn call(document: &Document) -> Call {
    Call::put(path(&document.name), document.value.to_string())
}

fn version(definition: &Value) -> Option<u64> {
    definition.get("version")?.as_u64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_cut_into_definitions() {
        let text = "projection: a\nversion: 1\n---\n# nothing\n---\nfold: b\nversion: 2\n";
        let found = definitions(&values(text, "f").unwrap(), "f").unwrap();
        let names: Vec<&str> = found.iter().map(|document| document.name.as_str()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(version(&found[1].value), Some(2));
        let list = values(r#"[{"projection":"a"},{"projection":"b"}]"#, "f").unwrap();
        assert_eq!(definitions(&list, "f").unwrap().len(), 2);
    }

    #[test]
    fn what_is_no_definition_is_named_by_its_place() {
        let refused = |text: &str| {
            let failure = values(text, "p.yaml").and_then(|values| definitions(&values, "p.yaml")).unwrap_err();
            assert_eq!(failure.exit(), Exit::Usage);
            failure.to_string()
        };
        assert!(refused("projection: a\n---\nname: b").starts_with("p.yaml: document 2 has no"));
        assert!(refused("a: [").starts_with("p.yaml: "));
    }
}
