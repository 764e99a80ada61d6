//! Compiles the BPF programs with their own toolchain; the object ends up in `$OUT_DIR/bench`.

#[path = "../xtask/build_ebpf.rs"]
mod build_ebpf;

fn main() -> anyhow::Result<()> {
    build_ebpf::build("xcast-bench-ebpf", "bench/ebpf", &[])
}
