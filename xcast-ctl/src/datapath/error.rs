//! Why the datapath could not be set up or changed.

use aya::{
    maps::{MapError, xdp::XdpMapError},
    programs::ProgramError,
};
use thiserror::Error;

use super::routes::Full;

/// Why the datapath could not be set up or changed.
#[derive(Debug, Error)]
pub enum DatapathError {
    /// The object file could not be loaded: no privilege, or a kernel without BPF.
    #[error(
        "cannot load the BPF programs' maps (needs CAP_BPF, a kernel with BPF, and enough memory: see the memory limit of the service or container)"
    )]
    Load(#[source] aya::EbpfError),
    /// A program was refused.
    #[error("the kernel refused the BPF program `{name}`")]
    Program {
        /// Name of the program.
        name: &'static str,
        /// What the kernel said.
        source: ProgramError,
    },
    /// The object file lacks something: it is not the one this controller was built with.
    #[error("the BPF object has no `{0}`; rebuild xcast-ctl")]
    Missing(&'static str),
    /// A map could not be written.
    #[error("cannot write the BPF map `{map}`")]
    Map {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: MapError,
    },
    /// A device map could not be written.
    #[error("cannot write the BPF device map `{map}`")]
    DeviceMap {
        /// Name of the map.
        map: &'static str,
        /// What the kernel said.
        source: XdpMapError,
    },
    /// Other interfaces are at all places where this one may be in the port table.
    #[error("no place for interface index {0} in the port table; recreate the interface")]
    PortTableFull(u32),
    /// The route map cannot grow.
    #[error(
        "no room for a route in the datapath; its destinations are handed to the kernel's stack"
    )]
    Routes(#[source] Full),
    /// A system call failed.
    #[error("{what}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

/// Says which map an error is about.
pub(super) fn map(name: &'static str) -> impl Fn(MapError) -> DatapathError {
    move |source| DatapathError::Map { map: name, source }
}

/// Says which program an error is about.
pub(super) fn program_error(name: &'static str) -> impl Fn(ProgramError) -> DatapathError {
    move |source| DatapathError::Program { name, source }
}

/// What is not there need not be removed.
pub(super) fn ignore_missing(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::SyscallError(error))
            if error.io_error.raw_os_error() == Some(libc::ENOENT) =>
        {
            Ok(())
        }
        Err(MapError::KeyNotFound) => Ok(()),
        other => other,
    }
}
