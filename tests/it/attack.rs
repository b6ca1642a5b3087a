//! Attacks that once worked, each as the test that keeps it from working again.

use std::time::Duration;

use oubliette::erasure::{Fact, stream_of};
use oubliette::event::{EventType, ExpectedRevision, Purpose, Revision, StreamName, SubjectRef};
use oubliette::eventlog::Effect;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{contact, key, post_with, start};
use crate::harness::Server;

/// Sends a whole request and leaves after `pause`, without reading a byte of the answer.
async fn send_and_leave(server: &Server, method: &str, path: &str, body: &Value, pause: Duration) {
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let body = body.to_string();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer dev\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    socket.write_all((head + &body).as_bytes()).await.unwrap();
    tokio::time::sleep(pause).await;
    drop(socket);
}

/// A client that hangs up must not leave its forget request fenced and its keys alive until the next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_does_not_strand_its_forget() {
    let server = start().await;
    server.schema("contact-added", &contact()).await;
    for n in 0..40 {
        let data = json!({"contact_id": format!("p{n}"), "name": "Ada Lovelace"});
        server.append(&format!("contact-{n}"), "contact-added", &data).await.expect(201);
    }
    for n in 0..40u64 {
        let body = json!({"data_subject": format!("p{n}")});
        send_and_leave(&server, "POST", "/v1/forget", &body, Duration::from_micros(n * 250)).await;
    }
    let mut stuck = Vec::new();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        stuck = server.get("/v1/forget-requests?status=fenced").await.expect(200).json()["items"]
            .as_array()
            .cloned()
            .unwrap();
        if stuck.is_empty() {
            break;
        }
    }
    assert!(stuck.is_empty(), "{} forget requests are fenced and nobody works on them", stuck.len());
}

/// A revocation that is in the log is in force, whether or not its sender waited for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_stops_working_even_if_the_revoker_left() {
    let server = start().await;
    for n in 0..30u64 {
        let grant = json!({"name": format!("k{n}"), "roles": ["auditor"]});
        let issued = server.post("/v1/api-keys", &grant).await.expect(201).json();
        let bearer = format!("Bearer {}", issued["secret"].as_str().unwrap());
        let id = issued["id"].as_str().unwrap();
        let before = server.app.log.head().await.unwrap().next.0;
        let path = format!("/v1/api-keys/{id}");
        send_and_leave(&server, "DELETE", &path, &json!({}), Duration::from_micros(n * 150)).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let recorded = server.app.log.head().await.unwrap().next.0 > before;
        let status = server.send("GET", "/v1/api-keys", &[("authorization", &bearer)], "").await.status.as_u16();
        assert!(!recorded || status == 401, "the log says revoked, the key still works");
    }
}

/// A key confined to one category learns nothing about another one by conditions.
#[tokio::test(flavor = "multi_thread")]
async fn conditions_are_no_oracle_for_other_categories() {
    let server = start().await;
    server.schema("contact-added", &contact()).await;
    server.append("medical-7", "contact-added", &json!({"contact_id": "p1", "name": "Ada"})).await.expect(201);
    let seen = server.get("/v1/streams/medical-7/events?redaction=null").await.expect(200).json();
    assert_eq!(seen["items"].as_array().unwrap().len(), 1);
    let confined = key(&server, "w", &json!({"roles": ["writer"], "categories": ["shop"]})).await;
    let probes = [
        json!({"none_matching": {"category": "medical"}}),
        json!({"none_matching": {"types": ["contact-added"]}}),
        json!({"stream": "medical-7", "expected": "no_stream"}),
    ];
    for probe in probes {
        let body = json!({"preconditions": [probe], "appends":
            [{"stream": "shop-1", "events": [{"type": "noted", "data": {"n": 1}}]}]});
        let reply = post_with(&server, "/v1/events", &[("authorization", &confined)], &body).await;
        assert_eq!(reply.status.as_u16(), 403, "{probe}: {}", reply.text());
    }
}

/// Every clear member of an event passes the leak guard.
#[tokio::test(flavor = "multi_thread")]
async fn the_leak_guard_looks_at_cloud_event_ids_and_numbers() {
    let server = start().await;
    let event =
        json!({"specversion": "1.0", "type": "noted", "source": "/crm", "id": "ada@example.org", "data": {"n": 1}});
    let headers = [("content-type", "application/cloudevents+json")];
    let reply = server.send("POST", "/v1/streams/shop-1/events", &headers, event.to_string()).await.expect(201).json();
    assert_eq!(reply["warnings"][0]["shape"], "email", "{reply}");
    let reply = server.append("shop-2", "noted", &json!({"card": 4_111_111_111_111_111_u64})).await.expect(201).json();
    assert_eq!(reply["warnings"][0]["shape"], "card", "{reply}");
}

