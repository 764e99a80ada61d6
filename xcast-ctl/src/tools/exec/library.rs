//! The library that is loaded into programs: it is part of this program, and written to a file for the
//! dynamic linker, which takes nothing else.

use std::{
    env, fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sys::statvfs::{FsFlags, statvfs},
    unistd::geteuid,
};

/// The library, compiled by the build script.
static LIBRARY: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/libxcast_preload.so"));

/// Writes the library where programs of this user can load it from, unless it is there, and returns
/// where that is. The name follows the content, so versions do not meet.
///
/// # Errors
///
/// There is no directory that could be used.
pub(super) fn install() -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    LIBRARY.hash(&mut hasher);
    let name = format!("libxcast_preload-{:016x}.so", hasher.finish());
    let mut why = None;
    for directory in directories() {
        match write(&directory, &name) {
            Ok(path) => return Ok(path),
            Err(error) => why = Some(error),
        }
    }
    match why {
        Some(error) => Err(error).context("no directory to load the library from"),
        None => bail!("no directory to load the library from"),
    }
}

/// Where the library could be, best first.
fn directories() -> Vec<PathBuf> {
    let user = geteuid();
    let runtime = env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let run = user.is_root().then(|| PathBuf::from("/run"));
    let bases = [
        runtime.filter(|path| path.is_absolute()),
        run,
        Some("/tmp".into()),
    ];
    let bases = bases.into_iter().flatten();
    bases
        .map(|base| base.join(format!("xcast-{user}")))
        .collect()
}

fn write(directory: &Path, name: &str) -> Result<PathBuf> {
    let path = directory.join(name);
    let shown = directory.display();
    // Others may read: a program that gives up its privileges starts others that load it, too.
    match fs::DirBuilder::new().mode(0o755).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot make {shown}"));
        }
        _ => {}
    }
    // Somebody else could have made it, to have their own code loaded.
    let found = fs::symlink_metadata(directory)?;
    ensure!(
        found.is_dir() && found.uid() == geteuid().as_raw() && found.mode() & 0o022 == 0,
        "{shown} is not a directory of this user alone: remove it"
    );
    let flags = statvfs(directory)?.flags();
    ensure!(
        !flags.contains(FsFlags::ST_NOEXEC),
        "{shown} is on a file system that is mounted noexec"
    );
    if fs::read(&path).is_ok_and(|content| content == LIBRARY) {
        return Ok(path);
    }
    // Others may be loading it.
    let new = directory.join(format!("{name}.{}", std::process::id()));
    fs::write(&new, LIBRARY).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, &path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_directory_that_others_can_write_to_is_not_used() {
        let base = tempfile::tempdir().unwrap();
        let directory = base.path().join("xcast");
        let path = write(&directory, "library.so").unwrap();
        assert_eq!(fs::read(&path).unwrap(), LIBRARY);
        // Whatever is there under that name is replaced.
        fs::write(&path, "something else").unwrap();
        assert_eq!(write(&directory, "library.so").unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), LIBRARY);
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        let error = write(&directory, "library.so").unwrap_err();
        assert!(error.to_string().contains("remove it"), "{error}");
    }
}
