//! The program that is to run: where it is, and whether a library can be loaded into it.

use std::{
    env,
    ffi::{OsStr, OsString},
    fmt, fs,
    io::Read as _,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _, fs::PermissionsExt as _},
    path::{Path, PathBuf},
};

use nix::unistd::{getegid, geteuid};
use object::{
    Endianness,
    elf::{DT_NEEDED, FileHeader64, PT_INTERP, PT_NOTE},
    read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _},
};

/// Why a library has no effect in a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// There is no dynamic linker.
    Static,
    /// It makes system calls of its own.
    Go,
    /// The dynamic linker takes no libraries from the user.
    Privileged,
    /// Its libc is not the one that the library is for.
    OtherLibc,
    /// It is for another kind of machine, or of 32 bits.
    OtherMachine,
    /// A sanitizer takes the place of libc's functions, and ends a program in which another library does so, too.
    Sanitizer,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Static => "it is linked statically",
            Self::Go => "it is a Go program, which makes its system calls itself",
            Self::Privileged => "it is setuid, setgid or has file capabilities",
            Self::OtherLibc => "its C library is not glibc",
            Self::OtherMachine => "it is for another kind of processor",
            Self::Sanitizer => "it has a sanitizer, which bears no other library of this kind",
        })
    }
}

/// Where a program is, by the rules of `execvp`.
pub(super) fn find(name: &OsStr) -> Option<PathBuf> {
    let is_program = |path: &PathBuf| {
        let file = fs::metadata(path);
        file.is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    if name.as_bytes().contains(&b'/') {
        return Some(PathBuf::from(name)).filter(is_program);
    }
    let path = env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(is_program)
}

/// What keeps the library from working in a program; `None` also if the file cannot be read.
pub(super) fn obstacle(path: &Path) -> Option<Obstacle> {
    let mut path = path.to_owned();
    // A script's program is its interpreter, which may be a script as well.
    for _ in 0..4 {
        let mut beginning = [0; 256];
        let mut file = fs::File::open(&path).ok()?;
        let len = file.read(&mut beginning).ok()?;
        match interpreter(&beginning[..len]) {
            Some(interpreter) => path = interpreter,
            None => break,
        }
    }
    let file = fs::metadata(&path).ok()?;
    let others = (file.mode() & 0o4000 != 0 && file.uid() != geteuid().as_raw())
        || (file.mode() & 0o2000 != 0 && file.gid() != getegid().as_raw());
    if others || (has_capabilities(&path) && !geteuid().is_root()) {
        return Some(Obstacle::Privileged);
    }
    judge(&fs::read(&path).ok()?)
}

/// The interpreter of a script, by its first line.
fn interpreter(beginning: &[u8]) -> Option<PathBuf> {
    let line = beginning
        .strip_prefix(b"#!")?
        .split(|octet| *octet == b'\n')
        .next()?;
    let mut words = line
        .split(u8::is_ascii_whitespace)
        .filter(|word| !word.is_empty());
    let first = Path::new(OsStr::from_bytes(words.next()?));
    match first.file_name() {
        Some(name) if name == "env" => {
            let named = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='));
            find(OsStr::from_bytes(named?))
        }
        _ => Some(first.to_owned()),
    }
}

fn has_capabilities(path: &Path) -> bool {
    let Ok(path) = std::ffi::CString::new(path.as_os_str().as_bytes()) else {
        return false;
    };
    // SAFETY: both names end in NUL, and nothing is written where the length is 0.
    let len = unsafe {
        libc::getxattr(
            path.as_ptr(),
            c"security.capability".as_ptr(),
            std::ptr::null_mut(),
            0,
        )
    };
    len > 0
}

/// Judges the content of a program's file; `None` also if it is none that is known.
fn judge(content: &[u8]) -> Option<Obstacle> {
    if !content.starts_with(b"\x7fELF") {
        return None;
    }
    let Ok(header) = FileHeader64::<Endianness>::parse(content) else {
        return Some(Obstacle::OtherMachine);
    };
    let endian = header.endian().ok()?;
    if header.e_machine(endian) != MACHINE {
        return Some(Obstacle::OtherMachine);
    }
    let segments = header.program_headers(endian, content).ok()?;
    let is_go = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_NOTE)
        .filter_map(|segment| segment.data(endian, content).ok())
        .any(|note| note.windows(GO.len()).any(|window| window == GO));
    if is_go {
        return Some(Obstacle::Go);
    }
    let linker = segments
        .iter()
        .filter(|segment| segment.p_type(endian) == PT_INTERP)
        .find_map(|segment| segment.data(endian, content).ok());
    match linker {
        None => Some(Obstacle::Static),
        Some(linker) if linker.windows(7).any(|window| window == b"ld-musl") => {
            Some(Obstacle::OtherLibc)
        }
        Some(_) => {
            let has_sanitizer = libraries(header, endian, content)?
                .iter()
                .any(|name| SANITIZERS.iter().any(|prefix| name.starts_with(prefix)));
            has_sanitizer.then_some(Obstacle::Sanitizer)
        }
    }
}