/// A reader that never reads keeps no plaintext in the server after its lease.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_nobody_takes_is_given_up_with_its_lease() {
    let server = Server::with(|config| {
        crate::api::dev(config);
        config.lease = Duration::from_secs(1);
    })
    .await;
    server.schema("contact-added", &contact()).await;
    let name = "Ada ".repeat(10_000);
    for n in 0..200 {
        let data = json!({"contact_id": "p1", "name": format!("{name}{n}")});
        server.append("contact-1", "contact-added", &data).await.expect(201);
    }
    let mut socket = TcpStream::connect(server.address).await.unwrap();
    let head = "GET /v1/streams/contact-1/events?limit=200 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer dev\r\n\r\n";
    socket.write_all(head.as_bytes()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(4)).await;
    // The connection is gone although its client never read: what the kernel had is all that comes.
    let mut rest = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(5), socket.read_to_end(&mut rest)).await.expect("the end");
    assert!(!rest.ends_with(b"}"), "{} bytes", rest.len());
}

/// Purposes forgotten twice, with a return in between at the worst moment: what was appended after the return is
/// readable, and no request is stuck.
#[tokio::test(flavor = "multi_thread")]
async fn a_return_does_not_overtake_an_erasure() {
    let server = start().await;
    server.schema("contact-added", &contact()).await;
    let scope = |id: &str| json!({"data_subject": id, "scope": {"purposes": ["marketing"]}});
    let wait = [("prefer", "wait=30")];
    let mut returned = 0;
    for n in 0..25 {
        let (id, stream) = (format!("p{n}"), format!("contact-{n}"));
        let data = json!({"contact_id": id, "name": "Ada", "email": "ada@example.org"});
        server.append(&stream, "contact-added", &data).await.expect(201);
        post_with(&server, "/v1/forget", &wait, &scope(&id)).await.expect(200);
        let path = format!("/v1/data-subjects/{id}/reauthorizations");
        let back = json!({"purposes": ["marketing"]});
        let again = scope(&id);
        let come_back = async {
            tokio::time::sleep(Duration::from_micros(200 * n)).await;
            let reply = server.post(&path, &back).await;
            if reply.status.as_u16() == 201 {
                (true, server.append(&stream, "contact-added", &data).await.status.as_u16())
            } else {
                (false, 0)
            }
        };
        let (forgot, (back, appended)) = tokio::join!(post_with(&server, "/v1/forget", &[], &again), come_back);
        forgot.expect(202);
        returned += u32::from(back);
        assert!(!back || [201, 409].contains(&appended), "{appended}");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    for n in 0..25 {
        server.get(&format!("/v1/streams/contact-{n}/events")).await.expect(200);
    }
    for status in ["fenced", "verifying", "failed"] {
        let open = server.get(&format!("/v1/forget-requests?status={status}")).await.expect(200).json();
        assert_eq!(open["items"], json!([]), "{status}, {returned} came back");
    }
}

/// Fences a whole person without the worker, as if it had not come to it yet.
async fn fence(server: &Server, subject: SubjectRef) {
    let opened =
        server.post("/v1/forget-requests", &json!({"data_subject": subject.to_string()})).await.expect(201).json();
    let request = opened["id"].as_str().unwrap().to_owned();
    let basis = "gdpr:A17-1-b".to_owned();
    let digest = opened["preview"]["digest"].as_str().unwrap().to_owned();
    let facts = [
        Fact::ForgetRequestApproved { preview_digest: digest, by: "ak_test".to_owned() },
        Fact::ErasureFenced {
            subject: subject.to_string(),
            purposes: None,
            request: request.clone(),
            basis: basis.clone(),
        },
    ];
    let events = facts.iter().map(|fact| (fact.event_type(), serde_json::to_value(fact).unwrap())).collect();
    let due = server.app.clock.now();
    let effects = vec![
        Effect::Fence { subject, purposes: None, basis, request: request.clone() },
        Effect::Request { id: request.clone(), subject, status: "fenced", due },
    ];
    let stream = stream_of(&request).unwrap();
    let first = ExpectedRevision::Exact(Revision(0));
    server.app.appender.append_system(stream, first, events, effects).await.unwrap();
}

/// From the fence on nobody learns who a pseudonym is, although the keystore still knows.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_person_cannot_be_looked_up() {
    let server = start().await;
    server.schema("contact-added", &contact()).await;
    server.append("contact-1", "contact-added", &json!({"contact_id": "p1", "name": "Ada"})).await.expect(201);
    let ask = json!({"data_subject": "p1"});
    let found = server.post("/v1/data-subjects/lookups", &ask).await.expect(200).json();
    let subject = SubjectRef::parse(found["data_subject"].as_str().unwrap()).unwrap();
    fence(&server, subject).await;
    server.post("/v1/data-subjects/lookups", &ask).await.expect(404);
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).text();
    assert!(!page.contains("\"p1\"") && !page.contains("Ada"), "{page}");
}

