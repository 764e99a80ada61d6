//! Compiles the BPF programs with their own toolchain; the object ends up in `$OUT_DIR/xcast`.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya_build::{Package, Toolchain, build_ebpf};

#[path = "../xtask/src/toolchain.rs"]
mod toolchain;

fn main() -> Result<()> {
    let manifest_dir =
        env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR is not set")?;
    let workspace = PathBuf::from(manifest_dir)
        .parent()
        .context("xcast-ctl is not in a workspace")?
        .to_path_buf();

    println!(
        "cargo:rerun-if-env-changed={}",
        toolchain::TOOLCHAIN_VARIABLE
    );
    // build_ebpf watches the BPF crate itself; these are what it is made of besides.
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "xcast-common/Cargo.toml",
        "xcast-common/src",
        "xtask/src/toolchain.rs",
    ] {
        rerun_if_changed(&workspace.join(path));
    }

    let Some(name) = toolchain::select() else {
        bail!(
            "no toolchain and linker that fit together can compile the BPF programs; run: cargo xtask setup"
        );
    };
    // SAFETY: this build script has not started any thread yet.
    unsafe {
        // Cargo repeats what a build script says as warnings: let the inner cargo, and rustup before
        // it, name problems only.
        env::set_var("CARGO_TERM_QUIET", "true");
        env::set_var("RUSTUP_LOG", "error");
        if toolchain::needs_bootstrap(&name) {
            env::set_var("RUSTC_BOOTSTRAP", "1");
        }
    }
    let root_dir = workspace.join("xcast-ebpf");
    let package = Package {
        name: "xcast-ebpf",
        root_dir: root_dir
            .to_str()
            .context("the workspace's path is not UTF-8")?,
        ..Package::default()
    };
    build_ebpf([package], Toolchain::Custom(&name))
        .with_context(|| format!("failed to compile the BPF programs with toolchain `{name}`"))
}

fn rerun_if_changed(path: &Path) {
    println!("cargo:rerun-if-changed={}", path.display());
}
