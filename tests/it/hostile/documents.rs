//! Malformed schemas, and malformed bodies of forget requests, API keys, categories and settings.

use serde_json::{Value, json};

use super::Case;

const VERSIONS: &str = "/v1/schemas/hostile/versions";
const CHECKS: &str = "/v1/schemas/hostile/checks";

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for schema in wrong_schemas().into_iter().chain(wrong_marks()) {
        cases.push(Case::json(VERSIONS, &schema, &[422]).quotes());
        cases.push(Case::json(CHECKS, &schema, &[422]).quotes());
    }
    cases.extend(forgets());
    cases.extend(keys());
    cases.extend(settings());
    cases
}

fn wrong_schemas() -> Vec<Value> {
    let mut deep = json!({"type": "string"});
    for _ in 0..14 {
        deep = json!({"type": "object", "properties": {"zqCanary": deep}});
    }
    deep["properties"]["zqCanary"]["type"] = json!(5);
    vec![
        json!(null),
        json!(1),
        json!("zqCanary"),
        json!([]),
        json!({"type": 1}),
        json!({"type": "zqCanary"}),
        json!({"type": ["object", "zqCanary"]}),
        json!({"type": []}),
        json!({"properties": []}),
        json!({"properties": 1}),
        json!({"properties": {"zqCanary": 1}}),
        json!({"required": "zqCanary"}),
        json!({"required": [1]}),
        json!({"enum": "zqCanary"}),
        json!({"minimum": "zqCanary"}),
        json!({"minLength": -1}),
        json!({"minLength": "1"}),
        json!({"maxItems": 1.5}),
        json!({"multipleOf": 0}),
        json!({"multipleOf": -1}),
        json!({"pattern": 1}),
        json!({"pattern": "(zqCanary"}),
        json!({"pattern": "[zqCanary"}),
        json!({"pattern": "*zqCanary"}),
        json!({"pattern": "a{99999}{99999}"}),
        json!({"pattern": "((((((((a{100}){100}){100}){100}){100}){100}){100}))"}),
        json!({"patternProperties": {"(zqCanary": {}}}),
        json!({"patternProperties": 1}),
        json!({"items": 1}),
        json!({"items": "zqCanary"}),
        json!({"allOf": {}}),
        json!({"allOf": []}),
        json!({"allOf": ["zqCanary"]}),
        json!({"anyOf": 1}),
        json!({"oneOf": []}),
        json!({"not": 1}),
        json!({"if": "zqCanary"}),
        json!({"additionalProperties": "zqCanary"}),
        json!({"uniqueItems": "zqCanary"}),
        json!({"$defs": 1}),
        json!({"$ref": 1}),
        json!({"$ref": "#/zqCanary"}),
        json!({"$ref": "#/$defs/zqCanary", "$defs": {}}),
        json!({"$ref": "http://127.0.0.1:9/zqCanary"}),
        json!({"$ref": "https://example.com/zqCanary.json"}),
        json!({"$ref": "file:///etc/passwd"}),
        json!({"$ref": "zqCanary.json"}),
        json!({"$ref": "//zqCanary"}),
        json!({"$schema": "http://zqCanary/"}),
        json!({"$schema": 1}),
        json!({"$schema": "https://json-schema.org/draft/9999-zqCanary/schema"}),
        json!({"$dynamicRef": "http://zqCanary/x"}),
        json!({"$id": "http://zqCanary/", "$ref": "other"}),
        json!({"properties": {"a": {"$ref": "http://169.254.169.254/latest/zqCanary"}}}),
        deep,
    ]
}

