//! Sealing: personal data into envelopes and out of them.

pub mod commit;
pub mod envelope;
