//! What code can and cannot learn from values, and what becomes of the results.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::event::{Purpose, SubjectRef};
use crate::projection::cell::Cell;
use crate::projection::owners::{Alternative, Owners};

fn owned(purpose: &str, person: u8, value: Option<Value>) -> CodeValue {
    let people: BTreeSet<_> = [(SubjectRef([person; 16]), 0)].into();
    let owners = Owners::any_of([Alternative { purpose: Purpose::parse(purpose).unwrap(), people }]);
    CodeValue::of(Cell { value, owners, origin: None })
}

fn text(value: &Value) -> Option<Value> {
    Some(Value::from(value.as_str()?.to_uppercase()))
}

#[test]
fn a_personal_value_neither_prints_nor_comes_out() {
    let ada = owned("general", 1, Some(json!("Ada")));
    assert!(!format!("{ada:?} {:?}", ada.map(text)).to_lowercase().contains("ada"));
    assert!(ada.is_personal() && ada.as_public().is_none() && ada.map(text).as_public().is_none());
    assert_eq!(ada.map(text).into_cell().value, Some(json!("ADA")));
    assert_eq!(CodeValue::public("ada").map(text).as_public(), Some(&json!("ADA")));
}

#[test]
fn results_belong_to_everyone_whatever_the_function_does() {
    let (ada, bob) = (owned("general", 1, Some(json!("Ada"))), owned("general", 2, Some(json!("Bob"))));
    let first = CodeValue::join(&[&ada, &bob, &"!".into()], |parts| parts.first().map(|part| (*part).clone())).unwrap();
    let cell = first.into_cell();
    assert_eq!((cell.owners.people().len(), cell.value), (2, Some(json!("Ada"))));
    let constant = CodeValue::join(&[&ada], |_| Some(json!(1))).unwrap();
    assert!(constant.is_personal());
    let marketing = owned("marketing", 1, Some(json!("Ada")));
    assert!(matches!(CodeValue::join(&[&ada, &marketing], |_| None), Err(CodeError::Combine(_))));
}

#[test]
fn of_what_is_closed_nothing_is_computed_and_failures_are_empty() {
    panics::keep_quiet();
    let closed = owned("general", 1, None);
    let result = closed.map(|_| unreachable!("there is nothing to compute with")).into_cell();
    assert_eq!((result.value, result.owners.is_public()), (None, false));
    let open = owned("general", 2, Some(json!("Bob")));
    let joined = CodeValue::join(&[&open, &closed], |_| unreachable!("one of them is closed")).unwrap().into_cell();
    assert_eq!((joined.value, joined.owners.people().len()), (None, 2));
    let failed = open.map(|value| panic!("{value}")).into_cell();
    assert_eq!((failed.value, failed.owners.is_public()), (Some(Value::Null), false));
    assert_eq!(open.map(|_| None).into_cell().value, Some(Value::Null));
}

#[test]
fn names_are_taken_once() {
    struct Nothing;
    impl CodeProjection for Nothing {
        fn handle(&self, _: &CodeEvent<'_>, _: &mut CodeRows<'_>) -> Result<(), CodeError> {
            Ok(())
        }
    }
    let mut codes = Codes::default();
    assert_eq!(codes.register("Totals", Nothing), Err(RegisterError::Name));
    assert_eq!(codes.register("totals", Nothing), Ok(()));
    assert_eq!(codes.register("totals", Nothing), Err(RegisterError::Taken { name: "totals".into() }));
    assert_eq!(codes.names().collect::<Vec<_>>(), ["totals"]);
    assert_eq!(format!("{codes:?}"), r#"{"totals"}"#);
}
