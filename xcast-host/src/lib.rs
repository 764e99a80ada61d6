//! x

mod code_points;
pub mod packet;
pub mod raw;
pub use code_points::{CodePointError, CodePoints};
