//! Bencoding (BEP 3): a reader that borrows, and a writer of canonical form.
//!
//! The reader keeps the octets of each value as they came, because BEP 44 hashes and signs them so.
//! It takes integers and lengths in their only canonical form. Dictionaries whose keys are not in
//! order, or come twice, are read, and [`Bencoded::is_canonical`] tells them. Nothing it is given makes
//! it panic, and depth is bounded.

use bytes::{Bytes, BytesMut};
use thiserror::Error;

use crate::runtime::{Body, Segment};

/// Deepest nesting that is read.
pub const MAX_DEPTH: usize = 32;

/// Why octets are not bencoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BencodeError {
    /// They end before the value does.
    #[error("bencoding is truncated at octet {0}")]
    Truncated(usize),
    /// An octet begins no value.
    #[error("no bencoded value begins at octet {0}")]
    NoValue(usize),
    /// An integer is not in canonical form, or needs more than 64 bits.
    #[error("integer at octet {0} is not canonical or too large")]
    Integer(usize),
    /// A string's length is not in canonical form.
    #[error("length at octet {0} is not canonical or too large")]
    Length(usize),
    /// Lists and dictionaries are nested more than [`MAX_DEPTH`] deep.
    #[error("bencoding is nested more than {MAX_DEPTH} deep at octet {0}")]
    Depth(usize),
    /// Octets follow the value.
    #[error("octets follow the bencoded value at octet {0}")]
    Trailing(usize),
}

/// A value, with the octets it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bencoded<'a> {
    /// The octets as they came.
    pub raw: &'a [u8],
    /// What they mean.
    pub value: Value<'a>,
    canonical: bool,
}

/// A bencoded value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value<'a> {
    /// A whole number.
    Integer(i64),
    /// An octet string.
    Octets(&'a [u8]),
    /// A list.
    List(Vec<Bencoded<'a>>),
    /// A dictionary, in the order it came.
    Dict(Vec<(&'a [u8], Bencoded<'a>)>),
}

impl<'a> Bencoded<'a> {
    /// Reads the one value that all of `input` is.
    pub fn read(input: &'a [u8]) -> Result<Self, BencodeError> {
        let mut reader = Reader { input, at: 0 };
        let item = reader.item(0)?;
        if reader.at == input.len() {
            Ok(item)
        } else {
            Err(BencodeError::Trailing(reader.at))
        }
    }

    /// Whether keys of all dictionaries are in order and come once.
    pub fn is_canonical(&self) -> bool {
        self.canonical
    }

    /// The value of a key, if this is a dictionary that has it.
    pub fn key(&self, key: &[u8]) -> Option<&Self> {
        match &self.value {
            Value::Dict(entries) => entries
                .iter()
                .find(|(name, _)| *name == key)
                .map(|(_, item)| item),
            _ => None,
        }
    }

    /// The octet string, if it is one.
    pub fn octets(&self) -> Option<&'a [u8]> {
        match self.value {
            Value::Octets(octets) => Some(octets),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn integer(&self) -> Option<i64> {
        match self.value {
            Value::Integer(integer) => Some(integer),
            _ => None,
        }
    }

    /// The list, if it is one.
    pub fn list(&self) -> Option<&[Self]> {
        match &self.value {
            Value::List(list) => Some(list),
            _ => None,
        }
    }

    /// Whether it is a dictionary.
    pub fn is_dict(&self) -> bool {
        matches!(self.value, Value::Dict(_))
    }
}

struct Reader<'a> {
    input: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Result<u8, BencodeError> {
        self.input
            .get(self.at)
            .copied()
            .ok_or(BencodeError::Truncated(self.at))
    }

    fn item(&mut self, depth: usize) -> Result<Bencoded<'a>, BencodeError> {
        let start = self.at;
        if depth > MAX_DEPTH {
            return Err(BencodeError::Depth(start));
        }
        let mut canonical = true;
        let value = match self.peek()? {
            b'i' => {
                self.at += 1;
                Value::Integer(self.integer()?)
            }
            b'0'..=b'9' => Value::Octets(self.octets()?),
            b'l' => {
                self.at += 1;
                let mut list = Vec::new();
                while !self.end()? {
                    let item = self.item(depth + 1)?;
                    canonical &= item.canonical;
                    list.push(item);
                }
                Value::List(list)
            }
            b'd' => {
                self.at += 1;
                let mut entries: Vec<(&[u8], Bencoded<'_>)> = Vec::new();
                while !self.end()? {
                    let key = self.octets()?;
                    let item = self.item(depth + 1)?;
                    canonical &=
                        item.canonical && entries.last().is_none_or(|(before, _)| *before < key);
                    entries.push((key, item));
                }
                Value::Dict(entries)
            }
            _ => return Err(BencodeError::NoValue(start)),
        };
        Ok(Bencoded {
            raw: &self.input[start..self.at],
            value,
            canonical,
        })
    }

    fn end(&mut self) -> Result<bool, BencodeError> {
        let end = self.peek()? == b'e';
        self.at += usize::from(end);
        Ok(end)
    }

    /// The digits up to `stop`, which is passed over.
    fn digits(&mut self, stop: u8, error: BencodeError) -> Result<&'a str, BencodeError> {
        let start = self.at;
        // More digits than 64 bits need are an error anyway.
        while self.peek()? != stop {
            let sign = self.at == start && self.input[self.at] == b'-';
            if !(sign || self.input[self.at].is_ascii_digit()) || self.at - start > 20 {
                return Err(error);
            }
            self.at += 1;
        }
        let digits = &self.input[start..self.at];
        self.at += 1;
        std::str::from_utf8(digits).map_err(|_| error)
    }

    fn integer(&mut self) -> Result<i64, BencodeError> {
        let error = BencodeError::Integer(self.at);
        let digits = self.digits(b'e', error)?;
        let canonical = digits == "0" || !digits.trim_start_matches('-').starts_with('0');
        if canonical {
            digits.parse().map_err(|_| error)
        } else {
            Err(error)
        }
    }

    fn octets(&mut self) -> Result<&'a [u8], BencodeError> {
        let error = BencodeError::Length(self.at);
        if !self.peek()?.is_ascii_digit() {
            return Err(error);
        }
        let digits = self.digits(b':', error)?;
        if digits.len() > 1 && digits.starts_with('0') {
            return Err(error);
        }
        let len: usize = digits.parse().map_err(|_| error)?;
        let end = self.at.checked_add(len).ok_or(error)?;
        let octets = self
            .input
            .get(self.at..end)
            .ok_or(BencodeError::Truncated(self.at))?;
        self.at = end;
        Ok(octets)
    }
}

