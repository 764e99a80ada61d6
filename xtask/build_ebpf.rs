//! What the build scripts of crates with BPF programs do. They include this file.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "src/toolchain.rs"]
mod toolchain;

/// A directory for what the inner cargo compiles, the same for a profile however often the outer cargo comes to
/// build a crate with other features of its dependencies: `target/PROFILE/bpf/PACKAGE`.
fn shared_directory(out_dir: &Path, package: &str) -> Result<PathBuf> {
    // target/PROFILE/build/CRATE/out
    let profile = out_dir.ancestors().nth(3).unwrap_or(out_dir);
    let shared = profile.join("bpf").join(package);
    fs::create_dir_all(&shared).with_context(|| format!("cannot make {}", shared.display()))?;
    Ok(shared)
}

/// Compiles the BPF programs of `package`, whose crate is in `directory`, with their own toolchain;
/// each object ends up in `$OUT_DIR` under its binary's name. Paths are relative to the workspace.
/// `watched` is what the crate is made of beside itself.
///
/// # Errors
///
/// There is no fitting toolchain, or the programs do not compile.
pub fn build(package: &str, directory: &str, watched: &[&str]) -> Result<()> {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    let workspace = PathBuf::from(manifest_dir)
        .parent()
        .context("this crate is not in a workspace")?
        .to_path_buf();

    println!(
        "cargo:rerun-if-env-changed={}",
        toolchain::TOOLCHAIN_VARIABLE
    );
    // build_ebpf watches the BPF crate itself.
    let always = [
        "Cargo.toml",
        "Cargo.lock",
        "xtask/build_ebpf.rs",
        "xtask/src/toolchain.rs",
    ];
    for path in always.iter().chain(watched) {
        println!("cargo:rerun-if-changed={}", workspace.join(path).display());
    }

    let Some(name) = toolchain::select() else {
        bail!(
            "no toolchain and linker that fit together can compile the BPF programs; run: cargo xtask setup"
        );
    };
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR is not set")?);
    let shared = shared_directory(&out_dir, package)?;
    // Two build scripts may be at it at once.
    let lock = File::create(shared.join("lock")).context("cannot make a lock")?;
    lock.lock().context("cannot take a lock")?;
    // SAFETY: build scripts call this before they start any thread.
    unsafe {
        // Where build_ebpf works, and puts the objects.
        env::set_var("OUT_DIR", &shared);
        // Cargo repeats what a build script says as warnings: let the inner cargo, and rustup before
        // it, name problems only.
        env::set_var("CARGO_TERM_QUIET", "true");
        env::set_var("RUSTUP_LOG", "error");
        if toolchain::needs_bootstrap(&name) {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let root_dir = workspace.join(directory);
    let package = Package {
        name: package,
        root_dir: root_dir
            .to_str()
            .context("the workspace's path is not UTF-8")?,
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(&name))
        .with_context(|| format!("failed to compile the BPF programs with toolchain `{name}`"))?;
    for entry in fs::read_dir(&shared).context("cannot list the objects")? {
        let entry = entry.context("cannot list the objects")?;
        if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            fs::copy(entry.path(), out_dir.join(entry.file_name()))
                .with_context(|| format!("cannot copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}
