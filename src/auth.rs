//! Who may do what: roles, permissions, API keys.
//!
//! Owns: the role matrix and the fold of issued and revoked keys. Must not know: HTTP, storage, personal data. Keys are
//! 256 random bits, so a plain SHA-256 is all that is kept of them; comparison is in constant time.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::clock::Millis;
use crate::event::{Category, EventType, Purpose, StreamName};
use crate::secret::{EntropyError, Secret32};

/// A role. A key may have several.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Manages keys, schemas and settings; can never read personal data.
    Admin,
    /// Reads proofs, the access log and redacted events; can change nothing.
    Auditor,
    /// Data-protection officer.
    Dpo,
    /// Reads personal data for granted purposes.
    PiiReader,
    /// Reads events with personal data withheld.
    Reader,
    /// Appends.
    Writer,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [Self::Admin, Self::Auditor, Self::Dpo, Self::PiiReader, Self::Reader, Self::Writer];

    /// The word used in requests and answers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Auditor => "auditor",
            Self::Dpo => "dpo",
            Self::PiiReader => "pii_reader",
            Self::Reader => "reader",
            Self::Writer => "writer",
        }
    }
}

/// Something a request needs to be allowed to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permission {
    /// Acknowledge that a mark of personal data goes away, or lift an erasure.
    AcknowledgePrivacy,
    /// Append events.
    Append,
    /// Approve, reject or cancel a forget request.
    ApproveForget,
    /// Define, change, rebuild, pause and remove projections.
    ChangeProjections,
    /// Change schemas and categories.
    ChangeSchemas,
    /// Find events by data subject.
    FindBySubject,
    /// Issue and revoke API keys.
    ManageApiKeys,
    /// See the access log of one person.
    ReadAccessLog,
    /// See the whole access log.
    ReadAccessLogOfAll,
    /// List API keys, without secrets.
    ReadApiKeys,
    /// Try a definition on stored events.
    PreviewProjections,
    /// Make backups.
    MakeBackups,
    /// Read checkpoints and proofs.
    ReadAudit,
    /// List backups.
    ReadBackups,
    /// Read events, personal data withheld.
    ReadEvents,
    /// See any forget request. (Whoever opened one sees that one.)
    ReadForgetRequests,
    /// Counts and epochs of keys.
    ReadKeys,
    /// Read personal values.
    ReadPersonal,
    /// Read definitions and status of projections.
    ReadProjections,
    /// Read schemas, categories and the inventory of personal data.
    ReadSchemas,
    /// Read the system's own streams.
    ReadSystem,
    /// Open a forget request.
    RequestForget,
    /// Begin an epoch of root keys.
    RotateKeys,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 23] = [
        Self::AcknowledgePrivacy,
        Self::Append,
        Self::ApproveForget,
        Self::ChangeProjections,
        Self::ChangeSchemas,
        Self::FindBySubject,
        Self::ManageApiKeys,
        Self::MakeBackups,
        Self::ReadAccessLog,
        Self::ReadAccessLogOfAll,
        Self::PreviewProjections,
        Self::ReadApiKeys,
        Self::ReadAudit,
        Self::ReadBackups,
        Self::ReadEvents,
        Self::ReadForgetRequests,
        Self::ReadKeys,
        Self::ReadPersonal,
        Self::ReadProjections,
        Self::ReadSchemas,
        Self::ReadSystem,
        Self::RequestForget,
        Self::RotateKeys,
    ];

    /// The roles that have it: the matrix of `docs/threat-model.md`.
    pub fn roles(self) -> &'static [Role] {
        use Role::{Admin, Auditor, Dpo, PiiReader, Reader, Writer};
        match self {
            Self::AcknowledgePrivacy | Self::ApproveForget => &[Dpo],
            Self::Append => &[Writer],
            Self::ChangeProjections
            | Self::ChangeSchemas
            | Self::MakeBackups
            | Self::ManageApiKeys
            | Self::RotateKeys => &[Admin],
            Self::FindBySubject | Self::ReadPersonal => &[PiiReader, Dpo],
            Self::ReadAccessLogOfAll => &[Auditor],
            Self::ReadApiKeys => &[Admin, Auditor],
            Self::ReadAudit | Self::ReadProjections => &Role::ALL,
            Self::ReadEvents => &[Writer, Reader, PiiReader, Dpo, Auditor],
            Self::PreviewProjections => &[Reader, PiiReader, Dpo],
            Self::ReadBackups | Self::ReadForgetRequests | Self::ReadKeys => &[Dpo, Auditor, Admin],
            Self::ReadSchemas => &[Reader, PiiReader, Dpo, Auditor, Admin],
            Self::ReadAccessLog | Self::ReadSystem => &[Dpo, Auditor],
            Self::RequestForget => &[Writer, Dpo],
        }
    }
}

