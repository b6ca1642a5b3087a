//! Malformed headers, paths and query strings.

use super::Case;

const EVENTS: &str = "/v1/streams/hostile-1/events";
const GOOD: &str = "{\"type\":\"t\",\"data\":1}";

pub fn cases() -> Vec<Case> {
    let mut cases = append_headers();
    cases.extend(read_headers());
    cases.extend(paths());
    cases.extend(queries());
    cases
}

fn append_headers() -> Vec<Case> {
    let append = |name: &str, value: &[u8], want: u16| Case::new("POST", EVENTS, GOOD, &[want]).with(name, value);
    let mut cases = Vec::new();
    let tags: &[&[u8]] = &[
        b"zqCanary",
        b"r1",
        b"\"1\"",
        b"\"r\"",
        b"\"r-1\"",
        b"\"r1",
        b"r1\"",
        b"W/\"r1\"",
        b"\"r1\", \"r2\"",
        b"\"rzqCanary\"",
        b"\"r99999999999999999999\"",
        b"\"r1.5.\xff\"",
        b"",
        b"\"r+1\"",
        b"'r1'",
        b"\"r 1\"",
    ];
    cases.extend(tags.iter().map(|tag| append("If-Match", tag, 400)));
    cases.push(append("If-Match", b"*", 412));
    cases.push(append("If-Match", b"\"r9007199254740993\"", 412));
    cases.push(append("If-None-Match", b"zqCanary", 400));
    cases.push(append("If-None-Match", b"\"r1\"", 400));
    cases.push(append("If-Match", b"*", 400).with("If-None-Match", "*"));
    cases.push(append("If-Match", b"\"r1\"", 400).with("If-Match", "\"r1\""));
    let body = "{\"events\":[{\"type\":\"t\",\"data\":1}],\"expected\":\"any\"}";
    cases.push(Case::new("POST", EVENTS, body, &[400]).with("If-None-Match", "*"));
    let media: &[&[u8]] = &[
        b"text/plain",
        b"text/zqCanary",
        b"application/xml",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"application/json; charset=utf-16",
        b"application/json; charset=iso-8859-1",
        b"application/json;charset=\"zqCanary\"",
        b"application/problem+json",
        b"json",
        b"*/*",
        b"application/\xff",
        b"application/jsonx",
        b",",
        b";charset=latin1",
        b"application/cloudevents+xml",
        b"application/json, text/plain",
    ];
    cases.extend(media.iter().map(|media| append("Content-Type", media, 415)));
    let codings = ["gzip", "br", "deflate", "zstd", "identity, gzip", "zqCanary", ""];
    cases.extend(codings.iter().map(|coding| append("Content-Encoding", coding.as_bytes(), 415)));
    cases.push(append("Content-Encoding", b"identity", 415).with("Content-Encoding", "gzip"));
    cases.push(append("Content-Type", b"application/json", 415).with("Content-Type", "text/zqCanary"));
    cases.push(append("Idempotency-Key", b"", 400));
    cases.push(append("Idempotency-Key", "z".repeat(256).as_bytes(), 400));
    cases.push(append("Idempotency-Key", b"zqCanary\xe9", 400));
    cases.push(append("Idempotency-Key", b"a", 400).with("Idempotency-Key", "b"));
    let keys: &[&[u8]] = &[
        b"",
        b"dev",
        b"Basic ZGV2OmRldg==",
        b"Bearer",
        b"Bearer ",
        b"Bearer zqCanary",
        b"Bearer dev dev",
        b"Bearer \xff",
        b"Digest zqCanary",
        b"Bearer dev, Bearer dev",
        b"Bearer oub_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ];
    cases.extend(keys.iter().map(|key| append("Authorization", key, 401)));
    cases.push(append("Authorization", b"Bearer dev", 401).with("Authorization", "Bearer zqCanary"));
    cases.push(append("X-Large", &vec![b'z'; 40 * 1024], 431).bare());
    let many = (0..70).fold(append("X-0", b"1", 431).bare(), |case, n| case.with(&format!("X-{n}"), "1"));
    cases.push(many);
    cases
}

fn read_headers() -> Vec<Case> {
    let read = |name: &str, value: &[u8], want: u16| Case::get("/v1/streams/seen-1/events", &[want]).with(name, value);
    let mut cases = Vec::new();
    for accept in ["text/html", "zqCanary", "application/xml", "image/*", "application/json-zqCanary"] {
        cases.push(read("Accept", accept.as_bytes(), 406));
    }
    cases.push(read("Accept", b"\xff", 400));
    let ids: &[&[u8]] = &[
        b"",
        b"zqCanary",
        b"-1",
        b"1.5",
        b"0x1",
        b"99999999999999999999999",
        b"18446744073709551615",
        b"1,2",
        b"\xff",
    ];
    cases.extend(ids.iter().map(|id| read("Last-Event-ID", id, 400).with("Accept", "text/event-stream")));
    cases.push(read("Last-Event-ID", b"1", 400).with("Last-Event-ID", "2"));
    cases.push(read("Oubliette-Purpose", b"", 400));
    cases.push(read("Oubliette-Purpose", "z".repeat(65).as_bytes(), 400));
    cases.push(read("Oubliette-Purpose", b"general", 400).with("Oubliette-Purpose", "marketing"));
    cases.push(read("Oubliette-Reason", b"\xff", 400));
    cases.push(read("Oubliette-Reason", "z".repeat(501).as_bytes(), 400));
    // A preference that is not understood is ignored (RFC 7240), so what is wrong here is the request it stands in.
    for prefer in ["wait=zqCanary", "wait=-1", "wait=99999999999999999999", "wait", "=", "wait=1, wait=2", "\u{ff}"] {
        cases.push(Case::get("/v1/forget-requests/fr_zqCanary", &[404]).with("Prefer", prefer));
    }
    cases
}

fn paths() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "",
        "%20",
        "%00",
        "%ff",
        "%c3%28",
        "%",
        "%zz",
        "%2",
        "zqCanary%0d%0aX:1",
        "%2e%2e",
        "..",
        "a%2fb",
        "a%5cb",
        "%2525",
        "zq%20Canary",
        "-a",
        ".a",
        "_a",
        "~a",
        "a%40b.de",
        "a+b",
        "%F0%9F%92%A9",
        "%ed%a0%80",
        "$",
        "%24",
        "$%24x",
        "a%00zqCanary",
        "a;b",
        "a,b",
        "a'b",
        "a%22b",
        "a%3cscript%3e",
    ] {
        cases.push(Case::get(format!("/v1/streams/{name}/events"), &[400, 404]));
        cases.push(Case::new("POST", format!("/v1/streams/{name}/events"), GOOD, &[400, 404]));
    }
    let long = "z".repeat(201);
    cases.push(Case::get(format!("/v1/streams/{long}/events"), &[400]));
    cases.push(Case::get(format!("/v1/streams/{}/events", "z".repeat(9000)), &[414]));
    cases.push(Case::get(format!("/v1/events?cursor={}", "z".repeat(9000)), &[414]));
    cases.push(Case::get(format!("/{}", "z".repeat(70_000)), &[414, 431]).bare());
    for stream in ["$system", "$erasure-1", "$schemas", "%24system", "%24erasure-fr_1"] {
        cases.push(Case::new("POST", format!("/v1/streams/{stream}/events"), GOOD, &[400]));
    }
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v2/events",
        "/v1/zqCanary",
        "/v1/events/",
        "/V1/events",
        "/v1//events",
        "/docs/zqCanary",
        "/docs/../v1/events",
        "/.well-known/zqCanary",
        "/.env",
        "/metrics/",
        "/v1/streams/a/events/1",
        "/v1/streams/a/b/c",
        "/v1/streams//events",
        "/openapi.json/",
        "/v1/schemas/strict/versions/1/zqCanary",
        "//v1/events",
        "/v1/keys/zqCanary",
    ] {
        cases.push(Case::get(path, &[404, 405, 400]));
    }
    for path in [
        "/v1/schemas/zqCanary%ff",
        "/v1/schemas/%ff/versions/1",
        "/v1/categories/%ff",
        "/v1/forget-requests/%ff",
        "/v1/schemas/strict/versions/0",
        "/v1/schemas/strict/versions/-1",
        "/v1/schemas/strict/versions/zqCanary",
        "/v1/schemas/strict/versions/99999999999",
        "/v1/schemas/strict/versions/%ff",
        "/v1/schemas/zqCanary/versions/latest",
        "/v1/schemas/zq%20Canary",
        "/v1/categories/zq-Canary",
        "/v1/streams/zq%20Canary",
        "/v1/streams/zqCanary",
    ] {
        cases.push(Case::get(path, &[400, 404]));
    }
    cases.push(Case::new("DELETE", "/v1/api-keys/%ff", "", &[400, 404]));
    cases
}

