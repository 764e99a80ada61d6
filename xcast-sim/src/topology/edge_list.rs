//! Edge lists: a link a line.

use std::{collections::HashMap, io::BufRead};

use super::{
    connected::{Parts, Topology},
    error::TopologyError,
    graph::RouterId,
};

/// Reads a list of links: two names on each line, between white space or `|`, as SNAP, Rocketfuel
/// and CAIDA write them. What is further on a line is ignored, and so are empty lines and
/// comments after `#`.
///
/// # Errors
///
/// It cannot be read, a line has one name only, or the graph is not connected and has to be.
pub fn read_edge_list(input: impl BufRead, parts: Parts) -> Result<Topology, TopologyError> {
    let mut numbers: HashMap<String, RouterId> = HashMap::new();
    let mut names = Vec::new();
    let mut links = Vec::new();
    for (line, text) in input.lines().enumerate() {
        let text = text?;
        let text = text.split('#').next().unwrap_or_default();
        let mut words = text
            .split(|letter: char| letter.is_whitespace() || letter == '|')
            .filter(|word| !word.is_empty());
        let Some(from) = words.next() else {
            continue;
        };
        let to = words.next().ok_or_else(|| TopologyError::Syntax {
            line: line + 1,
            problem: format!("`{from}` has no second router beside it: write two names on a line"),
        })?;
        let mut number = |name: &str| {
            *numbers.entry(name.to_owned()).or_insert_with(|| {
                names.push(name.to_owned());
                names.len() as RouterId - 1
            })
        };
        links.push((number(from), number(to)));
    }
    Topology::from_file(names, &links, parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_numbers_in_their_order() {
        let text = "# AS links\nams lon 12\n\nlon|par|-1\npar ams # back\n";
        let topology = read_edge_list(text.as_bytes(), Parts::Connected).expect("it is good");
        assert_eq!(topology.names, ["ams", "lon", "par"]);
        assert_eq!(topology.to_edge_list(), "0 1\n0 2\n1 2\n");
    }

    #[test]
    fn parts_are_refused_or_left_out() {
        let text = "a b\nc d\nd e\n";
        let error = read_edge_list(text.as_bytes(), Parts::Connected).expect_err("two parts");
        assert!(error.to_string().contains("3 of 5 routers"), "{error}");
        let topology = read_edge_list(text.as_bytes(), Parts::Largest).expect("it is good");
        assert_eq!(topology.names, ["c", "d", "e"]);
        assert_eq!(topology.to_edge_list(), "0 1\n1 2\n");
    }

    #[test]
    fn a_lonely_name_is_an_error() {
        let error = read_edge_list(&b"a b\nc\n"[..], Parts::Connected).expect_err("no second");
        assert_eq!(
            error.to_string(),
            "line 2: `c` has no second router beside it: write two names on a line"
        );
        let error = read_edge_list(&b""[..], Parts::Connected).expect_err("empty");
        assert!(matches!(error, TopologyError::TooSmall { routers: 0 }));
    }
}
