//! How much work the programs are for the kernel's verifier, which gives up at a million
//! instructions. Unlike times, these counts do not depend on the machine.

use tests::namespace::{self, Namespace};
use xcast_common::{
    maps::{Prune, Settings},
    wire::{Be16, Be32, Be128},
};
use xcast_ctl::datapath::{Datapath, Macs};

/// Verified instructions of each program, at most. Measured on Linux 6.18, plus a tenth: a loop
/// that multiplies states goes through this at once.
const LIMITS: [(&str, u32); 4] = [
    ("xcast", 660_000),
    ("xcast6", 715_000),
    ("xcast_copy", 540_000),
    ("xcast_tunnel", 10_000),
];

#[test]
fn the_programs_stay_easy_to_verify() {
    if !namespace::available() {
        return;
    }
    let namespace = Namespace::new("verifier").expect("a network namespace");
    let cases = [
        (Prune::Truncate, 0, 0),
        (Prune::Truncate, 4242, 0),
        (Prune::Truncate, 4242, 1),
        (Prune::Bitmap, 4242, 1),
    ];
    for (prune, udp_port, tunnels) in cases {
        namespace
            .enter(|| {
                let settings = Settings {
                    group: Be32::new(0xe000_00fe),
                    protocol: 253,
                    prune: prune as u8,
                    udp_port: Be16::new(udp_port),
                    group6: Be128::new(0xff02 << 112 | 0x114),
                    routing_type: 253,
                    ports_option: 0x5e,
                    ipv6: 1,
                    tunnels,
                    ..Settings::default()
                };
                let mut datapath =
                    Datapath::load(&settings, 16, Macs::default()).expect("datapath loads");
                for (name, limit) in LIMITS {
                    // What is not needed is not loaded.
                    if name == "xcast_tunnel" && tunnels == 0 {
                        continue;
                    }
                    let program = datapath.program(name).expect("program");
                    let info = program.info().expect("information on the program");
                    let count = info
                        .verified_instruction_count()
                        .expect("a kernel that counts verified instructions (5.16)");
                    println!(
                        "{name}, {prune:?}, UDP port {udp_port}, {tunnels} tunnels: {count} instructions verified"
                    );
                    assert!(
                        count <= limit,
                        "{name}, {prune:?}, UDP port {udp_port}, {tunnels} tunnels: the verifier went through {count} \
                         instructions, more than {limit}"
                    );
                }
                Ok(())
            })
            .expect("entered the namespace");
    }
}
