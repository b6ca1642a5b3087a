//! Rows as they stood: what a projection with a history answers of the past, whatever has happened since, and what a forget
//! leaves of it.

use std::time::{Duration, Instant};

use oubliette::clock::{Clock, Millis};
use serde_json::{Value, json};

use crate::api::{self, start};
use crate::harness::Server;
use crate::postgres::query;

const BEGIN: i64 = 1_700_000_000_000;
const MINUTE: i64 = 60_000;

/// Who is where: a name, readable for two purposes, and a public city.
fn schema() -> Value {
    json!({"type": "object", "additionalProperties": false, "required": ["at", "person"],
        "x-data-subjects": {"person": {"id": "/person"}},
        "properties": {"at": {"type": "string"}, "person": {"type": "string"}, "city": {"type": "string"},
            "name": {"type": "string", "x-personal-data":
                {"subject": "person", "category": "name", "purposes": ["billing", "marketing"]}}}})
}

fn definition(name: &str, version: u32, more: &Value) -> Value {
    let mut definition = json!({"projection": name, "version": version,
        "from": {"types": ["seen", "moved", "vacated", "gone"]}, "key": {"at": "data.at"},
        "columns": {"name": "string", "city": {"type": "string", "sortable": true}, "times": {"type": "int", "default": 0}},
        "handle": {
            "seen": {"upsert": {"name": "data.name", "city": "data.city"}, "increment": {"times": 1}},
            "moved": {"update": {"city": "data.city"}, "increment": {"times": 1}},
            "vacated": {"update": {"name": "'nobody'"}},
            "gone": {"delete": true}},
        "indexes": [["city"]]});
    let members = definition.as_object_mut().unwrap();
    members.extend(more.as_object().unwrap().clone());
    definition
}

async fn define(server: &Server, name: &str, more: Value) {
    server.put(&format!("/v1/projections/{name}"), &definition(name, 1, &more)).await.expect(201);
}

async fn on_a_manual_clock() -> (Server, Clock) {
    let clock = Clock::manual(Millis(BEGIN));
    let server = Server::on(tempfile::tempdir().unwrap(), api::dev, clock.clone()).await;
    server.schema("seen", &schema()).await;
    (server, clock)
}

async fn seen(server: &Server, at: &str, person: &str, name: &str, city: &str) -> u64 {
    let data = json!({"at": at, "person": person, "name": name, "city": city});
    server.append(&format!("place-{at}"), "seen", &data).await.expect(201);
    head(server)
}

async fn event(server: &Server, kind: &str, data: Value) -> u64 {
    let stream = format!("place-{}", data["at"].as_str().unwrap());
    server.append(&stream, kind, &data).await.expect(201);
    head(server)
}

/// Position of the last event of all.
fn head(server: &Server) -> u64 {
    *server.app.log.watch().borrow() - 1
}

/// A page of rows, once everything up to now has been handled.
async fn page(server: &Server, name: &str, query: &str) -> Value {
    let path = format!("/v1/projections/{name}/rows?at_least={}&{query}", head(server));
    server.send("GET", &path, &[("prefer", "wait=20")], "").await.expect(200).json()
}

async fn as_of(server: &Server, name: &str, moment: &str) -> Value {
    page(server, name, &format!("as_of={moment}")).await["items"].clone()
}

/// The same in another projection: keys of rows are of the projection.
fn without_keys(mut items: Value) -> Vec<Value> {
    let all = items.as_array_mut().unwrap();
    for row in all.iter_mut() {
        row.as_object_mut().unwrap().remove("_key");
    }
    all.sort_by_key(|row| row["at"].to_string());
    all.clone()
}

async fn refused(server: &Server, path: &str) -> Value {
    server.get(path).await.expect(400).json()
}

