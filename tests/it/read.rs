//! Reading over HTTP: directions, pages, filters, going back in time, validators, lines.

use serde_json::{Value, json};

use crate::api::{contact, get_as, items, key, list, payloads, pluck, post_with, restart, start};
use crate::harness::{Reply, Server};

const PATH: &str = "/v1/streams/order-1/events";

/// A stream of events numbered from 0.
async fn numbered(count: u64) -> Server {
    let server = start().await;
    let events: Vec<Value> = (0..count).map(|n| json!({"type": "noted", "data": {"n": n}})).collect();
    server.post(PATH, &Value::from(events)).await.expect(201);
    server
}

async fn numbers(server: &Server, query: &str) -> Vec<u64> {
    let read = items(server, &format!("{PATH}?{query}")).await;
    read.iter().map(|event| event["data"]["n"].as_u64().unwrap()).collect()
}

/// Follows `next` to the end.
async fn walk(server: &Server, path: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut at = path.to_owned();
    loop {
        let page = server.get(&at).await.expect(200);
        let body = page.json();
        all.extend(list(&body["items"]));
        let Some(next) = body["next"].as_str() else {
            assert_eq!(page.header("link"), None);
            return all;
        };
        assert_eq!(page.header("link"), Some(format!("<?cursor={next}>; rel=\"next\"").as_str()));
        at = format!("{path}&cursor={next}");
    }
}