/// Writes bencoding, in pieces: what all receivers share, and what is each receiver's own.
///
/// The caller writes keys of a dictionary in order; debug builds check it by reading back, unless
/// octets of somebody else are in it.
#[derive(Debug, Default)]
pub struct Writer {
    segments: Vec<Segment>,
    current: BytesMut,
    has_raw: bool,
}

impl Writer {
    /// Writes an octet string.
    pub fn octets(&mut self, octets: &[u8]) {
        self.number(octets.len() as i64);
        self.current.extend_from_slice(b":");
        self.current.extend_from_slice(octets);
    }

    /// Writes an integer.
    pub fn integer(&mut self, integer: i64) {
        self.current.extend_from_slice(b"i");
        self.number(integer);
        self.current.extend_from_slice(b"e");
    }

    /// Writes what is bencoded already.
    pub fn raw(&mut self, bencoded: &[u8]) {
        self.has_raw = true;
        self.current.extend_from_slice(bencoded);
    }

    /// Writes an octet string for each receiver.
    pub fn own_octets(&mut self, strings: &[Bytes]) {
        self.close_segment();
        let own = strings.iter().map(|octets| {
            let mut writer = Self::default();
            writer.octets(octets);
            writer.current.freeze()
        });
        self.segments.push(Segment::Own(own.collect()));
    }

    /// Writes a dictionary.
    pub fn dict(&mut self, entries: impl FnOnce(&mut Self)) {
        self.current.extend_from_slice(b"d");
        entries(self);
        self.current.extend_from_slice(b"e");
    }

    /// Writes a list.
    pub fn list(&mut self, items: impl FnOnce(&mut Self)) {
        self.current.extend_from_slice(b"l");
        items(self);
        self.current.extend_from_slice(b"e");
    }

    /// Writes a key and an octet string.
    pub fn key_octets(&mut self, key: &str, octets: &[u8]) {
        self.octets(key.as_bytes());
        self.octets(octets);
    }

    /// Writes a key and an integer.
    pub fn key_integer(&mut self, key: &str, integer: i64) {
        self.octets(key.as_bytes());
        self.integer(integer);
    }

    /// What was written.
    pub fn finish(mut self) -> Body {
        self.close_segment();
        let body = Body::new(self.segments);
        debug_assert!(
            self.has_raw || Bencoded::read(&body.datagram(0)).is_ok_and(|item| item.is_canonical()),
            "written in an order that is not canonical: {body:?}"
        );
        body
    }

