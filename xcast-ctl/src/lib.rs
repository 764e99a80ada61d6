//! The Xcast router's controller.
//!
//! [`cli`] is what a person types; `run` hands over to [`router`], the event loop. Routes come in
//! through [`sync`] and go out to the maps of [`datapath`]; these two know nothing of each other. [`control`] carries questions to a
//! running router and [`report`]s back. `tools` has the verbs for hosts: they send and receive
//! packets of their own, and need no router on the same machine.

pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
pub mod gateways;
mod kernel;
mod log;
mod output;
pub mod report;
pub mod router;
pub mod sync;
mod tools;
