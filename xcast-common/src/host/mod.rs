//! The same without a kernel.

mod buffer;

pub use self::buffer::Buffer;
