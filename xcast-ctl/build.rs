//! Compiles the BPF programs with their own toolchain; the object ends up in `$OUT_DIR/xcast`.

#[path = "../xtask/build_ebpf.rs"]
mod build_ebpf;

fn main() -> anyhow::Result<()> {
    build_ebpf::build(
        "xcast-ebpf",
        "xcast-ebpf",
        &["xcast-common/Cargo.toml", "xcast-common/src"],
    )
}