fn wrong_marks() -> Vec<Value> {
    let schema = |mark: Value| {
        json!({"type": "object", "x-data-subjects": {"p": {"id": "/id"}},
            "properties": {"id": {"type": "string"}, "zqCanary": {"type": "string", "x-personal-data": mark}}})
    };
    let subjects = |subjects: Value| {
        json!({"type": "object", "x-data-subjects": subjects, "properties": {"id": {"type": "string"},
            "n": {"type": "integer"}, "f": {"type": "string", "x-personal-data": {"subject": "p"}}}})
    };
    let marks = [
        json!(true),
        json!(null),
        json!("zqCanary"),
        json!([]),
        json!({}),
        json!({"subject": "nobody"}),
        json!({"subject": 1}),
        json!({"subjects": []}),
        json!({"subjects": "p"}),
        json!({"subjects": [1]}),
        json!({"subject": "p", "subjects": ["p"]}),
        json!({"subject": "p", "zqCanary": 1}),
        json!({"subject": "p", "purposes": []}),
        json!({"subject": "p", "purposes": "x"}),
        json!({"subject": "p", "purposes": [1]}),
        json!({"subject": "p", "purposes": ["zq Canary"]}),
        json!({"subject": "p", "purposes": vec!["a"; 17]}),
        json!({"subject": "p", "category": 1}),
        json!({"subject": "p", "category": "zq Canary"}),
        json!({"subject": "p", "special": "zqCanary"}),
        json!({"subject": "p", "erase_when": "zqCanary"}),
        json!({"subject": "p", "erase_when": "all"}),
        json!({"subject": "p", "placeholder": 5}),
        json!({"subject": "p", "placeholder": null}),
        json!({"subject": "p", "placeholder": ["zqCanary"]}),
        json!({"subject": "p", "searchable": true}),
    ];
    let roles = [
        json!(1),
        json!([]),
        json!({"p": 1}),
        json!({"p": {}}),
        json!({"p": {"id": 1}}),
        json!({"p": {"id": "zqCanary"}}),
        json!({"p": {"id": "/zqCanary~9"}}),
        json!({"p": {"id": ""}}),
        json!({"p": {"id": "/n"}}),
        json!({"p": {"id": "/f"}}),
        json!({"q": {"id": "/id"}}),
        json!({"p": {"id": "/id", "zqCanary": 1}}),
        json!({"p": {"id": "/missing"}}),
    ];
    let placed = [
        json!({"type": "object", "x-personal-data": {"subject": "p"}, "x-data-subjects": {"p": {"id": "/id"}}}),
        json!({"x-data-subjects": {"p": {"id": "/id"}}, "properties": {"id": {"type": "string"}},
            "not": {"properties": {"a": {"x-personal-data": {"subject": "p"}}}}}),
        json!({"x-data-subjects": {"p": {"id": "/id"}}, "properties": {"id": {"type": "string"},
            "a": {"type": "string", "pattern": "^[0-9]+$", "x-personal-data": {"subject": "p"}}}}),
        json!({"x-data-subjects": {"p": {"id": "/id"}}, "properties": {"id": {"type": "string"},
            "a": {"enum": ["zqCanary"], "x-personal-data": {"subject": "p"}}}}),
    ];
    marks.into_iter().map(schema).chain(roles.into_iter().map(subjects)).chain(placed).collect()
}

fn forgets() -> Vec<Case> {
    let base = |member: &str, value: Value| {
        let mut body = json!({"data_subject": "zqp"});
        body[member] = value;
        body
    };
    let invalid = [
        json!(1),
        json!([]),
        json!({}),
        json!("zqCanary"),
        base("data_subject", json!(1)),
        base("data_subject", json!(null)),
        base("zqCanary", json!(1)),
        base("basis", json!(1)),
        base("received_at", json!(1)),
        base("reference", json!(1)),
    ];
    let parameters = [
        base("data_subject", json!("")),
        base("data_subject", json!("zqCanary\n")),
        base("data_subject", json!("z".repeat(600))),
        base("data_subject", json!("ds_zqCanary")),
        base("basis", json!("zqCanary")),
        base("basis", json!("gdpr:A0")),
        base("basis", json!("gdpr:A17-zqCanary")),
        base("basis", json!("gdpr:A100")),
        base("scope", json!("zqCanary")),
        base("scope", json!({})),
        base("scope", json!({"purposes": []})),
        base("scope", json!({"purposes": "zqCanary"})),
        base("scope", json!({"purposes": [1]})),
        base("scope", json!({"purposes": ["zq Canary"]})),
        base("scope", json!({"purposes": ["a"], "zqCanary": 1})),
        base("scope", json!({"purposes": vec!["a"; 65]})),
        base("received_at", json!("zqCanary")),
        base("reference", json!("z".repeat(101))),
        base("reference", json!("zqCanary\u{1}")),
        base("reference", json!("zqCanary@example.com")),
    ];
    let unknown =
        [base("data_subject", json!("ds_00000000000000000000000000000000")), base("data_subject", json!("nobody"))];
    let mut cases = Vec::new();
    for route in ["/v1/forget", "/v1/forget-requests"] {
        cases.extend(invalid.iter().map(|body| Case::json(route, body, &[422])));
        cases.extend(parameters.iter().map(|body| Case::json(route, body, &[400])));
        cases.extend(unknown.iter().map(|body| Case::json(route, body, &[404])));
    }
    let requests = "/v1/forget-requests/fr_zqCanary";
    let digest = json!({"preview_digest": "zqCanary"});
    for (path, body, want) in [
        (format!("{requests}/approvals"), digest.clone(), 404),
        (format!("{requests}/approvals"), json!({}), 422),
        (format!("{requests}/approvals"), json!({"preview_digest": 1}), 422),
        (format!("{requests}/rejections"), json!({"ground": "zqCanary"}), 400),
        (format!("{requests}/rejections"), json!({"ground": "gdpr:A17-3-b"}), 404),
        (format!("{requests}/cancellations"), json!({}), 404),
        ("/v1/forget-requests/%24erasure-x/approvals".into(), digest.clone(), 404),
        (format!("/v1/forget-requests/fr_{}/approvals", "z".repeat(4000)), digest, 404),
        ("/v1/data-subjects/-/reauthorizations".into(), json!({}), 400),
        ("/v1/data-subjects/p1/reauthorizations".into(), json!({"data_subject": "zqCanary"}), 400),
        ("/v1/data-subjects/zqCanary/reauthorizations".into(), json!({"zqCanary": 1}), 422),
        ("/v1/data-subjects/zqCanary/reauthorizations".into(), json!({"purposes": ["zq Canary"]}), 400),
        ("/v1/data-subjects/zqCanary/reauthorizations".into(), json!({"basis": "zqCanary"}), 400),
        ("/v1/data-subjects/zqCanary/reauthorizations".into(), json!({}), 404),
        ("/v1/data-subjects/zqCanary%40example.com/reauthorizations".into(), json!({}), 422),
    ] {
        cases.push(Case::json(&path, &body, &[want]));
    }
    cases
}