/// The purposes for which a key may read personal values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum PurposeGrant {
    /// Every purpose: only the key of `--dev` has it. Written `"*"`.
    All(Star),
    /// These.
    These(Vec<String>),
}

/// The text `*`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Star {
    /// `*`.
    #[serde(rename = "*")]
    Star,
}

/// What a key allows, as issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Roles; at least one.
    pub roles: Vec<Role>,
    /// Categories it is confined to; empty for all.
    #[serde(default)]
    pub categories: Vec<String>,
    /// Event types it is confined to; empty for all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Purposes for which personal values may be read.
    #[serde(default = "no_purposes")]
    pub purposes: PurposeGrant,
    /// When the key stops working; RFC 3339.
    #[serde(default)]
    pub expires_at: Option<String>,
}

fn no_purposes() -> PurposeGrant {
    PurposeGrant::These(Vec::new())
}

/// A fact about API keys: the payload of a system event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "kebab-case")]
pub enum ApiKeyRecord {
    /// A key was issued.
    ApiKeyIssued {
        /// Public id.
        id: String,
        /// Name given by the administrator.
        name: String,
        /// SHA-256 of the secret, hexadecimal.
        sha256: String,
        /// What it allows.
        grant: Grant,
        /// Who issued it.
        by: String,
    },
    /// A key was revoked.
    ApiKeyRevoked {
        /// Public id.
        id: String,
        /// Who revoked it.
        by: String,
    },
}

/// An authenticated caller.
#[derive(Clone, Debug)]
pub struct Principal {
    /// Public id of the key, `ak_…`.
    pub id: String,
    /// Name of the key.
    pub name: String,
    /// What the key allows.
    pub grant: Grant,
}

impl Principal {
    /// Whether one of the roles has the permission.
    pub fn may(&self, permission: Permission) -> bool {
        self.grant.roles.iter().any(|role| permission.roles().contains(role))
    }

    /// Whether the key has a role.
    pub fn has(&self, role: Role) -> bool {
        self.grant.roles.contains(&role)
    }

    /// Whether the key reaches a category.
    pub fn reaches(&self, category: &Category) -> bool {
        let scoped = &self.grant.categories;
        scoped.is_empty() || scoped.iter().any(|known| known == category.as_str())
    }

    /// Whether the key reaches a stream: its category, or a system stream for those who may read them.
    pub fn reaches_stream(&self, stream: &StreamName) -> bool {
        if stream.is_system() { self.may(Permission::ReadSystem) } else { self.reaches(&stream.category()) }
    }

    /// Whether the key reaches an event type.
    pub fn reaches_type(&self, event_type: &EventType) -> bool {
        self.grant.types.is_empty() || self.grant.types.iter().any(|known| known == event_type.as_str())
    }

    /// Whether the key is confined to some categories or types.
    pub fn is_confined(&self) -> bool {
        !self.grant.categories.is_empty() || !self.grant.types.is_empty()
    }

    /// Whether personal values may be read for a purpose.
    pub fn may_read_for(&self, purpose: &str) -> bool {
        match &self.grant.purposes {
            PurposeGrant::All(_) => true,
            PurposeGrant::These(list) => list.iter().any(|known| known == purpose),
        }
    }
}

