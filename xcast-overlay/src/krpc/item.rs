//! What BEP 44 stores: immutable items, and mutable ones with a signature.

use bytes::Bytes;
pub use ed25519_dalek::SigningKey;
use ed25519_dalek::{Signer as _, VerifyingKey};

use super::{
    bencode::Bencoded,
    error::{ErrorCode, QueryError},
};
use crate::id::Id;

/// Longest value, bencoded, in octets (BEP 44).
pub const MAX_VALUE_OCTETS: usize = 1000;
/// Longest salt in octets (BEP 44).
pub const MAX_SALT_OCTETS: usize = 64;

/// An item: a value, and who signed it if it is mutable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The value, bencoded, octet for octet as its author wrote it.
    pub value: Bytes,
    /// Who signed it; `None` for an immutable item.
    pub signed: Option<Signed>,
}

/// What makes an item mutable: it is found under its author's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signed {
    /// The author's Ed25519 public key.
    pub key: [u8; 32],
    /// Which of the author's items it is; may be empty.
    pub salt: Bytes,
    /// The larger, the newer.
    pub seq: i64,
    /// Over salt, sequence number and value.
    pub signature: Signature,
}

/// An Ed25519 signature.
pub type Signature = [u8; 64];

/// The Ed25519 key of a secret of 32 octets (RFC 8032).
pub fn signing_key(secret: [u8; 32]) -> SigningKey {
    SigningKey::from_bytes(&secret)
}

impl Item {
    /// An immutable item: found under the hash of its value.
    pub fn immutable(value: impl Into<Bytes>) -> Self {
        Self {
            value: value.into(),
            signed: None,
        }
    }

    /// A mutable item, signed.
    pub fn sign(
        key: &SigningKey,
        salt: impl Into<Bytes>,
        seq: i64,
        value: impl Into<Bytes>,
    ) -> Self {
        let (salt, value) = (salt.into(), value.into());
        let signature = key.sign(&signed_octets(&salt, seq, &value)).to_bytes();
        let key = key.verifying_key().to_bytes();
        Self {
            value,
            signed: Some(Signed {
                key,
                salt,
                seq,
                signature,
            }),
        }
    }

    /// Where it is found: SHA-1 of the value, or of key and salt.
    pub fn target(&self) -> Id {
        match &self.signed {
            None => Id::hash_of(&[&self.value]),
            Some(signed) => Self::mutable_target(&signed.key, &signed.salt),
        }
    }

    /// Where mutable items of this key and salt are found.
    pub fn mutable_target(key: &[u8; 32], salt: &[u8]) -> Id {
        Id::hash_of(&[key, salt])
    }

    /// The sequence number of a mutable item.
    pub fn seq(&self) -> Option<i64> {
        self.signed.as_ref().map(|signed| signed.seq)
    }

    /// Checks what a node must check before it stores, or believes, an item: that the value is
    /// bencoded in canonical form, lengths, and the signature.
    ///
    /// # Errors
    ///
    /// The error to answer a `put` with.
    pub fn check(&self) -> Result<(), QueryError> {
        if self.value.len() > MAX_VALUE_OCTETS {
            return Err(QueryError::new(
                ErrorCode::ValueTooLong,
                format!(
                    "v has {} octets; at most {MAX_VALUE_OCTETS} are stored",
                    self.value.len()
                ),
            ));
        }
        match Bencoded::read(&self.value) {
            Ok(value) if value.is_canonical() => {}
            Ok(_) => {
                return Err(QueryError::new(
                    ErrorCode::Protocol,
                    "keys of a dictionary in v are not in order",
                ));
            }
            Err(error) => {
                return Err(QueryError::new(ErrorCode::Protocol, format!("v: {error}")));
            }
        }
        let Some(signed) = &self.signed else {
            return Ok(());
        };
        if signed.salt.len() > MAX_SALT_OCTETS {
            return Err(QueryError::new(
                ErrorCode::SaltTooLong,
                format!(
                    "salt has {} octets; at most {MAX_SALT_OCTETS} may be",
                    signed.salt.len()
                ),
            ));
        }
        if signed.seq < 0 {
            return Err(QueryError::new(ErrorCode::Protocol, "seq is negative"));
        }
        let invalid = |_| QueryError::new(ErrorCode::InvalidSignature, "invalid signature");
        let key = VerifyingKey::from_bytes(&signed.key).map_err(invalid)?;
        let octets = signed_octets(&signed.salt, signed.seq, &self.value);
        let signature = ed25519_dalek::Signature::from_bytes(&signed.signature);
        key.verify_strict(&octets, &signature).map_err(invalid)
    }
}

