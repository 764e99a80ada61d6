//! What differs between Xcast4 and Xcast6: where fields are, and how headers are checked and
//! rewritten. Everything that decides is written once, for any [`Family`].

mod ipv4;
mod ipv6;
pub(crate) mod traits;

pub use self::{
    ipv4::V4,
    ipv6::V6,
    traits::{Family, Unicast},
};
