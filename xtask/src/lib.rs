//! Developer tasks of the workspace: a module per task, run by the `xtask` binary.
//!
//! [`testbed`] is also used as a library, by everything that tests the router between network
//! namespaces: it raises a [`Topology`](testbed::Topology), and takes it down when dropped.

pub mod bench;
pub mod build;
pub mod demo;
pub mod deployment;
pub mod dht;
pub mod faults;
pub mod figure8;
pub mod messages;
pub mod partners;
pub mod process;
pub mod second_try;
pub mod setup;
pub mod simulate;
pub mod test;
pub mod test_programs;
pub mod testbed;
pub mod toolchain;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// The workspace's root directory.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap_or_else(|| Path::new("."))
        .to_path_buf()
}

/// Prints what a task was asked for. That nobody reads to the end is no error.
///
/// # Errors
///
/// Writing fails for another reason.
pub fn print(text: &str) -> anyhow::Result<()> {
    match writeln!(io::stdout().lock(), "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}