fn keys() -> Vec<Case> {
    let base = |member: &str, value: Value| {
        let mut body = json!({"name": "k", "roles": ["reader"]});
        body[member] = value;
        body
    };
    let wrong = [
        json!(1),
        json!([]),
        json!({}),
        json!({"name": "k"}),
        base("name", json!(1)),
        base("roles", json!("reader")),
        base("roles", json!([])),
        base("roles", json!(["zqCanary"])),
        base("roles", json!([1])),
        base("role", json!("root")),
        base("roles", json!(["Admin"])),
        base("roles", json!(["admin", "pii_reader"])),
        base("roles", json!(["admin", "dpo"])),
        base("categories", json!("zqCanary")),
        base("categories", json!(["zq-Canary"])),
        base("categories", json!(["$x"])),
        base("types", json!([1])),
        base("types", json!(["zq Canary"])),
        base("purposes", json!("*")),
        base("purposes", json!(["*"])),
        base("purposes", json!(["zq Canary"])),
        base("expires_at", json!(1)),
        base("expires_at", json!("zqCanary")),
        base("zqCanary", json!(1)),
        base("id", json!("ak_zqCanary")),
        base("secret", json!("zqCanary")),
    ];
    let names = ["", "zq Canary", "zqCanary@example.com", "é", "zqCanary/..", "zqCanary\n"];
    let mut cases: Vec<Case> = wrong.iter().map(|body| Case::json("/v1/api-keys", body, &[422])).collect();
    cases.extend(names.iter().map(|name| Case::json("/v1/api-keys", &base("name", json!(name)), &[400])));
    cases.push(Case::json("/v1/api-keys", &base("name", json!("z".repeat(65))), &[400]));
    cases.push(Case::new("DELETE", "/v1/api-keys/ak_zqCanary", "", &[404]));
    cases.push(Case::new("DELETE", "/v1/api-keys/%00", "", &[404]));
    cases
}

fn settings() -> Vec<Case> {
    let put = |path: &str, body: Value, want: u16| Case::new("PUT", path, body.to_string(), &[want]);
    let mut cases = Vec::new();
    for body in [
        json!(1),
        json!([]),
        json!({}),
        json!({"compatibility": "zqCanary"}),
        json!({"compatibility": 1}),
        json!({"compatibility": "none", "zqCanary": 1}),
    ] {
        cases.push(put("/v1/schemas/strict/settings", body, 422));
    }
    for body in [
        json!(1),
        json!([]),
        json!("zqCanary"),
        json!({"zqCanary": 1}),
        json!({"leak_guard": "zqCanary"}),
        json!({"leak_guard": 1}),
        json!({"schema_policy": "zqCanary"}),
        json!({"schemas": []}),
        json!({"expected_revision": "zqCanary"}),
    ] {
        cases.push(put("/v1/categories/hostile", body, 422));
    }
    cases.push(put("/v1/categories/zq-Canary", json!({}), 400));
    cases.push(put("/v1/categories/%24system", json!({}), 400));
    cases.push(put("/v1/schemas/%24system/settings", json!({"compatibility": "none"}), 400));
    cases.push(Case::new("POST", "/v1/schemas/strict/versions/9/deprecation", "", &[404]));
    cases.push(Case::new("POST", "/v1/schemas/strict/versions/zqCanary/deprecation", "", &[400]));
    cases.push(Case::new("POST", "/v1/schemas/zq%20Canary/versions", "{}", &[400]));
    cases
}