async fn position_of(server: &Server, n: usize) -> u64 {
    items(server, PATH).await[n]["position"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn directions_limits_and_pages() {
    let server = numbered(10).await;
    assert_eq!(numbers(&server, "").await, (0..10).collect::<Vec<_>>());
    assert_eq!(numbers(&server, "from=4&limit=3").await, [4, 5, 6]);
    assert_eq!(numbers(&server, "direction=backward&limit=3").await, [9, 8, 7]);
    assert_eq!(numbers(&server, "direction=backward&from=1").await, [1, 0]);
    assert_eq!(numbers(&server, "from=10").await, [0; 0]);
    assert_eq!(numbers(&server, "limit=10").await.len(), 10);
    for query in ["limit=3", "limit=3&direction=backward", "limit=1&from=4", "limit=10", "limit=5", "limit=1000"] {
        let walked = walk(&server, &format!("{PATH}?{query}")).await;
        let expected = items(&server, &format!("{PATH}?{}", query.split_once('&').map_or("", |(_, rest)| rest))).await;
        assert_eq!(walked, expected, "{query}");
    }
    assert_eq!(walk(&server, "/v1/events?limit=3").await, items(&server, "/v1/events").await);
    let backward = walk(&server, "/v1/events?limit=4&direction=backward").await;
    assert_eq!(backward.iter().rev().cloned().collect::<Vec<_>>(), items(&server, "/v1/events").await);
    let server = restart(server).await;
    assert_eq!(numbers(&server, "from=8").await, [8, 9]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cursor_is_for_one_caller_and_one_query() {
    let server = numbered(5).await;
    let body = server.get(&format!("{PATH}?limit=2")).await.expect(200).json();
    let cursor = body["next"].as_str().unwrap().to_owned();
    assert_eq!(numbers(&server, &format!("limit=2&cursor={cursor}")).await, [2, 3]);
    // Twice is the same page again; the limit may change.
    assert_eq!(numbers(&server, &format!("limit=3&cursor={cursor}")).await, [2, 3, 4]);
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let path = format!("{PATH}?limit=2&cursor={cursor}");
    assert_eq!(get_as(&server, &reader, &path).await.expect(400).code(), "invalid-parameter");
    for query in ["limit=2&direction=backward", "limit=2&types=noted", "limit=2&from=1"] {
        server.get(&format!("{PATH}?{query}&cursor={cursor}")).await.expect(400);
    }
    server.get(&format!("/v1/events?limit=2&cursor={cursor}")).await.expect(400);
    server.get(&format!("{PATH}?limit=2&cursor=AAAA")).await.expect(400);
    let server = restart(server).await;
    assert_eq!(numbers(&server, &format!("limit=2&cursor={cursor}")).await, [2, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn filters() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let person = |id: &str| json!({"type": "contact-created", "data": {"contact_id": id, "name": id}});
    server.post("/v1/streams/contact-1/events", &json!([person("p1"), person("p2")])).await.expect(201);
    server.post("/v1/streams/order-1/events", &json!({"type": "a", "data": 1})).await.expect(201);
    server.post("/v1/streams/order-2/events", &json!({"type": "b", "data": 2})).await.expect(201);
    server.post("/v1/streams/contact-2/events", &json!([{"type": "a", "data": 3}, person("p1")])).await.expect(201);
    let count = async |query: &str| items(&server, &format!("/v1/events?{query}")).await.len();
    assert_eq!(count("").await, 6);
    assert_eq!(count("category=contact").await, 4);
    assert_eq!(count("category=order&types=a").await, 1);
    assert_eq!(count("types=a,b").await, 3);
    assert_eq!(count("types=never").await, 0);
    assert_eq!(count("category=never").await, 0);
    assert_eq!(pluck(&items(&server, "/v1/events?types=b,a&direction=backward").await, "data"), [3, 2, 1]);
    assert_eq!(pluck(&items(&server, "/v1/streams/contact-2/events?types=a").await, "data"), [3]);
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let seen = list(&get_as(&server, &reader, "/v1/events?types=contact-created").await.expect(200).json()["items"]);
    let subject = seen[0]["data"]["contact_id"].as_str().unwrap().to_owned();
    let path = format!("/v1/events?data_subject={subject}");
    let of_person = items(&server, &path).await;
    assert_eq!(pluck(&of_person, "stream"), ["contact-1", "contact-2"]);
    assert_eq!(walk(&server, &format!("{path}&limit=1")).await, of_person);
    assert_eq!(count(&format!("data_subject={subject}&category=order")).await, 0);
    assert_eq!(count("data_subject=ds_00000000000000000000000000000001").await, 0);
    get_as(&server, &reader, &path).await.expect(403);
    let in_url = server.get("/v1/events?data_subject=p1").await.expect(400);
    assert!(in_url.text().contains("does not belong in a URL"));
    for bad in ["types=a%20b", "category=a-b", "types=", "direction=up", "limit=0", "limit=1001", "from=-1", "more=1"] {
        server.get(&format!("/v1/events?{bad}")).await.expect(400);
    }
    server.get("/v1/streams/order-1/events?category=order").await.expect(400);
    // The person's events are still found when she is forgotten: by the pseudonym that they keep.
    server.forget("p1").await;
    assert_eq!(items(&server, &path).await.len(), 2);
    let server = restart(server).await;
    assert_eq!(items(&server, &path).await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_in_time() {
    let server = numbered(3).await;
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let after: Vec<Value> = (3..6).map(|n| json!({"type": "noted", "data": {"n": n}})).collect();
    server.post(PATH, &Value::from(after)).await.expect(201);
    let recorded = items(&server, PATH).await[2]["recorded_at"].as_str().unwrap().to_owned();
    let position = position_of(&server, 1).await;
    assert_eq!(numbers(&server, &format!("as_of=position:{position}")).await, [0, 1]);
    assert_eq!(numbers(&server, &format!("as_of=position:{position}&direction=backward")).await, [1, 0]);
    assert_eq!(numbers(&server, "as_of=revision:3").await, [0, 1, 2, 3]);
    assert_eq!(numbers(&server, "as_of=revision:0").await, [0]);
    assert_eq!(numbers(&server, "as_of=revision:99").await.len(), 6);
    assert_eq!(numbers(&server, "as_of=revision:3&from=2&limit=1").await, [2]);
    assert_eq!(numbers(&server, &format!("as_of={recorded}")).await, [0, 1, 2]);
    assert_eq!(numbers(&server, &format!("as_of={recorded}&direction=backward&from=0")).await, [0]);
    let long_ago = "as_of=2001-01-01T00:00:00Z";
    assert_eq!(numbers(&server, long_ago).await, [0; 0]);
    assert_eq!(numbers(&server, &format!("{long_ago}&direction=backward")).await, [0; 0]);
    assert_eq!(items(&server, &format!("/v1/events?{long_ago}")).await.len(), 0);
    assert_eq!(items(&server, &format!("/v1/events?as_of=position:{position}")).await.len(), 2);
    assert_eq!(numbers(&server, "as_of=2999-01-01T00:00:00Z").await.len(), 6);
    let path = format!("{PATH}?as_of=revision:4&limit=2");
    assert_eq!(walk(&server, &path).await, items(&server, &format!("{PATH}?as_of=revision:4")).await);
    for bad in ["yesterday", "position:-1", "revision:", "position:x"] {
        server.get(&format!("{PATH}?as_of={bad}")).await.expect(400);
    }
    server.get("/v1/events?as_of=revision:1").await.expect(400);
    let server = restart(server).await;
    assert_eq!(numbers(&server, &format!("as_of={recorded}")).await, [0, 1, 2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn going_back_never_undoes_an_erasure() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let data = json!({"contact_id": "p1", "name": "Ada King", "city": "London"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let event = &items(&server, "/v1/streams/contact-1/events").await[0];
    let (position, at) = (event["position"].clone(), event["recorded_at"].as_str().unwrap().to_owned());
    server.forget("p1").await;
    let server = restart(server).await;
    for as_of in [format!("position:{position}"), "revision:0".to_owned(), at] {
        let then = items(&server, &format!("/v1/streams/contact-1/events?as_of={as_of}")).await;
        assert_eq!((&then[0]["data"]["name"], &then[0]["data"]["city"]), (&json!("[erased]"), &json!("London")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn validators_know_of_erasures() {
    let server = start().await;
    server.schema("contact-created", &contact()).await;
    let path = "/v1/streams/contact-1/events";
    let data = json!({"contact_id": "p1", "name": "Ada King"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    let check =
        async |server: &Server, tag: &str| -> Reply { server.send("GET", path, &[("if-none-match", tag)], "").await };
    let first = server.get(path).await.expect(200);
    let tag = first.header("etag").unwrap().to_owned();
    assert!(tag.starts_with("\"r0.e"), "{tag}");
    assert_eq!(first.header("cache-control"), Some("no-store"));
    assert!(first.header("vary").unwrap().contains("Authorization"));
    let same = check(&server, &tag).await.expect(304);
    assert_eq!((same.body.len(), same.header("etag")), (0, Some(tag.as_str())));
    // A read-only key sees something else under the same address, so the tag is another one.
    let reader = key(&server, "reader", &json!({"role": "reader"})).await;
    let withheld = server.send("GET", path, &[("if-none-match", &tag), ("authorization", &reader)], "").await;
    assert!(withheld.expect(200).text().contains("withheld"));
    // The tag is good as an expected revision.
    post_with(&server, path, &[("if-match", &tag)], &json!({"type": "contact-created", "data": data}))
        .await
        .expect(201);
    check(&server, &tag).await.expect(200);
    let tag = server.get(path).await.header("etag").unwrap().to_owned();
    check(&server, &tag).await.expect(304);
    server.forget("p1").await;
    let gone = check(&server, &tag).await.expect(200);
    assert_eq!(gone.json()["items"][0]["data"]["name"], "[erased]");
    let now = gone.header("etag").unwrap().to_owned();
    assert_ne!(now, tag);
    let server = restart(server).await;
    check(&server, &now).await.expect(304);
    check(&server, &tag).await.expect(200);
    let head = server.get("/v1/streams/contact-1").await.expect(200);
    assert_eq!((head.header("etag"), &head.json()["events"]), (Some("\"r1\""), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_say_where_they_end() {
    let server = numbered(7).await;
    let lines = async |path: &str| -> Vec<Value> {
        let reply = server.send("GET", path, &[("accept", "application/x-ndjson")], "").await.expect(200);
        assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        assert!(reply.text().ends_with('\n'));
        reply.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    };
    let end = |count: u64, position: Value| json!({"$end": {"count": count, "position": position}});
    let all = lines(PATH).await;
    assert_eq!(all[..7], items(&server, PATH).await[..]);
    assert_eq!(all[7], end(7, all[6]["position"].clone()));
    let some = lines(&format!("{PATH}?limit=3&direction=backward")).await;
    assert_eq!(some[3], end(3, all[4]["position"].clone()));
    assert_eq!(lines(&format!("{PATH}?from=7")).await, [end(0, Value::Null)]);
    assert_eq!(lines("/v1/events?types=never").await, [end(0, Value::Null)]);
    // More than a page.
    let chunk = Value::from(vec![json!({"type": "noted", "data": {}}); 500]);
    for _ in 0..5 {
        server.post("/v1/streams/order-2/events", &chunk).await.expect(201);
    }
    assert_eq!(lines("/v1/events?category=order").await.len(), 2508);
    assert_eq!(lines("/v1/streams/order-2/events?limit=1500").await.len(), 1501);
    let other = server.send("GET", PATH, &[("accept", "text/csv")], "").await.expect(406);
    assert_eq!(other.code(), "not-acceptable");
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_are_listed() {
    let server = start().await;
    for stream in ["b-1", "a-2", "a-1", "b-2", "c-1"] {
        server.append(stream, "noted", &json!(1)).await.expect(201);
    }
    let names =
        |list: &[Value]| pluck(list, "stream").iter().map(|n| n.as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let own = |list: Vec<Value>| names(&list).into_iter().filter(|name| !name.starts_with('$')).collect::<Vec<_>>();
    assert_eq!(own(items(&server, "/v1/streams").await), ["a-1", "a-2", "b-1", "b-2", "c-1"]);
    assert_eq!(own(walk_streams(&server, "/v1/streams?limit=2").await), ["a-1", "a-2", "b-1", "b-2", "c-1"]);
    assert_eq!(names(&items(&server, "/v1/streams?category=a").await), ["a-1", "a-2"]);
    server.get("/v1/streams/d-1").await.expect(404);
    server.get("/v1/streams/d-1/events").await.expect(404);
    let confined = key(&server, "confined", &json!({"role": "reader", "categories": ["a"]})).await;
    get_as(&server, &confined, "/v1/streams/b-1/events").await.expect(403);
    get_as(&server, &confined, "/v1/events?category=b").await.expect(403);
    let seen = list(&get_as(&server, &confined, "/v1/events").await.expect(200).json()["items"]);
    assert_eq!(names(&seen), ["a-2", "a-1"]);
    assert_eq!(payloads(&server, "c-1").await, [json!(1)]);
}

async fn walk_streams(server: &Server, path: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut at = path.to_owned();
    loop {
        let body = server.get(&at).await.expect(200).json();
        all.extend(list(&body["items"]));
        let Some(next) = body["next"].as_str() else { return all };
        at = format!("{path}&cursor={next}");
    }
}
