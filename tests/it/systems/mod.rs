//! The example systems under `examples/systems`, played against a real server.
//!
//! Owns: which systems there are, and what every script must contain. How a script is played is in `runner`; what it
//! means is in `examples/systems/README.md`.

mod runner;
mod script;

use runner::{Mode, play};
use script::{Line, System};

/// Plays the script while the projections follow it; then again with the projections defined after the last event.
async fn check(name: &str) {
    let system = System::read(name);
    let count = |kind: fn(&Line) -> bool| system.script.iter().filter(|line| kind(line)).count();
    assert!(count(|line| matches!(line, Line::Forget { .. })) >= 2, "{name}: forget in the middle and after");
    assert!(count(|line| matches!(line, Line::Rebuild { .. })) >= 2, "{name}: rebuild in the end and after");
    assert!(matches!(system.script.last(), Some(Line::Expect { .. })), "{name}: a script ends with what is expected");
    play(&system, Mode::Following).await;
    play(&system, Mode::CatchingUp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crm() {
    check("crm").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_email_process() {
    check("emails").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shopping_cart() {
    check("carts").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bank_card() {
    check("cards").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_balance_of_a_bank_card() {
    check("card_balance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn telematics() {
    check("telematics").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transfers_between_two_people() {
    check("transfers").await;
}

/// Every directory is a test.
#[test]
fn no_system_is_left_out() {
    assert_eq!(script::names(), ["card_balance", "cards", "carts", "crm", "emails", "telematics", "transfers"]);
}
