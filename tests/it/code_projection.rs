//! Projections in Rust, seen from outside: what the code computes of personal values is sealed like a declared column,
//! and whatever the code does wrong, it does to its own projection only.

use std::time::{Duration, Instant};

use oubliette::app::Extras;
use oubliette::clock::Clock;
use oubliette::projection::code::{CodeError, CodeEvent, CodeProjection, CodeRows, CodeValue, Codes};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::api::{dev, object, post_with};
use crate::harness::Server;

const ADA: &str = "Ada Lovelace-Canary";
const BOB: &str = "Bob Ray-Canary";

/// Teams: a headline of everyone who joined, one entry per member, and a row that counts all teams.
struct Teams;

fn shouted(name: &Value) -> Option<Value> {
    Some(name.as_str()?.to_uppercase().into())
}

fn headline(parts: &[&Value]) -> Option<Value> {
    let texts: Vec<&str> = parts.iter().filter_map(|part| part.as_str()).collect();
    Some(texts.join(" & ").into())
}

impl CodeProjection for Teams {
    fn handle(&self, event: &CodeEvent<'_>, rows: &mut CodeRows<'_>) -> Result<(), CodeError> {
        match event.event_type() {
            "joined" => self.joined(event, rows),
            "disbanded" => {
                rows.own()?.delete();
                rows.at(&json!({"team": "*"}))?.add("teams", -1)
            }
            // Another row, found by what a row says: it is read while the event is handled.
            "merged" => {
                let into = rows.own()?.get("into")?.as_public().cloned().unwrap_or_default();
                let moved = rows.own()?.get("headline")?;
                let mut other = rows.at(&json!({"team": into}))?;
                let both = CodeValue::join(&[&other.get("headline")?, &moved], headline)?;
                other.set("headline", both)
            }
            "failed" => panic!("{:?}", event.data()),
            "odd" => Err(CodeError::Refused("odd events are not for us")),
            "leaked" => rows.own()?.set("into", event.cell("/name")?),
            "peeked" => {
                let name = event.public("/name")?.cloned().unwrap_or_default();
                rows.own()?.set("into", name)
            }
            _ => Ok(()),
        }
    }
}

impl Teams {
    #[allow(clippy::unused_self, reason = "it is a part of the projection")]
    fn joined(&self, event: &CodeEvent<'_>, rows: &mut CodeRows<'_>) -> Result<(), CodeError> {
        let name = event.cell("/name")?;
        let person = event.subject("person").ok_or(CodeError::Refused("nobody joined"))?;
        assert_eq!(event.data()["name"], Value::Null, "what is personal is not in the plain part");
        let mut row = rows.own()?;
        let is_new = !row.exists();
        row.set_entry("members", person, name.map(shouted))?;
        row.set("headline", CodeValue::join(&[&row.get("headline")?, &name], headline)?)?;
        // A text is no number, and of a personal one nobody learns that: the column stays empty.
        row.set("unfit", name.map(|name| name.as_str().map(Value::from)))?;
        row.set("failed", name.map(|name| panic!("{name}")))?;
        // Too long to be stored, if the name is not very short.
        row.set("long", name.map(|name| Some(name.as_str()?.repeat(10_000).into())))?;
        row.set("first", &name)?;
        row.add("joins", 1)?;
        if let Some(into) = event.public("/into")? {
            row.set("into", into.clone())?;
        }
        if is_new { rows.at(&json!({"team": "*"}))?.add("teams", 1) } else { Ok(()) }
    }
}

fn codes() -> Codes {
    let mut codes = Codes::default();
    codes.register("teams", Teams).unwrap();
    codes
}

async fn server(dir: TempDir, codes: Codes) -> Server {
    let mut server = Server::bringing(dir, dev, Clock::System, Extras { codes, ..Extras::default() }).await;
    for name in [ADA, BOB] {
        server.canary(name);
        server.canary(&name.to_uppercase());
    }
    server
}

async fn start() -> Server {
    let server = server(tempfile::tempdir().unwrap(), codes()).await;
    let name = json!({"type": "string", "x-personal-data": {"subject": "person", "category": "name"}});
    let schema = object(
        &json!({"person": {"id": "/person"}}),
        &["team"],
        &json!({"team": {"type": "string"}, "person": {"type": "string"}, "into": {"type": "string"}, "name": name}),
    );
    for event_type in ["joined", "failed", "leaked", "peeked"] {
        server.schema(event_type, &schema).await;
    }
    server
}

