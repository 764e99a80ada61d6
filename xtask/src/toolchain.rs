//! Which toolchain compiles the BPF programs.
//!
//! This file has two readers, so that they cannot disagree: xtask's set-up, which installs what is
//! missing, and the build script of `xcast-ctl`, which includes this file. It therefore needs
//! nothing but the standard library.
//!
//! A toolchain is usable when it comes with the source of `core`, which nobody ships compiled for
//! BPF, and when its LLVM is that of bpf-linker, which reads what the compiler writes. Both are
//! looked at afresh each time: a nightly changes its LLVM with an update, and a linker is quickly
//! reinstalled.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// Environment variable that overrides the choice.
pub const TOOLCHAIN_VARIABLE: &str = "XCAST_BPF_TOOLCHAIN";
/// Name that set-up gives to the distribution's compiler.
pub const LINKED: &str = "bpf";
/// Name of the toolchain that rustup downloads.
pub const NIGHTLY: &str = "nightly";

/// The toolchain to use: what the environment says, or the first usable one.
pub fn select() -> Option<String> {
    if let Some(name) = env::var(TOOLCHAIN_VARIABLE)
        .ok()
        .filter(|name| !name.is_empty())
    {
        return Some(name);
    }
    let linker = linker_path()?;
    let usable = |name: &&str| has_rust_src(name) && linker_fits(&linker, llvm(name));
    [NIGHTLY, LINKED]
        .iter()
        .copied()
        .find(usable)
        .map(str::to_owned)
}

/// Whether the toolchain is installed together with the source of `core`.
pub fn has_rust_src(toolchain: &str) -> bool {
    rustc(toolchain, &["--print", "sysroot"]).is_some_and(|sysroot| {
        Path::new(sysroot.trim())
            .join("lib/rustlib/src/rust/library/core")
            .is_dir()
    })
}

/// Whether unstable features, which the BPF target needs, have to be asked for.
pub fn needs_bootstrap(toolchain: &str) -> bool {
    !rustc(toolchain, &["-V"]).is_some_and(|version| version.contains("nightly"))
}

/// Major version of the toolchain's LLVM.
pub fn llvm(toolchain: &str) -> Option<u32> {
    let version = rustc(toolchain, &["-vV"])?;
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// Where bpf-linker is, if it is installed.
pub fn linker_path() -> Option<PathBuf> {
    env::split_paths(&env::var_os("PATH")?)
        .map(|directory| directory.join("bpf-linker"))
        .find(|path| path.is_file())
}

/// Whether a linker reads what a compiler of that LLVM writes. A linker with its LLVM built in does
/// not tell which it is, and gets the benefit of the doubt.
pub fn linker_fits(linker: &Path, llvm: Option<u32>) -> bool {
    let own = linker_llvm(linker);
    llvm.is_some() && (own.is_none() || own == llvm)
}

/// Major version of the LLVM library that a linker loads.
pub fn linker_llvm(linker: &Path) -> Option<u32> {
    let output = Command::new("ldd").arg(linker).output().ok()?;
    library_version(&String::from_utf8_lossy(&output.stdout))
}

/// `libLLVM.so.22.1` or, as it used to be called, `libLLVM-14.so.1`.
fn library_version(libraries: &str) -> Option<u32> {
    let name = libraries
        .lines()
        .find_map(|line| line.trim().strip_prefix("libLLVM"))?;
    let version = name
        .strip_prefix(".so.")
        .or_else(|| name.strip_prefix('-'))?;
    let digits = version.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// What the toolchain's compiler prints. `rustup run` never downloads a missing toolchain.
fn rustc(toolchain: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new("rustup")
        .args(["run", toolchain, "rustc"])
        .args(arguments)
        .output()
        .ok()?;
    output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::library_version;

    #[test]
    fn the_linker_tells_its_llvm_by_its_libraries() {
        let new = "\tlinux-vdso.so.1 (0x0)\n\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x0)\n";
        assert_eq!(library_version(new), Some(22));
        assert_eq!(
            library_version("\tlibLLVM-14.so.1 => /lib/libLLVM-14.so.1 (0x0)"),
            Some(14)
        );
        assert_eq!(library_version("\tstatically linked"), None);
    }
}