/// Why an issue request is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// No role.
    #[error("a key needs at least one role")]
    NoRole,
    /// A category, type or purpose that is not a valid name.
    #[error("{kind} number {index} is not a valid name")]
    Name {
        /// `category`, `type` or `purpose`.
        kind: &'static str,
        /// Index in the list.
        index: usize,
    },
    /// `*` as purpose.
    #[error("purposes have to be named one by one")]
    EveryPurpose,
    /// An expiry that is not RFC 3339.
    #[error("the expiry is not an RFC 3339 time")]
    Expiry,
}

impl Grant {
    /// Whether it has expired.
    fn is_over(&self, now: Millis) -> bool {
        self.expires_at.as_deref().and_then(Millis::parse_rfc3339).is_some_and(|at| now >= at)
    }

    /// Checks a grant handed in by an administrator.
    ///
    /// # Errors
    /// The first broken rule.
    pub fn validate(&self) -> Result<(), GrantError> {
        let names = |kind, list: &[String], valid: fn(&str) -> bool| {
            list.iter().position(|text| !valid(text)).map_or(Ok(()), |index| Err(GrantError::Name { kind, index }))
        };
        if self.roles.is_empty() {
            return Err(GrantError::NoRole);
        }
        names("category", &self.categories, |text| Category::parse(text).is_ok())?;
        names("type", &self.types, |text| EventType::parse(text).is_ok())?;
        match &self.purposes {
            PurposeGrant::All(_) => return Err(GrantError::EveryPurpose),
            PurposeGrant::These(list) => names("purpose", list, |text| Purpose::parse(text).is_ok())?,
        }
        match &self.expires_at {
            Some(text) if Millis::parse_rfc3339(text).is_none() => Err(GrantError::Expiry),
            _ => Ok(()),
        }
    }
}

/// A freshly made secret and the fact to record. The secret is shown once and never stored.
pub struct Issued {
    /// What the caller will send: `oub_` and 43 characters of base64url.
    pub secret: String,
    /// The record.
    pub record: ApiKeyRecord,
}

