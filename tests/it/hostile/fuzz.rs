//! Random JSON and random query strings: nothing that can be said fails the server.

use oubliette::config::SchemaPolicy;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use serde_json::{Map, Value};

use crate::harness::Server;

fn word() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "id",
        "type",
        "data",
        "events",
        "expected",
        "revision",
        "personal_data",
        "path",
        "subject",
        "purposes",
        "appends",
        "stream",
        "preconditions",
        "none_matching",
        "types",
        "$personal",
        "data_subject",
        "scope",
        "basis",
        "name",
        "roles",
        "properties",
        "x-personal-data",
        "x-data-subjects",
        "$ref",
        "#",
        "items",
        "required",
        "enum",
        "const",
        "pattern",
        "allOf",
        "object",
        "string",
        "any",
        "no_stream",
        "t",
        "strict",
        "",
        "/a",
        "ds_00000000000000000000000000000000",
        "gdpr:A17-1-b",
        "*",
    ]);
    prop_oneof![4 => known.prop_map(str::to_owned), 1 => any::<String>()]
}

fn value() -> impl Strategy<Value = Value> {
    let number = prop_oneof![
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from)
    ];
    let leaf =
        prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), number, word().prop_map(Value::from)];
    leaf.prop_recursive(5, 40, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((word(), inner), 0..6)
                .prop_map(|m| Value::Object(m.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// A body that is at first sight the right one: known members, random values.
fn body() -> impl Strategy<Value = Value> {
    let object = |names: &'static [&'static str]| {
        let members = names.iter().map(|name| (Just(*name), prop::option::weighted(0.7, value()))).collect::<Vec<_>>();
        members.prop_map(|members| {
            Value::Object(members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
        })
    };
    prop_oneof![
        value(),
        object(&["type", "data", "personal_data", "id", "time"]),
        object(&["appends", "preconditions"]),
        object(&["type", "properties", "x-data-subjects", "required", "allOf", "$defs", "items"]),
        object(&["data_subject", "scope", "basis"]),
    ]
}

const ROUTES: [&str; 9] = [
    "/v1/streams/fuzz-1/events",
    "/v1/events",
    "/v1/forget",
    "/v1/forget-requests",
    "/v1/api-keys",
    "/v1/schemas/fuzz/versions",
    "/v1/schemas/fuzz/checks",
    "/v1/forget-requests/fr_1/approvals",
    "/v1/data-subjects/-/reauthorizations",
];

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() })
}

async fn server() -> Server {
    Server::with(|config| {
        config.dev = true;
        config.schema_policy = SchemaPolicy::Open;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn random_bodies_never_fail_the_server() {
    let server = server().await;
    let handle = tokio::runtime::Handle::current();
    let strategy = (prop::sample::select(ROUTES.to_vec()), body());
    let run = || {
        runner(400).run(&strategy, |(route, body)| {
            let reply = handle.block_on(server.post(route, &body));
            prop_assert!(reply.status.as_u16() < 500, "{} {}: {}", route, body, reply.text());
            if reply.status.is_client_error() {
                prop_assert_eq!(reply.header("content-type"), Some("application/problem+json"));
                prop_assert!(!reply.code().is_empty());
            }
            Ok(())
        })
    };
    tokio::task::block_in_place(run).unwrap();
    server.get("/readyz").await.expect(200);
}

#[tokio::test(flavor = "multi_thread")]
async fn random_queries_never_fail_the_server() {
    let server = server().await;
    server.append("fuzz-1", "t", &serde_json::json!({"a": 1})).await.expect(201);
    let handle = tokio::runtime::Handle::current();
    let path = prop::sample::select(vec![
        "/v1/events",
        "/v1/streams/fuzz-1/events",
        "/v1/streams",
        "/v1/forget-requests",
        "/v1/audit/access-log",
        "/readyz",
    ]);
    let name = prop::sample::select(vec![
        "from",
        "limit",
        "direction",
        "as_of",
        "types",
        "category",
        "data_subject",
        "system",
        "redaction",
        "partial",
        "cursor",
        "before",
        "status",
        "verbose",
        "x",
    ]);
    let text = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<u64>().prop_map(|n| format!("position:{n}")),
        any::<u64>().prop_map(|n| format!("revision:{n}")),
        "[0-9]{1,21}",
        prop::sample::select(vec![
            "forward",
            "backward",
            "typed",
            "omit",
            "allow",
            "true",
            "t",
            "0",
            "1",
            "2026-01-01T00:00:00Z"
        ])
        .prop_map(str::to_owned),
        prop::collection::vec(any::<u8>(), 0..24).prop_map(|bytes| bytes.iter().map(|b| format!("%{b:02x}")).collect()),
    ];
    let strategy = (path, prop::collection::vec((name, text), 0..4));
    let run = || {
        runner(400).run(&strategy, |(path, parts)| {
            let query: Vec<String> = parts.iter().map(|(name, text)| format!("{name}={text}")).collect();
            let target = format!("{path}?{}", query.join("&"));
            let reply = handle.block_on(server.get(&target));
            prop_assert!(reply.status.as_u16() < 500, "{}: {}", target, reply.text());
            if reply.status.is_client_error() {
                prop_assert_eq!(reply.header("content-type"), Some("application/problem+json"));
            }
            Ok(())
        })
    };
    tokio::task::block_in_place(run).unwrap();
    server.get("/readyz").await.expect(200);
}
