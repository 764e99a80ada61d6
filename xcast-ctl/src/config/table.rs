//! Kernel routing tables by number or by name, as iproute2 has them.

use std::{fs, path::PathBuf};

use serde::{Deserialize, Deserializer, de::Error as _};

/// Where iproute2 has the names of tables, the first that is there, and further ones.
const NAMES: [&str; 3] = [
    "/etc/iproute2/rt_tables",
    "/usr/share/iproute2/rt_tables",
    "/usr/lib/iproute2/rt_tables",
];
const MORE_NAMES: &str = "/etc/iproute2/rt_tables.d";

#[derive(Deserialize)]
#[serde(untagged, expecting = "a routing table's number, or its name")]
enum Table {
    Number(u32),
    Name(String),
}

/// A table's number.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    match Table::deserialize(deserializer)? {
        Table::Number(number) => Ok(Some(number)),
        Table::Name(name) => match number_of(&name) {
            Some(number) => Ok(Some(number)),
            None => Err(D::Error::custom(format!(
                "no routing table is called {name:?}: give its number, or give it the name with a line \
                 like \"100 {name}\" in {}",
                NAMES[0]
            ))),
        },
    }
}

fn number_of(name: &str) -> Option<u32> {
    let more = fs::read_dir(MORE_NAMES).into_iter().flatten().flatten();
    let more = more.map(|entry| entry.path());
    let more = more.filter(|path| path.extension().is_some_and(|end| end == "conf"));
    let files = NAMES.iter().map(PathBuf::from).chain(more);
    let mut texts = files.filter_map(|path| fs::read_to_string(path).ok());
    texts.find_map(|text| number_in(&text, name))
}

/// The number that a file of names has for one: each line is a number, decimal or after 0x, and a name.
fn number_in(text: &str, name: &str) -> Option<u32> {
    text.lines().find_map(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let (number, known) = line.trim().split_once(char::is_whitespace)?;
        if known.trim() != name {
            return None;
        }
        match number.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16).ok(),
            None => number.parse().ok(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_names_are_read_as_iproute2_does() {
        let text = "# reserved\n255\tlocal\n254 main\n\n0x64  xcast # lists\n300 xcast2\n";
        assert_eq!(number_in(text, "xcast"), Some(100));
        assert_eq!(number_in(text, "xcast2"), Some(300));
        assert_eq!(number_in(text, "local"), Some(255));
        assert_eq!(number_in(text, "reserved"), None);
        assert_eq!(number_in(text, "lists"), None);
    }
}
