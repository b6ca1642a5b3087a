//! The role matrix: every route of the OpenAPI document, with the key of every role, with no key and with dead ones.
//!
//! Owns: the table of who may do what, written from the requirements and not from the code. A route without a row fails.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::harness::{Reply, Server};

const ROLES: [&str; 6] = ["writer", "reader", "pii_reader", "dpo", "auditor", "admin"];

/// One use of a route. `cells` stand for the roles in the order of [`ROLES`]: `y` may, `-` may not (403), `h` may use the
/// route but not see this resource (404). `open` routes need no key.
struct Row {
    method: &'static str,
    template: &'static str,
    path: String,
    body: Value,
    cells: &'static str,
    statuses: &'static [u16],
}

fn row(
    cells: &'static str,
    method: &'static str,
    template: &'static str,
    path: &str,
    body: Value,
    statuses: &'static [u16],
) -> Row {
    let path = if path.is_empty() { template.to_owned() } else { path.to_owned() };
    Row { method, template, path, body, cells, statuses }
}

const OPEN: &str = "open";

#[rustfmt::skip]
fn table(request: &str, subject: &str, digest: &str) -> Vec<Row> {
    let event = json!({"type": "matrix", "data": {"id": "p1", "name": "Ada"}});
    let several = json!({"appends": [{"stream": "matrix-2", "events": [event]}]});
    let ask = |person: &str| json!({"data_subject": person});
    let one = format!("/v1/forget-requests/{request}");
    let n = Value::Null;
    vec![
        row("y-----", "POST", "/v1/streams/{stream}/events", "/v1/streams/matrix-1/events", event, &[201]),
        row("y-----", "POST", "/v1/events", "", several, &[201]),
        row("yyyyy-", "GET", "/v1/streams/{stream}/events", "/v1/streams/matrix-1/events", n.clone(), &[200]),
        row("---yy-", "GET", "/v1/streams/{stream}/events", "/v1/streams/$unknown/events", n.clone(), &[404]),
        row("yyyyy-", "GET", "/v1/events", "", n.clone(), &[200]),
        row("---yy-", "GET", "/v1/events", "/v1/events?system=true", n.clone(), &[200]),
        row("--yy--", "GET", "/v1/events", &format!("/v1/events?data_subject={subject}"), n.clone(), &[200]),
        row("yyyyy-", "GET", "/v1/streams", "", n.clone(), &[200]),
        row("yyyyy-", "GET", "/v1/streams/{stream}", "/v1/streams/matrix-1", n.clone(), &[200]),
        row("---yy-", "GET", "/v1/streams/{stream}", "/v1/streams/$unknown", n.clone(), &[404]),
        row("-yyyyy", "GET", "/v1/schemas", "", n.clone(), &[200]),
        row("-yyyyy", "GET", "/v1/schemas/{type}", "/v1/schemas/matrix", n.clone(), &[200]),
        row("-----y", "POST", "/v1/schemas/{type}/versions", "/v1/schemas/other/versions", json!({"type": "object"}), &[201]),
        row("---y--", "POST", "/v1/schemas/{type}/versions", "/v1/schemas/matrix/versions?acknowledge_privacy=true", unmarked(), &[201]),
        row("-yyyyy", "GET", "/v1/schemas/{type}/versions/{version}", "/v1/schemas/matrix/versions/latest", n.clone(), &[200]),
        row("-----y", "POST", "/v1/schemas/{type}/versions/{version}/deprecation", "/v1/schemas/other/versions/1/deprecation", n.clone(), &[204]),
        row("-yyyyy", "POST", "/v1/schemas/{type}/checks", "/v1/schemas/matrix/checks", schema(), &[200]),
        row("-----y", "PUT", "/v1/schemas/{type}/settings", "/v1/schemas/other/settings", json!({"compatibility": "NONE"}), &[200]),
        row("-yyyyy", "GET", "/v1/personal-data", "", n.clone(), &[200]),
        row("-yyyyy", "GET", "/v1/categories", "", n.clone(), &[200]),
        row("-yyyyy", "GET", "/v1/categories/{category}", "/v1/categories/matrix", n.clone(), &[200]),
        row("-----y", "PUT", "/v1/categories/{category}", "/v1/categories/other", json!({}), &[200]),
        row("yyyyyy", "GET", "/v1/projections", "", n.clone(), &[200]),
        row("-----y", "PUT", "/v1/projections/{name}", "/v1/projections/matrix_other", view("matrix_other"), &[201]),
        row("yyyyyy", "GET", "/v1/projections/{name}", "/v1/projections/matrix_rows", n.clone(), &[200]),
        row("-yyy--", "POST", "/v1/projections/previews", "", json!({"definition": view("matrix_tried")}), &[200]),
        row("yyyyy-", "GET", "/v1/projections/{name}/rows", "/v1/projections/matrix_rows/rows", n.clone(), &[200]),
        row("yyyyy-", "GET", "/v1/streams/{stream}/state/{fold}", "/v1/streams/account-9/state/nobody", n.clone(), &[404]),
        row("yyyyy-", "GET", "/v1/projections/{name}/rows/{key}", &format!("/v1/projections/matrix_rows/rows/{NO_ROW}"), n.clone(), &[404]),
        row("yyyyy-", "POST", "/v1/projections/{name}/queries", "/v1/projections/matrix_rows/queries", json!({}), &[200]),
        row("yyyyyy", "GET", "/v1/projections/{name}/status", "/v1/projections/matrix_rows/status", n.clone(), &[200]),
        row("yyyyyy", "GET", "/v1/projections/{name}/parked", "/v1/projections/matrix_rows/parked", n.clone(), &[200]),
        row("-----y", "POST", "/v1/projections/{name}/rebuilds", "/v1/projections/matrix_rows/rebuilds", n.clone(), &[202]),
        row("-----y", "POST", "/v1/projections/{name}/pauses", "/v1/projections/matrix_rows/pauses", n.clone(), &[204]),
        row("-----y", "DELETE", "/v1/projections/{name}/pauses", "/v1/projections/matrix_rows/pauses", n.clone(), &[204]),
        row("-----y", "DELETE", "/v1/projections/{name}", "/v1/projections/matrix_other", n.clone(), &[204]),
        row("y--y--", "POST", "/v1/forget-requests", "", ask("p1"), &[201]),
        row("---yyy", "GET", "/v1/forget-requests", "", n.clone(), &[200]),
        row("h--yyy", "GET", "/v1/forget-requests/{id}", &one, n.clone(), &[200]),
        row("h--yyy", "GET", "/v1/forget-requests/{id}/certificate", &format!("{one}/certificate"), n.clone(), &[409]),
        row("---y--", "POST", "/v1/forget-requests/{id}/approvals", &format!("{one}/approvals"), json!({"preview_digest": "stale"}), &[409]),
        row("---y--", "POST", "/v1/forget-requests/{id}/rejections", "/v1/forget-requests/fr_unknown/rejections", json!({"ground": "gdpr:A17-3-b"}), &[404]),
        row("h--y--", "POST", "/v1/forget-requests/{id}/cancellations", &format!("{one}/cancellations"), n.clone(), &[200]),
        row("---y--", "POST", "/v1/forget-requests/{id}/approvals", &format!("{one}/approvals"), json!({"preview_digest": digest}), &[409]),
        row("---y--", "POST", "/v1/forget", "", ask("p2"), &[200, 202]),
        row("--yy--", "POST", "/v1/data-subjects/lookups", "/v1/data-subjects/lookups", json!({"data_subject": "p9"}), &[404]),
        row("---y--", "POST", "/v1/data-subjects/{id}/reauthorizations", "/v1/data-subjects/p9/reauthorizations", json!({}), &[404]),
        row("-----y", "POST", "/v1/api-keys", "", json!({"name": "more", "role": "reader"}), &[201]),
        row("----yy", "GET", "/v1/api-keys", "", n.clone(), &[200]),
        row("-----y", "DELETE", "/v1/api-keys/{id}", "/v1/api-keys/ak_unknown", n.clone(), &[404]),
        row("---yyy", "GET", "/v1/keys", "", n.clone(), &[200]),
        row("---yyy", "GET", "/v1/nodes", "", n.clone(), &[200]),
        row("-----y", "POST", "/v1/keys/rotations", "", n.clone(), &[202]),
        row("---yyy", "GET", "/v1/keys/rotations/{epoch}", "/v1/keys/rotations/1", n.clone(), &[404]),
        row("-----y", "POST", "/v1/backups", "", json!({"domain": "record"}), &[201]),
        row("---yyy", "GET", "/v1/backups", "", n.clone(), &[200]),
        row("yyyyyy", "GET", "/v1/audit/checkpoint", "", n.clone(), &[200]),
        row("yyyyyy", "GET", "/v1/audit/proofs/inclusion", "/v1/audit/proofs/inclusion?entry=0", n.clone(), &[200]),
        row("yyyyyy", "GET", "/v1/audit/proofs/consistency", "/v1/audit/proofs/consistency?from=1", n.clone(), &[200]),
        row("---yy-", "GET", "/v1/audit/access-log", &format!("/v1/audit/access-log?data_subject={subject}"), n.clone(), &[200]),
        row("----y-", "GET", "/v1/audit/access-log", "", n.clone(), &[200]),
        row(OPEN, "GET", "/.well-known/oubliette-audit-keys", "", n.clone(), &[200]),
        row(OPEN, "GET", "/livez", "", n.clone(), &[200]),
        row(OPEN, "GET", "/readyz", "/readyz?verbose", n.clone(), &[200]),
        row(OPEN, "GET", "/metrics", "", n.clone(), &[200]),
        row(OPEN, "GET", "/openapi.json", "", n.clone(), &[200]),
        row(OPEN, "GET", "/docs", "", n.clone(), &[200]),
        row(OPEN, "GET", "/docs/rapidoc.js", "", n, &[200]),
    ]
}

fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["id"],
        "x-data-subjects": {"person": {"id": "/id"}},
        "properties": {"id": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "person", "purposes": ["crm"]}},
            "phone": {"type": "string", "x-personal-data": {"subject": "person", "purposes": ["marketing"]}}}})
}

/// The key of no row.
const NO_ROW: &str = "k_00000000000000000000000000000000";

fn view(name: &str) -> Value {
    json!({"projection": name, "version": 1, "from": {"types": ["matrix"]}, "key": {"person": "subject.person"},
        "columns": {"name": "string", "phone": "string"},
        "handle": {"matrix": {"upsert": {"name": "data.name", "phone": "coalesce(data.?phone, '')"}}}})
}

/// The schema with one mark less: what only an officer may register.
fn unmarked() -> Value {
    let mut schema = schema();
    schema["properties"]["phone"] = json!({"type": "string"});
    schema
}

/// A server with an administrator, as in production.
struct Shop {
    server: Server,
    admin: String,
}

impl Shop {
    async fn open() -> Self {
        let server = Server::with(|_| {}).await;
        let admin = server.admin_key.clone().expect("the first start makes an administrator");
        let shop = Self { server, admin };
        let admin = &shop.admin;
        shop.call(Some(admin), "POST", "/v1/schemas/matrix/versions", &[], &schema()).await.expect(201);
        shop.call(Some(admin), "PUT", "/v1/projections/matrix_rows", &[], &view("matrix_rows")).await.expect(201);
        shop
    }

