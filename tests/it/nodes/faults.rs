//! Servers that stop answering while people are forgotten: paused, cut off, killed, or their database is.

use std::sync::Arc;
use std::time::{Duration, Instant};

use oubliette::clock::Clock;
use oubliette::config::{Config, Dsn};
use serde_json::{Value, json};

use super::client::{Incoming, Piece};
use super::races::{CANARIES, Running};
use super::traffic::{TYPE, Traffic, get, post};
use super::{Several, until};
use crate::api::{get_as, key, list};
use crate::postgres::{Cluster, cluster};
use crate::proxy::{Line, Proxy};

/// As short as a lease may be: these tests wait for its end.
pub const SHORT: Duration = Duration::from_secs(1);
/// Longer than anything here takes: reached only by what hangs.
const HANGS: Duration = Duration::from_secs(30);

pub fn how(request: &Value) -> Vec<String> {
    let mut all: Vec<String> = list(&request["destroyed"]["nodes"])
        .iter()
        .map(|node| node["how"].as_str().unwrap_or_default().to_owned())
        .collect();
    all.sort();
    all
}

/// So many events with long values in one stream: answers that take longer than any buffer.
pub async fn long_stream(traffic: &Traffic, person: usize, events: usize, length: usize) {
    let value = format!("{} {}", super::client::name(person), "x".repeat(length));
    let data = json!({"contact_id": super::client::external(person), "name": value});
    let event = json!({"type": TYPE, "data": data});
    // As many at a time as a body may be long.
    for batch in vec![event; events].chunks((800_000 / length).max(1)) {
        let path = format!("/v1/streams/contact-{person}/events");
        post(traffic.server(0), &path, &json!(batch)).await.unwrap().expect(201);
    }
}

/// Three servers, the last of which reaches the keystore by a line that can be cut.
async fn on_a_line() -> Option<(Proxy, Several)> {
    let proxy = Proxy::new(cluster()?.dir());
    let mut several = Several::start(0).await?;
    let short = |config: &mut Config| config.lease = SHORT;
    several.join_with(short, Clock::System).await;
    several.join_with(short, Clock::System).await;
    let keys = Dsn::new(&proxy.through(&several.dsn("keys.dsn"))).unwrap();
    let through = |config: &mut Config| (config.lease, config.keys_dsn) = (SHORT, keys);
    several.join_with(through, Clock::System).await;
    for value in CANARIES {
        several.servers[0].canary(value);
    }
    Some((proxy, several))
}

/// Forgets one more right after a process was expelled: it is waited for until nothing of it can be left, which is two leases.
async fn waited_for_again(traffic: &Traffic, person: usize) {
    let began = Instant::now();
    let request = traffic.forget(person, 1).await;
    // Of these, one may have been the wait.
    if began.elapsed() < SHORT * 3 {
        assert_eq!(how(&request), ["acknowledged", "acknowledged", "lease-expired"], "{request}");
    }
}

