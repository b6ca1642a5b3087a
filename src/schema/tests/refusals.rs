//! Schemas that must be refused: each would leave something personal in the clear, or break.

use super::*;

fn codes(schema: &Value) -> Vec<&'static str> {
    match Registry::new(Options::default()).check(&event_type("t"), schema, false) {
        Ok(_) => Vec::new(),
        Err(RegistrationError::Invalid(violations)) => violations.iter().map(|v| v.code).collect(),
        Err(other) => panic!("{other}"),
    }
}

/// A schema of one person `p` with the given properties and further keywords.
fn person(properties: &Value, more: &Value) -> Value {
    let mut schema =
        json!({"type": "object", "x-data-subjects": {"p": {"id": "/id"}}, "properties": {"id": {"type": "string"}}});
    let merge = |into: &mut Value, from: &Value| {
        for (key, value) in from.as_object().unwrap() {
            into[key.as_str()] = value.clone();
        }
    };
    merge(&mut schema["properties"], properties);
    merge(&mut schema, more);
    schema
}

fn marked() -> Value {
    json!({"type": "string", "x-personal-data": {"subject": "p"}})
}

#[test]
fn marks_that_cannot_take_effect() {
    let none = json!({});
    let refused = [
        person(&none, &json!({"$defs": {"unused": marked()}})),
        person(&none, &json!({"not": {"properties": {"a": marked()}}})),
        person(&json!({"l": {"contains": marked()}}), &none),
        person(&none, &json!({"propertyNames": marked()})),
        person(&none, &json!({"futureKeyword": {"properties": {"a": marked()}}})),
        person(&none, &json!({"futureKeyword": [{"a": [marked()]}]})),
        person(
            &json!({"t": {"$ref": "#/$defs/n"}}),
            &json!({"$defs": {"n": {"properties": {"name": marked(), "c": {"items": {"$ref": "#/$defs/n"}}}}}}),
        ),
        person(&json!({"c": {"$ref": "#"}, "name": marked()}), &none),
        json!({"$schema": "http://json-schema.org/draft-07/schema#", "x-data-subjects": {"p": {"id": "/id"}},
            "properties": {"id": {}, "l": {"prefixItems": [marked()]}}}),
    ];
    for schema in refused {
        assert!(codes(&schema).contains(&"personal-mark-unreachable"), "{schema} {:?}", codes(&schema));
    }
    // The whole recursive tree as one value is fine; so is a property that merely has the keyword's name.
    let tree = json!({"$ref": "#/$defs/n", "x-personal-data": {"subject": "p"}});
    let defs = json!({"$defs": {"n": {"type": "object", "properties": {"c": {"items": {"$ref": "#/$defs/n"}}}}}});
    assert_eq!(codes(&person(&json!({"t": tree}), &defs)), [""; 0]);
    assert_eq!(codes(&person(&json!({"x-personal-data": {"type": "string"}}), &none)), [""; 0]);
    assert_eq!(codes(&person(&json!({"a": {"const": {"x-personal-data": 1}}}), &none)), [""; 0]);
}

