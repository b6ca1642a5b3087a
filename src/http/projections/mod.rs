//! Projections: definitions, rows, status.

mod asked;
mod body;
pub mod define;
mod live;
mod problem;
pub mod rows;
pub mod status;

use super::extract::{Caller, Shared};
use super::problem::Problem;
use crate::event::EventType;
use crate::projection::definition::{Definition, Kind, ProjectionName};
use crate::projection::definitions::Defined;

/// A name in a path.
fn name(text: &str) -> Result<ProjectionName, Problem> {
    ProjectionName::parse(text)
        .ok_or_else(|| Problem::parameter("projection", "is a lower-case letter, then a-z 0-9 _, at most 64"))
}

/// A projection that is defined, as far as this caller's key reaches.
fn defined(app: &Shared, caller: &Caller, text: &str) -> Result<Defined, Problem> {
    let name = name(text)?;
    let definitions = app.projections.definitions();
    let found = definitions.get(name.as_str()).ok_or_else(Problem::not_found)?;
    // What is looked up is seen like what is stored.
    let mut all = define::lookups(&found.current).into_iter().filter_map(|other| definitions.get(&other));
    if !reaches(caller, &found.current) || !all.all(|other| reaches(caller, &other.current)) {
        return Err(Problem::forbidden("This key is confined to other categories or types"));
    }
    Ok(found)
}

/// A confined key reads only views of what it may read.
fn reaches(caller: &Caller, definition: &Definition) -> bool {
    let grant = &caller.principal.grant;
    let category = grant.categories.is_empty()
        || definition.from.category.as_ref().is_some_and(|category| caller.principal.reaches(category));
    let handled: Vec<&EventType> = definition.from.types.iter().collect();
    let types = grant.types.is_empty()
        || (!handled.is_empty() && handled.iter().all(|event_type| caller.principal.reaches_type(event_type)));
    category && types
}

/// `projection` or `fold`.
fn kind(definition: &Definition) -> &'static str {
    match definition.kind {
        Kind::Rows { .. } => "projection",
        Kind::Fold { .. } => "fold",
    }
}

/// The entity tag of a definition.
fn tag(defined: &Defined) -> String {
    format!("\"v{}-{}\"", defined.current.version, hex::encode(&defined.digest[..8]))
}
