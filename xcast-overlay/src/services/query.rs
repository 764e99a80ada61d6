//! Questions for services.

use std::str::FromStr;

use thiserror::Error;

use super::{
    entry::{Entry, Service},
    keys::{
        MIN_PREFIX, PIECE, beginning, by_mechanism, by_piece, by_prefix, by_word, kind_in_cell,
        pieces, words_of,
    },
};
use crate::{
    id::Id,
    places::{self, Area, Place, PlaceError},
};

/// A question. All of its parts have to hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Query {
    /// Only this mechanism, in small letters.
    pub mechanism: Option<String>,
    /// Each matches a word of the description.
    pub text: Vec<Pattern>,
    /// Only in this area.
    pub area: Option<Area>,
}

/// A word, or one with `*` where anything may be: `directory`, `dir*`, `*rect*`, `d*y`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// What is between asterisks, in small letters.
    literals: Vec<String>,
}

/// Why a question cannot be asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum QueryError {
    /// There is nothing to look under.
    #[error("question names no mechanism, area or text")]
    Empty,
    /// A pattern has too few characters in a row.
    #[error("pattern {0} needs two characters at its beginning or three in a row elsewhere")]
    TooVague(String),
    /// A pattern is more than a word.
    #[error("pattern {0} is not one word: give each word by itself")]
    NotAWord(String),
    /// The area cannot be covered.
    #[error("area: {0}")]
    Area(#[from] PlaceError),
}

impl FromStr for Pattern {
    type Err = QueryError;

    fn from_str(text: &str) -> Result<Self, QueryError> {
        let literals: Vec<String> = text.split('*').map(str::to_lowercase).collect();
        let word = literals
            .iter()
            .all(|part| part.chars().all(char::is_alphanumeric));
        let pattern = Self { literals };
        if !word || text.is_empty() {
            return Err(QueryError::NotAWord(text.to_owned()));
        }
        match pattern.key() {
            Some(_) => Ok(pattern),
            None => Err(QueryError::TooVague(text.to_owned())),
        }
    }
}

impl Pattern {
    /// Whether it matches a word in small letters.
    pub fn matches(&self, word: &str) -> bool {
        let [first, rest @ ..] = self.literals.as_slice() else {
            return false;
        };
        let [middle @ .., last] = rest else {
            return first == word;
        };
        let Some(mut left) = word.strip_prefix(first.as_str()) else {
            return false;
        };
        for part in middle {
            let Some((_, after)) = left.split_once(part.as_str()) else {
                return false;
            };
            left = after;
        }
        left.ends_with(last.as_str())
    }

    /// The key to look under, and how much it says: the number of characters.
    fn key(&self) -> Option<(usize, Id)> {
        let [first, rest @ ..] = self.literals.as_slice() else {
            return None;
        };
        if rest.is_empty() {
            // A whole word says more than any part of one.
            return (!first.is_empty()).then(|| (usize::MAX, by_word(first)));
        }
        let prefix = beginning(first);
        let prefix = match prefix.chars().count() {
            length if length >= MIN_PREFIX => Some((length, by_prefix(&prefix))),
            _ => None,
        };
        let piece = self.literals.iter().flat_map(|part| pieces(part)).next();
        let piece = piece.map(|piece| (PIECE, by_piece(&piece)));
        prefix
            .into_iter()
            .chain(piece)
            .max_by_key(|(length, _)| *length)
    }
}

impl Query {
    /// The keys to look under: the cells of the area, at most `most_cells`; or else the pattern that
    /// says most; or else the mechanism.
    ///
    /// # Errors
    ///
    /// If there is nothing to look under, or the area is too large.
    pub fn keys(&self, most_cells: usize) -> Result<Vec<Id>, QueryError> {
        if let Some(area) = &self.area {
            let kind = kind_in_cell(self.mechanism.as_deref());
            let cells = area.cells(most_cells)?;
            return Ok(cells
                .into_iter()
                .map(|cell| places::key(cell, &kind))
                .collect());
        }
        let best = self
            .text
            .iter()
            .filter_map(Pattern::key)
            .max_by_key(|(length, _)| *length);
        let by_type = || self.mechanism.as_deref().map(by_mechanism);
        let key = best
            .map(|(_, key)| key)
            .or_else(by_type)
            .ok_or(QueryError::Empty)?;
        Ok(vec![key])
    }

    /// Whether a service is what is asked for.
    pub fn matches(&self, service: &Service) -> bool {
        let words = words_of(service);
        let in_area = |area: &Area| service.place.is_some_and(|place| area.contains(place));
        self.mechanism
            .as_ref()
            .is_none_or(|mechanism| *mechanism == service.mechanism)
            && self
                .text
                .iter()
                .all(|p| words.iter().any(|word| p.matches(word)))
            && self.area.as_ref().is_none_or(in_area)
    }

