//! What the build script of `xcast-ctl` does so that the one program is all that a user needs: it
//! compiles the library that `xcast-ctl exec` loads into other programs, to be embedded. It includes
//! this file.
//!
//! Cargo has no stable way to say that a crate contains another one's shared library (artifact
//! dependencies, RFC 3028), so an inner cargo compiles it, in a target directory of its own.

use std::{env, fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result, ensure};

/// Compiles the library, always optimised: it works in other programs' processes.
///
/// # Errors
///
/// It does not compile.
pub fn build() -> Result<()> {
    let variable = |name: &str| env::var_os(name).with_context(|| format!("{name} is not set"));
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir.parent();
    let workspace = workspace.context("this crate is not in a workspace")?;
    let target = variable("TARGET")?;
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "xtask/build_preload.rs",
        "xcast-common/Cargo.toml",
        "xcast-common/src",
        "xcast-host/Cargo.toml",
        "xcast-host/src",
        "xcast-preload/Cargo.toml",
        "xcast-preload/src",
    ] {
        println!("cargo:rerun-if-changed={}", workspace.join(path).display());
    }

    // target/<profile>/build/<package>/out: one directory for all of a profile, however often cargo
    // comes to build xcast-ctl with other features of its dependencies.
    let target_dir = out_dir
        .ancestors()
        .nth(3)
        .unwrap_or(&out_dir)
        .join("preload");
    let mut command = Command::new(variable("CARGO")?);
    command
        .args([
            "build",
            "--release",
            "--package",
            "xcast-preload",
            "--target",
        ])
        .arg(&target)
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(workspace)
        // The outer cargo's own: a wrapper such as clippy's compiles nothing.
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "0")
        .env("CARGO_PROFILE_RELEASE_STRIP", "symbols")
        // Cargo repeats what a build script says as warnings.
        .env("CARGO_TERM_QUIET", "true");
    let status = command.status().context("cannot start the inner cargo")?;
    ensure!(status.success(), "xcast-preload does not compile");

    let built = target_dir.join(target).join("release/libxcast_preload.so");
    let embedded = out_dir.join("libxcast_preload.so");
    fs::copy(&built, &embedded).with_context(|| format!("no library {}", built.display()))?;
    Ok(())
}
