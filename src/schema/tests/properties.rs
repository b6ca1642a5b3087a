//! The invariants, over generated schemas and events.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::schema::document::options;

/// A property schema, a value that it accepts, and whether it may be marked.
#[derive(Clone, Debug)]
struct Member {
    schema: Value,
    value: Value,
}

fn leaf() -> impl Strategy<Value = Member> {
    let of = |schema: Value, value: Value| Member { schema, value };
    let mark = prop_oneof![
        2 => Just(None),
        3 => Just(Some(json!({"subject": "p"}))),
        1 => Just(Some(json!({"subject": "q", "purposes": ["b", "a"]}))),
        1 => Just(Some(json!({"subjects": ["p", "q"]}))),
        1 => Just(Some(json!({"subjects": ["q", "p"], "erase_when": "all"}))),
    ];
    let kinds = prop_oneof![
        "[a-z]{0,6}".prop_map(move |s| of(json!({"type": "string"}), json!(s))),
        "[a-z]{1,6}"
            .prop_map(move |s| of(json!({"type": "string", "format": "email"}), json!(format!("{s}@example.org")))),
        "[a-z]{1,9}".prop_map(move |s| of(json!({"type": "string", "minLength": 1, "maxLength": 12}), json!(s))),
        any::<i16>().prop_map(move |n| of(json!({"type": ["integer", "null"]}), json!(n))),
        any::<bool>().prop_map(move |b| of(json!({"type": ["boolean", "null"]}), json!(b))),
        Just(of(json!({"$ref": "#/$defs/mail"}), json!("x@example.org"))),
        prop::collection::vec("[a-z]{0,3}", 0..4)
            .prop_map(move |l| of(json!({"type": "array", "items": {"type": "string"}}), json!(l))),
        Just(of(json!({}), json!({"any": ["thing"]}))),
    ];
    (kinds, mark).prop_map(|(mut member, mark)| {
        if let Some(mark) = mark {
            member.schema["x-personal-data"] = mark;
        }
        member
    })
}

fn object(inner: impl Strategy<Value = Member>) -> impl Strategy<Value = Member> {
    let shape = (prop::collection::btree_map("[a-d]", inner, 0..4), any::<bool>(), any::<bool>(), any::<bool>());
    shape.prop_map(|(members, closed, required, split)| {
        let names: Vec<&String> = members.keys().collect();
        let mut schema = json!({"type": "object", "properties": {}});
        if required {
            schema["required"] = json!(names);
        }
        let mut value = json!({});
        for (at, (name, member)) in members.iter().enumerate() {
            if split && at % 2 == 1 {
                schema["allOf"][0]["properties"][name] = member.schema.clone();
            } else {
                schema["properties"][name] = member.schema.clone();
            }
            value[name] = member.value.clone();
        }
        if split && members.len() > 1 {
            let entries = schema["allOf"].take();
            schema["allOf"] = json!([entries[0].clone()]);
            schema["minProperties"] = json!(members.len());
        } else {
            schema.as_object_mut().unwrap().remove("allOf");
            if closed {
                schema["additionalProperties"] = json!(false);
            }
        }
        Member { schema, value }
    })
}

fn list(inner: impl Strategy<Value = Member>) -> impl Strategy<Value = Member> {
    (inner, 0..3usize, any::<bool>()).prop_map(|(member, count, unique)| {
        let mut schema = json!({"type": "array", "items": member.schema});
        if unique {
            schema["uniqueItems"] = json!(true);
        }
        let count = if unique { count.min(1) } else { count };
        Member { schema, value: Value::from(vec![member.value; count]) }
    })
}

fn documents() -> impl Strategy<Value = (Value, Value)> {
    let tree = leaf().prop_recursive(3, 24, 4, |inner| prop_oneof![object(inner.clone()), list(inner)].boxed());
    (object(tree), any::<bool>()).prop_map(|(root, alternative)| {
        let (mut schema, mut data) = (root.schema, root.value);
        schema["$defs"] = json!({"mail": {"type": "string", "format": "email"}});
        schema["x-data-subjects"] = json!({"p": {"id": "/p_id"}, "q": {"id": "/q_id"}});
        for (role, id) in [("p_id", "ada"), ("q_id", "bob")] {
            schema["properties"][role] = json!({"type": "string"});
            data[role] = json!(id);
        }
        if alternative {
            schema["anyOf"] = json!([{"required": ["p_id"]}, {"properties": {"a": {"type": "string"}}}]);
        }
        (schema, data)
    })
}

