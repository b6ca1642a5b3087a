//! Due events: once per row and time, whatever happens to the row afterwards.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::api::{items, start};
use crate::harness::Server;

fn reminders(version: u32, stream: &str) -> Value {
    json!({"projection": "reminders", "version": version, "from": {"types": ["noted"]}, "key": {"job": "data.job"},
        "columns": {"at": "timestamp", "city": "string"},
        "handle": {"noted": {"upsert": {"at": "data.at", "city": "data.city"}}},
        "due": {"at": "at", "emit": {"type": "reminded", "stream": stream, "data": {"job": "key.job", "city": "row.city"}}}})
}

async fn note(server: &Server, at: &str, city: &str) {
    let data = json!({"job": "j1", "at": at, "city": city});
    server.append("job-1", "noted", &data).await.expect(201);
}

async fn reminded(server: &Server, count: usize) -> Vec<Value> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let found = items(server, "/v1/events?types=reminded").await;
        if found.len() >= count {
            // Whatever else comes, comes now.
            tokio::time::sleep(Duration::from_millis(500)).await;
            return items(server, "/v1/events?types=reminded").await;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timer_goes_off_once_per_row_and_time() {
    let server = start().await;
    server.put("/v1/projections/reminders", &reminders(1, "'mail-' + key.job")).await.expect(201);
    note(&server, "2026-01-01T00:00:00Z", "London").await;
    assert_eq!(reminded(&server, 1).await.len(), 1);
    // The row changes, its time does not.
    note(&server, "2026-01-01T00:00:00Z", "Oslo").await;
    assert_eq!(reminded(&server, 1).await.len(), 1);
    // Another time is another event.
    note(&server, "2026-01-02T00:00:00Z", "Oslo").await;
    assert_eq!(reminded(&server, 2).await.len(), 2);
    // A new version computes every row anew, and none of it goes off again.
    server.put("/v1/projections/reminders", &reminders(2, "'mail-' + key.job")).await.expect(200);
    let deadline = Instant::now() + Duration::from_secs(20);
    while server.get("/v1/projections/reminders/status").await.expect(200).json()["version"] != 2 {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let all = reminded(&server, 2).await;
    assert_eq!(all.len(), 2);
    assert!(all.iter().all(|event| event["stream"] == "mail-j1"), "{all:?}");
    assert_eq!(server.get("/v1/projections/reminders/status").await.json()["parked"], 0);
}

/// The id of a due event is found again in its stream, so the stream must be the same for ever.
#[tokio::test(flavor = "multi_thread")]
async fn the_stream_of_a_due_event_does_not_depend_on_what_changes() {
    let server = start().await;
    let refused = server.put("/v1/projections/reminders", &reminders(1, "'mail-' + row.city")).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/due/emit/stream", "{refused}");
}
