//! The BPF object: programs and maps by their names.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
};

use aya::{
    Ebpf, EbpfLoader,
    maps::{Map, MapError},
    programs::{ProgramFd, Xdp},
};
use xcast_common::maps::Settings;

use super::error::{DatapathError, map, program_error};

/// The BPF object file, compiled by the build script.
static PROGRAMS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xcast"));

/// Makes the maps and readies the programs for loading.
///
/// `shared` maps are taken from where they are pinned, or pinned there.
pub(super) fn open(
    settings: &Settings,
    shared: &[(&'static str, PathBuf)],
) -> Result<Ebpf, DatapathError> {
    // The kernel removes logging that can never be reached.
    let level = if tracing::enabled!(tracing::Level::DEBUG) {
        aya_log::Level::Debug as u8
    } else {
        0
    };
    let mut loader = EbpfLoader::new();
    for (map, path) in shared {
        loader.map_pin_path(map, path);
    }
    loader
        .override_global("SETTINGS", settings, true)
        .override_global(aya_log::LEVEL, &level, true)
        .load(PROGRAMS)
        .map_err(DatapathError::Load)
}

/// Loads a program and returns a file descriptor for it.
pub(super) fn load_program(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<ProgramFd, DatapathError> {
    let program = program(ebpf, name)?;
    program.load().map_err(program_error(name))?;
    duplicate(program.fd().map_err(program_error(name))?)
}

/// Another file descriptor for a program.
pub(super) fn duplicate(program: &ProgramFd) -> Result<ProgramFd, DatapathError> {
    program.try_clone().map_err(|source| DatapathError::System {
        what: "cannot duplicate a program's file descriptor",
        source,
    })
}

/// A program of the object file.
pub(super) fn program<'a>(
    ebpf: &'a mut Ebpf,
    name: &'static str,
) -> Result<&'a mut Xdp, DatapathError> {
    ebpf.program_mut(name)
        .ok_or(DatapathError::Missing(name))?
        .try_into()
        .map_err(program_error(name))
}

/// A map of the object file, with its types. Can be taken once.
pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    let found = ebpf.take_map(name).ok_or(DatapathError::Missing(name))?;
    T::try_from(found).map_err(map(name))
}

/// A file descriptor of a map, for what aya has no call for.
pub(super) fn map_fd(ebpf: &Ebpf, name: &'static str) -> Result<OwnedFd, DatapathError> {
    let (Map::Array(data) | Map::ArrayOfMaps(data) | Map::DevMap(data) | Map::HashMap(data)) =
        ebpf.map(name).ok_or(DatapathError::Missing(name))?
    else {
        return Err(DatapathError::Missing(name));
    };
    data.fd()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|source| DatapathError::System {
            what: "cannot duplicate a map's file descriptor",
            source,
        })
}
