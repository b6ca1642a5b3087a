//! What a check found: places and facts, never values.
//!
//! Must not know: how any of it is found.

use crate::event::Position;

/// What a check found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Events looked at.
    pub events: u64,
    /// Slots of these events.
    pub slots: u64,
    /// Slots that were opened and hold what they are committed to.
    pub opened: u64,
    /// Slots behind a fence.
    pub erased: u64,
    /// What is wrong, in the order found.
    pub findings: Vec<Finding>,
    /// Findings beyond the limit.
    pub omitted: u64,
}

impl Report {
    /// Whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty() && self.omitted == 0
    }
}

/// One thing that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub defect: Defect,
}

/// Where something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the row that says where the log ends.
    Head,
    /// In the keystore as a whole.
    Keystore,
    /// In the event at this position.
    Event(Position),
    /// In one slot of an event.
    Slot(Position, u16),
    /// In the record of decisions.
    Decisions,
    /// In this entry of the erasure record.
    Erasure(u64),
    /// In a kept node of the tree: level, number within the level.
    Node(u8, u64),
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Head => f.write_str("end of the log"),
            Self::Keystore => f.write_str("keystore"),
            Self::Decisions => f.write_str("record of decisions"),
            Self::Event(position) => write!(f, "event {}", position.0),
            Self::Slot(position, slot) => write!(f, "event {}, slot {slot}", position.0),
            Self::Erasure(number) => write!(f, "erasure {number}"),
            Self::Node(level, number) => write!(f, "node {number} of level {level} of the tree"),
        }
    }
}

/// What can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// Positions are not dense: from here on at least one event is missing.
    #[error("an event is missing")]
    Missing,
    /// The row cannot be read as an event.
    #[error("the event cannot be read")]
    Unreadable,
    /// Recorded before the event that precedes it.
    #[error("the recorded time goes back")]
    TimeWentBack,
    /// Not the revision that follows in its stream.
    #[error("the revision does not follow")]
    Revision,
    /// There are salts, but not two.
    #[error("the salts are malformed")]
    SaltsMalformed,
    /// Not a list of hashes for metadata, public part and slots.
    #[error("the commitments are malformed")]
    CommitmentsMalformed,
    /// The metadata is not what was committed to.
    #[error("the metadata contradicts its commitment")]
    MetaCommitment,
    /// The public part is not what was committed to.
    #[error("the public part contradicts its commitment")]
    PublicCommitment,
    /// The leaf is not that of the event.
    #[error("the leaf is not that of the event")]
    Leaf,
    /// The metadata is not in the format.
    #[error("the metadata is malformed")]
    MetaMalformed,
    /// Metadata, commitments and envelopes speak of different numbers of slots.
    #[error("the numbers of slots contradict each other")]
    SlotCount,
    /// The sealed column is not a list of envelopes.
    #[error("the sealed column is malformed")]
    SealedMalformed,
    /// A recorded offset does not lead to a hole or a pseudonym.
    #[error("a recorded offset leads nowhere")]
    Hole,
    /// The registry does not know the event's schema.
    #[error("the schema version is not registered")]
    SchemaUnknown,
    /// A sealed field is personal neither by the schema nor by a mark of the event.
    #[error("a sealed field is not marked")]
    FieldUnmarked,
    /// The event names a person, the footprint does not say so.
    #[error("the footprint lacks an entry")]
    FootprintMissing,
    /// The footprint names a person whom the event does not.
    #[error("the footprint has an entry too many")]
    FootprintExtra,
    /// No fence covers the slot, and its ciphertext is gone.
    #[error("the ciphertext is missing without an erasure")]
    CiphertextMissing,
    /// The request says that all its ciphertext is gone.
    #[error("ciphertext is there that was said to be removed")]
    CiphertextLeft,
    /// The envelope names another key than the slot's.
    #[error("the key id is not that of the slot's key")]
    KeyId,
    /// No fence covers the slot, and its key was never there.
    #[error("the key is unknown")]
    KeyUnknown,
    /// No fence covers the slot, and its key is destroyed.
    #[error("the key is destroyed without an erasure")]
    KeyDestroyed,
    /// The stored key is not one that the keystore wrapped for this person and purpose.
    #[error("the key is damaged, or another one was put in its place")]
    KeyDamaged,
    /// The external id of a person who is named in the event cannot be opened.
    #[error("the external id of somebody named in it is damaged, or its key is")]
    IdDamaged,
    /// The erasure is complete, and the key is still there.
    #[error("the key survived a completed erasure")]
    KeyAlive,
    /// The erasure is complete, and nothing says that there was a key.
    #[error("the tombstone of the key is missing")]
    TombstoneMissing,
    /// The slot's key does not open it for this event.
    #[error("the slot does not open")]
    DoesNotOpen,
    /// The clear text is not what was committed to.
    #[error("the slot contradicts its commitment")]
    SlotCommitment,
    /// The clear text has other fields than the metadata says.
    #[error("the slot holds other fields")]
    SlotFields,
    /// The number of events is not the size of the tree, or the next position is not.
    #[error("the size of the tree is not the number of events")]
    TreeSize,
    /// The leaves do not lead to the edge of the tree.
    #[error("the leaves lead to another root")]
    TreeRoot,
    /// A kept node of the tree is not that of its leaves.
    #[error("the kept hash is not that of the leaves")]
    TreeNode,
    /// Schemas, keys and projections do not follow from their events.
    #[error("it cannot be replayed; schemas were not looked at")]
    DecisionsUnreadable,
    /// The log ends before this event.
    #[error("the event is behind the end of the log")]
    BeyondHead,
    /// The log has fewer events than a checkpoint that was kept.
    #[error("the log is shorter than the kept checkpoint")]
    CheckpointAhead,
    /// The log began otherwise when a checkpoint that was kept was signed.
    #[error("the log contradicts the kept checkpoint")]
    CheckpointContradicted,
    /// The log ended before its last event.
    #[error("the head is older than the last event")]
    HeadTime,
    /// Fewer fences counted than erasures recorded.
    #[error("the erasure epoch is behind the erasure record")]
    ErasureEpoch,
    /// Numbers of the erasure record are not dense.
    #[error("an entry of the erasure record is missing")]
    ErasureMissing,
    /// The digest chain breaks here.
    #[error("the digest of the erasure record does not follow")]
    ErasureDigest,
    /// An event says that an erasure began, and the record has no such entry.
    #[error("a fenced erasure is not in the record")]
    ErasureUnrecorded,
    /// The record speaks of another person, scope or basis than the request.
    #[error("the erasure record contradicts the request")]
    ErasureContradicts,
    /// No fence is in force for an entry of the record.
    #[error("the fence of an erasure is missing")]
    FenceMissing,
    /// The stream of the request is missing or does not fold.
    #[error("the forget request cannot be read")]
    RequestUnreadable,
    /// The record says complete and the request does not, or the reverse.
    #[error("record and request disagree about completion")]
    Completion,
    /// The keystore applied an erasure that the log does not have.
    #[error("the keystore is ahead of the erasure record")]
    KeystoreAhead,
}