async fn cut_off(line: Line) {
    let Some((proxy, mut several)) = on_a_line().await else { return };
    // Its connections may be found broken by whoever uses them first, which need not be the check at the end.
    several.servers[2].damaged = true;
    let traffic = Traffic::within(&several.servers, 4, true).await;
    let (cut, path) = (several.servers[2].address, "/v1/streams/contact-3/events");
    let reader = key(&several.servers[2], "reader", &json!({"roles": ["reader"], "categories": ["contact"]})).await;
    get(cut, path).await.unwrap().expect(200);
    proxy.line(line);
    let began = Instant::now();
    let request = traffic.forget(0, 0).await;
    assert!(began.elapsed() < HANGS, "{:?}", began.elapsed());
    assert_eq!(how(&request), ["acknowledged", "acknowledged", "lease-expired"], "{request}");
    waited_for_again(&traffic, 1).await;
    // Nobody can be shown, nobody is said to be erased who is not; what is nobody's is read as ever.
    if line == Line::Broken {
        assert_eq!(get(cut, path).await.unwrap().expect(503).code(), "key-store-unavailable");
        let shown = get_as(&several.servers[2], &reader, path).await.expect(200).json();
        assert_eq!(shown["items"][0]["redactions"][0]["state"], "withheld", "{shown}");
    }
    let erased = "/v1/streams/contact-0/events";
    let shown = get(traffic.server(1), erased).await.unwrap().expect(200).json();
    assert_eq!(shown["items"][0]["redactions"][0]["state"], "erased", "{shown}");
    proxy.line(Line::Whole);
    until("it serves again", async || {
        let shown = get(cut, path).await.filter(|reply| reply.status == 200)?.json();
        (shown["items"][0]["data"]["name"] == super::client::name(3)).then_some(())
    })
    .await;
    let last = traffic.forget(2, 2).await;
    assert_eq!(how(&last), ["acknowledged"; 3], "{last}");
    for person in 0..3 {
        let path = format!("/v1/streams/contact-{person}/events");
        let shown = get(cut, &path).await.unwrap().expect(200).json();
        assert_eq!(shown["items"][0]["redactions"][0]["state"], "erased", "{shown}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_cut_off_from_the_keystore_shows_nobody_and_holds_up_nobody_for_long() {
    cut_off(Line::Broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_nothing_of_the_keystore_shows_nobody_and_holds_up_nobody_for_long() {
    cut_off(Line::Silent).await;
}

/// A server that was expelled over one person and does not know yet still sends what it opened of another, who is forgotten
/// next.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_expelled_over_one_person_is_waited_for_over_the_next() {
    let Some((proxy, mut several)) = on_a_line().await else { return };
    several.servers[2].damaged = true;
    let traffic = Traffic::within(&several.servers, 2, true).await;
    long_stream(&traffic, 1, 10, 30_000).await;
    let cut = several.servers[2].address;
    let path = "/v1/streams/contact-1/events?limit=20";
    // Its keys are in memory there. An answer that takes longer than a lease breaks.
    until("it is read", async || get(cut, path).await.filter(|reply| reply.status == 200)).await;
    proxy.line(Line::Broken);
    // Answers that begin until the cache may not be used any more, and are read slowly until they break.
    let readers: Vec<_> = (0..12)
        .map(|lane| {
            let traffic = Arc::clone(&traffic);
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(80 * lane)).await;
                let accept = "accept: application/json\r\n";
                let mut answer = Incoming::ask(cut, path, accept, &traffic.gone, Some(4096)).await.expect("it listens");
                while answer.piece(&traffic.gone, &traffic.seen, HANGS).await == Piece::More {
                    tokio::time::sleep(Duration::from_millis(2)).await;
                }
                answer.bytes.len()
            })
        })
        .collect();
    let first = traffic.forget(0, 0).await;
    assert_eq!(how(&first), ["acknowledged", "acknowledged", "lease-expired"], "{first}");
    waited_for_again(&traffic, 1).await;
    let mut shown = 0;
    for reader in readers {
        shown += reader.await.unwrap();
    }
    assert!(shown > 10_000, "there was something to see: {shown}");
    proxy.line(Line::Whole);
}

/// The database's processes are killed while people are forgotten: what was promised holds, all are forgotten, each once.
async fn database_killed(forgets: usize, kills: usize) {
    let Some(cluster) = Cluster::start(true) else { return };
    let cluster = Arc::new(cluster);
    let mut several = Several::over(&cluster);
    for _ in 0..2 {
        several.join_with(|config| config.lease = SHORT, Clock::System).await;
    }
    for value in CANARIES {
        several.servers[0].canary(value);
    }
    let traffic = Traffic::within(&several.servers, forgets + 2, true).await;
    let running = Running::start(&traffic, 4, 2);
    let forgetting = tokio::spawn({
        let traffic = Arc::clone(&traffic);
        async move { traffic.forget_all(0..forgets, 4).await }
    });
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(700)).await;
        let cluster = Arc::clone(&cluster);
        tokio::task::spawn_blocking(move || cluster.crash()).await.unwrap();
    }
    assert_eq!(forgetting.await.unwrap().len(), forgets);
    running.end(forgets, true).await;
    drop(several);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_are_forgotten_although_the_database_is_killed() {
    database_killed(8, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "long: the database is killed thirty times"]
async fn all_are_forgotten_although_the_database_is_killed_again_and_again() {
    database_killed(200, 30).await;
}
