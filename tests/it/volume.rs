//! The generated population, appended, read back, searched for and partly forgotten.
//!
//! Owns: what a reader has to see of the population after some of its people were forgotten, computed from the
//! generator's own values and the marks of its schemas, not from the server.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::api::{list, start};
use crate::harness::Server;
use crate::population::{Append, Options, Person, Population, schemas};

/// Connections that append at the same time.
const CONNECTIONS: usize = 8;

/// How much larger the process may be at the end of the full run than half-way. The caches are bounded and full by then,
/// so what is left to grow is the allocator's. The tests' own copy of the population is made
/// before the first measurement.
const FLAT: f64 = 1.25;

#[tokio::test(flavor = "multi_thread")]
async fn a_small_population() {
    run(Options { people: 500, events: 5_000, seed: 7 }, 20).await;
}

/// Twenty minutes without optimisation: `cargo test --release --test it volume -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: the full population"]
async fn the_whole_population() {
    let (half, end) = run(Options::default(), 20).await;
    assert!(end as f64 <= half as f64 * FLAT, "{half} KiB half-way, {end} KiB at the end");
}

/// Gives the resident memory half-way through and at the end of the appends, in KiB.
async fn run(options: Options, forgotten: usize) -> (u64, u64) {
    let server = start().await;
    for (name, schema) in schemas() {
        server.schema(name, &schema).await;
    }
    let mut population = Population::new(options);
    let appends: Vec<Append> = population.by_ref().collect();
    let (half, end) = append(&server, &appends).await;
    let events = appends.iter().flat_map(|append| &append.events).count();
    assert_eq!(events as u64, options.events);

    let original = by_stream(&appends);
    compare(&original, &read(&server).await);

    let canaries = canaries(&appends);
    assert_eq!(canaries.len(), 100);
    let found = server.scan(&canaries);
    assert!(found.is_empty(), "in clear: {found:?}");
    // What is not personal is found: the search sees what there is.
    assert!(!server.scan(&["product-added-to-cart".to_owned()]).is_empty());

    // Of the busiest and of the quietest people, each as often as the other.
    let step = population.people().len() / forgotten;
    let people: Vec<String> = population.people().iter().step_by(step).take(forgotten).map(Person::id).collect();
    let mut gone = HashMap::new();
    for person in &people {
        let request = server.forget(person).await;
        assert_eq!(request["verification"]["opened"], 0, "{request}");
        gone.insert(person.clone(), request["data_subject"].as_str().unwrap().to_owned());
    }
    assert_eq!(gone.len(), forgotten);
    let erased = erase(&original, &gone);
    assert_ne!(erased, original);
    compare(&erased, &read(&server).await);
    let found = server.scan(&canaries);
    assert!(found.is_empty(), "in clear: {found:?}");
    (half, end)
}

/// Appends over several connections. A stream keeps its order, since all of it goes over one of them.
async fn append(server: &Server, appends: &[Append]) -> (u64, u64) {
    let half = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicUsize::new(0));
    let mut lanes: Vec<Vec<&Append>> = vec![Vec::new(); CONNECTIONS];
    for append in appends {
        let lane = append.stream.bytes().fold(7_usize, |hash, byte| hash.wrapping_mul(31) + usize::from(byte));
        lanes[lane % CONNECTIONS].push(append);
    }
    join_all(lanes.into_iter().map(|lane| {
        let (half, done) = (Arc::clone(&half), Arc::clone(&done));
        async move {
            for append in lane {
                let events = serde_json::to_value(&append.events).unwrap();
                server.post(&format!("/v1/streams/{}/events", append.stream), &events).await.expect(201);
                if done.fetch_add(1, Ordering::Relaxed) + 1 == appends.len() / 2 {
                    half.store(resident(), Ordering::Relaxed);
                }
            }
        }
    }))
    .await;
    (half.load(Ordering::Relaxed), resident())
}

/// Resident memory of this process in KiB; the server runs in it.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

type Streams = BTreeMap<String, Vec<(String, Value)>>;

fn by_stream(appends: &[Append]) -> Streams {
    let mut streams = Streams::new();
    for append in appends {
        let events = append.events.iter().map(|event| (event.event_type.to_owned(), event.data.clone()));
        streams.entry(append.stream.clone()).or_default().extend(events);
    }
    streams
}

