//! `cargo +nightly fuzz run services`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::services(octets));
