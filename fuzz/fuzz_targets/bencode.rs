//! `cargo +nightly fuzz run bencode`
#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| xcast_fuzz::checks::bencode(octets));
