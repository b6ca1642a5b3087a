//! The schemas of the population's events.
//!
//! Owns: what in each event is personal, whose it is, and for which purposes. Must not know: who is in the population.

use serde_json::{Value, json};

/// The schema of every event type, by name.
pub fn schemas() -> Vec<(&'static str, Value)> {
    let text = || json!({"type": "string"});
    let time = || json!({"type": "string", "format": "date-time"});
    let contact = json!({
        "account_id": text(), "contact_id": text(),
        "name": personal(text(), json!({"subject": "contact", "category": "name"})),
        "email": personal(json!({"type": "string", "format": "email"}),
            json!({"subject": "contact", "category": "contact.email", "purposes": ["general", "marketing"]})),
        "phone": personal(text(), json!({"subject": "contact", "category": "contact.phone"})),
        "address": personal(
            json!({"type": "object", "properties": {"street": text(), "postal_code": text(), "city": text(), "country": text()}}),
            json!({"subject": "contact", "category": "contact.address"})),
    });
    let contact_subject = json!({"contact": {"id": "/contact_id"}});
    let cart = json!({"product_id": text(), "order_id": text(), "user_id": text(), "timestamp": time()});
    let user = json!({"user": {"id": "/user_id"}});
    let ids = json!({"type": "array", "items": {"type": "string"}});
    let order = json!({"order_id": text(), "user_id": text(), "product_ids": ids, "timestamp": time()});
    let cart_required = ["product_id", "order_id", "user_id", "timestamp"];
    vec![
        (
            "contact-created",
            schema(&contact_subject, &["account_id", "contact_id", "name", "email", "phone", "address"], &contact),
        ),
        ("contact-edited", schema(&contact_subject, &["account_id", "contact_id"], &contact)),
        ("product-added-to-cart", schema(&user, &cart_required, &cart)),
        ("product-removed-from-cart", schema(&user, &cart_required, &cart)),
        ("order-placed", schema(&user, &["order_id", "user_id", "product_ids", "timestamp"], &order)),
        ("payment-made", payment_schema()),
        ("booking-made", booking_schema()),
    ]
}

fn payment_schema() -> Value {
    let text = || json!({"type": "string"});
    let of = |role: &str, category: &str| json!({"subject": role, "category": category, "purposes": ["payments"]});
    let iban = |role: &str| {
        let mut mark = of(role, "financial.iban");
        mark["placeholder"] = json!("Deleted due to {article} GDPR request on {date}");
        personal(text(), mark)
    };
    let both = json!({"subjects": ["payer", "payee"], "category": "free_text", "purposes": ["payments"]});
    let properties = json!({
        "payment_id": text(), "payer_id": text(), "payee_id": text(),
        "payer_name": personal(text(), of("payer", "name")), "payer_iban": iban("payer"),
        "payee_name": personal(text(), of("payee", "name")), "payee_iban": iban("payee"),
        "reference": personal(text(), both),
        "amount_cents": {"type": "integer"}, "currency": text(),
        "timestamp": {"type": "string", "format": "date-time"},
    });
    let subjects = json!({"payer": {"id": "/payer_id"}, "payee": {"id": "/payee_id"}});
    schema(&subjects, &["payment_id", "payer_id", "payee_id", "amount_cents", "timestamp"], &properties)
}

fn booking_schema() -> Value {
    let text = || json!({"type": "string"});
    let diet = json!({"subject": "guest", "category": "health.diet", "special": true, "placeholder": "unknown"});
    let guest = json!({
        "person_id": text(), "name": personal(text(), json!({"subject": "guest", "category": "name"})),
        "diet": personal(text(), diet),
    });
    let guests = json!({"type": "array", "items": {
        "type": "object", "additionalProperties": false, "required": ["person_id"], "properties": guest}});
    let properties = json!({
        "booking_id": text(), "nights": {"type": "integer"}, "guests": guests,
        "timestamp": {"type": "string", "format": "date-time"},
    });
    let subjects = json!({"guest": {"id": "/guests/*/person_id"}});
    schema(&subjects, &["booking_id", "guests", "timestamp"], &properties)
}

fn schema(subjects: &Value, required: &[&str], properties: &Value) -> Value {
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": false,
        "x-data-subjects": subjects, "required": required, "properties": properties,
    })
}

fn personal(mut schema: Value, mark: Value) -> Value {
    schema["x-personal-data"] = mark;
    schema
}
