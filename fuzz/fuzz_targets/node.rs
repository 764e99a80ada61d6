//! `cargo +nightly fuzz run node`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::node(octets));
