//! Compiles the BPF programs with their own toolchain; the objects end up in `$OUT_DIR`.

#[path = "../xtask/build_ebpf.rs"]
mod build_ebpf;

fn main() -> anyhow::Result<()> {
    build_ebpf::build(
        "xcast-bench-ebpf",
        "bench/ebpf",
        &["xcast-common/Cargo.toml", "xcast-common/src"],
    )
}
