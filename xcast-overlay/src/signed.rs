//! Octets with a signature, and what it is for.

use bytes::Bytes;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use crate::krpc::{
    Signature,
    bencode::{Bencoded, Writer},
};

/// What a signature is for: one for a member's record is none for an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A member's record.
    Record,
    /// A subscription.
    Subscription,
    /// An event.
    Event,
    /// A message of a stream.
    Stream,
    /// A pulse of a stream's source.
    Pulse,
    /// The description of a service.
    Service,
}

/// Octets that their author has signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Signed {
    /// What is signed, bencoded.
    pub body: Bytes,
    /// The author's Ed25519 public key.
    pub key: [u8; 32],
    /// Over purpose, overlay and body.
    pub signature: Signature,
}

impl Signed {
    pub(crate) fn new(key: &SigningKey, purpose: Purpose, overlay: &[u8], body: Bytes) -> Self {
        let signature = key.sign(&signed_octets(purpose, overlay, &body)).to_bytes();
        Self {
            body,
            key: key.verifying_key().to_bytes(),
            signature,
        }
    }

    /// Whether the key's owner has signed this for this purpose and overlay.
    pub(crate) fn is_valid(&self, purpose: Purpose, overlay: &[u8]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.key) else {
            return false;
        };
        let signature = ed25519_dalek::Signature::from_bytes(&self.signature);
        let octets = signed_octets(purpose, overlay, &self.body);
        key.verify_strict(&octets, &signature).is_ok()
    }

    pub(crate) fn read(item: &Bencoded<'_>, datagram: &Bytes) -> Option<Self> {
        let octets = |key: &[u8]| item.key(key).and_then(Bencoded::octets);
        Some(Self {
            body: datagram.slice_ref(octets(b"b")?),
            key: octets(b"k")?.try_into().ok()?,
            signature: octets(b"s")?.try_into().ok()?,
        })
    }

    pub(crate) fn write(&self, w: &mut Writer) {
        w.dict(|w| {
            w.key_octets("b", &self.body);
            w.key_octets("k", &self.key);
            w.key_octets("s", &self.signature);
        });
    }
}

fn signed_octets(purpose: Purpose, overlay: &[u8], body: &[u8]) -> Vec<u8> {
    let purpose: &[u8] = match purpose {
        Purpose::Record => b"xcast record 1",
        Purpose::Subscription => b"xcast subscription 1",
        Purpose::Event => b"xcast event 1",
        Purpose::Stream => b"xcast stream 1",
        Purpose::Pulse => b"xcast pulse 1",
        Purpose::Service => b"xcast service 1",
    };
    let mut octets = format!("{}:", overlay.len()).into_bytes();
    octets.splice(0..0, purpose.iter().copied());
    octets.extend_from_slice(overlay);
    octets.extend_from_slice(body);
    octets
}
