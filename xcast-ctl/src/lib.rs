//! The Xcast router's controller.
//!
//! [`cli`] is what a person types; `run` hands over to [`daemon`], the event loop. Routes come in
//! through [`sync`] and go out to the maps of [`datapath`]. [`control`] carries questions to a
//! running router and [`report`]s back.

pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod datapath;
mod kernel;
pub mod report;
pub mod sync;
