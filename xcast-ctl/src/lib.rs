//! The Xcast router's controller.
//!
//! [`cli`] is what a person types; `run` hands over to [`router`], the event loop. Routes come in
//! through [`sync`] and go out to the maps of [`datapath`]; these two know nothing of each other.
//! [`control`] carries questions to a running router and [`report`]s back.

pub mod cli;
pub mod config;
pub mod control;
pub mod datapath;
mod kernel;
pub mod report;
pub mod router;
pub mod sync;
