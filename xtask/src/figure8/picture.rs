//! The figure with a number at each link.

use std::collections::BTreeMap;

/// The figure as RFC 5058 draws it. A letter stands for the number of a link, see [`LETTERS`]; the rest is as it is printed.
const FIGURE: &str = "                              R4 -e- B
                             /
                            d
                           /
A -a- X1 -b- R2 -c- X3 ---+                         R8 -j- C
                           \\                       /
                            f                     i
                             \\                   /
                              R5 -g- R6 -h- X7 -+
                                                 \\
                                                  k
                                                   \\
                                                    R9 -l- D";

/// The links, in the order of the topology.
const LETTERS: [char; 12] = ['a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l'];

/// The figure with these counts at its links, in the order of the topology. Links of which `is_tunnel` is true are marked.
pub fn picture(counts: &[String], is_tunnel: impl Fn(usize) -> bool) -> String {
    let known: BTreeMap<char, (usize, &String)> =
        LETTERS.into_iter().zip(counts.iter().enumerate()).collect();
    let figure: Vec<char> = FIGURE.chars().collect();
    let in_tunnel = |at: usize| {
        let link = figure.get(at).and_then(|letter| known.get(letter));
        link.is_some_and(|(link, _)| is_tunnel(*link))
    };
    let mut text = String::new();
    for (at, letter) in figure.iter().enumerate() {
        match known.get(letter) {
            // Names of nodes are capital letters, so that every small one is a link.
            Some((_, count)) => text += count,
            None if *letter == '-' && (in_tunnel(at + 1) || at > 0 && in_tunnel(at - 1)) => {
                text.push('=');
            }
            None => text.push(*letter),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_link_has_its_number() {
        let counts: Vec<String> = (1..=12).map(|n| format!("{n}")).collect();
        let text = picture(&counts, |at| at == 1);
        assert!(text.contains("A -1- X1 =2= R2 -3- X3"), "{text}");
        assert!(
            text.starts_with("                              R4 -5- B"),
            "{text}"
        );
        assert!(text.contains("R9 -12- D"), "{text}");
        assert!(!text.chars().any(|c| c.is_ascii_lowercase()), "{text}");
    }
}