/// What is signed (BEP 44, "Signature verification"): an empty salt is as none.
fn signed_octets(salt: &[u8], seq: i64, value: &[u8]) -> Vec<u8> {
    let mut octets = Vec::with_capacity(salt.len() + value.len() + 48);
    if !salt.is_empty() {
        octets.extend_from_slice(format!("4:salt{}:", salt.len()).as_bytes());
        octets.extend_from_slice(salt);
    }
    octets.extend_from_slice(format!("3:seqi{seq}e1:v").as_bytes());
    octets.extend_from_slice(value);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;
    use ed25519_dalek::hazmat::{ExpandedSecretKey, raw_sign};

    fn hex<const N: usize>(text: &str) -> [u8; N] {
        std::array::from_fn(|at| {
            u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal digits")
        })
    }

    const VALUE: &[u8] = b"12:Hello World!";
    const PUBLIC: &str = "77ff84905a91936367c01360803104f92432fcd904a43511876df5cdf3e7e548";
    const PRIVATE: &str = "e06d3183d14159228433ed599221b80bd0a5ce8352e4bdf0262f76786ef1c74d\
                           b7e7a9fea2c0eb269d61e3b38e450a22e754941ac78479d6c54e1faf6037881d";

    fn vector(salt: &'static [u8], signature: &str) -> Item {
        let signed = Signed {
            key: hex(PUBLIC),
            salt: Bytes::from_static(salt),
            seq: 1,
            signature: hex(signature),
        };
        Item {
            value: Bytes::from_static(VALUE),
            signed: Some(signed),
        }
    }

    /// The private key of BEP 44 is the expanded form, so signing takes it as it is.
    fn signs_the_same(item: &Item) {
        let signed = item.signed.as_ref().expect("a mutable item");
        let secret = ExpandedSecretKey::from_bytes(&hex(PRIVATE));
        let key = VerifyingKey::from_bytes(&signed.key).expect("a key");
        let octets = signed_octets(&signed.salt, signed.seq, &item.value);
        let signature = raw_sign::<ed25519_dalek::Sha512>(&secret, &octets, &key);
        assert_eq!(signature.to_bytes(), signed.signature);
    }

    #[test]
    fn bep_44_test_1() {
        let item = vector(
            b"",
            "305ac8aeb6c9c151fa120f120ea2cfb923564e11552d06a5d856091e5e853cff\
             1260d3f39e4999684aa92eb73ffd136e6f4f3ecbfda0ce53a1608ecd7ae21f01",
        );
        assert_eq!(item.check(), Ok(()));
        assert_eq!(signed_octets(b"", 1, VALUE), b"3:seqi1e1:v12:Hello World!");
        assert_eq!(
            item.target().to_string(),
            "4a533d47ec9c7d95b1ad75f576cffc641853b750"
        );
        signs_the_same(&item);
    }

    #[test]
    fn bep_44_test_2() {
        let item = vector(
            b"foobar",
            "6834284b6b24c3204eb2fea824d82f88883a3d95e8b4a21b8c0ded553d17d17d\
             df9a8a7104b1258f30bed3787e6cb896fca78c58f8e03b5f18f14951a87d9a08",
        );
        assert_eq!(item.check(), Ok(()));
        let octets = signed_octets(b"foobar", 1, VALUE);
        assert_eq!(octets, b"4:salt6:foobar3:seqi1e1:v12:Hello World!");
        assert_eq!(
            item.target().to_string(),
            "411eba73b6f087ca51a3795d9c8c938d365e32c1"
        );
        signs_the_same(&item);
    }

    #[test]
    fn bep_44_test_3() {
        let item = Item::immutable(VALUE);
        assert_eq!(item.check(), Ok(()));
        assert_eq!(
            item.target().to_string(),
            "e5f96f6f38320f0f33959cb4d3d656452117aadb"
        );
    }

    #[test]
    fn what_is_not_stored() {
        let code = |item: &Item| item.check().map_err(|error| error.code);
        let key = signing_key([1; 32]);
        let item = Item::sign(&key, "salt", 7, VALUE);
        assert_eq!(code(&item), Ok(()));
        let change = |change: &dyn Fn(&mut Item, &mut Signed)| {
            let mut item = item.clone();
            let mut signed = item.signed.take().expect("signed");
            change(&mut item, &mut signed);
            item.signed = Some(signed);
            code(&item)
        };
        let invalid = Err(ErrorCode::InvalidSignature);
        assert_eq!(change(&|_, signed| signed.seq = 8), invalid);
        assert_eq!(change(&|_, signed| signed.salt = "salts".into()), invalid);
        assert_eq!(change(&|_, signed| signed.signature[5] ^= 1), invalid);
        assert_eq!(change(&|item, _| item.value = "5:other".into()), invalid);
        assert_eq!(
            change(&|_, signed| signed.salt = vec![b'a'; 65].into()),
            Err(ErrorCode::SaltTooLong)
        );
        let long = [format!("{}:", 997).as_bytes(), &[b'a'; 997]].concat();
        assert_eq!(code(&Item::immutable(long)), Err(ErrorCode::ValueTooLong));
        let most = [format!("{}:", 996).as_bytes(), &[b'a'; 996]].concat();
        assert_eq!(most.len(), MAX_VALUE_OCTETS);
        assert_eq!(code(&Item::immutable(most)), Ok(()));
        assert_eq!(
            code(&Item::immutable("d1:b0:1:a0:e")),
            Err(ErrorCode::Protocol)
        );
        assert_eq!(code(&Item::immutable("no")), Err(ErrorCode::Protocol));
    }
}
