//! The encrypted channel after the handshake: one cipher and one counter per direction.

use bytes::BytesMut;
use wacore::framing;
use wacore::handshake::NoiseCipher;
use wacore_binary::{Node, OwnedNodeRef, marshal_to_vec};

/// Encrypts stanzas towards the client.
pub(crate) struct Sealer {
    cipher: NoiseCipher,
    counter: u32,
}

/// Decrypts frames from the client.
pub(crate) struct Opener {
    cipher: NoiseCipher,
    counter: u32,
}

/// Why a frame of an established channel could not be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The frame does not decrypt: the two sides have lost step or the key is wrong.
    #[error("frame {counter} does not decrypt")]
    Decrypt { counter: u32 },
    /// It decrypts, but is not a stanza.
    #[error("frame {counter} is not a stanza: {reason}")]
    Malformed { counter: u32, reason: String },
}

/// Why a stanza could not be put on the wire.
#[derive(Debug, thiserror::Error)]
#[error("cannot encode stanza: {0}")]
pub(crate) struct SealError(String);

impl Sealer {
    pub(super) fn new(cipher: NoiseCipher) -> Self {
        Self { cipher, counter: 0 }
    }

    /// One complete frame, length prefix included.
    pub(crate) fn seal(&mut self, node: &Node) -> Result<Vec<u8>, SealError> {
        let failed = |e: &dyn std::fmt::Display| SealError(e.to_string());
        let mut plain = Vec::new();
        marshal_to_vec(node, &mut plain).map_err(|e| failed(&e))?;
        self.cipher
            .encrypt_in_place_with_counter(self.counter, &mut plain)
            .map_err(|e| failed(&e))?;
        self.counter = self.counter.wrapping_add(1);
        framing::encode_frame(&plain, None).map_err(|e| failed(&e))
    }
}

impl Opener {
    pub(super) fn new(cipher: NoiseCipher) -> Self {
        Self { cipher, counter: 0 }
    }

    /// The stanza inside one frame (without its length prefix).
    pub(crate) fn open(&mut self, mut frame: BytesMut) -> Result<Node, OpenError> {
        let counter = self.counter;
        self.cipher
            .decrypt_in_place_with_counter(counter, &mut frame)
            .map_err(|_| OpenError::Decrypt { counter })?;
        self.counter = self.counter.wrapping_add(1);
        let malformed = |e: &dyn std::fmt::Display| OpenError::Malformed {
            counter,
            reason: e.to_string(),
        };
        let plain = wacore_binary::util::unpack_bytes(frame).map_err(|e| malformed(&e))?;
        OwnedNodeRef::new(plain)
            .map(|node| node.to_owned_node())
            .map_err(|e| malformed(&e))
    }
}
