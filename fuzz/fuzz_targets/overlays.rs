//! `cargo +nightly fuzz run overlays`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::overlays(octets));
