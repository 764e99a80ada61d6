//! What of the running router's status is judged.

use serde_json::Value;

use crate::report;

/// Of the router's status, what is judged here. A router that does not tell has nothing to say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reported {
    /// Changes that the datapath refused so far.
    pub(super) pending_edits: u64,
    /// One of them, and why.
    pub(super) example: Option<String>,
    /// Times that somebody changed the router's own interface, and the router put it right.
    pub(super) repairs: u64,
    /// What could not be put right there.
    pub(super) fault: Option<String>,
    pub(super) log_lines_lost: u64,
}

impl From<&report::Status> for Reported {
    fn from(status: &report::Status) -> Self {
        // By their names in the document, as any other reader of it.
        Self::read(&serde_json::to_value(status).unwrap_or_default())
    }
}

impl Reported {
    pub(super) fn read(status: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let edits = &status["pending_edits"];
        let example = &edits["examples"][0];
        let what = text(&example["what"]);
        let why = text(&example["error"]);
        Self {
            pending_edits: number(&edits["count"]),
            example: what.zip(why).map(|(what, why)| format!("{what}: {why}")),
            repairs: number(&status["own_interface_repairs"]),
            fault: text(&status["own_interface_fault"]),
            log_lines_lost: number(&status["log_lines_lost"]),
        }
    }
}