/// A disk that is full makes appends and forgets fail or wait; with space again both go on, and nothing acknowledged
/// is missing. `TESTS_SMALL_DISK` names an empty directory on a small file system; without it there is no test.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing() {
    let Ok(disk) = std::env::var("TESTS_SMALL_DISK") else { return };
    let dir = tempfile::tempdir_in(&disk).unwrap();
    let server = Server::on(dir, crate::api::dev, oubliette::clock::Clock::System).await;
    server.schema("contact-added", &contact()).await;
    let ballast = std::path::Path::new(&disk).join("ballast");
    let mut acknowledged = Vec::new();
    let mut refused = 0;
    for round in 0..6 {
        let mut size = 1 << 20;
        let mut fill = std::fs::File::create(&ballast).unwrap();
        while size >= 512 {
            if std::io::Write::write_all(&mut fill, &vec![7; size]).is_err() {
                size /= 2;
            }
        }
        // A little room, more each round, so that it is another write that fails.
        let kept = fill.metadata().unwrap().len().saturating_sub(round * 150_000);
        fill.set_len(kept).unwrap();
        drop(fill);
        for n in 0..60 {
            let id = format!("p{round}-{n}");
            let data = json!({"contact_id": id, "name": "Ada Lovelace".repeat(40)});
            let reply = server.append(&format!("contact-{id}"), "contact-added", &data).await;
            match reply.status.as_u16() {
                201 => acknowledged.push(id),
                503 => refused += 1,
                other => panic!("{other}: {}", reply.text()),
            }
        }
        if let Some(id) = acknowledged.last() {
            let forgot = server.post("/v1/forget", &json!({"data_subject": id})).await;
            assert!([202, 503, 409].contains(&forgot.status.as_u16()), "{}", forgot.text());
        }
        std::fs::remove_file(&ballast).unwrap();
        let after = json!({"contact_id": format!("q{round}"), "name": "Ben"});
        let mut reply = server.append(&format!("contact-q{round}"), "contact-added", &after).await;
        for _ in 0..20 {
            if reply.status.as_u16() == 201 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
            reply = server.append(&format!("contact-q{round}"), "contact-added", &after).await;
        }
        assert_eq!(reply.status.as_u16(), 201, "round {round}: {}", reply.text());
    }
    assert!(refused > 0, "the disk was never full");
    tokio::time::sleep(Duration::from_secs(2)).await;
    for status in ["fenced", "verifying", "failed"] {
        let open = server.get(&format!("/v1/forget-requests?status={status}")).await.expect(200).json();
        assert_eq!(open["items"], json!([]), "{status}");
    }
    for id in &acknowledged {
        server.get(&format!("/v1/streams/contact-{id}/events")).await.expect(200);
    }
    let keys = server.get("/v1/keys").await.expect(200).json();
    let dir = server.stop().await;
    let server = Server::on(dir, crate::api::dev, oubliette::clock::Clock::System).await;
    let counted = server.get("/v1/keys").await.expect(200).json();
    assert_eq!(keys["totals"], counted["totals"], "the counts of keys drifted");
}

/// A crash between the two halves of a re-authorisation (the log's, then the keystore's), a further forget, and the
/// person comes back again: fence and keystore must still count generations alike.
#[tokio::test(flavor = "multi_thread")]
async fn half_a_return_does_not_lock_a_person_out() {
    let server = start().await;
    server.schema("contact-added", &contact()).await;
    let data = json!({"contact_id": "p1", "name": "Ada", "email": "ada@example.org"});
    server.append("contact-1", "contact-added", &data).await.expect(201);
    let found = server.post("/v1/data-subjects/lookups", &json!({"data_subject": "p1"})).await.expect(200).json();
    let subject = SubjectRef::parse(found["data_subject"].as_str().unwrap()).unwrap();
    let wait = [("prefer", "wait=30")];
    let forget = json!({"data_subject": "p1", "scope": {"purposes": ["marketing"]}});
    post_with(&server, "/v1/forget", &wait, &forget).await.expect(200);
    // What `Requests::reauthorize` commits before the process dies.
    let stream = StreamName::parse_any("$reauthorizations").unwrap();
    let event = (EventType::parse("data-subject-reauthorized").unwrap(), json!({"subject": subject.to_string()}));
    let effect = Effect::Reauthorize { subject, purposes: vec![Purpose::parse("marketing").unwrap()] };
    server.app.appender.append_system(stream, ExpectedRevision::Any, vec![event], vec![effect]).await.unwrap();
    post_with(&server, "/v1/forget", &wait, &forget).await.expect(200);
    let back = json!({"purposes": ["marketing"]});
    server.post("/v1/data-subjects/p1/reauthorizations", &back).await.expect(201);
    server.append("contact-1", "contact-added", &data).await.expect(201);
    let page = server.get("/v1/streams/contact-1/events").await.expect(200).json();
    assert_eq!(page["items"][1]["data"]["email"], "ada@example.org", "{page}");
}
