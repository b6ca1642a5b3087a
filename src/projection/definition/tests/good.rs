//! Definitions that are taken, and what they become.

use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;

const EXAMPLES: &str = include_str!("../../../../docs/projections/examples.yaml");

fn examples() -> Vec<Definition> {
    let documents = documents(EXAMPLES).unwrap();
    documents
        .iter()
        .map(|value| Definition::from_value(value).unwrap_or_else(|problems| panic!("{problems:#?}")))
        .collect()
}

#[test]
fn the_examples_of_the_documentation() {
    let [contacts, emails, carts, card, bus] = <[Definition; 5]>::try_from(examples()).unwrap();
    let names: Vec<&str> = contacts.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "contact_method",
            "description",
            "last_interacted_on",
            "name",
            "next_meeting_at",
            "next_meeting_notes",
            "notes_html"
        ]
    );
    assert!(matches!(contacts.columns[6].source, ColumnSource::Derived(_)));
    assert!(contacts.columns[3].searchable && contacts.columns[3].sortable);
    let Kind::Rows { key, indexes, .. } = &contacts.kind else { panic!() };
    assert_eq!(key.iter().map(|part| part.name.as_str()).collect::<Vec<_>>(), ["account", "contact"]);
    assert_eq!(indexes[1].parts[1], IndexPart { name: "next_meeting_at".into(), descending: true });
    let edited = &contacts.handlers["contact-edited"][0].actions[0];
    assert!(!edited.create && edited.steps.iter().all(|step| step.operation == Operation::Patch));
    assert!(contacts.handlers["contact-deleted"][0].actions[0].delete);
    assert_eq!((contacts.version, &contacts.on_erasure, contacts.on_error), (2, &OnErasure::Redact, OnError::Stop));

    let Kind::Rows { due: Some(due), .. } = &emails.kind else { panic!() };
    assert_eq!(emails.columns[due.at].name, "send_at");
    assert_eq!(due.event_type.as_str(), "meeting-notes-email-due");
    assert_eq!(emails.on_erasure, OnErasure::DeleteRow);

    let removed = &carts.handlers["product-removed-from-cart"][0].actions[0].steps[0];
    assert_eq!(removed.entry.as_ref().unwrap().source(), "data.product_id");
    assert_eq!(removed.operation, Operation::Decrement { floor: Some(0.0) });
    let placed = &carts.handlers["order-placed"][0].actions[0];
    assert!(placed.create);
    assert_eq!(placed.steps.len(), 3);
    assert_eq!(carts.columns[carts.column("items").unwrap()].default, json!({}));

    assert!(matches!(card.kind, Kind::Fold { snapshot_every: Some(5), invariant: Some(_) }));
    assert_eq!(card.from.category.as_ref().unwrap().as_str(), "card");
    assert_eq!(card.columns[0].default, json!(0));

    let Kind::Rows { window: Some(window), aggregates, .. } = &bus.kind else { panic!() };
    assert_eq!((window.size, window.late, window.keep), (300_000, Some(7_200_000), Some(3_024_000_000)));
    assert_eq!(window.rollup, [3_600_000, 86_400_000, 604_800_000]);
    assert_eq!(aggregates[2].function, AggregateFunction::Quantile(0.95));
    assert_eq!(aggregates[0].value.as_ref().unwrap().source(), "data.error_code != null");
}

#[test]
fn the_stored_text_means_the_same() {
    for definition in examples() {
        let again = Definition::parse(&definition.text, Format::Json).unwrap();
        assert_eq!(format!("{again:?}"), format!("{definition:?}"));
        assert_eq!(Definition::parse(&definition.text, Format::Yaml).unwrap().text, definition.text);
    }
}

#[test]
fn scalars_are_expressions() {
    let text = "fold: f\nversion: 1\nfrom: {category: c}\n\
        state: {a: int, b: bool, c: float, d: json, e: list<string>, f: string}\n\
        handle: {x: {set: {a: 1, b: true, c: -1.5, d: {}, e: [], f: \"'on'\"}}}";
    let definition = parse(text);
    let steps = &definition.handlers["x"][0].actions[0].steps;
    let sources: Vec<&str> = steps.iter().map(|step| step.value.source()).collect();
    assert_eq!(sources, ["1", "true", "-1.5", "{}", "[]", "'on'"]);
    assert_eq!(definition.columns[4].default, json!([]));
}

#[test]
fn derived_columns_stand_after_what_they_read() {
    let definition = parse(
        "fold: f\nversion: 1\nfrom: {category: c}\nstate:\n  a: {type: int, derive: state.c}\n  b: int\n  \
         c: {type: int, derive: state.d + state.b}\n  d: {type: int, derive: state.b}\nhandle: {x: {set: {b: 1}}}",
    );
    let names: Vec<&str> = definition.columns.iter().map(|column| column.name.as_str()).collect();
    assert_eq!(names, ["b", "d", "c", "a"]);
    assert_eq!(definition.handlers["x"][0].actions[0].steps[0].column, 0);
}