    async fn call(&self, key: Option<&str>, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> Reply {
        let bearer = format!("Bearer {}", key.unwrap_or_default());
        let mut all = headers.to_vec();
        if key.is_some() {
            all.push(("authorization", &bearer));
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        if !body.is_empty() {
            all.push(("content-type", "application/json"));
        }
        crate::harness::send(self.server.address, method, path, &all, body.into()).await
    }

    async fn get(&self, key: &str, path: &str) -> Reply {
        self.call(Some(key), "GET", path, &[], &Value::Null).await
    }

    /// Issues a key; gives its secret and id.
    async fn issue(&self, role: &str, more: &Value) -> (String, String) {
        let mut body = json!({"name": format!("key-{}", role.replace('_', "-")), "role": role});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let issued = self.call(Some(&self.admin), "POST", "/v1/api-keys", &[], &body).await.expect(201).json();
        (issued["secret"].as_str().unwrap().to_owned(), issued["id"].as_str().unwrap().to_owned())
    }

    async fn key(&self, role: &str) -> String {
        self.issue(role, &json!({})).await.0
    }

    async fn append(&self, key: &str, stream: &str, data: Value) -> Reply {
        let event = json!({"type": "matrix", "data": data});
        self.call(Some(key), "POST", &format!("/v1/streams/{stream}/events"), &[], &event).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_role_on_every_route() {
    let shop = Shop::open().await;
    let (writer, dpo) = (shop.key("writer").await, shop.key("dpo").await);
    for (stream, person) in [("matrix-1", "p1"), ("matrix-1", "p2"), ("matrix-1", "p3")] {
        shop.append(&writer, stream, json!({"id": person, "name": "Ada"})).await.expect(201);
    }
    let ask = json!({"data_subject": "p3"});
    let request = shop.call(Some(&dpo), "POST", "/v1/forget-requests", &[], &ask).await.expect(201).json();
    let text = |pointer: &str| request.pointer(pointer).and_then(Value::as_str).unwrap().to_owned();
    let rows = table(&text("/id"), &text("/data_subject"), &text("/preview/digest"));
    let document = serde_json::to_value(oubliette::http::openapi()).unwrap();
    every_route_has_a_row(&document, &rows);
    let mut wrong = Vec::new();
    let mut asked = 0;
    for row in &rows {
        for (index, role) in ROLES.iter().enumerate() {
            for (state, key, dead) in keys(&shop, role).await {
                let reply = shop.call(key.as_deref(), row.method, &row.path, &[], &row.body).await;
                let status = reply.status.as_u16();
                let fits = match row.cells.as_bytes().get(index) {
                    _ if row.cells == OPEN => row.statuses.contains(&status),
                    _ if dead => status == 401 && reply.header("www-authenticate").is_some(),
                    Some(b'y') => row.statuses.contains(&status),
                    Some(b'h') => status == 404 && reply.code() == "not-found",
                    _ => status == 403 && reply.code() == "forbidden",
                };
                if !fits {
                    wrong.push(format!("{} {} {role} {state}: {status} {}", row.method, row.path, reply.text()));
                }
                if !documented(&document, row, status) {
                    wrong.push(format!("{} {}: {status} is not documented", row.method, row.template));
                }
                asked += 1;
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(asked, rows.len() * 6 * 5);
}

/// A living key of a role, and every way of not having one.
async fn keys(shop: &Shop, role: &str) -> Vec<(&'static str, Option<String>, bool)> {
    let valid = shop.key(role).await;
    let mut wrong = valid.clone();
    let last = if wrong.pop() == Some('A') { 'B' } else { 'A' };
    wrong.push(last);
    let (revoked, id) = shop.issue(role, &json!({})).await;
    shop.call(Some(&shop.admin), "DELETE", &format!("/v1/api-keys/{id}"), &[], &Value::Null).await.expect(204);
    let (expired, _) = shop.issue(role, &json!({"expires_at": "2020-01-01T00:00:00Z"})).await;
    vec![
        ("without a key", None, true),
        ("with a wrong key", Some(wrong), true),
        ("with a revoked key", Some(revoked), true),
        ("with an expired key", Some(expired), true),
        ("with a valid key", Some(valid), false),
    ]
}

fn every_route_has_a_row(document: &Value, rows: &[Row]) {
    let tested: BTreeSet<(String, String)> =
        rows.iter().map(|row| (row.template.to_owned(), row.method.to_lowercase())).collect();
    let mut missing = Vec::new();
    for (template, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            if !tested.contains(&(template.clone(), method.clone())) {
                missing.push(format!("{method} {template}"));
            }
        }
    }
    assert!(missing.is_empty(), "routes without a row in the matrix: {missing:?}");
}

fn documented(document: &Value, row: &Row, status: u16) -> bool {
    let Some(item) = document["paths"].get(row.template) else {
        return row.template.contains("docs") || row.cells == OPEN;
    };
    let responses = &item[row.method.to_lowercase()]["responses"];
    responses.get(status.to_string()).is_some() || responses.get("default").is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn scopes_of_keys_hold() {
    let shop = Shop::open().await;
    let writer = shop.key("writer").await;
    let both = json!({"id": "p1", "name": "Ada", "phone": "555"});
    shop.append(&writer, "matrix-1", both.clone()).await.expect(201);
    shop.append(&writer, "other-1", both.clone()).await.expect(201);
    // A category.
    let (confined, _) = shop.issue("writer", &json!({"categories": ["matrix"]})).await;
    shop.append(&confined, "matrix-2", json!({"id": "p1"})).await.expect(201);
    shop.append(&confined, "other-2", json!({"id": "p1"})).await.expect(403);
    let several = json!({"appends": [{"stream": "matrix-2", "events": [{"type": "matrix", "data": {"id": "p1"}}]},
        {"stream": "other-2", "events": [{"type": "matrix", "data": {"id": "p1"}}]}]});
    shop.call(Some(&confined), "POST", "/v1/events", &[], &several).await.expect(403);
    let (reader, _) = shop.issue("reader", &json!({"categories": ["matrix"]})).await;
    for path in
        ["/v1/streams/other-1/events", "/v1/streams/other-1", "/v1/events?category=other", "/v1/streams?category=other"]
    {
        shop.get(&reader, path).await.expect(403);
    }
    for path in ["/v1/events", "/v1/streams"] {
        let page = shop.get(&reader, path).await.expect(200);
        assert!(!page.text().contains("other-1"), "{}", page.text());
    }
    // A type.
    let (typed, _) = shop.issue("writer", &json!({"types": ["unlike"]})).await;
    shop.append(&typed, "matrix-3", json!({"id": "p1"})).await.expect(403);
    let (typed, _) = shop.issue("reader", &json!({"types": ["unlike"]})).await;
    assert_eq!(shop.get(&typed, "/v1/events").await.expect(200).json()["items"], json!([]));
    shop.get(&typed, "/v1/events?types=matrix").await.expect(403);
    // A view of every category is more than a key for one of them may see; a view of its types is what a key may see.
    for (scope, status) in [
        (json!({"categories": ["matrix"]}), 403),
        (json!({"types": ["unlike"]}), 403),
        (json!({"types": ["matrix"]}), 200),
    ] {
        let (key, _) = shop.issue("reader", &scope).await;
        for path in ["", "/rows", "/status", "/parked"] {
            shop.get(&key, &format!("/v1/projections/matrix_rows{path}")).await.expect(status);
        }
    }
    // Purposes.
    let path = "/v1/streams/matrix-1/events";
    let shown = |reply: Reply| {
        let data = reply.expect(200).json()["items"][0]["data"].clone();
        (data["id"] == "p1", data["name"] == "Ada", data["phone"] == "555")
    };
    let crm = json!({"purposes": ["crm"]});
    let (pii, _) = shop.issue("pii_reader", &crm).await;
    assert_eq!(shown(shop.get(&pii, path).await), (true, true, false));
    let with = |headers: &'static [(&'static str, &'static str)], key: &str| {
        let (shop, key) = (&shop, key.to_owned());
        async move { shop.call(Some(&key), "GET", path, headers, &Value::Null).await }
    };
    assert_eq!(shown(with(&[("oubliette-purpose", "crm")], &pii).await), (true, true, false));
    let refused = with(&[("oubliette-purpose", "marketing")], &pii).await.expect(403);
    assert_eq!(refused.code(), "purpose-not-permitted");
    for role in ["writer", "reader", "auditor"] {
        let (key, _) = shop.issue(role, &crm).await;
        assert_eq!(shown(shop.get(&key, path).await), (false, false, false), "{role}");
        with(&[("oubliette-purpose", "crm")], &key).await.expect(403);
        assert_eq!(shown(with(&[("oubliette-reason", "curious")], &key).await), (false, false, false), "{role}");
    }
    let (dpo, _) = shop.issue("dpo", &crm).await;
    assert_eq!(shown(shop.get(&dpo, path).await), (false, false, false), "an officer states a ground first");
    assert_eq!(shown(with(&[("oubliette-reason", "Art. 18(2)")], &dpo).await), (true, true, false));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_sees_only_its_own_requests() {
    let shop = Shop::open().await;
    let (mine, theirs) = (shop.key("writer").await, shop.key("writer").await);
    shop.append(&mine, "matrix-1", json!({"id": "p1", "name": "Ada"})).await.expect(201);
    let ask = json!({"data_subject": "p1"});
    let request = shop.call(Some(&mine), "POST", "/v1/forget-requests", &[], &ask).await.expect(201).json();
    let one = format!("/v1/forget-requests/{}", request["id"].as_str().unwrap());
    shop.get(&mine, &one).await.expect(200);
    let cancel = format!("{one}/cancellations");
    let unknown = shop.get(&theirs, "/v1/forget-requests/fr_unknown").await.expect(404).json();
    let hidden = shop.get(&theirs, &one).await.expect(404).json();
    for member in ["title", "code", "type", "status"] {
        assert_eq!(hidden[member], unknown[member], "hidden and unknown look the same");
    }
    shop.call(Some(&theirs), "POST", &cancel, &[], &Value::Null).await.expect(404);
    shop.call(Some(&mine), "POST", &cancel, &[], &Value::Null).await.expect(200);
}

/// Whatever an administrator asks, with whatever headers, purposes or schemas: no personal value comes back, and none can
/// be guessed from what comes back.
#[tokio::test(flavor = "multi_thread")]
async fn admin_never_reads_personal_data() {
    let shop = Shop::open().await;
    let writer = shop.key("writer").await;
    shop.append(&writer, "matrix-1", json!({"id": "person-77", "name": "Zebedee Quill"})).await.expect(201);
    for role in ["writer", "reader", "pii_reader", "dpo", "auditor"] {
        let body = json!({"name": "k", "roles": ["admin", role], "purposes": ["crm"]});
        let refused = shop.call(Some(&shop.admin), "POST", "/v1/api-keys", &[], &body).await.expect(422);
        assert_eq!(refused.code(), "separation-of-duties");
    }
    let (admin, _) = shop.issue("admin", &json!({"purposes": ["crm", "general"]})).await;
    let document = serde_json::to_value(oubliette::http::openapi()).unwrap();
    for (template, item) in document["paths"].as_object().unwrap() {
        if item.get("get").is_none() {
            continue;
        }
        let path = template.replace("{stream}", "matrix-1").replace("{type}", "matrix").replace("{version}", "1");
        let path = path.replace("{category}", "matrix").replace("{id}", "x");
        let path = path.replace("{name}", "matrix_rows").replace("{key}", NO_ROW);
        for headers in [&[][..], &[("oubliette-purpose", "crm"), ("oubliette-reason", "curious")][..]] {
            let text = shop.call(Some(&admin), "GET", &path, headers, &Value::Null).await.text();
            assert!(!text.contains("Zebedee") && !text.contains("person-77"), "{path}: {text}");
        }
    }
    // A schema is a question about stored values: the right and the wrong guess must be answered alike, even where the
    // administrator gave up compatibility first.
    let loose = json!({"compatibility": "NONE"});
    shop.call(Some(&admin), "PUT", "/v1/schemas/matrix/settings", &[], &loose).await.expect(200);
    let guess = |text: &str| {
        let mut schema = schema();
        schema["properties"]["name"]["pattern"] = json!(format!("^({text}|.erased.)"));
        schema
    };
    for role in ["admin", "reader"] {
        let key = shop.key(role).await;
        let ask = async |text: &str| {
            let reply = shop.call(Some(&key), "POST", "/v1/schemas/matrix/checks", &[], &guess(text)).await;
            let answer = reply.expect(200).json();
            ["compatible", "checked", "breaks", "broken_events"].map(|member| answer[member].clone())
        };
        let (right, wrong) = (ask("Zebedee").await, ask("Barnaby").await);
        assert_eq!(right, wrong, "{role}: schemas are an oracle");
        assert_eq!(right[1]["stored_events"], 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_and_its_page_need_nobody_else() {
    let server = Server::dev().await;
    let reply = server.get("/openapi.json").await.expect(200);
    let document = reply.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    assert_eq!(document["components"]["securitySchemes"]["key"]["scheme"], "bearer");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let described = operation["summary"].is_string() || operation["description"].is_string();
            assert!(described, "{method} {path} is not described");
            assert!(ids.insert(operation["operationId"].as_str().unwrap().to_owned()), "{method} {path}: id twice");
        }
    }
    let page = server.get("/docs").await.expect(200);
    for word in ["http://", "https://", "src=\"//", "href=\"//", "@import"] {
        assert!(!page.text().contains(word), "the page loads {word}");
    }
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'") && !policy.contains("http"), "{policy}");
    for address in page.text().split('"').filter(|part| part.starts_with('/')) {
        server.get(address).await.expect(200);
    }
}
