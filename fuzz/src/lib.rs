//! Fuzz targets: octets from the wire. See `README.md`.

pub mod checks;