/// Makes a key.
///
/// # Errors
/// [`EntropyError`] when the system gives no random bytes.
pub fn issue(name: String, grant: Grant, by: &str) -> Result<Issued, EntropyError> {
    let random = Secret32::generate()?;
    let secret = format!("oub_{}", URL_SAFE_NO_PAD.encode(random.expose()));
    let hash = digest(&secret);
    let id = format!("ak_{}", hex::encode(&digest(&hex::encode(hash))[..8]));
    let record = ApiKeyRecord::ApiKeyIssued { id, name, sha256: hex::encode(hash), grant, by: by.to_owned() };
    Ok(Issued { secret, record })
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

/// The issued keys: a fold of [`ApiKeyRecord`]s.
#[derive(Default)]
pub struct ApiKeys {
    by_hash: RwLock<HashMap<[u8; 32], Arc<Principal>>>,
}

impl ApiKeys {
    /// Adds the key `dev` with every role and purpose. Only for `--dev`.
    pub fn allow_dev(&self) {
        let grant = Grant {
            roles: Role::ALL.to_vec(),
            categories: Vec::new(),
            types: Vec::new(),
            purposes: PurposeGrant::All(Star::Star),
            expires_at: None,
        };
        let principal = Principal { id: "ak_dev".into(), name: "dev".into(), grant };
        self.write().insert(digest("dev"), Arc::new(principal));
    }

    /// Applies a record.
    pub fn apply(&self, record: &ApiKeyRecord) {
        match record {
            ApiKeyRecord::ApiKeyIssued { id, name, sha256, grant, .. } => {
                let mut hash = [0; 32];
                if hex::decode_to_slice(sha256, &mut hash).is_ok() {
                    let principal = Principal { id: id.clone(), name: name.clone(), grant: grant.clone() };
                    self.write().insert(hash, Arc::new(principal));
                }
            }
            ApiKeyRecord::ApiKeyRevoked { id, .. } => self.write().retain(|_, principal| principal.id != *id),
        }
    }

    /// Whom a secret belongs to, if it is valid now.
    pub fn authenticate(&self, secret: &str, now: Millis) -> Option<Arc<Principal>> {
        let presented = digest(secret);
        let keys = self.by_hash.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let (hash, principal) = keys.get_key_value(&presented)?;
        let same = bool::from(hash.ct_eq(&presented));
        (same && !principal.grant.is_over(now)).then(|| Arc::clone(principal))
    }

    /// Whether a key that was valid still is: for answers that take long.
    pub fn is_valid(&self, principal: &Principal, now: Millis) -> bool {
        let keys = self.by_hash.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        keys.values().any(|key| key.id == principal.id) && !principal.grant.is_over(now)
    }

    /// Every key, by id.
    pub fn list(&self) -> Vec<Arc<Principal>> {
        let keys = self.by_hash.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut list: Vec<_> = keys.values().cloned().collect();
        list.sort_by(|a, b| a.id.cmp(&b.id));
        list
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<[u8; 32], Arc<Principal>>> {
        self.by_hash.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(roles: &[Role]) -> Grant {
        Grant {
            roles: roles.to_vec(),
            categories: vec!["contact".into()],
            types: vec![],
            purposes: PurposeGrant::These(vec!["crm".into()]),
            expires_at: Some("2030-01-01T00:00:00Z".into()),
        }
    }

    #[test]
    fn the_two_sentences_of_the_matrix() {
        assert!(!Permission::ReadPersonal.roles().contains(&Role::Admin), "admin cannot read personal data");
        for changing in [
            Permission::Append,
            Permission::ApproveForget,
            Permission::ChangeSchemas,
            Permission::ManageApiKeys,
            Permission::RotateKeys,
            Permission::RequestForget,
            Permission::AcknowledgePrivacy,
        ] {
            assert!(!changing.roles().contains(&Role::Auditor), "auditor cannot change anything");
        }
    }

    #[test]
    fn keys_live_from_issue_to_revocation_or_expiry() {
        let keys = ApiKeys::default();
        let issued = issue("crm".into(), grant(&[Role::Writer]), "ak_root").unwrap();
        keys.apply(&issued.record);
        let now = Millis::parse_rfc3339("2026-01-01T00:00:00Z").unwrap();
        let principal = keys.authenticate(&issued.secret, now).unwrap();
        assert!(principal.may(Permission::Append) && !principal.may(Permission::ReadPersonal));
        assert!(principal.reaches(&Category::parse("contact").unwrap()));
        assert!(!principal.reaches(&Category::parse("card").unwrap()));
        assert!(principal.may_read_for("crm") && !principal.may_read_for("marketing"));
        assert!(keys.authenticate(&issued.secret, Millis::parse_rfc3339("2030-01-01T00:00:00Z").unwrap()).is_none());
        assert!(keys.authenticate("dev", now).is_none());
        keys.apply(&ApiKeyRecord::ApiKeyRevoked { id: principal.id.clone(), by: "x".into() });
        assert!(keys.authenticate(&issued.secret, now).is_none());
    }

    #[test]
    fn records_round_trip_and_hold_no_secret() {
        let issued = issue("crm".into(), grant(&[Role::PiiReader]), "ak_root").unwrap();
        let text = serde_json::to_string(&issued.record).unwrap();
        assert!(!text.contains(&issued.secret));
        assert_eq!(serde_json::from_str::<ApiKeyRecord>(&text).unwrap(), issued.record);
    }

    #[test]
    fn grants_are_checked() {
        let mut bad = grant(&[]);
        assert_eq!(bad.validate(), Err(GrantError::NoRole));
        bad.roles = vec![Role::Reader];
        assert_eq!(bad.validate(), Ok(()));
        bad.purposes = PurposeGrant::All(Star::Star);
        assert_eq!(bad.validate(), Err(GrantError::EveryPurpose));
    }
}
