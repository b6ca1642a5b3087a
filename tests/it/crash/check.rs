//! What has to be true of a store after its server died and was started again.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use hyper::body::Bytes;
use serde_json::Value;

use super::ledger::{Ledger, Outcome, external, name};
use crate::harness::{Reply, send};

/// Repeats what was not acknowledged and can be repeated, waits for every erasure, and looks at every event.
pub async fn check(address: SocketAddr, ledger: &mut Ledger) {
    for attempt in &mut ledger.attempts {
        if attempt.outcome == Outcome::Unknown && attempt.repeatable() {
            attempt.outcome = match attempt.send(address).await.expect("the server lives") {
                // The first try may have been stored before the person was forgotten.
                Outcome::Refused => Outcome::Late,
                outcome => outcome,
            };
        }
    }
    let completed = erasures_complete(address, ledger).await;
    let events = all_events(address).await;
    dense(&events);
    let by_tag = by_tag(&events);
    acknowledged_are_there(ledger, &by_tag);
    people_are_whole(ledger, &by_tag);
    no_zombies(&events, &completed);
}

/// Every fenced request finishes by itself and opened nothing. Pseudonyms of the forgotten.
async fn erasures_complete(address: SocketAddr, ledger: &Ledger) -> Vec<String> {
    let list = get(address, "/v1/forget-requests?limit=1000", "application/json").await.expect(200).json();
    let mut forgotten = Vec::new();
    let mut status = HashMap::new();
    for item in list["items"].as_array().expect("a list") {
        let id = item["id"].as_str().expect("an id");
        if item["status"] != "previewed" {
            let path = format!("/v1/forget-requests/{id}");
            let headers = [("authorization", "Bearer dev"), ("prefer", "wait=30")];
            let request = send(address, "GET", &path, &headers, Bytes::new()).await.expect(200).json();
            assert_eq!(request["status"], "completed", "{request}");
            assert_eq!(request["verification"]["opened"], 0, "{request}");
            assert!(!request["destroyed"]["keys"].as_array().expect("keys").is_empty(), "{request}");
            forgotten.push(request["data_subject"].as_str().expect("a pseudonym").to_owned());
        }
        status.insert(id.to_owned(), item["status"] != "previewed");
    }
    for wish in ledger.wishes.iter().filter(|wish| wish.fenced) {
        let request = wish.request.as_ref().expect("it was told");
        assert_eq!(status.get(request), Some(&true), "an acknowledged forget is lost: {wish:?}");
    }
    forgotten
}

/// Every event of the log, the system's own too, in order.
async fn all_events(address: SocketAddr) -> Vec<Value> {
    let text = get(address, "/v1/events?system=true", "application/x-ndjson").await.expect(200).text();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let end = lines.pop().expect("an end line");
    assert_eq!(end["$end"]["count"], lines.len(), "{end}");
    lines
}

fn dense(events: &[Value]) {
    let mut next: HashMap<&str, u64> = HashMap::new();
    for (position, event) in events.iter().enumerate() {
        assert_eq!(event["position"], position, "a hole in the positions");
        let revision = next.entry(event["stream"].as_str().expect("a stream")).or_default();
        assert_eq!(event["revision"], *revision, "a hole in the revisions of {}", event["stream"]);
        *revision += 1;
    }
}

fn by_tag(events: &[Value]) -> BTreeMap<u64, &Value> {
    let mut found = BTreeMap::new();
    for event in events.iter().filter(|event| event["type"] == "contact-noted") {
        let tag = event["data"]["tag"].as_u64().expect("a tag");
        assert!(found.insert(tag, event).is_none(), "an event is there twice: {event}");
    }
    found
}

fn acknowledged_are_there(ledger: &Ledger, by_tag: &BTreeMap<u64, &Value>) {
    for attempt in &ledger.attempts {
        let stored: Vec<Option<&&Value>> = attempt.events.iter().map(|(tag, ..)| by_tag.get(tag)).collect();
        let there = stored.iter().flatten().count();
        match attempt.outcome {
            Outcome::Acknowledged { revision, position } => {
                assert_eq!(there, stored.len(), "an acknowledged event is lost: {attempt:?}");
                for (offset, event) in stored.iter().flatten().enumerate() {
                    assert_eq!(event["stream"], attempt.stream.as_str());
                    assert_eq!(event["revision"], revision + offset as u64, "{attempt:?}");
                }
                assert_eq!(stored.last().copied().flatten().expect("there")["position"], position, "{attempt:?}");
            }
            Outcome::Refused => assert_eq!(there, 0, "a refused event is stored: {attempt:?}"),
            Outcome::Unknown | Outcome::Late => {
                assert!(there == 0 || there == stored.len(), "half an append is stored: {attempt:?}");
            }
        }
        for ((tag, person, id), event) in attempt.events.iter().zip(&stored) {
            let Some(event) = event else { continue };
            if let Some(id) = id {
                assert_eq!(event["id"], id.as_str());
            }
            let erased = event["data"]["name"] == "[erased]";
            if !erased {
                assert_eq!(event["data"]["name"], name(*tag));
                assert_eq!(event["data"]["contact_id"], external(*person));
            }
        }
    }
}

/// A person is forgotten wholly or not at all, and forgotten if that was promised.
fn people_are_whole(ledger: &Ledger, by_tag: &BTreeMap<u64, &Value>) {
    let mut people: HashMap<u64, Vec<&Value>> = HashMap::new();
    for (tag, person, _) in ledger.attempts.iter().flat_map(|attempt| &attempt.events) {
        people.entry(*person).or_default().extend(by_tag.get(tag).copied());
    }
    for (person, events) in people {
        let erased = events.iter().filter(|event| event["data"]["name"] == "[erased]").count();
        assert!(erased == 0 || erased == events.len(), "half of a person is forgotten: {events:?}");
        let wishes: Vec<_> = ledger.wishes.iter().filter(|wish| wish.person == person).collect();
        if wishes.iter().any(|wish| wish.fenced) {
            assert_eq!(erased, events.len(), "a forgotten person can be read");
        }
        if wishes.is_empty() {
            assert_eq!(erased, 0, "somebody was forgotten whom nobody asked to forget");
        }
        for event in events.iter().filter(|event| event["data"]["name"] == "[erased]") {
            assert_eq!(event["redactions"][0]["state"], "erased", "{event}");
            assert_eq!(event["data"]["contact_id"], event["redactions"][0]["subject"], "{event}");
        }
    }
}

/// No event of a forgotten person stands behind the fence.
fn no_zombies(events: &[Value], completed: &[String]) {
    let mut fences: HashMap<&str, u64> = HashMap::new();
    for event in events.iter().filter(|event| event["type"] == "erasure-fenced") {
        let subject = event["data"]["subject"].as_str().expect("a pseudonym");
        fences.entry(subject).or_insert(event["position"].as_u64().expect("a position"));
    }
    for subject in completed {
        assert!(fences.contains_key(subject.as_str()), "a forgotten person without a fence: {subject}");
    }
    for event in events.iter().filter(|event| event["type"] == "contact-noted") {
        let subject = event["data"]["contact_id"].as_str().expect("an id");
        if let Some(fence) = fences.get(subject) {
            assert!(event["position"].as_u64() < Some(*fence), "a zombie: {event} behind {fence}");
        }
    }
}

async fn get(address: SocketAddr, path: &str, accept: &str) -> Reply {
    send(address, "GET", path, &[("authorization", "Bearer dev"), ("accept", accept)], Bytes::new()).await
}
