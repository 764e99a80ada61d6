//! `cargo +nightly fuzz run frames`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::frames(octets));
