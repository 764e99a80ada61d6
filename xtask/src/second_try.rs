//! Which tests deserve a second try: what a run of `cargo test` printed, read.
//!
//! The tests use real interfaces and real time, on machines that others use, too. Now and then one
//! fails because a processor was busy elsewhere. It gets a second try, by itself, and the summary
//! names it. What is broken fails again.

use std::collections::BTreeSet;

/// As many failures as may be bad luck; more of them are none.
const MAX_FAILURES: usize = 6;

/// What the standard output of a run tells.
#[derive(Debug, Default)]
pub struct Seen {
    failed: Vec<String>,
    passed: BTreeSet<String>,
    skipped: BTreeSet<String>,
    begun: usize,
    ended: usize,
}

impl Seen {
    /// Takes one line of the output.
    pub fn line(&mut self, line: &str) {
        let line = line.trim_end();
        if is_start(line) {
            self.begun += 1;
        } else if line.starts_with("test result: ") {
            self.ended += 1;
        } else if let Some(name) = result(line, " ... FAILED") {
            if !self.failed.iter().any(|known| known == name) {
                self.failed.push(name.to_owned());
            }
        } else if let Some(name) = result(line, " ... ok") {
            self.passed.insert(name.to_owned());
        } else if let Some((_, why)) = line.split_once("SKIPPED: ") {
            self.skipped.insert(why.to_owned());
        }
    }

    /// What tests said that they cannot test here, and why.
    pub fn skipped(&self) -> impl Iterator<Item = &str> {
        self.skipped.iter().map(String::as_str)
    }

    /// Whether these tests ran, passed, and nothing failed.
    pub fn have_passed(&self, names: &[String]) -> bool {
        self.failed.is_empty() && names.iter().all(|name| self.passed.contains(name))
    }

    /// The tests to try again; none if a second try could hide something: a program that never came
    /// to its summary, no failed test at all, or too many.
    pub fn worth_a_second_try(&self) -> Option<&[String]> {
        let complete = self.begun == self.ended;
        let few = (1..=MAX_FAILURES).contains(&self.failed.len());
        (complete && few).then_some(&*self.failed)
    }
}

/// The name in a test's line, if the line ends so.
fn result<'a>(line: &'a str, end: &str) -> Option<&'a str> {
    let name = line.strip_prefix("test ")?.strip_suffix(end)?;
    // A note behind the name.
    Some(name.strip_suffix(" - should panic").unwrap_or(name))
}

/// `running 12 tests`.
fn is_start(line: &str) -> bool {
    line.strip_prefix("running ")
        .and_then(|rest| rest.split_once(' '))
        .is_some_and(|(count, unit)| {
            count.parse::<u32>().is_ok() && matches!(unit, "test" | "tests")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(output: &str) -> Seen {
        let mut seen = Seen::default();
        output.lines().for_each(|line| seen.line(line));
        seen
    }

    #[test]
    fn what_is_skipped_is_named_once() {
        // Other threads of the harness write to the same line.
        let seen = seen("SKIPPED: VRFs: none\ntest a ... SKIPPED: VRFs: none\nSKIPPED: bonds\n");
        let skipped: Vec<_> = seen.skipped().collect();
        assert_eq!(skipped, ["VRFs: none", "bonds"]);
    }

    #[test]
    fn failed_tests_are_named_once() {
        let seen = seen(
            "\nrunning 3 tests\ntest a::works ... ok\ntest b ... FAILED\ntest c - should panic ... FAILED\n\
             failures:\n    b\ntest result: FAILED. 1 passed; 2 failed\n\
             running 1 test\ntest b ... FAILED\ntest result: FAILED. 0 passed; 1 failed\n",
        );
        assert_eq!(
            seen.worth_a_second_try(),
            Some(&["b".to_owned(), "c".to_owned()][..])
        );
    }

    #[test]
    fn a_program_that_died_gets_no_second_try() {
        let died = "running 2 tests\ntest b ... FAILED\nrunning 1 test\ntest result: FAILED. 1\n";
        assert_eq!(seen(died).worth_a_second_try(), None);
    }

    #[test]
    fn a_second_try_that_runs_nothing_proves_nothing() {
        let names = ["a".to_owned(), "b".to_owned()];
        assert!(!seen("running 0 tests\ntest result: ok. 0 passed\n").have_passed(&names));
        assert!(!seen("running 2 tests\ntest a ... ok\ntest b ... FAILED\n").have_passed(&names));
        assert!(seen("running 2 tests\ntest a ... ok\ntest b ... ok\n").have_passed(&names));
    }

    #[test]
    fn success_and_ruin_get_no_second_try() {
        let fine = "running 1 test\ntest a ... ok\ntest result: ok. 1 passed\n";
        assert_eq!(seen(fine).worth_a_second_try(), None);
        let mut ruin = "running 9 tests\n".to_owned();
        for number in 0..=MAX_FAILURES {
            ruin += &format!("test t{number} ... FAILED\n");
        }
        ruin += "test result: FAILED. 9\n";
        assert_eq!(seen(&ruin).worth_a_second_try(), None);
    }
}
