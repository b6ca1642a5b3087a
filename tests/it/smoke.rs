//! One walk through the main job.

use serde_json::json;

use crate::harness::Server;

#[tokio::test(flavor = "multi_thread")]
async fn append_read_forget_read() {
    let mut server = Server::dev().await;
    server.canary("Ada King");
    let schema = json!({"type": "object", "additionalProperties": false, "required": ["contact_id", "name"],
        "x-data-subjects": {"contact": {"id": "/contact_id"}},
        "properties": {"contact_id": {"type": "string"},
            "name": {"type": "string", "x-personal-data": {"subject": "contact", "category": "name"}}}});
    server.schema("contact-created", &schema).await;
    let data = json!({"contact_id": "p7", "name": "Ada King"});
    server.append("contact-7", "contact-created", &data).await.expect(201);
    let page = server.get("/v1/streams/contact-7/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"], data);
    let done = server.forget("p7").await;
    assert_eq!(done["verification"], json!({"events": 1, "tried": 1, "opened": 0}));
    let page = server.get("/v1/streams/contact-7/events").await.expect(200).json();
    assert_eq!(page["items"][0]["data"]["name"], "[erased]");
    assert_eq!(page["items"][0]["redactions"][0]["state"], "erased");
    let again = server.append("contact-7", "contact-created", &data).await.expect(409);
    assert_eq!(again.code(), "data-subject-erased");
}
