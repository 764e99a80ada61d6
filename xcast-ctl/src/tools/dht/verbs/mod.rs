//! The verbs that ask a running node: what each wants, and what it shows.

pub(super) mod find;
pub(super) mod get;
pub(super) mod leave;
pub(super) mod lookup;
pub(super) mod ping;
pub(super) mod publish;
pub(super) mod put;
pub(super) mod status;
pub(super) mod store;
pub(super) mod table;