#[test]
fn typing_errors_do_not_leak() {
    for (mark, code) in [
        (json!({"subject": "p", "catgory": "x"}), "personal-mark-invalid"),
        (json!({"subject": "q"}), "subject-role-unknown"),
        (json!({}), "personal-mark-invalid"),
        (json!("p"), "personal-mark-invalid"),
        (json!({"subject": "p", "subjects": ["p"]}), "personal-mark-invalid"),
        (json!({"subjects": []}), "personal-mark-invalid"),
        (json!({"subject": "p", "erase_when": "never"}), "personal-mark-invalid"),
        (json!({"subject": "p", "purposes": ["Marketing"]}), "personal-mark-invalid"),
        (json!({"subject": "p", "purposes": []}), "personal-mark-invalid"),
        (json!({"subject": "p", "purposes": "x"}), "personal-mark-invalid"),
        (json!({"subject": "p", "category": 1}), "personal-mark-invalid"),
        (json!({"subject": "p", "special": "yes"}), "personal-mark-invalid"),
        (json!({"subject": "p", "searchable": true}), "searchable-not-supported"),
        (json!({"subject": "p", "placeholder": 1}), "placeholder-invalid"),
    ] {
        let schema = person(&json!({"a": {"type": "string", "x-personal-data": mark}}), &json!({}));
        assert!(codes(&schema).contains(&code), "{mark} {:?}", codes(&schema));
    }
    for key in ["x-personal-Data", "x-personaldata", "x_personal_data", "personal-data", "x-data-subject", "x-pii"] {
        assert_eq!(
            codes(&person(&json!({"a": {key: {"subject": "p"}}}), &json!({}))),
            ["personal-mark-invalid"],
            "{key}"
        );
    }
    for (roles, code) in [
        (json!([]), "subject-roles-invalid"),
        (json!({"p": "/id"}), "subject-roles-invalid"),
        (json!({"p": {"id": "id"}}), "subject-roles-invalid"),
        (json!({"p": {"id": ""}}), "subject-roles-invalid"),
        (json!({"p": {"id": "/id", "also": 1}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/id"], "id": "/id"}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": "/id"}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": []}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/id", "/id"]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/l/*/id"]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": [""]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": vec!["/id"; 9]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/id"], "also": ["/id"]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/id"], "also": ["/id", "/b"]}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/id"], "as": "x"}}), "subject-roles-invalid"),
        (json!({"p": {"resolve": ["/idd"]}}), "subject-id-unknown"),
        (json!({"p": {"resolve": ["/id"], "also": ["/idd"]}}), "subject-id-unknown"),
        (json!({"p": {"id": "/idd"}}), "subject-id-unknown"),
    ] {
        assert!(codes(&person(&json!({}), &json!({"x-data-subjects": roles}))).contains(&code), "{roles}");
    }
    let nested = person(&json!({"a": {"x-data-subjects": {"p": {"id": "/id"}}}}), &json!({}));
    assert_eq!(codes(&nested), ["subject-roles-invalid"]);
}

#[test]
fn marks_in_the_wrong_place() {
    let none = json!({});
    let mark = json!({"subject": "p"});
    let list =
        json!({"type": "array", "items": {"type": "object", "properties": {"id": {"type": "string"}, "a": marked()}}});
    let element = json!({"x-data-subjects": {"p": {"id": "/l/*/id"}}});
    let cases = [
        (person(&none, &json!({"x-personal-data": mark})), "personal-mark-root"),
        (
            person(&json!({"o": {"type": "object", "x-personal-data": mark, "properties": {"a": marked()}}}), &none),
            "personal-mark-nested",
        ),
        (person(&json!({"id": marked()}), &none), "subject-id-sealed"),
        (
            person(
                &json!({"o": {"x-personal-data": mark, "properties": {"id": {"type": "string"}}}}),
                &json!({"x-data-subjects": {"p": {"id": "/o/id"}}}),
            ),
            "subject-id-sealed",
        ),
        (person(&json!({"l": list, "b": marked()}), &element), "subject-role-ambiguous"),
        (person(&json!({"*": marked()}), &none), "personal-mark-ambiguous"),
        (person(&json!({"id": {"type": "string", "format": "uuid"}}), &none), "subject-id-type"),
        (person(&json!({"id": {"type": "integer"}}), &none), "subject-id-type"),
        (
            person(
                &json!({"a": marked()}),
                &json!({"allOf": [{"properties": {"a": {"x-personal-data": {"subject": "p", "purposes": ["x"]}}}}]}),
            ),
            "personal-mark-conflict",
        ),
        (
            person(
                &json!({"a": marked()}),
                &json!({"anyOf": [{"additionalProperties": {"x-personal-data": {"subject": "p", "special": true}}}]}),
            ),
            "personal-mark-conflict",
        ),
        (person(&json!({"a": {"type": "integer", "x-personal-data": mark}}), &none), "placeholder-required"),
        // The placeholder must satisfy every subschema about the place, not only the one that has the mark.
        (
            person(&json!({"a": marked()}), &json!({"allOf": [{"properties": {"a": {"maxLength": 3}}}]})),
            "placeholder-required",
        ),
    ];
    for (schema, code) in cases {
        assert!(codes(&schema).contains(&code), "{schema} {:?}", codes(&schema));
    }
    assert_eq!(
        codes(&person(&none, &json!({"additionalProperties": marked()}))),
        [""; 0],
        "the id is no additional property"
    );
}

#[test]
fn broken_and_hostile_schemas() {
    let deep = (0..200).fold(json!({}), |inner, _| json!({"properties": {"a": inner}}));
    let mut doubling = json!({"$defs": {}});
    for at in 0..40 {
        let next = json!({"$ref": format!("#/$defs/d{}", at + 1)});
        doubling["$defs"][format!("d{at}")] = json!({"properties": {"a": next, "b": next}});
    }
    doubling["$defs"]["d40"] = json!({});
    doubling["$ref"] = json!("#/$defs/d0");
    let mut chain = json!({"$defs": {"d3000": {}}, "$ref": "#/$defs/d0"});
    for at in 0..3000 {
        chain["$defs"][format!("d{at}")] = json!({"$ref": format!("#/$defs/d{}", at + 1)});
    }
    let wide: Vec<Value> = (0..20_000).map(Value::from).collect();
    let cases = [
        (json!(true), "schema-invalid"),
        (json!([]), "schema-invalid"),
        (json!({"$schema": "https://example.org/mine"}), "schema-dialect-unknown"),
        (json!({"$schema": 7}), "schema-dialect-unknown"),
        (json!({"type": "strnig"}), "schema-invalid"),
        (json!({"properties": 7}), "schema-invalid"),
        (json!({"properties": {"a": 7}}), "schema-invalid"),
        (json!({"allOf": {}}), "schema-invalid"),
        (json!({"required": "a"}), "schema-invalid"),
        (json!({"pattern": "("}), "schema-invalid"),
        (json!({"pattern": "(?=a)"}), "schema-invalid"),
        (json!({"pattern": "a{1000}{1000}{100}"}), "schema-invalid"),
        (json!({"patternProperties": {"(": {}}}), "schema-invalid"),
        (json!({"$ref": "#"}), "schema-invalid"),
        (
            json!({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}),
            "schema-invalid",
        ),
        (json!({"allOf": [{"$ref": "#"}]}), "schema-invalid"),
        (json!({"$ref": "#/nowhere"}), "reference-not-supported"),
        (json!({"$ref": 7}), "reference-not-supported"),
        (json!({"$ref": "https://example.org/other.json"}), "reference-not-supported"),
        (json!({"$ref": "file:///etc/passwd"}), "reference-not-supported"),
        (json!({"$dynamicRef": "#a"}), "reference-not-supported"),
        (json!({"properties": {"a": {"$id": "https://example.org/x"}}}), "reference-not-supported"),
        (json!({"enum": wide}), "schema-too-large"),
        (json!({"description": "x".repeat(300_000)}), "schema-too-large"),
        (deep, "schema-too-complex"),
        (doubling, "schema-too-complex"),
        (chain, "schema-too-complex"),
    ];
    for (schema, code) in cases {
        let found = codes(&schema);
        assert!(found.contains(&code), "{code} {found:?} {}", schema.to_string().chars().take(200).collect::<String>());
    }
    // Recursion through the event is fine, and ends.
    let tree = json!({"$defs": {"n": {"properties": {"c": {"items": {"$ref": "#/$defs/n"}}}}}, "$ref": "#/$defs/n"});
    assert_eq!(codes(&tree), [""; 0]);
    let escaped = json!({"$id": "https://example.org/root", "$defs": {"a b%": marked(), "ü/~": marked()}});
    let properties = json!({"a": {"$ref": "#/$defs/a%20b%25"}, "ü/~": {"$ref": "#/$defs/%C3%BC~1~0"}});
    assert_eq!(codes(&person(&properties, &escaped)), [""; 0]);
}

#[test]
fn every_dialect_works() {
    for dialect in [
        "http://json-schema.org/draft-04/schema#",
        "http://json-schema.org/draft-04/schema",
        "http://json-schema.org/draft-06/schema#",
        "http://json-schema.org/draft-07/schema#",
        "https://json-schema.org/draft/2019-09/schema",
        "https://json-schema.org/draft/2020-12/schema",
    ] {
        let defs = json!({"mail": {"type": "string", "format": "email", "x-personal-data": {"subject": "p"}}});
        let schema = person(
            &json!({"a": {"$ref": "#/definitions/mail"}, "l": {"type": "array", "items": {"$ref": "#/definitions/mail"}}}),
            &json!({"$schema": dialect, "definitions": defs}),
        );
        let store = registry(&CategorySettings::default());
        register(&store, "t", &schema);
        let prepared =
            prepare(&store, "t", json!({"id": "x", "a": "a@example.org", "l": ["b@example.org", "c@example.org"]}))
                .unwrap();
        let paths: Vec<String> = prepared.fields.iter().map(|f| f.path.to_string()).collect();
        assert_eq!(paths, ["/a", "/l/0", "/l/1"], "{dialect}");
        assert!(
            prepare(&store, "t", json!({"id": "x", "a": "not an address"})).is_err(),
            "formats assert in {dialect}"
        );
    }
}

#[test]
fn conditions_across_fields_are_rehearsed() {
    let store = registry(&CategorySettings::default());
    let unique = person(&json!({"l": {"type": "array", "uniqueItems": true, "items": marked()}}), &json!({}));
    register(&store, "unique", &unique);
    assert!(prepare(&store, "unique", json!({"id": "x", "l": ["a"]})).is_ok());
    let twice = prepare(&store, "unique", json!({"id": "x", "l": ["a", "b"]}));
    assert_eq!(wrong(twice)[0], ("placeholder-invalid", "/data/l/0".to_owned()));

    let condition = json!({"if": {"properties": {"a": {"const": "vip"}}, "required": ["a"]}, "then": {"required": ["b"]}, "else": {"not": {"required": ["b"]}}});
    register(&store, "conditional", &person(&json!({"a": marked(), "b": {}}), &condition));
    assert!(prepare(&store, "conditional", json!({"id": "x", "a": "plain"})).is_ok());
    assert_eq!(
        wrong(prepare(&store, "conditional", json!({"id": "x", "a": "vip", "b": 1})))[0].0,
        "placeholder-invalid"
    );

    let by_id = json!({"if": {"properties": {"id": {"pattern": "^vip"}}}, "then": {"required": ["b"]}, "else": {"not": {"required": ["b"]}}});
    register(&store, "by-id", &person(&json!({"b": {}}), &by_id));
    assert!(prepare(&store, "by-id", json!({"id": "x"})).is_ok());
    assert_eq!(wrong(prepare(&store, "by-id", json!({"id": "vip-1", "b": 1})))[0].0, "subject-id-type");
}
