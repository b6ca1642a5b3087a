//! Evidence: what an auditor can check without trusting the server.

pub mod checkpoint;
