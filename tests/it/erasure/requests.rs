//! The life of a forget request: preview, approval of exactly that preview, side exits, who sees it, scope, coming back.

use serde_json::{Value, json};

use super::{approve, as_key, contact, key, last, open, pay, register};
use crate::harness::Server;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_preview_counts_what_would_go() {
    let server = Server::dev().await;
    register(&server).await;
    pay(&server, "account-1", "ada", "bob").await;
    pay(&server, "account-1", "ada", "eve").await;
    pay(&server, "account-2", "bob", "ada").await;
    contact(&server, "ada", "Ada Payer").await.expect(201);

    let preview = open(&server, "ada").await["preview"].clone();
    // As payer: name, iban, note in three slots (payments, marketing, joint); as payee: name and note; the contact.
    assert_eq!(preview["erase"], json!({"events": 4, "fields": 2 * 3 + 2 + 1, "slots": 2 * 3 + 2 + 1, "streams": 3}));
    assert_eq!(preview["shared"], json!({"events": 3, "other_people": 2, "joint_fields": 3}));
    let eve = open(&server, "eve").await["preview"].clone();
    assert_eq!(eve["erase"], json!({"events": 1, "fields": 2, "slots": 2, "streams": 1}));
    assert_eq!(eve["shared"], json!({"events": 1, "other_people": 1, "joint_fields": 1}));
    let wish = json!({"data_subject": "ada", "scope": {"purposes": ["marketing"]}});
    let marketing = server.post("/v1/forget-requests", &wish).await.expect(201).json();
    assert_eq!(marketing["preview"]["erase"], json!({"events": 2, "fields": 2, "slots": 2, "streams": 1}));
    assert_eq!(marketing["scope"], json!({"purposes": ["marketing"]}));

    // What is gone already is not counted again: Bob's joint notes went with Ada.
    server.forget("ada").await;
    let bob = open(&server, "bob").await["preview"].clone();
    assert_eq!(bob["erase"]["events"], 2, "{bob}");
    let event = last(&server, "account-2").await;
    assert_eq!(event["data"]["payer_name"], "bob Payer");
    assert_eq!(event["data"]["note"], "[erased]", "a value about two people goes with either");
    assert_eq!(event["data"]["payee_name"], "[erased]");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_the_preview_is_approved_and_once() {
    let server = Server::dev().await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    let request = open(&server, "ada").await;
    assert_eq!(request["status"], "previewed");
    assert_eq!(request["allowed_actions"], json!(["approve", "reject", "cancel"]));
    assert_eq!(last(&server, "contact-ada").await["data"]["name"], "Ada King", "opening changes nothing");

    let wrong = approve(&server, &request["id"], &json!("sha256:00")).await.expect(409);
    assert_eq!(wrong.json()["preview_digest"], request["preview"]["digest"]);
    contact(&server, "ada", "Ada Lovelace").await.expect(201);
    let stale = approve(&server, &request["id"], &request["preview"]["digest"]).await.expect(409);
    assert_eq!(stale.code(), "preview-stale");
    let current = stale.json()["preview_digest"].clone();
    assert_ne!(current, request["preview"]["digest"]);
    let done = approve(&server, &request["id"], &current).await.expect(200).json();
    assert_eq!(done["status"], "completed");
    let again = approve(&server, &request["id"], &current).await.expect(409);
    assert_eq!(again.code(), "invalid-transition");
    assert_eq!(again.json()["status_now"], "completed");
    let missing = approve(&server, &json!(format!("fr_{}", "0".repeat(32))), &current).await;
    missing.expect(404);
    approve(&server, &json!("nonsense"), &current).await.expect(404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_record_says_what_was_destroyed_and_when() {
    let mut server = Server::dev().await;
    server.canary("grace Payer");
    register(&server).await;
    pay(&server, "account-1", "grace", "bob").await;
    let done = server.forget("grace").await;
    let keys = done["destroyed"]["keys"].as_array().unwrap();
    let mut purposes: Vec<&str> = keys.iter().map(|key| key["purpose"].as_str().unwrap()).collect();
    purposes.sort_unstable();
    assert_eq!(purposes, ["$identity", "marketing", "payments"]);
    for key in keys {
        assert_eq!(key["kid"].as_str().unwrap().len(), 64);
        assert!(key["destroyed_at"].as_str().unwrap().ends_with('Z'), "{key}");
    }
    assert_eq!(done["destroyed"]["external_id_removed"], true);
    assert_eq!(done["destroyed"]["erasure"], 1);
    assert!(done["destroyed"]["washed_bytes"].as_u64().is_some());
    assert_eq!(done["verification"], json!({"events": 1, "tried": 3, "opened": 0}));
    let steps: Vec<&str> =
        done["history"].as_array().unwrap().iter().map(|step| step["status"].as_str().unwrap()).collect();
    assert_eq!(steps, ["previewed", "fenced", "verifying", "completed"]);
    let times: Vec<&str> = done["history"].as_array().unwrap().iter().map(|s| s["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    assert!(!done.to_string().contains("grace"), "no personal data in the record");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rejected_and_cancelled_requests_change_nothing() {
    let server = Server::dev().await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    let path = |request: &Value, what: &str| format!("/v1/forget-requests/{}/{what}", request["id"].as_str().unwrap());
    let (rejected, cancelled, waiting) =
        (open(&server, "ada").await, open(&server, "ada").await, open(&server, "ada").await);
    let ground = json!({"ground": "gdpr:A17-3-b"});
    let answer = server.post(&path(&rejected, "rejections"), &ground).await.expect(200).json();
    assert_eq!((&answer["status"], &answer["ground"]), (&json!("rejected"), &json!("gdpr:A17-3-b")));
    let answer = server.post(&path(&cancelled, "cancellations"), &json!({})).await.expect(200).json();
    assert_eq!(answer["status"], "cancelled");
    for request in [&rejected, &cancelled] {
        server.post(&path(request, "rejections"), &ground).await.expect(409);
        server.post(&path(request, "cancellations"), &json!({})).await.expect(409);
        let late = approve(&server, &request["id"], &request["preview"]["digest"]).await.expect(409);
        assert_eq!(late.code(), "invalid-transition");
    }
    assert_eq!(last(&server, "contact-ada").await["data"]["name"], "Ada King");
    for (status, request) in [("rejected", &rejected), ("cancelled", &cancelled), ("previewed", &waiting)] {
        let list = server.get(&format!("/v1/forget-requests?status={status}")).await.expect(200).json();
        let ids: Vec<&Value> = list["items"].as_array().unwrap().iter().map(|item| &item["id"]).collect();
        assert_eq!(ids, [&request["id"]], "{status}");
    }
    server.get("/v1/forget-requests?status=done").await.expect(400);
    let first = server.get("/v1/forget-requests?limit=2").await.expect(200).json();
    let next = first["next"].as_str().unwrap();
    let rest = server.get(&format!("/v1/forget-requests?limit=2&cursor={next}")).await.expect(200).json();
    assert_eq!((first["items"].as_array().unwrap().len(), rest["items"].as_array().unwrap().len()), (2, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_is_seen_by_who_opened_it_and_by_officers() {
    let server = Server::dev().await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    let mine = key(&server, "crm", json!({"role": "writer"})).await;
    let stranger = key(&server, "shop", json!({"role": "writer"})).await;
    let reader = key(&server, "view", json!({"role": "reader"})).await;
    let officer = key(&server, "officer", json!({"role": "dpo"})).await;
    let auditor = key(&server, "auditor", json!({"role": "auditor"})).await;
    let wish = json!({"data_subject": "ada"});
    let opened = as_key(&server, &mine, "POST", "/v1/forget-requests", Some(&wish)).await.expect(201).json();
    assert_eq!(opened["allowed_actions"], json!([]), "a writer does not approve");
    let path = format!("/v1/forget-requests/{}", opened["id"].as_str().unwrap());
    for (key, status) in [(&mine, 200), (&officer, 200), (&auditor, 200), (&stranger, 404), (&reader, 403)] {
        as_key(&server, key, "GET", &path, None).await.expect(status);
    }
    let digest = json!({"preview_digest": opened["preview"]["digest"]});
    for key in [&mine, &stranger, &reader, &auditor] {
        as_key(&server, key, "POST", &format!("{path}/approvals"), Some(&digest)).await.expect(403);
    }
    as_key(&server, &stranger, "POST", &format!("{path}/cancellations"), Some(&json!({}))).await.expect(404);
    as_key(&server, &mine, "POST", "/v1/forget", Some(&wish)).await.expect(403);
    as_key(&server, &officer, "POST", &format!("{path}/approvals"), Some(&digest)).await.expect(200);
    as_key(&server, &mine, "GET", &path, None).await.expect(200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twice_and_unknown() {
    let server = Server::dev().await;
    register(&server).await;
    contact(&server, "ada", "Ada King").await.expect(201);
    let subject = server.forget("ada").await["data_subject"].as_str().unwrap().to_owned();
    let writer = key(&server, "crm", json!({"role": "writer"})).await;
    for wish in [json!({"data_subject": "ada"}), json!({"data_subject": subject})] {
        for path in ["/v1/forget", "/v1/forget-requests"] {
            assert_eq!(server.post(path, &wish).await.expect(409).code(), "data-subject-erased");
        }
        let hidden = as_key(&server, &writer, "POST", "/v1/forget-requests", Some(&wish)).await;
        hidden.expect(404);
    }
    let nobody = format!("ds_{}", "0".repeat(32));
    for wish in [json!({"data_subject": "nobody"}), json!({"data_subject": nobody})] {
        server.post("/v1/forget", &wish).await.expect(404);
        as_key(&server, &writer, "POST", "/v1/forget-requests", Some(&wish)).await.expect(404);
    }
    assert_eq!(contact(&server, "ada", "Ada King").await.expect(409).code(), "data-subject-erased");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn purposes_go_alone() {
    let server = Server::dev().await;
    register(&server).await;
    pay(&server, "account-1", "ada", "bob").await;
    let marketer = json!({"role": "pii_reader", "purposes": ["marketing"]});
    let marketer = key(&server, "marketer", marketer).await;
    let name = |body: Value| body["items"][0]["data"]["payer_name"].clone();
    let path = "/v1/streams/account-1/events";
    assert_eq!(name(as_key(&server, &marketer, "GET", path, None).await.json()), "ada Payer");

    let wish = json!({"data_subject": "ada", "scope": {"purposes": ["marketing"]}});
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    let done = server.send("POST", "/v1/forget", &headers, wish.to_string()).await.expect(200).json();
    let keys = done["destroyed"]["keys"].as_array().unwrap();
    assert_eq!((keys.len(), &keys[0]["purpose"]), (1, &json!("marketing")), "{done}");
    assert_eq!(done["destroyed"]["external_id_removed"], false);
    assert_eq!(name(as_key(&server, &marketer, "GET", path, None).await.json()), "[withheld]", "there for payments");
    let event = last(&server, "account-1").await;
    assert_eq!(event["data"]["payer_name"], "ada Payer", "still there for payments");
    assert_eq!(event["data"]["payer_id"], "ada", "and still known");
    let data = json!({"payer_id": "ada", "payee_id": "bob", "payer_name": "ada Payer"});
    let refused = server.append("account-1", "payment-made", &data).await.expect(409);
    assert_eq!(refused.code(), "data-subject-erased");
    let data = json!({"payer_id": "ada", "payee_id": "bob", "iban": "ada Account"});
    server.append("account-1", "payment-made", &data).await.expect(201);

    // The rest of her, later.
    server.forget("ada").await;
    let event = last(&server, "account-1").await;
    assert_eq!(event["data"]["iban"], "[erased]");
    assert_ne!(event["data"]["payer_id"], "ada");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_purpose_that_came_back_can_go_again() {
    let server = Server::dev().await;
    register(&server).await;
    let forget = json!({"data_subject": "ada", "scope": {"purposes": ["marketing"]}}).to_string();
    let headers = [("content-type", "application/json"), ("prefer", "wait=30")];
    let reader = key(&server, "marketer", json!({"role": "pii_reader", "purposes": ["marketing"]})).await;
    for generation in 0..3u64 {
        pay(&server, "account-1", "ada", "bob").await;
        let items = as_key(&server, &reader, "GET", "/v1/streams/account-1/events", None).await.expect(200).json();
        let names: Vec<&Value> = items["items"].as_array().unwrap().iter().map(|e| &e["data"]["payer_name"]).collect();
        for (at, name) in names.iter().enumerate() {
            assert_eq!(*name, if at as u64 == generation { "ada Payer" } else { "[withheld]" });
        }
        let done = server.send("POST", "/v1/forget", &headers, forget.clone()).await.expect(200).json();
        let keys = done["destroyed"]["keys"].as_array().unwrap();
        assert!(keys.iter().any(|key| key["generation"] == generation), "{done}");
        assert_eq!(done["verification"]["opened"], 0);
        let back = json!({"purposes": ["marketing"]});
        server.post("/v1/data-subjects/ada/reauthorizations", &back).await.expect(201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_person_who_came_back_can_go_again() {
    let mut server = Server::dev().await;
    server.canary("Ada the First");
    server.canary("Ada the Second");
    register(&server).await;
    contact(&server, "ada", "Ada the First").await.expect(201);
    let first = server.forget("ada").await["data_subject"].clone();
    let back = server.post("/v1/data-subjects/ada/reauthorizations", &json!({})).await.expect(201).json();
    let second = back["data_subject"].clone();
    assert_ne!(first, second, "a fresh pseudonym");
    contact(&server, "ada", "Ada the Second").await.expect(201);
    let items = server.get("/v1/streams/contact-ada/events").await.json()["items"].clone();
    assert_eq!((&items[0]["data"]["name"], &items[1]["data"]["name"]), (&json!("[erased]"), &json!("Ada the Second")));
    assert_eq!((&items[0]["data"]["contact_id"], &items[1]["data"]["contact_id"]), (&first, &json!("ada")));
    assert_eq!(server.forget("ada").await["data_subject"], second);
    let items = server.get("/v1/streams/contact-ada/events").await.json()["items"].clone();
    assert_eq!((&items[0]["data"]["contact_id"], &items[1]["data"]["contact_id"]), (&first, &second));
    assert!(items.as_array().unwrap().iter().all(|event| event["data"]["name"] == "[erased]"));
    server.post("/v1/data-subjects/nobody/reauthorizations", &json!({})).await.expect(404);
}
