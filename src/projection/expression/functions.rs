//! The environment of all expressions: CEL's functions, its extensions, and our own.
//!
//! Owns: which implementation a function has. Every function here is a function of its arguments alone: no clock, no
//! randomness. Errors of our functions name the function and never an argument. Must not know: events, rows.

#![allow(clippy::needless_pass_by_value, clippy::unnecessary_wraps, reason = "the interpreter fixes the signature")]

use std::sync::{Arc, LazyLock};

use cel::common::functions::Function;
use cel::common::types::{CelNull, CelOptional, CelString, DYN_TYPE};
use cel::common::value::{CowVal, Val};
use cel::{DeclarationError, Env, ExecutionError, extensions};

use super::{errors, instants, markdown};

type Args<'b, 'v> = Vec<CowVal<'b, 'v>>;
type Answer<'b, 'v> = Result<CowVal<'b, 'v>, ExecutionError>;

/// Our functions: name, arguments, implementation.
const OWN: &[(&str, usize, Function)] = &[
    ("lower", 1, lower),
    ("upper", 1, upper),
    ("trim", 1, trim),
    ("markdown", 1, render),
    ("date", 1, instants::date),
    ("latest", 2, instants::latest),
    ("earliest", 2, instants::earliest),
    ("local", 3, instants::local),
    ("coalesce", 2, coalesce),
    ("coalesce", 3, coalesce),
    ("coalesce", 4, coalesce),
];

/// The environment. Made once: it is immutable, and the interpreter wants it shared.
pub(super) fn environment() -> Arc<Env> {
    static ENVIRONMENT: LazyLock<Arc<Env>> =
        LazyLock::new(|| Arc::new(declare().expect("no two functions have the same name and arguments")));
    Arc::clone(&ENVIRONMENT)
}

fn declare() -> Result<Env, DeclarationError> {
    let mut env = Env::stdlib();
    env.add_extension(extensions::strings)?;
    env.add_extension(extensions::lists)?;
    env.add_extension(extensions::math)?;
    for (name, count, function) in OWN {
        let types = std::iter::repeat_with(|| DYN_TYPE).take(*count).collect();
        env.add_overload(name, &format!("{name}({count})"), types, *function)?;
    }
    Ok(env)
}

/// Arguments of types that a function does not take.
pub(super) fn wrong_types(function: &str, args: &[CowVal<'_, '_>]) -> ExecutionError {
    ExecutionError::no_such_overload(function, args.iter().map(|arg| arg.get_type().name().to_owned()).collect())
}

pub(super) fn is_null(value: &(dyn Val + '_)) -> bool {
    value.downcast_ref::<CelNull>().is_some()
}

pub(super) fn text_value<'b, 'v>(text: String) -> CowVal<'b, 'v> {
    CowVal::owned(CelString::from(text))
}

/// A function of a text; `null` of `null`.
fn of_text<'b, 'v>(
    name: &str,
    args: &Args<'b, 'v>,
    function: impl FnOnce(&str) -> Result<String, ExecutionError>,
) -> Answer<'b, 'v> {
    match args.as_slice() {
        [null] if is_null(null.as_ref()) => Ok(CowVal::owned(CelNull)),
        [text] => match text.downcast_ref::<CelString>() {
            Some(text) => function(text.inner()).map(text_value),
            None => Err(wrong_types(name, args)),
        },
        _ => Err(wrong_types(name, args)),
    }
}

fn lower<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    of_text("lower", &args, |text| Ok(text.to_lowercase()))
}

fn upper<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    of_text("upper", &args, |text| Ok(text.to_uppercase()))
}

fn trim<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    of_text("trim", &args, |text| Ok(text.trim().to_owned()))
}

fn render<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    of_text("markdown", &args, |text| markdown::html(text).ok_or_else(|| errors::limit("result")))
}

/// The first argument that is something.
fn coalesce<'b, 'v>(args: Args<'b, 'v>) -> Answer<'b, 'v> {
    for value in args {
        let Some(optional) = value.downcast_ref::<CelOptional>() else {
            if is_null(value.as_ref()) {
                continue;
            }
            return Ok(value);
        };
        match optional.option() {
            Some(inner) if !is_null(inner) => return Ok(CowVal::Owned(inner.clone_as_boxed())),
            _ => {}
        }
    }
    Ok(CowVal::owned(CelNull))
}
