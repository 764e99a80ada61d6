//! `cargo +nightly fuzz run krpc`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::krpc(octets));
