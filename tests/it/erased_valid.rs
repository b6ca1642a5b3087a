//! Every erased event still validates against its schema: generated schemas, events valid for them, everybody forgotten.
//!
//! Owns: a generator of schemas with personal parts of every shape. What registration or append refuses is skipped, but
//! most must be taken, and whatever was taken has to hold: for a reader without rights, after each forget, at the end.

use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value, json};

use crate::harness::{Server, send};

const ROLES: [&str; 2] = ["buyer", "guest"];
const CASES: u32 = 400;

/// A member of a schema: its subschema, a value valid for it.
type Member = (Value, Value);

fn leaf() -> impl Strategy<Value = Member> {
    prop_oneof![
        (0..4_usize).prop_map(|n| (json!({"type": "string", "maxLength": 40}), json!("value".repeat(n)))),
        Just((json!({"type": "string", "format": "email"}), json!("ada@example.com"))),
        Just((json!({"type": "string", "format": "date"}), json!("1815-12-10"))),
        Just((json!({"type": "string", "format": "date-time"}), json!("1815-12-10T00:00:00Z"))),
        Just((json!({"type": "string", "format": "uuid"}), json!("01234567-89ab-4def-8123-456789abcdef"))),
        Just((json!({"type": "string", "format": "uri"}), json!("https://example.com/ada"))),
        Just((json!({"type": "string", "enum": ["red", "green", "[erased]"]}), json!("green"))),
        Just((json!({"enum": ["red", "green", null]}), json!("red"))),
        Just((json!({"type": ["string", "null"], "minLength": 30}), json!("a text of more than thirty bytes"))),
        any::<i32>().prop_map(|n| (json!({"type": ["integer", "null"]}), json!(n))),
        any::<i32>().prop_map(|n| (json!({"type": "integer"}), json!(n))),
        (0..100).prop_map(|n| (json!({"type": "number", "minimum": 0, "maximum": 100}), json!(n))),
        any::<bool>().prop_map(|b| (json!({"type": "boolean"}), json!(b))),
        prop::collection::vec("[a-z]{1,5}", 0..4)
            .prop_map(|list| (json!({"type": "array", "items": {"type": "string"}, "maxItems": 4}), json!(list))),
        prop::collection::vec(any::<i16>(), 1..4)
            .prop_map(|list| (json!({"type": "array", "items": {"type": "integer"}, "minItems": 1}), json!(list))),
        Just((json!({"type": "string", "pattern": "^[0-9]{3}$"}), json!("123"))),
        Just((json!({"const": "fixed"}), json!("fixed"))),
    ]
}

/// How a member is marked, if it is.
#[derive(Clone, Debug)]
struct Mark {
    who: usize,
    purposes: Vec<&'static str>,
    declared: bool,
}

fn mark() -> impl Strategy<Value = Option<Mark>> {
    let purposes = prop::sample::select(vec![vec![], vec!["billing"], vec!["billing", "marketing"], vec!["marketing"]]);
    let mark = (0..3_usize, purposes, any::<bool>());
    prop::option::weighted(0.7, mark.prop_map(|(who, purposes, declared)| Mark { who, purposes, declared }))
}

fn marked((mut schema, value): Member, mark: Option<Mark>) -> Member {
    let Some(Mark { who, purposes, declared }) = mark else { return (schema, value) };
    let mut keyword = if who < 2 { json!({"subject": ROLES[who]}) } else { json!({"subjects": ROLES}) };
    if !purposes.is_empty() {
        keyword["purposes"] = json!(purposes);
    }
    // A placeholder of its own that is surely valid: another value of the same kind.
    if declared {
        keyword["placeholder"] = value.clone();
    }
    schema["x-personal-data"] = keyword;
    (schema, value)
}

fn object(members: Vec<(Member, bool)>) -> Member {
    let (mut properties, mut required, mut value) = (Map::new(), Vec::new(), Map::new());
    for (index, ((schema, example), needed)) in members.into_iter().enumerate() {
        let name = format!("m{index}");
        if needed {
            required.push(name.clone());
        }
        properties.insert(name.clone(), schema);
        value.insert(name, example);
    }
    let schema =
        json!({"type": "object", "additionalProperties": false, "properties": properties, "required": required});
    (schema, Value::Object(value))
}