async fn rebuild(server: &Server, name: &str) {
    let generation = async || server.app.projections.get(name).await.unwrap().live.unwrap().generation.id;
    let before = generation().await;
    server.post(&format!("/v1/projections/{name}/rebuilds"), &json!({})).await.expect(202);
    let deadline = Instant::now() + Duration::from_secs(20);
    while generation().await == before {
        assert!(Instant::now() < deadline, "the rebuild does not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Rows of a table, of whatever generation.
fn counted(server: &Server, table: &str) -> i64 {
    let sql = format!("select count(*) from {table}");
    match server.app.config.events_dsn.text() {
        Some(dsn) => query(dsn, &format!("select count(*) from oubliette_projections.{table}"))[0].get(0),
        None => tables(server).query_row(&sql, [], |row| row.get(0)).unwrap(),
    }
}

/// What the tables hold of versions of the live generation.
fn stored(server: &Server, what: &str) -> Vec<Option<Vec<u8>>> {
    let from = |schema: &str| {
        format!(
            "{schema}row_versions v join {schema}generations g on g.id = v.generation
                 where g.state = 'live' order by v.generation, v.key, v.since"
        )
    };
    if let Some(dsn) = server.app.config.events_dsn.text() {
        let what = if what == "sealed" { "sealed".to_owned() } else { format!("convert_to({what}::text, 'UTF8')") };
        let rows = query(dsn, &format!("select {what} from {}", from("oubliette_projections.")));
        return rows.iter().map(|row| row.get(0)).collect();
    }
    let connection = tables(server);
    let mut statement = connection.prepare(&format!("select cast({what} as blob) from {}", from(""))).unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
}

fn tables(server: &Server) -> rusqlite::Connection {
    let path = crate::harness::files(server.path()).into_iter().find(|path| path.ends_with("projections.db")).unwrap();
    rusqlite::Connection::open(path).unwrap()
}

/// Ten events about two rows, with deletions and returns; what was answered after each.
async fn some_days(server: &Server, clock: &Clock) -> Vec<(u64, Value)> {
    let mut answers = Vec::new();
    for step in 0..10 {
        let position = match step {
            0 => seen(server, "x", "ada", "Ada Lovelace", "London").await,
            1 => seen(server, "y", "bob", "Bob Ray", "Oslo").await,
            4 => event(server, "gone", json!({"at": "x"})).await,
            6 => seen(server, "x", "cyd", "Cyd Charisse", "Paris").await,
            8 => event(server, "vacated", json!({"at": "y"})).await,
            // Changes nothing: there is no such row.
            9 => event(server, "moved", json!({"at": "z", "city": "Rome"})).await,
            _ => event(server, "moved", json!({"at": "x", "city": format!("city {step}")})).await,
        };
        answers.push((position, page(server, "one_by_one", "").await["items"].clone()));
        clock.advance(MINUTE);
    }
    answers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_past_is_answered_as_it_was() {
    let (server, clock) = on_a_manual_clock().await;
    define(&server, "one_by_one", json!({"history": "P30D"})).await;
    let then = some_days(&server, &clock).await;
    // The same events in one batch.
    define(&server, "together", json!({"history": "P30D"})).await;
    let known = then[0].1[0]["_key"].as_str().unwrap();
    for round in 0..2 {
        for (number, (position, answer)) in then.iter().enumerate() {
            let by_position = as_of(&server, "one_by_one", &format!("position:{position}")).await;
            assert_eq!(by_position, *answer, "at {position}, round {round}");
            let time = Millis(BEGIN + number as i64 * MINUTE);
            for moment in [time, Millis(time.0 + MINUTE - 1)] {
                assert_eq!(as_of(&server, "one_by_one", &moment.rfc3339()).await, *answer, "at {}", moment.rfc3339());
            }
            let together = as_of(&server, "together", &format!("position:{position}")).await;
            assert_eq!(without_keys(together), without_keys(answer.clone()), "at {position}");
            let one = format!("/v1/projections/one_by_one/rows/{known}?as_of=position:{position}");
            let one = server.get(&one).await;
            match answer.as_array().unwrap().iter().find(|row| row["_key"] == *known) {
                Some(row) => assert_eq!(one.expect(200).json(), *row),
                None => drop(one.expect(404)),
            }
        }
        for name in ["one_by_one", "together"] {
            let first = as_of(&server, name, &Millis(BEGIN - 1).rfc3339()).await;
            assert_eq!(first, json!([]), "before everything");
            let later = page(&server, name, "as_of=position:1000000").await;
            assert_eq!(
                (&later["position"], &later["items"]),
                (&json!(head(&server)), &page(&server, name, "").await["items"])
            );
            rebuild(&server, name).await;
        }
    }
    let past = page(&server, "one_by_one", &format!("as_of=position:{}", then[3].0)).await;
    assert_eq!(past["position"], then[3].0, "an answer says what it is of");
}

#[tokio::test(flavor = "multi_thread")]
async fn filters_orders_fields_and_pages_work_in_the_past() {
    let (server, _) = on_a_manual_clock().await;
    define(&server, "places", json!({"history": "P30D"})).await;
    for number in 0..7 {
        seen(&server, &format!("p{number}"), "ada", &format!("name {number}"), &format!("city {}", 6 - number)).await;
    }
    let then = head(&server);
    event(&server, "gone", json!({"at": "p3"})).await;
    event(&server, "moved", json!({"at": "p4", "city": "elsewhere"})).await;
    let moment = format!("as_of=position:{then}");
    for (query, first) in
        [("", None), ("sort=city", Some("p6")), ("sort=-city", Some("p0")), ("sort=_position", Some("p0"))]
    {
        let whole = page(&server, "places", &format!("{moment}&{query}")).await["items"].clone();
        assert_eq!(whole.as_array().unwrap().len(), 7, "{query}");
        assert!(first.is_none_or(|first| whole[0]["at"] == first), "{query}: {whole}");
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = page(&server, "places", &format!("{moment}&{query}&limit=2{cursor}")).await;
            all.extend(page["items"].as_array().unwrap().iter().cloned());
            // What happens between two pages is no part of the answer.
            event(&server, "moved", json!({"at": "p5", "city": format!("city {}", all.len())})).await;
            let Some(next) = page["next"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!(Value::Array(all), whole, "{query}");
    }
    let paris = page(&server, "places", &format!("{moment}&filter=city%20%3D%3D%20'city%202'&fields=at")).await;
    assert_eq!(
        (paris["items"][0]["at"].as_str(), paris["items"].as_array().unwrap().len()),
        (Some("p4"), 1),
        "{paris}"
    );
    let body = json!({"filter": "name == 'name 3'", "as_of": format!("position:{then}")});
    let found = server.post("/v1/projections/places/queries", &body).await.expect(200).json();
    assert_eq!(found["items"][0]["name"], "name 3", "of a row that is gone: {found}");
    let lines = server
        .send(
            "POST",
            "/v1/projections/places/queries",
            &[("accept", "application/x-ndjson"), ("content-type", "application/json")],
            json!({"as_of": format!("position:{then}")}).to_string(),
        )
        .await
        .expect(200)
        .text();
    assert_eq!(lines.lines().count(), 8, "{lines}");
    assert!(lines.ends_with(&format!("{{\"$end\":{{\"count\":7,\"position\":{then}}}}}\n")), "{lines}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_moving_moment_is_the_same_on_every_page() {
    let (server, clock) = on_a_manual_clock().await;
    define(&server, "places", json!({"history": "P30D"})).await;
    for number in 0..4 {
        seen(&server, &format!("p{number}"), "ada", "Ada", "London").await;
    }
    let moment = format!("as_of={}&sort=at&limit=2", Millis(BEGIN + 60 * MINUTE).rfc3339());
    let first = page(&server, "places", &moment).await;
    clock.advance(MINUTE);
    event(&server, "gone", json!({"at": "p2"})).await;
    let next = first["next"].as_str().unwrap();
    let second = page(&server, "places", &format!("{moment}&cursor={next}")).await;
    assert_eq!(second["items"][0]["at"], "p2", "{second}");
    let other = format!("/v1/projections/places/rows?as_of=position:3&sort=at&limit=2&cursor={next}");
    assert_eq!(refused(&server, &other).await["title"], "The parameter cursor is not valid");
    let now = format!("/v1/projections/places/rows?sort=at&limit=2&cursor={next}");
    assert_eq!(refused(&server, &now).await["code"], "invalid-parameter");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_erasure_reaches_back() {
    let (mut server, clock) = on_a_manual_clock().await;
    for name in ["Adalinda Canary", "Adalinda Married", "Bobby Canary"] {
        server.canary(name);
    }
    define(&server, "one_by_one", json!({"history": "P30D"})).await;
    let first = seen(&server, "x", "ada", "Adalinda Canary", "London").await;
    let second = seen(&server, "x", "ada", "Adalinda Married", "Oslo").await;
    // From now on she is in versions only.
    let third = seen(&server, "x", "bob", "Bobby Canary", "Rome").await;
    event(&server, "moved", json!({"at": "x", "city": "Bern"})).await;
    clock.advance(MINUTE);
    let name = async |at: u64| as_of(&server, "one_by_one", &format!("position:{at}")).await[0]["name"].clone();
    assert_eq!((name(first).await, name(second).await), (json!("Adalinda Canary"), json!("Adalinda Married")));
    let sealed = |server: &Server| stored(server, "sealed").iter().filter(|sealed| sealed.is_some()).count();
    page(&server, "one_by_one", "").await;
    assert_eq!(sealed(&server), 3);
    server.forget("ada").await;
    let past = as_of(&server, "one_by_one", &format!("position:{first}")).await;
    assert_ne!(past[0]["name"], "Adalinda Canary");
    assert_eq!(past[0]["_redactions"]["name"], "erased", "{past}");
    assert_eq!((&past[0]["city"], &past[0]["_position"]), (&json!("London"), &json!(first)));
    assert_eq!(name(third).await, "Bobby Canary");
    assert_eq!(sealed(&server), 1, "her envelopes are gone, his is there");
    let still = page(&server, "one_by_one", "").await["items"].clone();
    server.forget("bob").await;
    let mut then = Vec::new();
    for at in first..=head(&server) {
        then.push(as_of(&server, "one_by_one", &format!("position:{at}")).await);
    }
    assert_eq!(then[0], past);
    assert_eq!(sealed(&server), 0);
    // The erasure changed his row, and what it was stands until then.
    let before_bob = as_of(&server, "one_by_one", &format!("position:{}", still[0]["_position"])).await;
    assert_eq!(before_bob[0]["_position"], still[0]["_position"]);
    assert_eq!(before_bob[0]["_redactions"]["name"], "erased");
    rebuild(&server, "one_by_one").await;
    for (at, answer) in (first..).zip(then) {
        assert_eq!(as_of(&server, "one_by_one", &format!("position:{at}")).await, answer, "at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_go_take_their_past_with_them() {
    let (mut server, _) = on_a_manual_clock().await;
    server.canary("Adalinda Canary");
    define(&server, "places", json!({"history": "P30D", "on_erasure": "delete_row"})).await;
    let first = seen(&server, "x", "bob", "Bob Ray", "Bern").await;
    seen(&server, "x", "ada", "Adalinda Canary", "London").await;
    // Of another row she is in a version only.
    let between = seen(&server, "y", "ada", "Adalinda Canary", "London").await;
    seen(&server, "y", "bob", "Bob Ray", "Oslo").await;
    // A third is gone by itself, and was somebody else's first.
    let third = seen(&server, "z", "bob", "Bob Ray", "Rome").await;
    seen(&server, "z", "ada", "Adalinda Canary", "Rome").await;
    let last = event(&server, "gone", json!({"at": "z"})).await - 1;
    server.forget("ada").await;
    event(&server, "moved", json!({"at": "y", "city": "Lund"})).await;
    let places = async |at: u64| {
        let rows = as_of(&server, "places", &format!("position:{at}")).await;
        api::pluck(&without_keys(rows), "at")
    };
    let mut then = Vec::new();
    for at in 0..=head(&server) {
        then.push(as_of(&server, "places", &format!("position:{at}")).await);
    }
    assert_eq!(places(first).await, Vec::<Value>::new(), "x went, and all it was");
    assert_eq!(places(between).await, Vec::<Value>::new(), "of y only what was hers");
    assert_eq!(places(third).await, ["y", "z"], "of z, too");
    assert_eq!(places(last).await, ["y"]);
    assert_eq!(places(head(&server)).await, ["y"]);
    rebuild(&server, "places").await;
    for (at, answer) in then.iter().enumerate() {
        assert_eq!(as_of(&server, "places", &format!("position:{at}")).await, *answer, "at {at}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_expire_by_the_time_of_the_log() {
    let (server, clock) = on_a_manual_clock().await;
    define(&server, "places", json!({"history": "PT10M"})).await;
    let mut positions = Vec::new();
    for number in 0..30 {
        positions.push(seen(&server, "x", "ada", "Ada", &format!("city {number}")).await);
        clock.advance(MINUTE);
    }
    // Nothing expires because time passes, only because of later events.
    clock.advance(1000 * MINUTE);
    page(&server, "places", "").await;
    // The last event was at minute 29, so what ended at minute 19 or later is kept: from event 18 on.
    assert_eq!(as_of(&server, "places", &format!("position:{}", positions[18])).await[0]["city"], "city 18");
    let path = |moment: &str| format!("/v1/projections/places/rows?as_of={moment}");
    let problem = refused(&server, &path(&format!("position:{}", positions[17]))).await;
    assert_eq!(problem["code"], "as-of-not-kept", "{problem}");
    assert!(problem["hint"].is_string());
    let since = &problem["kept_since"];
    assert_eq!(since, &json!({"position": positions[18], "time": Millis(BEGIN + 19 * MINUTE).rfc3339()}));
    let by_time = as_of(&server, "places", since["time"].as_str().unwrap()).await;
    assert_eq!(by_time[0]["city"], "city 19");
    let earlier = refused(&server, &path(&Millis(BEGIN + 5 * MINUTE).rfc3339())).await;
    assert_eq!(earlier["code"], "as-of-not-kept");
    let key = by_time[0]["_key"].as_str().unwrap();
    let one = refused(&server, &format!("/v1/projections/places/rows/{key}?as_of=position:0")).await;
    assert_eq!(one["code"], "as-of-not-kept");
    let deadline = Instant::now() + Duration::from_secs(20);
    while stored(&server, "until_ms").len() > 11 {
        assert!(Instant::now() < deadline, "what expired is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    rebuild(&server, "places").await;
    let again = refused(&server, &path(&format!("position:{}", positions[17]))).await;
    assert_eq!(&again["kept_since"], since);
    assert_eq!(as_of(&server, "places", &format!("position:{}", positions[18])).await[0]["city"], "city 18");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_answered_is_refused() {
    let server = start().await;
    server.schema("seen", &schema()).await;
    define(&server, "plain", json!({})).await;
    define(&server, "places", json!({"history": "P30D"})).await;
    seen(&server, "x", "ada", "Ada", "London").await;
    let plain = refused(&server, "/v1/projections/plain/rows?as_of=position:1").await;
    assert_eq!((&plain["code"], &plain["projection"]), (&json!("as-of-not-kept"), &json!("plain")), "{plain}");
    assert!(plain["hint"].is_string() && plain.get("kept_since").is_none(), "{plain}");
    for wrong in ["revision:1", "yesterday", "position:", "position:-1", "position:99999999999999999999", ""] {
        let problem = refused(&server, &format!("/v1/projections/places/rows?as_of={wrong}")).await;
        assert_eq!(problem["title"], "The parameter as_of is not valid", "{wrong}: {problem}");
    }
    for query in ["as_of=position:1&group_by=at", "as_of=position:1&step=P1D"] {
        let problem = refused(&server, &format!("/v1/projections/places/rows?{query}")).await;
        assert_eq!(problem["title"], "The parameter as_of is not valid", "{problem}");
    }
    let live = [("accept", "text/event-stream")];
    server.send("GET", "/v1/projections/places/rows?as_of=position:1", &live, "").await.expect(400);
    server.get("/v1/projections/nobody/rows?as_of=position:1").await.expect(404);
    let nowhere = "k_00000000000000000000000000000000";
    server.get(&format!("/v1/projections/places/rows/{nowhere}?as_of=position:1")).await.expect(404);
    for (history, at) in [("P1M", "/history"), ("PT0S", "/history"), ("30 days", "/history")] {
        let put = server.put("/v1/projections/wrong", &definition("wrong", 1, &json!({"history": history}))).await;
        assert_eq!(api::pointers(&put.expect(422)), [at], "{history}");
    }
    let aggregate = json!({"projection": "wrong", "version": 1, "from": {"types": ["moved"]}, "key": {"at": "data.at"},
        "aggregate": {"n": "count()"}, "history": "P30D"});
    assert_eq!(api::pointers(&server.put("/v1/projections/wrong", &aggregate).await.expect(422)), ["/history"]);
    let fold = json!({"fold": "wrong", "version": 1, "from": {"types": ["moved"]}, "state": {"n": "int"},
        "handle": {"moved": {"set": {"n": 1}}}, "history": "P30D"});
    assert_eq!(api::pointers(&server.put("/v1/projections/wrong", &fold).await.expect(422)), ["/history"]);
}

/// More versions than one transaction takes: an erasure finds them all, and a generation that goes leaves none.
#[tokio::test(flavor = "multi_thread")]
async fn many_versions_are_found_and_removed() {
    let (mut server, _) = on_a_manual_clock().await;
    server.canary("Adalinda Canary");
    let one = |number: u64| {
        let name = if number == 450 { "Bob Ray" } else { "Adalinda Canary" };
        let person = if number == 450 { "bob" } else { "ada" };
        json!({"type": "seen", "data": {"at": "x", "person": person, "name": name, "city": format!("city {number}")}})
    };
    let events: Vec<Value> = (0..=450).map(one).collect();
    server.post("/v1/streams/place-x/events", &json!(events)).await.expect(201);
    let last = head(&server);
    define(&server, "places", json!({"history": "P30D"})).await;
    page(&server, "places", "").await;
    let sealed = |server: &Server| stored(server, "sealed").iter().filter(|sealed| sealed.is_some()).count();
    assert_eq!((stored(&server, "since").len(), sealed(&server)), (450, 450));
    for step in [1, 100, 449] {
        let row = as_of(&server, "places", &format!("position:{}", last - step)).await[0].clone();
        assert_eq!((&row["city"], &row["name"]), (&json!(format!("city {}", 450 - step)), &json!("Adalinda Canary")));
    }
    server.forget("ada").await;
    let then = as_of(&server, "places", &format!("position:{}", last - 449)).await;
    assert_eq!((&then[0]["city"], &then[0]["_redactions"]["name"]), (&json!("city 1"), &json!("erased")));
    assert_eq!((stored(&server, "since").len(), sealed(&server)), (450, 0));
    rebuild(&server, "places").await;
    assert_eq!(as_of(&server, "places", &format!("position:{}", last - 449)).await, then);
    let deadline = Instant::now() + Duration::from_secs(20);
    while counted(&server, "row_versions") != 450 || counted(&server, "version_owners") != 450 {
        assert!(Instant::now() < deadline, "what the former generation left is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(server.send("DELETE", "/v1/projections/places", &[], "").await.status.as_u16(), 204);
    while counted(&server, "row_versions") + counted(&server, "version_owners") + counted(&server, "row_history") > 0 {
        assert!(Instant::now() < deadline, "a projection that was removed is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What is looked up is of the same moment, or there is no answer.
#[tokio::test(flavor = "multi_thread")]
async fn looked_up_columns_are_of_the_same_moment() {
    let server = start().await;
    server.schema("seen", &schema()).await;
    let looking = |name: &str, other: &str| {
        json!({"projection": name, "version": 1, "from": {"types": ["seen"]}, "key": {"at": "data.at"}, "history": "P30D",
            "columns": {"person": "string", "city": {"type": "string", "lookup": format!("{other}.city")}},
            "handle": {"seen": {"upsert": {"person": "subject.person"}}}})
    };
    define(&server, "plain", json!({})).await;
    define(&server, "places", json!({"history": "P30D"})).await;
    server.put("/v1/projections/whole", &looking("whole", "places")).await.expect(201);
    server.put("/v1/projections/half", &looking("half", "plain")).await.expect(201);
    let then = seen(&server, "x", "ada", "Ada", "London").await;
    event(&server, "moved", json!({"at": "x", "city": "Oslo"})).await;
    assert_eq!(page(&server, "whole", "").await["items"][0]["city"], "Oslo");
    assert_eq!(as_of(&server, "whole", &format!("position:{then}")).await[0]["city"], "London");
    let path = format!("/v1/projections/half/rows?as_of=position:{then}");
    assert_eq!(refused(&server, &path).await["projection"], "plain");
    assert_eq!(
        server.get(&format!("{path}&fields=person")).await.expect(200).json()["items"].as_array().unwrap().len(),
        1
    );
}
