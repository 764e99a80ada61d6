//! What came of a talk with a partner: a row for each operation.

use anyhow::Result;
use serde_json::{Value, json};

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

    /// A row for each operation.
    pub fn rows(&self) -> Vec<Value> {
        let row = |outcome: &Outcome| {
            let (works, note) = match &outcome.result {
                Ok(note) => (true, note),
                Err(why) => (false, why),
            };
            json!({
                "partner": self.partner,
                "family": if self.ipv6 { "IPv6" } else { "IPv4" },
                "asks": match self.asker { Asker::We => "we", Asker::They => "they" },
                "operation": outcome.operation,
                "works": works,
                "note": note,
            })
        };
        self.outcomes.iter().map(row).collect()
    }

    /// Everything has to work.
    ///
    /// # Panics
    ///
    /// If something does not.
    #[track_caller]
    pub fn assert(&self) {
        let failed: Vec<_> = self.outcomes.iter().filter(|o| o.result.is_err()).collect();
        assert!(failed.is_empty(), "{}, {failed:#?}", self.partner);
        assert!(!self.outcomes.is_empty());
    }
}
