//! What the build scripts of crates with BPF programs do. They include this file.

use std::{env, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "src/toolchain.rs"]
mod toolchain;

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
    // SAFETY: build scripts call this before they start any thread.
    unsafe {
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
        .with_context(|| format!("failed to compile the BPF programs with toolchain `{name}`"))
}