/// The whole log, as lines.
async fn read(server: &Server) -> Streams {
    let headers = [("accept", "application/x-ndjson")];
    let reply = server.send("GET", "/v1/events", &headers, "").await.expect(200);
    let mut streams = Streams::new();
    let (mut before, mut count, mut ended) = (None, 0, false);
    for line in reply.text().lines() {
        assert!(!ended, "a line after the end");
        let mut event: Value = serde_json::from_str(line).unwrap();
        if let Some(end) = event.get("$end") {
            assert_eq!(end["count"], count);
            ended = true;
            continue;
        }
        let position = event["position"].as_u64();
        assert!(position.is_some() && position > before, "positions rise");
        before = position;
        count += 1;
        let stream = streams.entry(event["stream"].as_str().unwrap().to_owned()).or_default();
        assert_eq!(event["revision"], stream.len());
        stream.push((event["type"].as_str().unwrap().to_owned(), event["data"].take()));
    }
    assert!(ended, "the answer was cut short");
    streams
}

/// Equal, and if not, the first difference rather than everything.
fn compare(wanted: &Streams, got: &Streams) {
    assert_eq!(wanted.len(), got.len());
    for (stream, events) in wanted {
        let found = &got[stream];
        assert_eq!(events.len(), found.len(), "{stream}");
        for (wanted, got) in events.iter().zip(found) {
            assert_eq!(wanted, got, "{stream}");
        }
    }
}

/// A hundred personal values that are long enough to be no accident, of every kind, from the whole history.
fn canaries(appends: &[Append]) -> Vec<String> {
    let mut values = HashSet::new();
    for data in appends.iter().flat_map(|append| &append.events).map(|event| &event.data) {
        for member in ["name", "email", "phone", "payer_name", "payee_iban", "reference"] {
            values.extend(data[member].as_str().filter(|text| text.len() >= 10).map(str::to_owned));
        }
        values.extend(data["address"]["street"].as_str().filter(|text| text.len() >= 10).map(str::to_owned));
    }
    let mut values: Vec<String> = values.into_iter().collect();
    values.sort();
    let step = values.len() / 100;
    values.into_iter().step_by(step).take(100).collect()
}

/// What is left of the population without some of its people: exactly their values gone, by the population's marks.
fn erase(streams: &Streams, gone: &HashMap<String, String>) -> Streams {
    let mut streams = streams.clone();
    for (event_type, data) in streams.values_mut().flatten() {
        match event_type.as_str() {
            "contact-created" | "contact-edited" => {
                let shown = [
                    ("name", json!("[erased]")),
                    ("email", json!("erased@redacted.invalid")),
                    ("phone", json!("[erased]")),
                    ("address", json!({})),
                ];
                replace(data, "contact_id", &shown, gone);
            }
            "payment-made" => payment(data, gone),
            "booking-made" => {
                let mut guests = list(&data["guests"]);
                for guest in &mut guests {
                    replace(guest, "person_id", &[("name", json!("[erased]")), ("diet", json!("unknown"))], gone);
                }
                data["guests"] = guests.into();
            }
            _ => {
                replace(data, "user_id", &[], gone);
            }
        }
    }
    streams
}

fn payment(data: &mut Value, gone: &HashMap<String, String>) {
    let today: String = oubliette::clock::Clock::System.now().rfc3339().chars().take(10).collect();
    let iban = json!(format!("Deleted due to 17(1)(b) GDPR request on {today}"));
    let payer = [("payer_name", json!("[erased]")), ("payer_iban", iban.clone())];
    let payee = [("payee_name", json!("[erased]")), ("payee_iban", iban)];
    let payer = replace(data, "payer_id", &payer, gone);
    let payee = replace(data, "payee_id", &payee, gone);
    if payer || payee {
        data["reference"] = "[erased]".into();
    }
}

/// Replaces the id and the values of a person who is gone; whether it did.
fn replace(data: &mut Value, id: &str, shown: &[(&str, Value)], gone: &HashMap<String, String>) -> bool {
    let Some(subject) = data[id].as_str().and_then(|id| gone.get(id)) else { return false };
    data[id] = subject.clone().into();
    for (member, placeholder) in shown {
        if data.get(member).is_some() {
            data[*member] = placeholder.clone();
        }
    }
    true
}
