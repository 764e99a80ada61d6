//! Keys under which a service is stored.

use std::collections::BTreeSet;

use super::entry::Service;
use crate::{id::Id, places};

/// Most keys of an entry.
pub const MAX_KEYS: usize = 64;
/// Longest beginning of a word that is a key, in characters.
const MAX_PREFIX: usize = 6;
/// Shortest beginning of a word that is a key, in characters.
pub(super) const MIN_PREFIX: usize = 2;
/// Length of the pieces of a word that are keys, in characters.
pub(super) const PIECE: usize = 3;

/// The keys of a service, the most useful first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// At most [`MAX_KEYS`].
    pub keys: Vec<Id>,
    /// How many more there would be: what they stand for is not found by them.
    pub left_out: usize,
}

impl Keys {
    /// Under which keys a service is stored: its mechanism; its place, for this mechanism and for
    /// any; each word of its mechanism, URI and attributes; then beginnings of words, and their
    /// pieces.
    pub fn of(service: &Service) -> Self {
        let words = words_of(service);
        let mut keys = vec![by_mechanism(&service.mechanism)];
        for cell in service.place.iter().flat_map(|place| place.cells()) {
            keys.push(places::key(cell, &kind_in_cell(Some(&service.mechanism))));
            keys.push(places::key(cell, &kind_in_cell(None)));
        }
        keys.extend(words.iter().map(|word| by_word(word)));
        keys.extend(
            words
                .iter()
                .flat_map(|word| prefixes(word))
                .map(|prefix| by_prefix(&prefix)),
        );
        keys.extend(
            words
                .iter()
                .flat_map(|word| pieces(word))
                .map(|piece| by_piece(&piece)),
        );
        let mut seen = BTreeSet::new();
        keys.retain(|key| seen.insert(*key));
        let left_out = keys.len().saturating_sub(MAX_KEYS);
        keys.truncate(MAX_KEYS);
        Self { keys, left_out }
    }
}

/// The key of all services of a mechanism.
pub(super) fn by_mechanism(mechanism: &str) -> Id {
    Id::hash_of(&[b"xcast service type 1", mechanism.as_bytes()])
}

/// The kind of things in a cell: services of one mechanism, or of any.
pub(super) fn kind_in_cell(mechanism: Option<&str>) -> Vec<u8> {
    ["service ", mechanism.unwrap_or("*")].concat().into_bytes()
}

/// The key of all services with this word.
pub(super) fn by_word(word: &str) -> Id {
    Id::hash_of(&[b"xcast service word 1", word.as_bytes()])
}

/// The key of all services with a word that begins so.
pub(super) fn by_prefix(prefix: &str) -> Id {
    Id::hash_of(&[b"xcast service prefix 1", prefix.as_bytes()])
}

/// The key of all services with a word in which this piece is.
pub(super) fn by_piece(piece: &str) -> Id {
    Id::hash_of(&[b"xcast service piece 1", piece.as_bytes()])
}

/// The words of everything in a description, in small letters.
pub(super) fn words_of(service: &Service) -> BTreeSet<String> {
    let attributes = service
        .attributes
        .iter()
        .flat_map(|(name, value)| [name, value]);
    [&service.mechanism, &service.uri]
        .into_iter()
        .chain(attributes)
        .flat_map(|t| words(t))
        .collect()
}

fn words(text: &str) -> impl Iterator<Item = String> + '_ {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase)
}

/// The beginning of a text: so many characters, or fewer.
pub(super) fn beginning(text: &str) -> String {
    text.chars().take(MAX_PREFIX).collect()
}

fn prefixes(word: &str) -> Vec<String> {
    let length = word.chars().count().min(MAX_PREFIX);
    (MIN_PREFIX..=length)
        .map(|length| word.chars().take(length).collect())
        .collect()
}

pub(super) fn pieces(word: &str) -> Vec<String> {
    let characters: Vec<char> = word.chars().collect();
    characters
        .windows(PIECE)
        .map(|piece| piece.iter().collect())
        .collect()
}
