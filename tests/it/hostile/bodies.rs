//! Malformed bodies of appends: JSON broken in every way, events with wrong members, NDJSON, CloudEvents, several streams.

use serde_json::{Value, json};

use super::Case;

const EVENTS: &str = "/v1/streams/hostile-1/events";
const JSON_ROUTES: [&str; 5] =
    ["/v1/events", "/v1/forget", "/v1/forget-requests", "/v1/api-keys", "/v1/schemas/hostile/versions"];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for text in broken().iter().chain(&unruly()) {
        cases.push(Case::new("POST", EVENTS, text.clone(), &[400]));
    }
    for (n, text) in broken().into_iter().chain(unruly()).enumerate() {
        // Each text at one more route: they share the parser, and this shows that they do.
        cases.push(Case::new("POST", JSON_ROUTES[n % JSON_ROUTES.len()], text, &[400]));
    }
    cases.extend(wrong_shapes());
    cases.extend(wrong_members());
    cases.extend(batches());
    cases.extend(lines());
    cases.extend(cloud_events());
    cases.extend(several_streams());
    cases
}

/// Not JSON at all.
fn broken() -> Vec<Vec<u8>> {
    let texts: &[&str] = &[
        "",
        " ",
        "\n",
        "{",
        "}",
        "[",
        "]",
        "{]",
        "[}",
        "{\"zqCanary\"",
        "{\"zqCanary\":",
        "{\"zqCanary\":1",
        "{\"zqCanary\":1,",
        "{\"zqCanary\":1,}",
        "[\"zqCanary\",]",
        "[,\"zqCanary\"]",
        "{,}",
        "{\"zqCanary\" 1}",
        "{zqCanary:1}",
        "{'zqCanary':1}",
        "\"zqCanary",
        "\"zqCanary\\",
        "\"zqCanary\\x41\"",
        "\"zqCanary\\u12\"",
        "\"zqCanary\\u{41}\"",
        "\"zqCanary\\ud800\"",
        "\"zqCanary\\udc00\"",
        "\"zqCanary\\ud800\\ud800\"",
        "\"\\ud800zqCanary\"",
        "{\"zqCanary\\udfff\":1}",
        "tru",
        "True",
        "nul",
        "NULL",
        "NaN",
        "Infinity",
        "-Infinity",
        "undefined",
        "01",
        "+1",
        ".5",
        "5.",
        "1e",
        "1e+",
        "0x10",
        "--1",
        "-",
        "1_000",
        "1 2",
        "{} {}",
        "[] zqCanary",
        "{}//zqCanary",
        "/*zqCanary*/{}",
        "{\"a\":1}}",
        "\"zqCanary\tb\"",
        "\"zqCanary\nb\"",
        "\"zqCanary\0b\"",
        "\0",
        "{}\0",
        "\u{feff}{}",
        "\u{b}{}",
        "\u{a0}{}",
        "<zqCanary/>",
        "zqCanary=1&b=2",
        "--- zqCanary",
        "{\"a\":zqCanary}",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "{\"a\":[}",
        "1e400",
        "-1e400",
    ];
    let bytes: &[&[u8]] = &[
        b"\xff",
        b"\xfe\xff\0{\0}",
        b"{\0}\0",
        b"\"zqCanary\xc3\x28\"",
        b"\"zqCanary\xc0\xaf\"",
        b"\"zqCanary\xed\xa0\x80\"",
        b"\"zqCanary\xf5\x80\x80\x80\"",
        b"\"zqCanary\xe2\x82\"",
        b"{\"zqCanary\xff\":1}",
        b"\x1f\x8b\x08\0\0\0\0\0",
        b"PK\x03\x04zqCanary",
        b"\x80\x04zqCanary",
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain(bytes.iter().map(|b| b.to_vec())).collect()
}

/// JSON, but not the JSON that everybody reads alike, or too much of it.
fn unruly() -> Vec<Vec<u8>> {
    let event = |data: &str| format!("{{\"type\":\"t\",\"data\":{data}}}").into_bytes();
    let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
    let deep_objects = |n: usize| format!("{}1{}", "{\"zqCanary\":".repeat(n), "}".repeat(n));
    let keys = |n: usize| (0..n).map(|k| format!("\"zqCanary{k}\":1")).collect::<Vec<_>>().join(",");
    vec![
        event("{\"zqCanary\":1,\"zqCanary\":2}"),
        event("[{\"a\":{\"b\":1,\"b\":1}}]"),
        event("{\"a\":1,\"\\u0061\":2}"),
        b"{\"type\":\"t\",\"type\":\"t\",\"data\":{}}".to_vec(),
        b"{\"type\":\"t\",\"data\":{},\"data\":{}}".to_vec(),
        event("{\"\":1,\"\":1}"),
        event("9007199254740992"),
        event("-9007199254740992"),
        event("18446744073709551615"),
        event("18446744073709551616"),
        event("-9223372036854775809"),
        event("123456789012345678901234567890"),
        event("1e309"),
        event("-1e999999999"),
        event(&deep(33)),
        event(&deep(5000)),
        event(&deep_objects(33)),
        event(&deep_objects(3000)),
        event(&format!("[{}1]", "1,".repeat(10_000))),
        event(&format!("\"zqCanary{}\"", "a".repeat(64 * 1024))),
        event(&format!("{{\"zqCanary{}\":1}}", "a".repeat(64 * 1024))),
        event(&format!("{{{}}}", keys(513))),
        event("{\"a\":\"\\ud83d\"}"),
        event("{\"\\ud83d\":1}"),
    ]
}

/// JSON of another shape than any body.
fn wrong_shapes() -> Vec<Case> {
    let texts = [
        "null",
        "true",
        "0",
        "\"zqCanary\"",
        "[]",
        "{}",
        "[null]",
        "[[]]",
        "[[{}]]",
        "[1,\"zqCanary\"]",
        "{\"zqCanary\":{}}",
        "{\"events\":null}",
        "{\"events\":{}}",
        "{\"events\":[]}",
        "{\"events\":[null]}",
        "{\"events\":[{}],\"zqCanary\":1}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":\"zqCanary\"}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":-1}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":[]}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":{\"revision\":-1}}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":{\"revision\":1.5}}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":{\"revision\":\"0\"}}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":{\"zqCanary\":0}}",
        "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":{\"revision\":0,\"zqCanary\":0}}",
    ];
    texts.iter().map(|text| Case::new("POST", EVENTS, *text, &[422])).collect()
}

/// Each member of an event with values that do not fit it.
fn wrong_members() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut wrong = |member: &str, values: Vec<Value>| {
        for value in values {
            let mut event = json!({"type": "t", "data": {"zqCanary": "zqCanary"}});
            event[member] = value;
            cases.push(Case::json(EVENTS, &event, &[422]));
        }
    };
    let odd = || vec![json!(true), json!(1), json!(["zqCanary"]), json!({"zqCanary": 1})];
    let with = |more: Vec<Value>| [odd(), more].concat();
    wrong("id", with(vec![json!(""), json!("zqCanary"), json!("00000000-0000-0000-0000-00000000000g"), json!("1")]));
    let long = "t".repeat(129);
    wrong(
        "type",
        with(vec![
            json!(null),
            json!(""),
            json!("$zqCanary"),
            json!("zqCanary é"),
            json!("1zqCanary"),
            json!("zqCanary/x"),
            json!(long),
            json!("-zqCanary"),
            json!("a b"),
            json!("zqCanary\u{0}"),
        ]),
    );
    wrong(
        "schema_version",
        vec![
            json!(true),
            json!("1"),
            json!(0),
            json!(-1),
            json!(1.5),
            json!(4_294_967_296_u64),
            json!([1]),
            json!({}),
            json!(77),
        ],
    );
    wrong(
        "time",
        with(vec![
            json!(""),
            json!("zqCanary"),
            json!("2026-13-01T00:00:00Z"),
            json!("2026-01-01"),
            json!("2026-01-01T25:00:00Z"),
            json!("2026-01-01T00:00:00"),
            json!("yesterday"),
            json!("+99999-01-01T00:00:00Z"),
        ]),
    );
    for name in ["actor", "correlation_id", "causation_id", "source"] {
        wrong(name, with(vec![json!(""), json!("zqCanary\n"), json!("zqCanary\u{7f}"), json!("z".repeat(257))]));
    }
    wrong(
        "personal_data",
        vec![
            json!(true),
            json!("zqCanary"),
            json!({}),
            json!([1]),
            json!([{}]),
            json!([null]),
            json!([{"path": "/zqCanary"}]),
            json!([{"subject": "zqCanary"}]),
            json!([{"path": "zqCanary", "subject": "p"}]),
            json!([{"path": "/zqCanary", "subject": 1}]),
            json!([{"path": "/zqCanary~2", "subject": "p"}]),
            json!([{"path": "/zqCanary", "subject": ""}]),
            json!([{"path": "/zqCanary", "subject": "p", "zqCanary": 1}]),
            json!([{"path": "/zqCanary", "subject": "p", "purposes": "zqCanary"}]),
            json!([{"path": "/zqCanary", "subject": "p", "purposes": ["zqCanary UPPER"]}]),
            json!([{"path": "/zqCanary", "subject": "p", "purposes": [1]}]),
            json!([{"path": "/zqCanary", "subject": "ds_zqCanary"}]),
            json!([{"path": "/missing", "subject": "p"}]),
        ],
    );
    for member in
        ["zqCanary", "revision", "position", "stream", "Data", "personalData", "__proto__", "$personal", "recorded_at"]
    {
        wrong(member, vec![json!("zqCanary")]);
    }
    cases.push(Case::json(EVENTS, &json!({"type": "t"}), &[422]));
    cases.push(Case::json(EVENTS, &json!({"data": {}}), &[422]));
    let strict = [
        json!({}),
        json!({"id": 1}),
        json!({"id": "p", "zqCanary": 1}),
        json!({"id": "p", "n": "zqCanary"}),
        json!({"id": "p", "n": 1.5}),
        json!({"id": "p", "name": ["zqCanary"]}),
        json!({"id": ["zqCanary"]}),
        json!(null),
        json!("zqCanary"),
        json!([]),
        json!({"id": ""}),
        json!({"id": "p", "name": null}),
        json!({"id": "zqCanary".repeat(100)}),
        json!({"id": "zqCanary\u{0}"}),
    ];
    cases.extend(strict.iter().map(|data| Case::json(EVENTS, &json!({"type": "strict", "data": data}), &[422])));
    let wrapped = [
        json!({"x": {"$personal": "zqCanary"}}),
        json!({"x": {"$personal": "zqCanary", "subject": 1}}),
        json!({"x": {"$personal": "zqCanary", "subject": "p", "zqCanary": 1}}),
        json!({"$personal": "zqCanary", "subject": ""}),
        json!({"x": {"$personal": {"$personal": "zqCanary", "subject": "p"}, "subject": "p"}}),
    ];
    cases.extend(wrapped.iter().map(|data| Case::json(EVENTS, &json!({"type": "t", "data": data}), &[422])));
    cases
}

fn batches() -> Vec<Case> {
    let good = json!({"type": "t", "data": {"a": 1}});
    let bad = json!({"type": "t", "zqCanary": 1});
    let id = "01234567-89ab-7def-8123-456789abcdef";
    let twice = json!([{"type": "t", "data": 1, "id": id}, {"type": "t", "data": 2, "id": id}]);
    let personal: serde_json::Map<String, Value> = (0..65).map(|n| (format!("k{n}"), json!("zqCanary"))).collect();
    let marks: Vec<Value> = (0..65).map(|n| json!({"path": format!("/k{n}"), "subject": format!("zqp{n}")})).collect();
    vec![
        Case::json(EVENTS, &json!([good, bad]), &[422]),
        Case::json(EVENTS, &json!([good, [good]]), &[422]),
        Case::json(EVENTS, &json!([good, null]), &[422]),
        Case::json(EVENTS, &twice, &[409, 422]),
        Case::json(EVENTS, &json!(vec![good.clone(); 501]), &[413]),
        Case::json(EVENTS, &json!({"events": vec![good.clone(); 501]}), &[413]),
        Case::json(EVENTS, &json!({"type": "t", "data": personal, "personal_data": marks}), &[422]),
        Case::json(EVENTS, &json!({"type": "t", "data": vec!["zqCanary".repeat(4000); 9]}), &[413]),
        Case::new("POST", EVENTS, vec![b' '; 1024 * 1024 + 1], &[413]),
        Case::new("POST", "/v1/forget", vec![b'['; 1024 * 1024 + 1], &[413]),
    ]
}

fn lines() -> Vec<Case> {
    let good = "{\"type\":\"t\",\"data\":1}";
    let texts = [
        (String::new(), 422),
        ("\n\n\n".into(), 422),
        (format!("{good}\nzqCanary"), 400),
        (format!("{good}\n{{"), 400),
        (format!("{good}{good}"), 400),
        (format!("{good},\n{good}"), 400),
        (format!("[\n{good}\n]"), 400),
        (format!("{good}\r\r{good}"), 400),
        (format!("{good}\nnull"), 422),
        (format!("{good}\n[{good}]"), 422),
        (format!("{good}\n{{\"zqCanary\":1}}"), 422),
        (format!("\u{1e}{good}"), 400),
        (format!("{good}\n\0"), 400),
        (format!("{good}\n").repeat(501), 413),
        (format!("data: {good}\n\n"), 400),
    ];
    let case = |(text, want): &(String, u16)| {
        Case::new("POST", EVENTS, text.clone(), &[*want]).with("Content-Type", "application/x-ndjson")
    };
    texts.iter().map(case).collect()
}

fn cloud_events() -> Vec<Case> {
    let good = json!({"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "data": {}});
    let changes = [
        ("specversion", json!("0.3")),
        ("specversion", json!(1.0)),
        ("specversion", json!(null)),
        ("id", json!("")),
        ("id", json!(7)),
        ("id", json!(null)),
        ("source", json!("")),
        ("source", json!(null)),
        ("source", json!(["zqCanary"])),
        ("type", json!("")),
        ("type", json!(null)),
        ("type", json!("zq Canary")),
        ("subject", json!("zqCanary")),
        ("subject", json!(1)),
        ("time", json!("zqCanary")),
        ("time", json!(0)),
        ("datacontenttype", json!("text/zqCanary")),
        ("datacontenttype", json!(1)),
        ("dataschema", json!("zqCanary")),
        ("dataschema", json!("/versions/zqCanary")),
        ("dataschema", json!("/versions/0")),
        ("dataschema", json!("/versions/-1")),
        ("data_base64", json!("enFDYW5hcnk=")),
        ("zqcanary", json!("zqCanary")),
        ("personaldata", json!("zqCanary")),
        ("personaldata", json!("/zqCanary=")),
        ("personaldata", json!(["/a=p"])),
        ("actor", json!("")),
        ("traceparent", json!("zqCanary")),
    ];
    let media = "application/cloudevents+json";
    let one = changes.iter().map(|(member, value)| {
        let mut event = good.clone();
        event[*member] = value.clone();
        Case::json(EVENTS, &event, &[422]).with("Content-Type", media)
    });
    let many = [json!([]), json!([1]), json!([good, {"zqCanary": 1}]), json!({"events": [good]})];
    let many = many
        .into_iter()
        .map(|body| Case::json(EVENTS, &body, &[422]).with("Content-Type", "application/cloudevents-batch+json"));
    one.chain(many).collect()
}

fn several_streams() -> Vec<Case> {
    let events = json!([{"type": "t", "data": 1}]);
    let one = json!({"stream": "hostile-2", "events": events});
    let bodies = [
        json!({}),
        json!([]),
        json!(1),
        json!("zqCanary"),
        json!({"appends": null}),
        json!({"appends": {}}),
        json!({"appends": []}),
        json!({"appends": [1]}),
        json!({"appends": [{}]}),
        json!({"appends": [one, one]}),
        json!({"appends": [{"stream": "hostile-2"}]}),
        json!({"appends": [{"stream": "hostile-2", "events": []}]}),
        json!({"appends": [{"stream": "hostile-2", "events": {}}]}),
        json!({"appends": [{"stream": "$system", "events": events}]}),
        json!({"appends": [{"stream": "zqCanary é", "events": events}]}),
        json!({"appends": [{"stream": 5, "events": events}]}),
        json!({"appends": [{"stream": "hostile-2", "events": events, "zqCanary": 1}]}),
        json!({"appends": [{"stream": "hostile-2", "events": events, "expected": "zqCanary"}]}),
        json!({"appends": [one], "zqCanary": 1}),
        json!({"appends": [one], "preconditions": 1}),
        json!({"appends": [one], "preconditions": {}}),
        json!({"appends": [one], "preconditions": [1]}),
        json!({"appends": [one], "preconditions": [{}]}),
        json!({"appends": [one], "preconditions": vec![json!({}); 65]}),
        json!({"appends": [one], "preconditions": [{"stream": "zqCanary"}]}),
        json!({"appends": [one], "preconditions": [{"stream": "zqCanary", "expected": "zqCanary"}]}),
        json!({"appends": [one], "preconditions": [{"stream": "s", "expected": "any", "zqCanary": 1}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": "zqCanary"}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"zqCanary": 1}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"types": []}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"types": ["zq Canary"]}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"data_subject": "zqCanary"}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"types": ["t"], "after": -1}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"types": ["t"], "after": "zqCanary"}}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"category": "zq-Canary"}, "zqCanary": 1}]}),
        json!({"appends": [one], "preconditions": [{"none_matching": {"types": ["t"]}, "zqCanary": 1}]}),
    ];
    bodies.iter().map(|body| Case::json("/v1/events", body, &[422])).collect()
}