fn definition(version: u32) -> Value {
    json!({"projection": "teams", "version": version, "code": "teams",
        "from": {"types": ["joined", "merged", "disbanded", "failed", "odd", "leaked", "peeked"]},
        "key": {"team": "data.team"},
        "columns": {"headline": "string", "first": "string", "unfit": "int", "failed": "string", "long": "string",
            "members": "map<string,string>",
            "loud": {"type": "string", "derive": "upper(row.headline)"},
            "joins": {"type": "int", "default": 0}, "teams": {"type": "int", "default": 0, "public": true},
            "more": {"type": "int", "derive": "row.teams + 1"},
            "into": {"type": "string", "public": true}},
        "indexes": [["into", "team"], ["headline"]]})
}

async fn define(server: &Server, definition: &Value) {
    let reply = server.put("/v1/projections/teams", definition).await;
    assert!(reply.status.is_success(), "{}", reply.text());
}

async fn join(server: &Server, team: &str, person: &str, name: &str) {
    let data = json!({"team": team, "person": person, "name": name, "into": "blue"});
    server.append("team-1", "joined", &data).await.expect(201);
}

async fn rows(server: &Server) -> Vec<Value> {
    let head = *server.app.log.watch().borrow() - 1;
    let path = format!("/v1/projections/teams/rows?sort=team&at_least={head}");
    let reply = server.send("GET", &path, &[("prefer", "wait=20")], "").await.expect(200).json();
    crate::api::list(&reply["items"])
}

async fn status(server: &Server) -> Value {
    server.get("/v1/projections/teams/status").await.expect(200).json()
}

