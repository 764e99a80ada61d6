//! What came of a talk with a partner: a row for each operation.

use anyhow::Result;

/// Who asks.
#[derive(Clone, Copy, Debug)]
pub enum Asker {
    We,
    They,
}

/// What came of an operation.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub operation: &'static str,
    /// What is worth knowing, or why it failed.
    pub result: Result<String, String>,
}

/// What came of a talk with one partner, in one family and one direction.
#[derive(Clone, Debug)]
pub struct Talk {
    pub partner: &'static str,
    pub ipv6: bool,
    pub asker: Asker,
    pub outcomes: Vec<Outcome>,
}

impl Talk {
    pub fn new(partner: &'static str, ipv6: bool, asker: Asker) -> Self {
        Self {
            partner,
            ipv6,
            asker,
            outcomes: Vec::new(),
        }
    }

    /// Notes what came of an operation.
    pub fn add(&mut self, operation: &'static str, result: Result<()>) {
        self.note(operation, result.map(|()| String::new()));
    }

    /// The same, with something worth knowing.
    pub fn note(&mut self, operation: &'static str, result: Result<String>) {
        let result = result.map_err(|error| format!("{error:#}"));
        self.outcomes.push(Outcome { operation, result });
    }
}
