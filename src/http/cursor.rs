//! Paging cursors: opaque, authenticated, bound to caller and query, valid for a day.
//!
//! A cursor holds a revision or position and nothing else; it is authenticated so that nobody builds one for a query
//! that was never allowed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::problem::Problem;
use crate::clock::Millis;
use crate::domain;
use crate::secret::Secret32;

const VALID_MS: i64 = 24 * 3600 * 1000;

/// Makes the cursor of the next page.
pub fn issue(key: &Secret32, principal: &str, query: &str, next: &str, now: Millis) -> String {
    let expires = (now.0 + VALID_MS).to_be_bytes();
    let tag = tag(key, principal, query, next, expires);
    let mut bytes = Vec::with_capacity(24 + next.len());
    bytes.extend_from_slice(&tag[..16]);
    bytes.extend_from_slice(&expires);
    bytes.extend_from_slice(next.as_bytes());
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Reads a cursor that this server issued to this caller for this query.
///
/// # Errors
/// 400 `invalid-parameter`, whatever is wrong with it.
pub fn read(key: &Secret32, principal: &str, query: &str, cursor: &str, now: Millis) -> Result<String, Problem> {
    let refuse = || Problem::parameter("cursor", "is not one of this query, or older than a day");
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| refuse())?;
    let (given, rest) = bytes.split_at_checked(16).ok_or_else(refuse)?;
    let (expires, next) = rest.split_first_chunk::<8>().ok_or_else(refuse)?;
    let next = std::str::from_utf8(next).map_err(|_| refuse())?;
    let wanted = tag(key, principal, query, next, *expires);
    let valid = bool::from(wanted[..16].ct_eq(given)) && now.0 < i64::from_be_bytes(*expires);
    if valid { Ok(next.to_owned()) } else { Err(refuse()) }
}

fn tag(key: &Secret32, principal: &str, query: &str, next: &str, expires: [u8; 8]) -> [u8; 32] {
    let text = domain::lp(&[domain::CURSOR, principal.as_bytes(), query.as_bytes(), next.as_bytes(), &expires]);
    let mut mac = <Hmac<Sha256> as KeyInit>::new_from_slice(key.expose()).expect("HMAC takes keys of any length");
    mac.update(&text);
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bound_to_everything() {
        let key = Secret32::generate().unwrap();
        let cursor = issue(&key, "ak_1", "q", "42", Millis(0));
        assert_eq!(read(&key, "ak_1", "q", &cursor, Millis(5)).unwrap(), "42");
        assert!(read(&key, "ak_2", "q", &cursor, Millis(5)).is_err());
        assert!(read(&key, "ak_1", "p", &cursor, Millis(5)).is_err());
        assert!(read(&key, "ak_1", "q", &cursor, Millis(VALID_MS)).is_err());
        for at in 0..cursor.len() {
            let mut bent = cursor.clone().into_bytes();
            bent[at] = if bent[at] == b'A' { b'B' } else { b'A' };
            let bent = String::from_utf8(bent).unwrap();
            assert!(bent == cursor || read(&key, "ak_1", "q", &bent, Millis(5)).is_err());
        }
    }
}
