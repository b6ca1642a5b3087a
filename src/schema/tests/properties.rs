//! The invariants, over generated schemas and events.

use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::strategy::ValueTree;

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
        let split = split && members.len() > 1;
        if split {
            schema["allOf"] = json!([{"properties": {}}]);
            schema["minProperties"] = json!(members.len());
        } else if closed {
            schema["additionalProperties"] = json!(false);
        }
        for (at, (name, member)) in members.iter().enumerate() {
            let half = if split && at % 2 == 1 { &mut schema["allOf"][0] } else { &mut schema };
            half["properties"][name] = member.schema.clone();
            value[name] = member.value.clone();
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

fn hidden(store: &Registry, prepared: &Prepared<'_>, hide: impl Fn(&PersonalField) -> bool) -> Value {
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
        let store = registry(&CategorySettings::default());
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
    fn what_is_called_compatible_reads_old_events((old, data) in documents(), change in changes()) {
        let store = registry(&CategorySettings::default());
        let mut new = old.clone();
        change.apply(&mut new);
        let old_validator = options(jsonschema::Draft::Draft202012).build(&old).unwrap();
        let Ok(candidate) = store.check(&event_type("t"), &new, false) else { return Ok(()) };
        let report = crate::schema::compat::check(Compatibility::Backward, &[(1, &old)], &new);
        if old_validator.is_valid(&data) && report.errors.is_empty() {
            prop_assert!(candidate.breaks(&data).is_none(), "{} became {}", old, new);
        }
    }

    #[test]
    fn no_schema_makes_the_registry_panic(schema in hostile()) {
        let store = registry(&CategorySettings::default());
        if let Ok(candidate) = store.check(&event_type("t"), &schema, false) {
            let _ = candidate.breaks(&json!({"a": [{"b": 1}], "b": "x"}));
            let report = crate::schema::compat::check(Compatibility::Full, &[(1, &schema)], &schema);
            prop_assert!(report.errors.is_empty(), "{:?}", report);
        }
    }
}

/// The property above says nothing about what is refused, so most of what is generated must be accepted.
#[test]
fn the_generated_documents_are_mostly_accepted() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (mut accepted, mut personal) = (0, 0);
    for _ in 0..300 {
        let (schema, data) = documents().new_tree(&mut runner).unwrap().current();
        let store = registry(&CategorySettings::default());
        if store.check(&event_type("t"), &schema, false).is_ok() {
            register(&store, "t", &schema);
            if let Ok(prepared) = prepare(&store, "t", data) {
                accepted += 1;
                personal += usize::from(!prepared.fields.is_empty());
            }
        }
    }
    assert!(accepted > 120 && personal > 60, "{accepted} accepted, {personal} with personal data");
}

/// One change of a schema: a keyword set or removed, somewhere.
#[derive(Clone, Debug)]
struct Change {
    way: Vec<usize>,
    keyword: &'static str,
    value: Option<Value>,
}

fn changes() -> impl Strategy<Value = Change> {
    let keyword = prop::sample::select(vec![
        ("type", json!("string")),
        ("type", json!(["string", "integer", "array", "object", "null"])),
        ("maxLength", json!(2)),
        ("minLength", json!(2)),
        ("minItems", json!(1)),
        ("maxItems", json!(1)),
        ("maximum", json!(10)),
        ("exclusiveMinimum", json!(0)),
        ("required", json!(["a"])),
        ("additionalProperties", json!(false)),
        ("additionalProperties", json!({"type": "string"})),
        ("enum", json!(["a", null, 1])),
        ("uniqueItems", json!(true)),
        ("format", json!("email")),
        ("items", json!({"type": "integer"})),
        ("not", json!({"type": "string"})),
        ("anyOf", json!([{"type": "string"}, {"type": "object"}])),
        ("allOf", json!([{"type": "string"}])),
        ("properties", json!({})),
        ("$ref", json!("#/$defs/mail")),
    ]);
    let way = prop::collection::vec(0..4usize, 0..4);
    (way, keyword, prop::bool::weighted(0.8)).prop_map(|(way, (keyword, value), set)| Change {
        way,
        keyword,
        value: set.then_some(value),
    })
}

impl Change {
    fn apply(&self, schema: &mut Value) {
        let mut place = schema;
        for step in &self.way {
            let inner = if place.get("items").is_some() {
                place.get_mut("items")
            } else {
                place.get_mut("properties").and_then(|p| p.as_object_mut()?.values_mut().nth(*step))
            };
            match inner {
                Some(inner) if inner.is_object() => place = inner,
                _ => return,
            }
        }
        let Some(object) = place.as_object_mut() else { return };
        match &self.value {
            Some(value) => drop(object.insert(self.keyword.into(), value.clone())),
            None => drop(object.remove(self.keyword)),
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
