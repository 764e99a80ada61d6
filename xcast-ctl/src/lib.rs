//! The Xcast router's controller.

pub mod cli;
pub mod config;
pub mod control;
pub mod raw;
pub mod report;
pub mod daemon;
pub mod datapath;
pub mod sync;
