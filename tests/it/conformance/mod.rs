//! Trait suites: each behaviour written once, mounted on every engine.

pub mod epochs;
pub mod epochs_astray;
pub mod eventlog;
pub mod keystore;
pub mod keystore_faults;
pub mod natural_keys;
pub mod remanence;

/// What a destruction did, without the number under which other processes are told, which is another one each time.
pub fn lasting(done: oubliette::keystore::Destruction) -> oubliette::keystore::Destruction {
    oubliette::keystore::Destruction { revocation: 0, ..done }
}
