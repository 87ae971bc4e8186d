//! Everything random in the simulator grows from one number.
//!
//! Each purpose gets a stream of its own, labelled by name, so that the order in which
//! accounts are created or clients connect does not change anybody's keys.

use rand::SeedableRng as _;
use rand_chacha::ChaCha20Rng;
use sha2::{Digest as _, Sha256};

/// Root of all randomness of one simulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(u64);

impl Seed {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// An independent stream for `label`; the same seed and label give the same stream.
    pub(crate) fn stream(self, label: &str) -> ChaCha20Rng {
        ChaCha20Rng::from_seed(self.digest(label))
    }

    /// A number for components that take a plain seed.
    pub(crate) fn number(self, label: &str) -> u64 {
        let digest = self.digest(label);
        let mut head = [0u8; 8];
        head.copy_from_slice(&digest[..8]);
        u64::from_be_bytes(head)
    }

    fn digest(self, label: &str) -> [u8; 32] {
        let mut hasher = Sha256::new();
        hasher.update(b"trunkline-simulator");
        hasher.update(self.0.to_be_bytes());
        hasher.update(label.as_bytes());
        hasher.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::Rng as _;

    #[test]
    fn streams_depend_on_seed_and_label_only() {
        let draw = |seed: u64, label: &str| Seed::new(seed).stream(label).next_u64();
        assert_eq!(draw(7, "a"), draw(7, "a"));
        assert_ne!(draw(7, "a"), draw(7, "b"));
        assert_ne!(draw(7, "a"), draw(8, "a"));
        assert_eq!(Seed::new(7).number("x"), Seed::new(7).number("x"));
    }
}