fn member() -> impl Strategy<Value = Member> {
    let plain = (leaf(), mark()).prop_map(|(member, mark)| marked(member, mark));
    plain.prop_recursive(2, 12, 4, |inner| {
        let inside = prop::collection::vec((inner.clone(), any::<bool>()), 1..4).prop_map(object);
        // An object may be sealed whole, but only when nothing in it is marked.
        let whole = prop::collection::vec((leaf(), any::<bool>()), 1..4).prop_map(object);
        let list = (inner, 1..3_usize)
            .prop_map(|((schema, value), n)| (json!({"type": "array", "items": schema}), json!(vec![value; n])));
        prop_oneof![inside, (whole, mark()).prop_map(|(member, mark)| marked(member, mark)), list]
    })
}

fn event_type() -> impl Strategy<Value = Member> {
    let draft = prop::sample::select(vec![
        None,
        Some("http://json-schema.org/draft-07/schema#"),
        Some("https://json-schema.org/draft/2019-09/schema"),
        Some("https://json-schema.org/draft/2020-12/schema"),
    ]);
    (prop::collection::vec((member(), any::<bool>()), 1..6), draft).prop_map(|(members, draft)| {
        let (mut schema, value) = object(members);
        schema["x-data-subjects"] =
            ROLES.iter().map(|role| ((*role).to_owned(), json!({"id": format!("/{role}")}))).collect();
        for role in ROLES {
            schema["properties"][role] = json!({"type": "string"});
            schema["required"].as_array_mut().unwrap().push(json!(role));
        }
        if let Some(draft) = draft {
            schema["$schema"] = json!(draft);
        }
        (schema, value)
    })
}

/// Every event of a stream validates, for whoever asks.
async fn all_valid(server: &Server, reader: &str, stream: &str, schema: &Value) -> Result<(), TestCaseError> {
    let validator = jsonschema::options().should_validate_formats(true).build(schema).unwrap();
    for key in ["dev", reader] {
        let bearer = format!("Bearer {key}");
        let path = format!("/v1/streams/{stream}/events");
        let page =
            send(server.address, "GET", &path, &[("authorization", &bearer)], "".into()).await.expect(200).json();
        for event in page["items"].as_array().unwrap() {
            let errors: Vec<String> = validator.iter_errors(&event["data"]).map(|error| error.to_string()).collect();
            prop_assert!(errors.is_empty(), "{}\n{}\nunder {}", errors.join("; "), event, schema);
        }
    }
    Ok(())
}

/// Registers, appends, forgets one person and then the other, looking each time. `false`: the schema or event was refused.
async fn one(server: &Server, reader: &str, n: u32, schema: &Value, value: &Value) -> Result<bool, TestCaseError> {
    let registered = server.post(&format!("/v1/schemas/t{n}/versions"), schema).await;
    if registered.status != 201 {
        prop_assert_eq!(registered.status.as_u16(), 422, "{}", registered.text());
        return Ok(false);
    }
    let stream = format!("gen-{n}");
    let people = [format!("b{n}"), format!("g{n}")];
    for (buyer, guest) in [(0, 1), (0, 0), (1, 0)] {
        let mut data = value.clone();
        data["buyer"] = json!(people[buyer]);
        data["guest"] = json!(people[guest]);
        let stored = server.append(&stream, &format!("t{n}"), &data).await;
        if stored.status != 201 {
            // Only the rehearsal of erasures may refuse what the schema accepts.
            prop_assert_eq!(stored.code(), "placeholder-invalid", "{} {} {}", stored.text(), schema, data);
            return Ok(false);
        }
    }
    all_valid(server, reader, &stream, schema).await?;
    for person in &people {
        server.forget(person).await;
        all_valid(server, reader, &stream, schema).await?;
    }
    Ok(true)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_erased_event_is_valid() {
    let server = Server::dev().await;
    let key = json!({"name": "plain", "role": "reader"});
    let issued = server.post("/v1/api-keys", &key).await.expect(201).json();
    let reader = issued["secret"].as_str().unwrap();
    let handle = tokio::runtime::Handle::current();
    let (tried, taken) = (AtomicU32::new(0), AtomicU32::new(0));
    let mut runner =
        TestRunner::new(Config { cases: CASES, failure_persistence: None, max_shrink_iters: 60, ..Config::default() });
    let run = || {
        runner.run(&event_type(), |(schema, value)| {
            let n = tried.fetch_add(1, Ordering::Relaxed);
            if handle.block_on(one(&server, reader, n, &schema, &value))? {
                taken.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        })
    };
    tokio::task::block_in_place(run).unwrap();
    let (tried, taken) = (tried.into_inner(), taken.into_inner());
    assert!(taken * 3 >= tried, "only {taken} of {tried} generated schemas were accepted: the test says little");
}
