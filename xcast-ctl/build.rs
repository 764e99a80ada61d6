//! Compiles the BPF programs with their own toolchain, and the library that `exec` loads into programs.
//! The object ends up in `$OUT_DIR/xcast`, the library in `$OUT_DIR/libxcast_preload.so`.

#[path = "../xtask/build_ebpf.rs"]
mod build_ebpf;
#[path = "../xtask/build_preload.rs"]
mod build_preload;

fn main() -> anyhow::Result<()> {
    // First: the other one changes the environment of its own inner cargo.
    build_preload::build()?;
    build_ebpf::build(
        "xcast-ebpf",
        "xcast-ebpf",
        &["xcast-common/Cargo.toml", "xcast-common/src"],
    )
}