fn queries() -> Vec<Case> {
    let mut cases = Vec::new();
    let both = [
        "zqCanary",
        "zqCanary=1",
        "limit=0",
        "limit=-1",
        "limit=zqCanary",
        "limit=1.5",
        "limit=1001",
        "limit=1e3",
        "limit=99999999999999999999",
        "limit=",
        "limit=1&limit=2",
        "limit=+1",
        "from=-1",
        "from=zqCanary",
        "from=",
        "from=9223372036854775808",
        "from=18446744073709551616",
        "direction=zqCanary",
        "direction=",
        "direction=FORWARD",
        "as_of=",
        "as_of=zqCanary",
        "as_of=position:",
        "as_of=position:-1",
        "as_of=position:zqCanary",
        "as_of=revision:zqCanary",
        "as_of=position:9223372036854775808",
        "as_of=2026-13-01T00:00:00Z",
        "as_of=2026-01-01",
        "types=",
        "types=zq%20Canary",
        "types=,",
        "types=t,,t",
        "redaction=zqCanary",
        "redaction=",
        "redaction=NULL",
        "partial=zqCanary",
        "partial=true",
        "cursor=",
        "cursor=zqCanary",
        "cursor=AAAA",
        "cursor=%00",
        "cursor=%ff",
        "cursor=MTIzNDU2Nzg5MDEyMzQ1Njc4OTAxMjM0NTY3ODkw",
        "after=-1",
        "after=zqCanary",
        "after=9223372036854775808",
        "%ff=1",
        "limit=1%00",
        "limit=1&zqCanary=%ff",
        "redaction[]=typed",
        "access_token=zqCanary",
    ];
    for path in ["/v1/events", "/v1/streams/seen-1/events"] {
        cases.extend(both.iter().map(|query| Case::get(format!("{path}?{query}"), &[400])));
    }
    let types = (0..33).map(|n| format!("t{n}")).collect::<Vec<_>>().join(",");
    let more = [
        "category=zq-Canary",
        "category=",
        "category=%24x",
        "category=a&category=b",
        "data_subject=zqCanary",
        "data_subject=ada%40example.com",
        "data_subject=ds_zqCanary",
        "data_subject=",
        "system=zqCanary",
        "system=",
        "system=1",
        "as_of=revision:0",
    ];
    cases.extend(more.iter().map(|query| Case::get(format!("/v1/events?{query}"), &[400])));
    cases.push(Case::get(format!("/v1/events?types={types}"), &[400]));
    for query in ["category=a", "system=true", "data_subject=ds_00000000000000000000000000000000"] {
        cases.push(Case::get(format!("/v1/streams/seen-1/events?{query}"), &[400]));
    }
    for (path, query) in [
        ("/v1/streams", "limit=0"),
        ("/v1/streams", "limit=1001"),
        ("/v1/streams", "cursor=zqCanary"),
        ("/v1/streams", "zqCanary=1"),
        ("/v1/streams", "category=zq-Canary"),
        ("/v1/streams/seen-1", "zqCanary=1"),
        ("/v1/schemas", "zqCanary"),
        ("/v1/categories", "zqCanary=1"),
        ("/v1/personal-data", "zqCanary=1"),
        ("/v1/api-keys", "zqCanary=1"),
        ("/v1/keys", "zqCanary=1"),
        ("/readyz", "zqCanary=1"),
        ("/v1/audit/checkpoint", "zqCanary=1"),
        ("/v1/audit/access-log", "zqCanary=1"),
        ("/v1/audit/access-log", "data_subject=zqCanary"),
        ("/v1/audit/access-log", "limit=0"),
        ("/v1/audit/access-log", "before=-1"),
        ("/v1/audit/access-log", "before=zqCanary"),
        ("/v1/forget-requests", "status=zqCanary"),
        ("/v1/forget-requests", "limit=zqCanary"),
        ("/v1/forget-requests", "cursor=zqCanary"),
        ("/v1/forget-requests", "data_subject=zqCanary"),
    ] {
        cases.push(Case::get(format!("{path}?{query}"), &[400]));
    }
    let live = ["direction=backward", "as_of=position:0", "as_of=2026-01-01T00:00:00Z", "after=zqCanary", "from=-1"];
    cases.extend(live.iter().map(|q| Case::get(format!("/v1/events?{q}"), &[400]).with("Accept", "text/event-stream")));
    cases.push(Case::new("POST", "/v1/schemas/hostile/versions?acknowledge_privacy=zqCanary", "{}", &[400]));
    cases.push(Case::new("POST", "/v1/schemas/hostile/versions?zqCanary=1", "{}", &[400]));
    for route in ["/v1/schemas/hostile/checks", EVENTS, "/v1/events", "/v1/api-keys", "/v1/forget-requests"] {
        cases.push(Case::new("POST", format!("{route}?zqCanary=1"), "[", &[400]));
    }
    cases
}