    /// Of what was found, what is asked for: the latest of each entry, none that has expired, the
    /// nearest first if `near` is given.
    pub fn choose(
        &self,
        found: impl IntoIterator<Item = Entry>,
        now_unix_s: i64,
        near: Option<Place>,
    ) -> Vec<Entry> {
        let mut entries: Vec<Entry> = found
            .into_iter()
            .filter(|entry| entry.expires_unix_s > now_unix_s && self.matches(&entry.service))
            .collect();
        entries.sort_by_key(|entry| (entry.publisher(), entry.name(), -entry.seq));
        entries.dedup_by_key(|entry| (entry.publisher(), entry.name()));
        if let Some(near) = near {
            let distance = |entry: &Entry| {
                entry
                    .service
                    .place
                    .map_or(f64::INFINITY, |place| place.distance_m(near))
            };
            entries.sort_by(|one, other| distance(one).total_cmp(&distance(other)));
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        krpc::signing_key,
        services::keys::{Keys, MAX_KEYS},
    };

    fn service(mechanism: &str, name: &str, place: Option<(f64, f64)>) -> Service {
        Service {
            mechanism: mechanism.into(),
            uri: format!(
                "{mechanism}://{}.example.org",
                name.to_lowercase().replace(' ', "-")
            ),
            attributes: BTreeMap::from([("name".into(), name.into())]),
            place: place.and_then(|(latitude, longitude)| Place::new(latitude, longitude).ok()),
        }
    }

    fn text(pattern: &str) -> Query {
        let pattern = pattern.parse().expect("a pattern");
        Query {
            text: vec![pattern],
            ..Query::default()
        }
    }

    #[test]
    fn patterns() {
        for (pattern, word, matches) in [
            ("directory", "directory", true),
            ("Directory", "directory", true),
            ("directory", "directories", false),
            ("dir*", "directory", true),
            ("dir*", "dir", true),
            ("dir*", "indirect", false),
            ("*rect*", "directory", true),
            ("*tory", "directory", true),
            ("di*ory", "directory", true),
            ("di*ory", "dory", false),
            ("abc*abc", "abc", false),
            ("straße*", "straßenbahn", true),
        ] {
            let parsed: Pattern = pattern.parse().expect(pattern);
            assert_eq!(parsed.matches(word), matches, "{pattern} {word}");
        }
        for vague in ["*", "d*", "*ab*", "a*b", "**"] {
            assert_eq!(
                vague.parse::<Pattern>(),
                Err(QueryError::TooVague(vague.into()))
            );
        }
        assert_eq!(
            "two words".parse::<Pattern>(),
            Err(QueryError::NotAWord("two words".into()))
        );
        assert_eq!(
            "".parse::<Pattern>(),
            Err(QueryError::NotAWord(String::new()))
        );
    }

    /// What matches is stored where the question looks.
    #[test]
    fn what_matches_is_found_under_the_questions_keys() {
        let service = service("ldap", "Staff directory of Example", Some((52.52, 13.405)));
        let Keys { keys, left_out } = Keys::of(&service);
        assert!(keys.len() <= MAX_KEYS);
        println!("{} keys, {left_out} left out", keys.len());
        let berlin = service.place.expect("a place");
        let area = |radius_m| {
            let area = Some(Area::Circle {
                place: berlin,
                radius_m,
            });
            Query {
                mechanism: Some("ldap".into()),
                area,
                ..Query::default()
            }
        };
        let by_type = Query {
            mechanism: Some("ldap".into()),
            ..Query::default()
        };
        let anything_near = Query {
            mechanism: None,
            ..area(50_000.0)
        };
        for query in [
            by_type,
            text("staff"),
            text("dir*"),
            text("directo*"),
            text("*irec*"),
            text("d*ect*"),
            area(10.0),
            area(50_000.0),
            area(400_000.0),
            anything_near,
        ] {
            assert!(query.matches(&service), "{query:?}");
            let looks = query.keys(16).expect("keys");
            assert!(looks.iter().any(|key| keys.contains(key)), "{query:?}");
        }
        assert_eq!(Query::default().keys(16), Err(QueryError::Empty));
        assert!(!text("slapd").matches(&service));
    }

    #[test]
    fn the_nearest_within_fifty_kilometres() {
        let key = signing_key([1; 32]);
        let sign = |service: Service, seq, expires| {
            Entry::sign(&key, service, seq, expires).expect("an entry")
        };
        let potsdam = service("ldap", "Potsdam", Some((52.4, 13.06)));
        let found = vec![
            sign(service("ldap", "Hamburg", Some((53.55, 9.99))), 1, 100),
            sign(potsdam.clone(), 1, 100),
            sign(potsdam, 2, 100),
            sign(service("ldap", "Mitte", Some((52.52, 13.4))), 1, 100),
            sign(service("slp", "Mitte", Some((52.52, 13.4))), 1, 100),
            sign(service("ldap", "Yesterday", Some((52.52, 13.4))), 1, 50),
            sign(service("ldap", "Nowhere", None), 1, 100),
        ];
        let berlin = Place::new(52.52, 13.405).expect("a place");
        let query = Query {
            mechanism: Some("ldap".into()),
            area: Some(Area::Circle {
                place: berlin,
                radius_m: 50_000.0,
            }),
            text: Vec::new(),
        };
        let chosen = query.choose(found, 60, Some(berlin));
        let names: Vec<(&str, i64)> = chosen
            .iter()
            .map(|entry| (entry.service.attributes["name"].as_str(), entry.seq))
            .collect();
        assert_eq!(names, [("Mitte", 1), ("Potsdam", 2)]);
    }
}