#[test]
fn rules_actions_and_keys() {
    let definition = parse(
        "projection: p\nversion: 1\nfrom: {types: [moved, seen]}\nkey: {a: data.a, b: data.b}\n\
         columns: {n: int, tags: list<string>, m: 'map<string,string>', last: timestamp}\n\
         on_error: park\non_erasure: {keep: ' there is nothing personal here '}\n\
         handle:\n  moved:\n    - when: data.far\n      all:\n      - {key: {a: data.from, b: data.b}, decrement: {n: 1}}\n      \
         - {key: {b: data.b, a: data.to}, increment: {n: 1}, append: {tags: data.tag}}\n    - {when: data.gone, delete: true}\n    \
         - {update: {last: event.time}, increment: {n: 1}}\n  \
         seen: {set: {'m[data.x]': data.v, 'm[data.y]': data.w}, remove: {tags: data.tag}}",
    );
    let moved = &definition.handlers["moved"];
    assert_eq!(moved.len(), 3);
    assert_eq!(moved[0].actions[1].pointer, "/handle/moved/0/all/1");
    assert_eq!(moved[0].actions[1].key.as_ref().unwrap()[0].value.source(), "data.to");
    assert!(moved[0].actions.iter().all(|action| action.create));
    assert!(!moved[2].actions[0].create, "`update` makes no row, so `increment` beside it does not either");
    let seen = &definition.handlers["seen"][0];
    assert!(!seen.actions[0].create);
    assert_eq!(seen.actions[0].steps[1].pointer, "/handle/seen/set/m[data.y]");
    assert_eq!(definition.on_error, OnError::Park);
    assert_eq!(definition.on_erasure, OnErasure::Keep("there is nothing personal here".into()));
}

#[test]
fn aggregates_may_be_declassified() {
    let definition = parse(
        "projection: p\nversion: 1\nfrom: {category: c}\nkey: {a: data.a}\nindexes: [[-mean]]\n\
         aggregate: {mean: {value: 'avg(data.pay)', declassify: published, min_group: 10}, n: count()}",
    );
    let Kind::Rows { aggregates, window: None, .. } = &definition.kind else { panic!() };
    assert_eq!(aggregates[0].declassify, Some(Declassify { reason: "published".into(), min_group: 10 }));
    assert_eq!((aggregates[1].function, aggregates[1].value.is_none()), (AggregateFunction::Count, true));
}

const WORDS: &str = "projection fold version from types category key columns state handle set update patch delete increment decrement floor append remove when all indexes window by size rollup aggregate value declassify min_group due at emit type data on_erasure keep snapshot every invariant a x a[data.x] default derive lookup é~/";
const TEXTS: &str = "data.a row.a int map<string,int> list<json> PT5M avg(data.a) count( a p.a redact é timestamp ";

/// Any JSON, with words of the language in it so that the parser gets somewhere.
pub(super) fn any_value() -> impl Strategy<Value = Value> {
    let word = proptest::sample::select(WORDS.split(' ').collect::<Vec<_>>());
    let text = proptest::sample::select(TEXTS.split(' ').collect::<Vec<_>>());
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        (-5_i32..100).prop_map(|number| json!(number)),
        text.prop_map(|text| json!(text)),
    ];
    let members = proptest::collection::vec(word, 0..6);
    leaf.prop_recursive(5, 64, 6, move |inner| {
        let object = (members.clone(), proptest::collection::vec(inner.clone(), 6));
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(Value::Array),
            object.prop_map(|(names, values)| {
                Value::Object(names.into_iter().map(str::to_owned).zip(values).collect::<Map<_, _>>())
            }),
        ]
    })
}

proptest! {
    #[test]
    fn any_json_is_taken_or_refused(value in any_value()) {
        if let Err(problems) = Definition::from_value(&value) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn any_member_of_an_example_may_be_anything(
        example in 0_usize..5,
        paths in proptest::collection::vec((0_usize..1000, any_value()), 1..4),
    ) {
        let mut value = documents(EXAMPLES).unwrap().swap_remove(example);
        for (at, other) in paths {
            let places = places(&value);
            let place = &places[at % places.len()];
            *value.pointer_mut(place).unwrap() = other;
        }
        match Definition::from_value(&value) {
            Ok(definition) => prop_assert!(Definition::parse(&definition.text, Format::Json).is_ok()),
            Err(problems) => for problem in problems {
                // A missing member is pointed at too: what holds it is there.
                let (above, _) = problem.pointer.rsplit_once('/').unwrap_or(("", ""));
                prop_assert!(value.pointer(above).is_some(), "{}", problem.pointer);
            },
        }
    }
}

fn places(value: &Value) -> Vec<String> {
    let mut found = vec![String::new()];
    let inner: Vec<(String, &Value)> = match value {
        Value::Array(items) => items.iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect(),
        Value::Object(members) => members.iter().map(|(name, item)| (name.clone(), item)).collect(),
        _ => Vec::new(),
    };
    for (name, item) in inner {
        let at = super::super::pointer("", &name);
        found.extend(places(item).into_iter().map(|place| format!("{at}{place}")));
    }
    found
}
