//! A panic in a BPF program is something that the verifier refuses, and the router's programs have none.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, env};

use aya::{Ebpf, programs::Xdp};
use aya_obj::Object;
use nix::unistd::Uid;

static ROUTER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xcast"));
/// Two programs, of which one can panic.
static MAY_PANIC: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/may-panic"));

/// The functions of an object in which there is a jump to itself: what a panic is.
fn endless(object: &[u8]) -> BTreeSet<String> {
    const JUMP: u8 = 0x05;
    let object = Object::parse(object).unwrap();
    let functions = object.functions.into_values().filter(|function| {
        let mut instructions = function.instructions.iter();
        instructions.any(|instruction| instruction.code == JUMP && instruction.off == -1)
    });
    functions.map(|function| function.name).collect()
}

#[test]
fn the_routers_programs_have_no_panic() {
    assert_eq!(endless(ROUTER), BTreeSet::new());
    assert!(!endless(MAY_PANIC).is_empty());
}

#[test]
fn a_panic_that_can_be_reached_is_refused() {
    if !Uid::effective().is_root() {
        assert!(
            env::var_os("XCAST_ALLOW_SKIP").is_some_and(|value| value == "1"),
            "needs root to load programs; set XCAST_ALLOW_SKIP=1 to skip it"
        );
        eprintln!("SKIPPED: needs root to load programs");
        return;
    }
    let mut programs = Ebpf::load(MAY_PANIC).unwrap();
    let mut load = |name| {
        let program: &mut Xdp = programs.program_mut(name).unwrap().try_into().unwrap();
        program.load().map_err(|error| format!("{error:?}"))
    };
    load("cannot_panic").unwrap();
    let refusal = load("may_panic").unwrap_err();
    // The panic is a function without an end, so the call of it is the end of a program or leads to its loop.
    let reasons = ["last insn is not an exit or jmp", "infinite loop"];
    assert!(
        reasons.iter().any(|reason| refusal.contains(reason)),
        "{refusal}"
    );
}
