//! Inputs that exist outside this project: the schema of a published CRM, the events of a published cart, a payment
//! between two people, a booking with guests.

use serde_json::{Value, json};

use crate::api::{booking, list, payloads, payment, pluck, restart, start};

/// As published: draft-04, three required members, nothing else allowed.
const CONTACT_CREATED: &str = r#"{
    "$schema": "http://json-schema.org/draft-04/schema#",
    "title": "contact-created",
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "description": {"type": "string"},
        "contact_method": {"type": "string"}
    },
    "required": ["name", "description", "contact_method"],
    "additionalProperties": false
}"#;

/// The published schema, and what it leaves out: whose data it is, and which of it is personal.
fn marked() -> Value {
    let mut schema: Value = serde_json::from_str(CONTACT_CREATED).unwrap();
    schema["x-data-subjects"] = json!({"contact": {"id": "/contact_id"}});
    schema["properties"]["contact_id"] = json!({"type": "string"});
    for (member, category) in [("name", "name"), ("description", "free_text"), ("contact_method", "contact")] {
        schema["properties"][member]["x-personal-data"] = json!({"subject": "contact", "category": category});
    }
    schema
}

/// Each breaks another rule of the schema.
fn invalid() -> [Value; 4] {
    [
        json!({"name": "Ada King", "description": "analyst"}),
        json!({"name": "Ada King", "description": "analyst", "contact_method": "mail", "age": 36}),
        json!({"name": 7, "description": "analyst", "contact_method": "mail"}),
        json!(["Ada King", "analyst", "mail"]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contact_schema_verbatim() {
    let server = start().await;
    let verbatim: Value = serde_json::from_str(CONTACT_CREATED).unwrap();
    let headers = [("content-type", "application/json")];
    let path = "/v1/schemas/contact-created/versions";
    server.send("POST", path, &headers, CONTACT_CREATED).await.expect(201);
    assert_eq!(server.get(&format!("{path}/1")).await.expect(200).json()["schema"], verbatim);
    let data = json!({"name": "Ada King", "description": "analyst", "contact_method": "mail"});
    server.append("contact-1", "contact-created", &data).await.expect(201);
    for wrong in invalid() {
        let problem = server.append("contact-1", "contact-created", &wrong).await.expect(422);
        assert_eq!(problem.code(), "schema-violation");
    }
    let server = restart(server).await;
    for wrong in invalid() {
        server.append("contact-1", "contact-created", &wrong).await.expect(422);
    }
    assert_eq!(payloads(&server, "contact-1").await, [data]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contact_schema_with_marks() {
    let mut server = start().await;
    server.canary("Ada King");
    server.canary("ada@example.org");
    server.schema("contact-created", &marked()).await;
    let contact = |id: &str, name: &str, method: &str| json!({"contact_id": id, "name": name, "description": "met in London", "contact_method": method});
    let ada = contact("c7", "Ada King", "ada@example.org");
    let bob = contact("c8", "Bob Ray", "+44 20 7946 0000");
    server.append("contact-7", "contact-created", &ada).await.expect(201);
    server.append("contact-8", "contact-created", &bob).await.expect(201);
    for mut wrong in invalid() {
        if wrong.is_object() {
            wrong["contact_id"] = "c7".into();
        }
        server.append("contact-7", "contact-created", &wrong).await.expect(422);
    }
    // Personal data of nobody is refused as well.
    let nobody = json!({"name": "Ada King", "description": "x", "contact_method": "y"});
    let problem = server.append("contact-7", "contact-created", &nobody).await.expect(422);
    assert_eq!(problem.code(), "data-subject-missing");
    assert_eq!(payloads(&server, "contact-7").await, [ada]);
    let subject = server.forget("c7").await["data_subject"].clone();
    let gone =
        json!({"contact_id": subject, "name": "[erased]", "description": "[erased]", "contact_method": "[erased]"});
    let mut server = restart(server).await;
    server.canary("Ada King");
    server.canary("Bob Ray");
    assert_eq!(payloads(&server, "contact-7").await, [gone]);
    assert_eq!(payloads(&server, "contact-8").await, [bob]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cart_events() {
    let server = start().await;
    let text = || json!({"type": "string"});
    let schema = |members: &[&str]| {
        let properties: serde_json::Map<String, Value> = members.iter().map(|m| ((*m).to_owned(), text())).collect();
        crate::api::object(&json!({"user": {"id": "/user_id"}}), members, &Value::from(properties))
    };
    let cart = ["product_id", "order_id", "user_id", "timestamp"];
    for name in ["product-added-to-cart", "product-removed-from-cart", "order-placed"] {
        server.schema(name, &schema(if name == "order-placed" { &cart[1..] } else { &cart })).await;
    }
    let item = |product: &str, user: &str, second: u32| json!({"product_id": product, "order_id": "123", "user_id": user, "timestamp": format!("2022-12-01T12:00:{second:02}Z")});
    let placed = json!({"order_id": "123", "user_id": "456", "timestamp": "2022-12-01T12:00:09Z"});
    let events = [
        ("product-added-to-cart", item("789", "456", 0)),
        ("product-added-to-cart", item("790", "456", 1)),
        ("product-removed-from-cart", item("789", "456", 2)),
        ("order-placed", placed),
    ];
    for (name, data) in &events {
        server.append("cart-123", name, data).await.expect(201);
    }
    server.append("cart-124", "product-added-to-cart", &item("789", "457", 3)).await.expect(201);
    server.append("cart-123", "order-placed", &json!({"order_id": "123", "user_id": "456"})).await.expect(422);
    let stored = payloads(&server, "cart-123").await;
    assert_eq!(stored, events.iter().map(|(_, data)| data.clone()).collect::<Vec<_>>());
    let counts = |events: &[Value]| pluck(events, "product_id").iter().filter(|id| **id == "789").count();
    // The activity of user 456 is nobody's any more; what was bought is what it was.
    let subject = server.forget("456").await["data_subject"].clone();
    let server = restart(server).await;
    let after = payloads(&server, "cart-123").await;
    assert!(pluck(&after, "user_id").iter().all(|id| *id == subject));
    assert_eq!((counts(&after), pluck(&after, "timestamp")), (counts(&stored), pluck(&stored, "timestamp")));
    assert_eq!(payloads(&server, "cart-124").await[0]["user_id"], "457");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_between_two_people() {
    let mut server = start().await;
    server.canary("DE89370400440532013000");
    server.schema("payment-made", &payment()).await;
    let pay = |cents: u64| {
        json!({"payer_id": "p1", "payer_name": "Ada King", "payer_iban": "DE89370400440532013000", "payee_id": "p2",
            "payee_name": "Bob Ray", "payee_iban": "GB82WEST12345698765432", "amount_cents": cents, "note": "rent"})
    };
    for cents in [4200, 1, 0] {
        server.append("account-9", "payment-made", &pay(cents)).await.expect(201);
    }
    let sum = |events: &[Value]| events.iter().map(|e| e["amount_cents"].as_u64().unwrap()).sum::<u64>();
    let request = server.forget("p1").await;
    let mut server = restart(server).await;
    server.canary("GB82WEST12345698765432");
    let stored = payloads(&server, "account-9").await;
    assert_eq!(sum(&stored), 4201);
    for payment in &stored {
        assert_eq!((&payment["payee_id"], &payment["payee_name"]), (&json!("p2"), &json!("Bob Ray")));
        assert_eq!(payment["payee_iban"], "GB82WEST12345698765432");
        assert_eq!((&payment["payer_id"], &payment["payer_name"]), (&request["data_subject"], &json!("[erased]")));
        let iban = payment["payer_iban"].as_str().unwrap();
        assert!(iban.starts_with("Deleted due to 17(1)(b) GDPR request on 20"), "{iban}");
        assert_eq!(payment["note"], "[erased]", "what is both's is hidden when either is gone");
    }
    server.forget("p2").await;
    let after = payloads(&server, "account-9").await;
    assert_eq!((sum(&after), &after[0]["payee_name"]), (4201, &json!("[erased]")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_with_guests() {
    let mut server = start().await;
    server.canary("Grace Hopper");
    server.schema("booking-made", &booking()).await;
    let guest = |id: &str, name: &str, diet: &str| json!({"person_id": id, "name": name, "diet": diet});
    let data = json!({"nights": 3, "guests": [guest("g1", "Ada King", "vegan"), guest("g2", "Grace Hopper", "halal"),
        guest("g3", "Bob Ray", "none")]});
    server.append("booking-1", "booking-made", &data).await.expect(201);
    server.post("/v1/forget", &json!(["g1"])).await.expect(422);
    let done = server.forget("g2").await;
    assert_eq!(done["verification"], json!({"events": 1, "tried": 1, "opened": 0}));
    let server = restart(server).await;
    let stored = payloads(&server, "booking-1").await[0].clone();
    assert_eq!(stored["nights"], 3);
    let guests = list(&stored["guests"]);
    assert_eq!((&guests[0], &guests[2]), (&data["guests"][0], &data["guests"][2]));
    assert_eq!(guests[1], json!({"person_id": done["data_subject"], "name": "[erased]", "diet": "unknown"}));
    assert_eq!(
        server.post("/v1/forget", &json!({"data_subject": "g2"})).await.expect(409).code(),
        "data-subject-erased"
    );
}