fn hidden(store: &Registry, prepared: &Prepared, hide: impl Fn(&PersonalField) -> bool) -> Value {
    let mut data = prepared.event.data.clone();
    let mut set = |path: &Pointer, with: Value| *data.pointer_mut(&path.to_string()).unwrap() = with;
    for (index, site) in prepared.subjects.iter().enumerate() {
        if let Some(path) = &site.path {
            set(path, json!(SubjectRef([index as u8; 16]).to_string()));
        }
    }
    let facts = PlaceholderFacts { state: "erased", article: "17(1)(a)", ..Default::default() };
    for field in prepared.fields.iter().filter(|field| hide(field)) {
        let mark = store.placeholder("t", prepared.schema_version, &field.path).unwrap();
        set(&field.path, serde_json::from_str(&mark.placeholder.render(&facts)).unwrap());
    }
    data
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn erased_events_stay_valid_and_every_mark_is_found((schema, data) in documents()) {
        let store = registry(CategorySettings::default());
        let Ok(candidate) = store.check(&event_type("t"), &schema, false) else { return Ok(()) };
        let record = RegistryRecord::SchemaRegistered { event_type: "t".into(), version: 1, schema: schema.clone() };
        store.apply(&record).unwrap();
        let Ok(prepared) = prepare(&store, "t", data.clone()) else { return Ok(()) };

        for hide in [
            Box::new(|_: &PersonalField| true) as Box<dyn Fn(&PersonalField) -> bool>,
            Box::new(|_| false),
            Box::new(|f| f.owners == [0] || f.joint),
            Box::new(|f| f.owners == [1] || f.joint),
        ] {
            prop_assert!(candidate.breaks(&hidden(&store, &prepared, hide)).is_none());
        }
        // An independent oracle: the validator's own annotations say where marks apply in this event.
        let validator = options(jsonschema::Draft::Draft202012).build(&schema).unwrap();
        let evaluation = validator.evaluate(&data);
        let oracle: BTreeSet<String> = evaluation
            .iter_annotations()
            .filter(|entry| entry.annotations.value().get("x-personal-data").is_some())
            .map(|entry| entry.instance_location.to_string())
            .collect();
        let found: BTreeSet<String> = prepared.fields.iter().map(|field| field.path.to_string()).collect();
        prop_assert_eq!(oracle, found);
    }

    #[test]
    fn no_schema_makes_the_registry_panic(schema in hostile()) {
        let store = registry(CategorySettings::default());
        if let Ok(candidate) = store.check(&event_type("t"), &schema, false) {
            let _ = candidate.breaks(&json!({"a": [{"b": 1}], "b": "x"}));
            let report = crate::schema::compat::check(Compatibility::Full, &[(1, &schema)], &schema);
            prop_assert!(report.errors.is_empty(), "{:?}", report);
        }
    }
}

/// Keywords with anything in them.
fn hostile() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "type",
        "properties",
        "items",
        "prefixItems",
        "additionalProperties",
        "patternProperties",
        "allOf",
        "anyOf",
        "oneOf",
        "not",
        "if",
        "then",
        "else",
        "$ref",
        "$defs",
        "enum",
        "const",
        "required",
        "minLength",
        "pattern",
        "format",
        "x-personal-data",
        "x-data-subjects",
        "subject",
        "id",
        "a",
        "b",
        "dependentSchemas",
        "contains",
        "uniqueItems",
        "unevaluatedProperties",
        "$schema",
        "maximum",
        "exclusiveMinimum",
    ]);
    let leaves = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(Value::from),
        any::<i8>().prop_map(Value::from),
        prop::sample::select(vec![
            "#",
            "#/properties/a",
            "#/$defs/a",
            "#/$defs/b",
            "string",
            "object",
            "^a",
            "p",
            "/a",
            "/a/*/b",
            "uuid"
        ])
        .prop_map(Value::from),
        Just(json!({"subject": "p"})),
        Just(json!({"p": {"id": "/a"}})),
        Just(json!({})),
    ];
    leaves.prop_recursive(6, 60, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::btree_map(names.clone(), inner, 0..5).prop_map(|m| json!(m)),
        ]
    })
}