    fn close_segment(&mut self) {
        if !self.current.is_empty() {
            self.segments
                .push(Segment::Shared(self.current.split().freeze()));
        }
    }

    fn number(&mut self, number: i64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = number.unsigned_abs();
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        if number < 0 {
            self.current.extend_from_slice(b"-");
        }
        self.current.extend_from_slice(&digits[at..]);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Tree {
        Integer(i64),
        Octets(Vec<u8>),
        List(Vec<Self>),
        Dict(std::collections::BTreeMap<Vec<u8>, Self>),
    }

    fn tree() -> impl Strategy<Value = Tree> {
        let leaf = prop_oneof![
            any::<i64>().prop_map(Tree::Integer),
            prop::collection::vec(any::<u8>(), 0..20).prop_map(Tree::Octets),
        ];
        leaf.prop_recursive(5, 60, 6, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Tree::List),
                prop::collection::btree_map(prop::collection::vec(any::<u8>(), 0..6), inner, 0..6)
                    .prop_map(Tree::Dict),
            ]
        })
    }

    fn write(tree: &Tree, writer: &mut Writer) {
        match tree {
            Tree::Integer(integer) => writer.integer(*integer),
            Tree::Octets(octets) => writer.octets(octets),
            Tree::List(list) => writer.list(|w| list.iter().for_each(|item| write(item, w))),
            Tree::Dict(dict) => writer.dict(|w| {
                for (key, item) in dict {
                    w.octets(key);
                    write(item, w);
                }
            }),
        }
    }

    fn same(tree: &Tree, item: &Bencoded<'_>) -> bool {
        match (tree, &item.value) {
            (Tree::Integer(a), Value::Integer(b)) => a == b,
            (Tree::Octets(a), Value::Octets(b)) => a == b,
            (Tree::List(a), Value::List(b)) => {
                a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b))
            }
            (Tree::Dict(a), Value::Dict(b)) => {
                a.len() == b.len()
                    && a.iter()
                        .zip(b)
                        .all(|((ka, a), (kb, b))| ka == kb && same(a, b))
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(tree in tree()) {
            let mut writer = Writer::default();
            write(&tree, &mut writer);
            let written = writer.finish().datagram(0);
            let item = Bencoded::read(&written).expect("written in canonical form");
            prop_assert!(same(&tree, &item));
            prop_assert!(item.is_canonical());
            prop_assert_eq!(item.raw, &written[..]);
            for end in 0..written.len() {
                prop_assert!(Bencoded::read(&written[..end]).is_err());
            }
        }

        /// Mostly octets that mean something in bencoding, so that it gets far.
        #[test]
        fn nothing_makes_it_panic(input in prop::collection::vec(
            prop_oneof![4 => prop::sample::select(b"dlie0123456789:-".to_vec()), 1 => any::<u8>()],
            0..200,
        )) {
            if let Ok(item) = Bencoded::read(&input) {
                prop_assert_eq!(item.raw, &input[..]);
            }
        }
    }

    #[test]
    fn only_canonical_numbers() {
        for bad in [
            "i-0e",
            "i00e",
            "i01e",
            "ie",
            "i-e",
            "i--1e",
            "i1",
            "i9223372036854775808e",
            "01:a",
            "-1:a",
            "2:a",
            "1:ab",
            "99999999999999999999:",
            "x",
            "",
            "i+1e",
            "d1:ae",
            "di1e1:ae",
        ] {
            assert!(Bencoded::read(bad.as_bytes()).is_err(), "{bad}");
        }
        assert_eq!(
            Bencoded::read(b"i-9223372036854775808e").map(|i| i.integer()),
            Ok(Some(i64::MIN))
        );
    }

    #[test]
    fn order_of_keys_is_told() {
        for (text, canonical) in [
            ("d1:a0:1:b0:e", true),
            ("d1:b0:1:a0:e", false),
            ("d1:a0:1:a0:e", false),
            ("ld1:b0:1:a0:ee", false),
        ] {
            let item = Bencoded::read(text.as_bytes()).expect(text);
            assert_eq!(item.is_canonical(), canonical, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |levels: usize| [b"l".repeat(levels), b"e".repeat(levels)].concat();
        assert!(Bencoded::read(&deep(MAX_DEPTH)).is_ok());
        assert!(matches!(
            Bencoded::read(&deep(100_000)),
            Err(BencodeError::Depth(_))
        ));
    }
}
