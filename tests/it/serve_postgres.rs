//! The whole server on PostgreSQL: append, read, forget, projections, restart, and what it refuses.

use oubliette::app::{App, StartError};
use oubliette::clock::{Clock, Millis};
use oubliette::config::{Config, Dsn};
use oubliette::http;
use oubliette::telemetry::Metrics;
use serde_json::json;

use crate::harness::{Server, config_in};
use crate::postgres::{cluster, place};

async fn server(dir: tempfile::TempDir) -> Server {
    let at = dir.path().to_owned();
    let on = |config: &mut Config| {
        config.dev = true;
        place(config, &at);
    };
    Server::on(dir, on, Clock::System).await
}

fn schema() -> serde_json::Value {
    json!({"type": "object", "additionalProperties": false, "required": ["person_id"],
        "x-data-subjects": {"person": {"id": "/person_id"}},
        "properties": {"person_id": {"type": "string"}, "city": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "person", "category": "name"}}}})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_comes_and_is_forgotten() {
    if cluster().is_none() {
        return;
    }
    let mut server = server(tempfile::tempdir().unwrap()).await;
    server.canary("Ada Canary Lovelace");
    server.canary("person-canary-4711");
    server.schema("moved", &schema()).await;
    for n in 0..20 {
        let data = json!({"person_id": "person-canary-4711", "city": format!("c{n}"), "name": "Ada Canary Lovelace"});
        server.append("contact-1", "moved", &data).await.expect(201);
    }
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).json();
    assert_eq!(page["items"][19]["data"]["name"], "Ada Canary Lovelace", "{page}");
    let dir = server.stop().await;
    let mut server = self::server(dir).await;
    server.canary("Ada Canary Lovelace");
    server.canary("person-canary-4711");
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"]["name"], "Ada Canary Lovelace", "{page}");
    server.forget("person-canary-4711").await;
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).json();
    assert_eq!(page["items"].as_array().unwrap().len(), 20);
    for event in page["items"].as_array().unwrap() {
        assert_eq!((&event["data"]["name"], &event["redactions"][0]["state"]), (&json!("[erased]"), &json!("erased")));
    }
    let again = json!({"person_id": "person-canary-4711", "city": "x", "name": "Ada Canary Lovelace"});
    assert_eq!(server.append("contact-1", "moved", &again).await.expect(409).code(), "data-subject-erased");
}

async fn start(config: Config) -> Result<(), StartError> {
    let metrics = Metrics::new(http::route_templates(), Millis(0));
    let (app, _) = App::start(config, Clock::System, metrics).await?;
    app.stop().await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_database_for_both_is_refused_unless_it_is_allowed() {
    let Some(cluster) = cluster() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_in(dir.path());
    config.events_dsn = Dsn::new(&cluster.database()).unwrap();
    config.keys_dsn = config.events_dsn.clone();
    assert!(matches!(start(config.clone()).await, Err(StartError::OneDatabase)));
    assert!(!config.data_dir.exists(), "a refusal makes nothing");
    config.one_database = true;
    start(config.clone()).await.unwrap();
    start(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_a_store_are_refused_without_the_others() {
    if cluster().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut config = config_in(dir.path());
    place(&mut config, dir.path());
    start(config.clone()).await.unwrap();
    let fresh = Dsn::new(&cluster().unwrap().database()).unwrap();
    // The last one: event log on a server, keys in a file, and no such file.
    for (events, keys) in [
        (config.events_dsn.clone(), fresh.clone()),
        (fresh, config.keys_dsn.clone()),
        (config.events_dsn.clone(), Dsn::default()),
    ] {
        let mut parts = config.clone();
        (parts.events_dsn, parts.keys_dsn) = (events, keys);
        assert!(matches!(start(parts).await, Err(StartError::Incomplete { .. })));
    }
    start(config).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_may_be_mixed() {
    let Some(cluster) = cluster() else { return };
    let dir = tempfile::tempdir().unwrap();
    let dsn = Dsn::new(&cluster.database()).unwrap();
    let server = Server::on(dir, |config| (config.dev, config.events_dsn) = (true, dsn), Clock::System).await;
    server.schema("moved", &schema()).await;
    server.append("contact-1", "moved", &json!({"person_id": "p1", "name": "Ada"})).await.expect(201);
    server.forget("p1").await;
}

/// A server that is not there when ours starts, or goes away under it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_goes_away_is_an_outage() {
    let Some(own) = crate::postgres::Cluster::start(false) else { return };
    let dir = tempfile::tempdir().unwrap();
    let (events, keys) = (Dsn::new(&own.database()).unwrap(), Dsn::new(&own.database()).unwrap());
    let on = |config: &mut Config| (config.dev, config.events_dsn, config.keys_dsn) = (true, events, keys);
    let mut server = Server::on(dir, on, Clock::System).await;
    server.schema("moved", &schema()).await;
    server.append("contact-1", "moved", &json!({"person_id": "p1", "name": "Ada"})).await.expect(201);
    own.restart();
    // Reads and appends go on by themselves; the first may have met a connection that was gone.
    let mut status = 0;
    for _ in 0..50 {
        let reply = server.append("contact-1", "moved", &json!({"person_id": "p1", "name": "Ada"})).await;
        status = reply.status.as_u16();
        assert!(status == 201 || status == 503, "{}", reply.text());
        if status == 201 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(status, 201);
    let mut page = server.get("/v1/streams/contact-1/events").await;
    for _ in 0..20 {
        if page.status.as_u16() == 200 {
            break;
        }
        assert_eq!(page.status.as_u16(), 503, "{}", page.text());
        page = server.get("/v1/streams/contact-1/events").await;
    }
    let page = page.expect(200).json();
    assert_eq!(page["items"][0]["data"]["name"], "Ada", "an outage is never told as an erasure: {page}");
    server.damaged = true;
    server.stop().await;
}