/// The libraries that a program names.
fn libraries<'a>(
    header: &FileHeader64<Endianness>,
    endian: Endianness,
    content: &'a [u8],
) -> Option<Vec<&'a [u8]>> {
    let sections = header.sections(endian, content).ok()?;
    let (entries, names) = sections.dynamic(endian, content).ok()??;
    let names = sections.strings(endian, content, names).ok()?;
    let needed = entries
        .iter()
        .filter(|entry| entry.tag(endian) == DT_NEEDED);
    needed
        .map(|entry| entry.string(endian, names).ok())
        .collect()
}

/// Libraries of sanitizers that have to come first.
const SANITIZERS: [&[u8]; 4] = [
    b"libasan.so",
    b"libtsan.so",
    b"libhwasan.so",
    b"libclang_rt.asan",
];

/// Name and type (4) of the note that holds the build identifier of a Go program.
const GO: &[u8] = b"\x04\0\0\0Go\0\0";

/// This machine.
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = object::elf::EM_X86_64;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = object::elf::EM_AARCH64;

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An ELF file of 64 bits for this machine with program headers of these types and contents.
    fn elf(machine: u16, segments: &[(u32, &[u8])]) -> Vec<u8> {
        let mut file = b"\x7fELF\x02\x01\x01".to_vec();
        file.resize(16, 0);
        for half in [2_u16, machine] {
            file.extend(half.to_le_bytes());
        }
        file.extend(1_u32.to_le_bytes());
        // Entry point, then where program headers and section headers are.
        for word in [0_u64, 64, 0] {
            file.extend(word.to_le_bytes());
        }
        file.extend(0_u32.to_le_bytes());
        for half in [64_u16, 56, segments.len() as u16, 64, 0, 0] {
            file.extend(half.to_le_bytes());
        }
        let mut at = 64 + 56 * segments.len() as u64;
        for (kind, content) in segments {
            file.extend(kind.to_le_bytes());
            file.extend(4_u32.to_le_bytes());
            let len = content.len() as u64;
            for word in [at, 0, 0, len, len, 1] {
                file.extend(word.to_le_bytes());
            }
            at += len;
        }
        file.extend(segments.iter().flat_map(|(_, content)| *content));
        file
    }

    #[test]
    fn programs_that_no_library_gets_into() {
        let own = env::consts::ARCH;
        let own: u16 = if own == "x86_64" { 62 } else { 183 };
        let glibc: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";
        let go: &[u8] = b"\x04\0\0\0\x53\0\0\0\x04\0\0\0Go\0\0abc";
        let (interp, note) = (3, 4);
        assert_eq!(judge(&elf(own, &[(interp, glibc)])), None);
        assert_eq!(judge(&elf(own, &[(1, b"code")])), Some(Obstacle::Static));
        assert_eq!(
            judge(&elf(own, &[(interp, glibc), (note, go)])),
            Some(Obstacle::Go)
        );
        assert_eq!(
            judge(&elf(own, &[(interp, b"/lib/ld-musl-x86_64.so.1\0")])),
            Some(Obstacle::OtherLibc)
        );
        assert_eq!(
            judge(&elf(8, &[(interp, glibc)])),
            Some(Obstacle::OtherMachine)
        );
        assert_eq!(judge(b"\x7fELF\x01\x01\x01"), Some(Obstacle::OtherMachine));
        assert_eq!(judge(b"text"), None);
    }

    #[test]
    fn scripts_are_what_their_interpreter_is() {
        let is = |line: &[u8]| interpreter(line);
        assert_eq!(is(b"#!/bin/sh -e\necho"), Some("/bin/sh".into()));
        assert_eq!(is(b"#! /bin/sh"), Some("/bin/sh".into()));
        assert_eq!(is(b"#!/usr/bin/env -S A=1 sh -e\n"), find(OsStr::new("sh")));
        assert_eq!(is(b"\x7fELF"), None);
        assert!(find(OsStr::new("sh")).is_some() && find(OsStr::new("no such program")).is_none());
        let mut script = tempfile::NamedTempFile::new().unwrap();
        script.write_all(b"#!/bin/sh\n").unwrap();
        assert_eq!(obstacle(script.path()), None);
    }
}
