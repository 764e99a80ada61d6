//! What a check found out.

use serde::Serialize;

use super::facts::Interface;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Severity {
    /// Packets will be lost, or the router cannot run.
    Fault,
    /// Packets may be lost, depending on what cannot be seen from here.
    Warning,
    /// Checked and found good.
    Ok,
}

/// What a check found out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    /// Stable name of the check.
    pub(super) check: &'static str,
    /// How bad it is.
    pub(super) severity: Severity,
    /// The interface it is about; `None` for the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) interface: Option<String>,
    /// What was found, and what it does to packets.
    pub(super) what: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) remedy: Option<String>,
}

/// A finding with its remedy, about an interface or about the machine.
pub(super) fn finding(
    check: &'static str,
    severity: Severity,
    interface: Option<&Interface>,
    what: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding {
        check,
        severity,
        interface: interface.map(|interface| interface.name.clone()),
        what: what.into(),
        remedy: Some(remedy.into()),
    }
}

/// A finding that something is good.
pub(super) fn ok(
    check: &'static str,
    interface: Option<&Interface>,
    what: impl Into<String>,
) -> Finding {
    Finding {
        remedy: None,
        ..finding(check, Severity::Ok, interface, what, "")
    }
}
