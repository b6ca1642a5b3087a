//! `oubliette bench`.

pub mod driver;
pub mod histogram;
pub mod response;
