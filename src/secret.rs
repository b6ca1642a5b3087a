//! Secret bytes and randomness.
//!
//! Owns: the fixed-size boxed secret, and the only source of random bytes. Must not know: what a secret is for.
//! Keeps invariant 12: a secret cannot be cloned, printed or serialised, and is zeroised when dropped. The bytes live
//! in one heap allocation from birth to drop, so that moving the owner never leaves a copy on a stack.

use std::sync::Mutex;

use rand::TryRng;
use rand::rngs::SysRng;
use zeroize::{Zeroize, ZeroizeOnDrop};

/// 32 secret bytes in one boxed allocation, zeroised on drop.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret32(Box<[u8; 32]>);

impl Secret32 {
    /// Fresh bytes straight from the operating system's generator.
    pub fn generate() -> Result<Self, EntropyError> {
        Self::init_with(|bytes| SysRng.try_fill_bytes(bytes).map_err(|_| EntropyError))
    }

    /// Builds the secret in place: `fill` writes into the final allocation.
    pub fn init_with<E>(fill: impl FnOnce(&mut [u8; 32]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self(Box::new([0; 32]));
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// The bytes, for the length of one computation.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl std::fmt::Debug for Secret32 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("[secret]")
    }
}

/// The operating system gave no random bytes. Nothing is sealed without them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the operating system's random generator failed")]
pub struct EntropyError;

/// Random bytes for nonces, salts and ids, drawn from the operating system in blocks.
///
/// A system call per nonce costs more than the cipher itself, so a few independently locked blocks of 4 KiB are kept;
/// bytes handed out are zeroed in the block at once. Keys never come from here but from [`Secret32::generate`].
pub struct Entropy {
    blocks: [Mutex<Block>; 4],
    turn: std::sync::atomic::AtomicUsize,
}

struct Block {
    bytes: Box<[u8; 4096]>,
    left: usize,
}

impl Entropy {
    /// The system's generator behind empty blocks.
    pub fn system() -> Self {
        let block = || Mutex::new(Block { bytes: Box::new([0; 4096]), left: 0 });
        Self { blocks: [block(), block(), block(), block()], turn: std::sync::atomic::AtomicUsize::new(0) }
    }

    /// `N` fresh random bytes, `N` at most 4096.
    pub fn draw<const N: usize>(&self) -> Result<[u8; N], EntropyError> {
        let turn = self.turn.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // A poisoned lock only means that another thread stopped half-way; the block is refilled, never reused.
        let mut block = match self.blocks[turn % self.blocks.len()].lock() {
            Ok(block) => block,
            Err(poisoned) => {
                let mut block = poisoned.into_inner();
                block.left = 0;
                block
            }
        };
        if block.left < N {
            SysRng.try_fill_bytes(&mut *block.bytes).map_err(|_| EntropyError)?;
            block.left = block.bytes.len();
        }
        let end = block.left;
        let mut out = [0; N];
        out.copy_from_slice(&block.bytes[end - N..end]);
        block.bytes[end - N..end].zeroize();
        block.left = end - N;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_do_not_print() {
        let secret = Secret32::generate().unwrap();
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn entropy_never_repeats_a_draw() {
        let entropy = Entropy::system();
        let mut seen = std::collections::HashSet::new();
        for _ in 0..10_000 {
            assert!(seen.insert(entropy.draw::<12>().unwrap()));
        }
    }
}