async fn until(server: &Server, holds: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let now = status(server).await;
        if holds(&now) {
            return now;
        }
        assert!(Instant::now() < deadline, "{now}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn rebuilt(server: &Server) -> Vec<Value> {
    server.post("/v1/projections/teams/rebuilds", &json!({})).await.expect(202);
    let done = until(server, |status| !status["last_rebuild"].is_null()).await;
    let differing = ["added", "removed", "changed"].map(|how| done["last_rebuild"][how].clone());
    assert_eq!(differing, [0, 0, 0], "{done}");
    rows(server).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_code_computes_is_sealed_and_forgotten() {
    let server = start().await;
    define(&server, &definition(1)).await;
    join(&server, "red", "ada", ADA).await;
    join(&server, "red", "bob", BOB).await;
    join(&server, "blue", "bob", BOB).await;
    let before = rows(&server).await;
    let teams: Vec<&Value> = before.iter().map(|row| &row["team"]).collect();
    assert_eq!(teams, ["*", "blue", "red"]);
    assert_eq!((&before[0]["teams"], &before[0]["more"]), (&json!(2), &json!(3)), "{before:?}");
    let red = &before[2];
    assert_eq!(red["headline"], format!("{ADA} & {BOB}"));
    assert_eq!(red["loud"], format!("{ADA} & {BOB}").to_uppercase());
    assert_eq!((&red["first"], &red["joins"]), (&json!(BOB), &json!(2)));
    assert_eq!((&red["unfit"], &red["failed"]), (&Value::Null, &Value::Null));
    let members: Vec<&Value> = red["members"].as_object().unwrap().values().collect();
    assert!(members.contains(&&json!(ADA.to_uppercase())) && members.len() == 2, "{red}");

    let tried = server.post("/v1/projections/previews", &json!({"definition": definition(1)})).await.expect(200).json();
    assert_eq!((tried["rows"].as_array().unwrap().len(), &tried["stop"]), (3, &Value::Null), "{tried}");

    server.forget("ada").await;
    let forgotten = rows(&server).await;
    let red = &forgotten[2];
    // Of two people: hidden as soon as one of them is forgotten.
    assert_eq!((&red["headline"], &red["loud"]), (&json!("[erased]"), &json!("[erased]")));
    assert_eq!((&red["first"], &red["joins"]), (&json!(BOB), &json!(2)));
    let members: Vec<&Value> = red["members"].as_object().unwrap().values().collect();
    assert!(members.contains(&&json!("[erased]")) && members.contains(&&json!(BOB.to_uppercase())), "{red}");
    assert_eq!(forgotten[1], before[1]);

    // The code goes on with what it cannot read, and comes to the same when it has never been able to.
    join(&server, "red", "bob", BOB).await;
    server.append("team-1", "merged", &json!({"team": "red"})).await.expect(201);
    let after = rows(&server).await;
    assert_eq!((&after[1]["headline"], &after[2]["headline"]), (&json!("[erased]"), &json!("[erased]")));
    assert_eq!(rebuilt(&server).await, after);
    server.append("team-1", "disbanded", &json!({"team": "red"})).await.expect(201);
    let left = rows(&server).await;
    assert_eq!((left.len(), &left[0]["teams"]), (2, &json!(1)), "{left:?}");
}

/// Two worlds that differ in a name: the functions have results in one and none in the other. Whoever may not see the name
/// sees no difference.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_learns_whether_a_function_had_a_result() {
    let mut worlds = Vec::new();
    for name in [json!(ADA), json!("A"), json!("")] {
        let server = start().await;
        define(&server, &definition(1)).await;
        let data = json!({"team": "red", "person": "ada", "name": name, "into": "blue"});
        server.append("team-1", "joined", &data).await.expect(201);
        let own = rows(&server).await;
        assert_eq!(own[1]["long"].is_null(), name == ADA, "the value decides: {own:?}");
        let reader = crate::api::key(&server, "reader", &json!({"roles": ["reader"]})).await;
        let path = "/v1/projections/teams/rows?sort=team";
        let seen = crate::api::get_as(&server, &reader, path).await.expect(200).json();
        let mut shown = crate::api::list(&seen["items"]);
        for row in &mut shown {
            // Pseudonyms are another one in every store.
            let members = row["members"].as_object().map(|members| members.values().cloned().collect::<Vec<_>>());
            row["members"] = json!(members);
            let redactions =
                row["_redactions"].as_object().map(|members| members.values().cloned().collect::<Vec<_>>());
            row["_redactions"] = json!(redactions);
        }
        let status = status(&server).await;
        worlds.push((shown, status["state"].clone(), status["cause"].clone(), status["parked"].clone()));
    }
    assert!(worlds[0].0[1].to_string().contains("withheld"), "{worlds:?}");
    assert_eq!(worlds[0], worlds[1]);
    assert_eq!(worlds[0], worlds[2]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_column_may_be_personal_unless_promised() {
    let server = start().await;
    let preview = json!({"definition": definition(1)});
    let lineage = server.post("/v1/projections/previews", &preview).await.expect(200).json()["lineage"].clone();
    let undecided: Vec<&str> = crate::api::list(&lineage["columns"])
        .iter()
        .filter(|column| column["decided_by_code"] == true)
        .map(|column| {
            assert_eq!((&column["personal"], &column["owners_roles"]), (&json!(true), &json!(["person"])), "{column}");
            ["failed", "first", "headline", "joins", "long", "loud", "members", "unfit"]
                .into_iter()
                .find(|name| column["name"] == *name)
                .unwrap_or("another")
        })
        .collect();
    assert_eq!(undecided, ["failed", "first", "headline", "joins", "long", "members", "unfit", "loud"]);

    let codes_of = async |change: &dyn Fn(&mut Value)| {
        let mut changed = definition(1);
        change(&mut changed);
        let problem = server.put("/v1/projections/teams", &changed).await.expect(422).json();
        crate::api::pluck(&crate::api::list(&problem["errors"]), "code")
    };
    let due = json!({"at": "at", "emit": {"type": "rang", "data": {"into": "row.into"}}});
    assert_eq!(
        codes_of(&|d| (d["columns"]["at"], d["due"]) = (json!("timestamp"), due.clone())).await,
        ["personal-data-in-timer"]
    );
    assert_eq!(codes_of(&|d| d["on_erasure"] = json!({"keep": "why not"})).await, ["personal-data-kept"]);
    let mut timed = definition(1);
    (timed["columns"]["at"], timed["due"]) = (json!({"type": "timestamp", "public": true}), due);
    define(&server, &timed).await;

    join(&server, "red", "ada", ADA).await;
    rows(&server).await;
    // No row has anything personal in `joins`; it may have any day.
    for (filter, refused) in [("joins==1", true), ("loud=='x'", true), ("into=='blue'", false), ("more==1", false)] {
        let filter_in_url = filter.replace('=', "%3D").replace('\'', "%27");
        let reply = server.get(&format!("/v1/projections/teams/rows?filter={filter_in_url}")).await;
        assert_eq!(reply.status == 400, refused, "{filter}: {}", reply.text());
        assert!(!refused || reply.code() == "personal-filter-in-url");
    }
    let query = json!({"filter": format!("headline == '{ADA}'")});
    let found = post_with(&server, "/v1/projections/teams/queries", &[], &query).await.expect(200).json();
    assert_eq!(found["items"][0]["team"], "red", "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_code_stops_its_projection_and_no_other() {
    let server = start().await;
    let mut unknown = definition(1);
    unknown["code"] = "crews".into();
    let problem = server.put("/v1/projections/teams", &unknown).await.expect(422).json();
    assert_eq!(
        (&problem["code"], &problem["errors"][0]["code"]),
        (&json!("projection-invalid"), &json!("code-unknown"))
    );
    let preview = server.post("/v1/projections/previews", &json!({"definition": unknown})).await.expect(200).json();
    assert_eq!(preview["valid"], false, "{preview}");

    define(&server, &definition(1)).await;
    let plain = json!({"projection": "counts", "version": 1, "from": {"types": ["joined"]}, "key": {"team": "data.team"},
        "columns": {"joins": {"type": "int", "default": 0}}, "handle": {"joined": {"increment": {"joins": 1}}}});
    server.put("/v1/projections/counts", &plain).await.expect(201);
    join(&server, "red", "ada", ADA).await;
    rows(&server).await;

    let server = self::server(server.stop().await, Codes::default()).await;
    join(&server, "red", "bob", BOB).await;
    let head = *server.app.log.watch().borrow() - 1;
    let counts = format!("/v1/projections/counts/rows?at_least={head}");
    let counted = server.send("GET", &counts, &[("prefer", "wait=20")], "").await.expect(200).json();
    assert_eq!(counted["items"][0]["joins"], 2);
    let stalled = until(&server, |status| status["state"] == "stalled").await;
    assert_eq!(stalled["cause"]["code"], "code-unknown", "{stalled}");
    let began = Instant::now();
    let path = format!("/v1/projections/teams/rows?at_least={head}");
    let reply = server.send("GET", &path, &[("prefer", "wait=30")], "").await.expect(503);
    assert_eq!((reply.code(), &reply.json()["cause"]["code"]), ("projection-stalled".into(), &json!("code-unknown")));
    assert!(began.elapsed() < Duration::from_secs(8), "told after {:?}", began.elapsed());
    // What is there can be read, and is forgotten.
    server.forget("ada").await;
    let shown = server.get("/v1/projections/teams/rows?sort=team").await.expect(200).json();
    assert_eq!(shown["items"][1]["headline"], "[erased]", "{shown}");

    let server = self::server(server.stop().await, codes()).await;
    let found = rows(&server).await;
    assert_eq!((&found[1]["joins"], &found[1]["headline"]), (&json!(2), &json!("[erased]")));
    assert_eq!(rebuilt(&server).await, found);
}

/// An event and the code in `cause`.
const POISON: [(&str, &str); 4] = [
    ("failed", "code-panicked"),
    ("odd", "code-refused"),
    ("leaked", "personal-data-in-the-clear"),
    ("peeked", "personal-data-in-the-clear"),
];

#[tokio::test(flavor = "multi_thread")]
async fn poison_stops_the_projection_and_tells_nothing() {
    for (event_type, code) in POISON {
        let server = start().await;
        define(&server, &definition(1)).await;
        join(&server, "red", "ada", ADA).await;
        rows(&server).await;
        let poison = if event_type == "odd" {
            json!({"team": "red"})
        } else {
            json!({"team": "red", "person": "bob", "name": BOB})
        };
        server.append("team-1", event_type, &poison).await.expect(201);
        join(&server, "red", "bob", BOB).await;
        let stalled = until(&server, |status| status["state"] == "stalled").await;
        assert_eq!(stalled["cause"]["code"], code, "{stalled}");
        let text = stalled.to_string();
        assert!(!text.contains(BOB) && !text.contains("red"), "{text}");
        assert_eq!(code == "code-panicked", text.contains("code_projection.rs:"), "{text}");

        let mut parking = definition(2);
        parking["on_error"] = "park".into();
        define(&server, &parking).await;
        let found = rows_of_version(&server, 2).await;
        assert_eq!(found[1]["headline"], format!("{ADA} & {BOB}"), "{event_type}: {found:?}");
        let parked = server.get("/v1/projections/teams/parked").await.expect(200).json();
        assert_eq!((&parked["items"][0]["code"], &parked["items"][1]), (&json!(code), &Value::Null), "{parked}");
        assert!(!parked.to_string().contains(BOB), "{parked}");
        server.forget("bob").await;
        let kept = rows(&server).await;
        assert_eq!(rebuilt_parked(&server).await, kept);
    }
}

async fn rows_of_version(server: &Server, version: u32) -> Vec<Value> {
    until(server, |status| status["version"] == version && status["rebuild"].is_null()).await;
    rows(server).await
}

/// A rebuild after one that is still remembered.
async fn rebuilt_parked(server: &Server) -> Vec<Value> {
    server.post("/v1/projections/teams/rebuilds", &json!({})).await.expect(202);
    until(server, |status| status["rebuild"].is_null()).await;
    rows(server).await
}
