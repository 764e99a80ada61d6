//! What the router's own packets and the kernel's unicast lose when something fails, side by side.
//!
//! A router between three hosts ([`crate::trio`]) forwards two streams at a time: Xcast packets, and
//! beside each of them an ordinary datagram to each of its destinations, which the kernel forwards.
//! [`catalogue`] lists the faults and says what each must not harm; [`stage`] is what happens to one
//! while `stream` runs; [`measure`] runs one, and [`row`] is what came of it, in text, Markdown and
//! JSON.

pub mod catalogue;
pub mod measure;
pub mod row;
pub mod stage;
mod stream;
