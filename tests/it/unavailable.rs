//! Keys that cannot be reached are `unavailable`, never `erased`; and when they come back nothing has to be restarted.

use std::sync::Arc;

use oubliette::clock::Clock;
use serde_json::{Value, json};

use crate::faulty::{Fault, Faulty, Method, Rate};
use crate::harness::Server;
use crate::postgres::{execute, on_postgres, place_dir};

const ALWAYS: Rate = Rate::Next(u32::MAX);

async fn rig() -> (Server, Arc<Faulty>) {
    let mut faulty = None;
    let dir = tempfile::tempdir().unwrap();
    let change = |config: &mut oubliette::config::Config| {
        config.dev = true;
        // Nearly no cache, so that the keystore is asked.
        config.key_cache = 1;
    };
    let mut server = Server::behind(dir, change, Clock::System, |keystore| {
        let front = Arc::new(Faulty::new(keystore, 1));
        faulty = Some(Arc::clone(&front));
        front
    })
    .await;
    server.canary("Ada King");
    register(&server).await;
    (server, faulty.expect("the server has it"))
}

async fn register(server: &Server) {
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {"contact_id": {"type": "string"}, "seen": {"type": "integer"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    server.schema("contact-created", &schema).await;
    server.schema("counted", &json!({"type": "object"})).await;
}

fn contact(person: u64) -> Value {
    json!({"contact_id": format!("p{person}"), "name": "Ada King", "seen": person})
}

/// So many people that the cache has let go of the first.
async fn fill(server: &Server) {
    for person in 0..300 {
        server.append("contact-1", "contact-created", &contact(person)).await.expect(201);
    }
}

const PAGE: &str = "/v1/streams/contact-1/events?limit=300";

/// Reads with `partial=allow`: states of the names, by number.
async fn states(server: &Server) -> Vec<(String, usize)> {
    let page = server.get(&format!("{PAGE}&partial=allow")).await.expect(200).json();
    let mut counted = std::collections::BTreeMap::<String, usize>::new();
    for event in page["items"].as_array().unwrap() {
        let state = event["redactions"][0]["state"].as_str().unwrap_or("shown");
        if state == "shown" {
            assert_eq!(event["data"]["name"], "Ada King");
        } else {
            assert!(!event.to_string().contains("Ada King"));
        }
        assert!(event["data"]["seen"].is_u64(), "what is public is there");
        *counted.entry(state.to_owned()).or_default() += 1;
    }
    counted.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keystore_that_fails_is_unavailable_and_heals() {
    let (server, faulty) = rig().await;
    fill(&server).await;
    server.forget("p7").await;
    let healthy = states(&server).await;
    assert_eq!(healthy, [("erased".to_owned(), 1), ("shown".to_owned(), 299)]);
    for method in [Method::Fetch, Method::ExternalIds] {
        faulty.fail(method, Fault::Before, ALWAYS);
        let failed = server.get(PAGE).await.expect(503);
        assert_eq!(failed.code(), "key-store-unavailable");
        assert_eq!(failed.header("retry-after"), Some("1"));
        for accept in ["application/x-ndjson", "text/event-stream"] {
            let answer = server.send("GET", "/v1/streams/contact-1/events", &[("accept", accept)], "").await.text();
            assert!(answer.contains("key-store-unavailable") && !answer.contains("[erased]"), "{accept}: {answer}");
        }
        let page = server.get(&format!("{PAGE}&partial=allow")).await.expect(200);
        assert_eq!(page.header("etag"), None, "what is partial is not cached");
        let partial = states(&server).await;
        assert_eq!(partial.iter().find(|(state, _)| state == "erased"), Some(&("erased".to_owned(), 1)), "{partial:?}");
        faulty.heal();
        assert_eq!(states(&server).await, healthy, "without a restart");
        server.get(PAGE).await.expect(200);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_keys_nothing_personal_is_taken_and_nothing_is_lost() {
    let (server, faulty) = rig().await;
    for fault in [Fault::Before, Fault::After] {
        faulty.fail(Method::Ensure, fault, ALWAYS);
        for person in 0..3 {
            let refused = server.append("contact-1", "contact-created", &contact(person)).await.expect(503);
            assert_eq!(refused.code(), "key-store-unavailable");
        }
        server.append("count-1", "counted", &json!({"public": true})).await.expect(201);
        faulty.heal();
    }
    server.get("/v1/streams/contact-1").await.expect(404);
    server.append("contact-1", "contact-created", &contact(1)).await.expect(201);
    assert_eq!(server.get("/v1/streams/contact-1").await.expect(200).json()["events"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_erasure_waits_for_its_keystore() {
    let (server, faulty) = rig().await;
    server.append("contact-1", "contact-created", &contact(1)).await.expect(201);
    for (person, method, fault) in [
        (1, Method::Destroy, Fault::Before),
        (2, Method::Destroy, Fault::After),
        (3, Method::Wash, Fault::Before),
        (4, Method::Wash, Fault::After),
        (5, Method::Fetch, Fault::Before),
    ] {
        server.append("contact-1", "contact-created", &contact(person)).await.expect(201);
        faulty.fail(method, fault, Rate::Next(2));
        let body = json!({"data_subject": format!("p{person}")});
        let id = server.post("/v1/forget", &body).await.expect(202).json()["id"].as_str().unwrap().to_owned();
        let event = server.get("/v1/streams/contact-1/events?direction=backward&limit=1&partial=allow").await.json();
        assert_eq!(event["items"][0]["redactions"][0]["state"], "erased", "the fence is enough: {event}");
        let path = format!("/v1/forget-requests/{id}");
        let done = server.send("GET", &path, &[("prefer", "wait=30")], "").await.expect(200).json();
        assert_eq!((&done["status"], &done["verification"]["opened"]), (&json!("completed"), &json!(0)), "{done}");
        assert!(!done["destroyed"]["keys"].as_array().unwrap().is_empty());
        faulty.heal();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_nobody_knows_is_unavailable() {
    let (server, _) = rig().await;
    fill(&server).await;
    let dir = server.stop().await;
    let deks = if on_postgres() { "oubliette_keys.deks" } else { "deks" };
    let one = format!(
        "delete from {deks} where purpose = 'general'
         and subject = (select subject from {deks} where purpose = 'general' order by subject limit 1)"
    );
    if on_postgres() {
        let [_, keys] = place_dir(dir.path());
        assert_eq!(execute(&keys, &one).unwrap(), 1);
    } else {
        let connection = rusqlite::Connection::open(dir.path().join("data/keys/keys.db")).unwrap();
        assert_eq!(connection.execute(&one, []).unwrap(), 1);
    }
    let mut server = Server::on(dir, |config| config.dev = true, Clock::System).await;
    server.damaged = true;
    server.canary("Ada King");
    assert_eq!(server.get(PAGE).await.expect(503).code(), "key-store-unavailable");
    assert_eq!(states(&server).await, [("shown".to_owned(), 299), ("unavailable".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_access_log_nothing_personal_is_read() {
    let (server, _) = rig().await;
    server.append("contact-1", "contact-created", &contact(1)).await.expect(201);
    the_sink(&server, false);
    for accept in ["application/json", "application/x-ndjson", "text/event-stream"] {
        for partial in ["", "&partial=allow"] {
            let path = format!("/v1/events?redaction=typed{partial}");
            let answer = server.send("GET", &path, &[("accept", accept)], "").await.text();
            assert!(answer.contains("access-log-unavailable"), "{accept}: {answer}");
            assert!(!answer.contains("Ada King") && !answer.contains("erased"), "{accept}: {answer}");
        }
    }
    the_sink(&server, true);
    let page = server.get("/v1/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"]["name"], "Ada King");
    let log = server.get("/v1/audit/access-log").await.expect(200).json();
    assert!(!log["items"].as_array().unwrap().is_empty());
}

/// Lets nothing into the access log, or lets it in again.
fn the_sink(server: &Server, up: bool) {
    if let Some(dsn) = server.app.config.events_dsn.text() {
        let sql = if up {
            "drop function oubliette_events.no_access_log() cascade; select 1"
        } else {
            "create function oubliette_events.no_access_log() returns trigger language plpgsql as
               $$ begin raise exception 'the sink is down'; end $$;
             create trigger no_access_log before insert on oubliette_events.access_log
               for each statement execute function oubliette_events.no_access_log()"
        };
        execute(dsn, sql).unwrap();
        return;
    }
    let raw = rusqlite::Connection::open(server.path().join("data/events/events.db")).unwrap();
    raw.busy_timeout(std::time::Duration::from_secs(5)).unwrap();
    let sql = if up {
        "drop trigger no_access_log"
    } else {
        "create trigger no_access_log before insert on access_log begin select raise(abort, 'the sink is down'); end"
    };
    raw.execute_batch(sql).unwrap();
}
