//! Protocols on the hosts of a network, in simulated time.
//!
//! A [`World`] has the same state machines as programs have ([`xcast_overlay::runtime::Protocol`]), and
//! does for them what `xcast_overlay::net` does on sockets: messages wait in the real combining queue
//! ([`xcast_host::queue`]), lists become packets by the real rules ([`xcast_host::split`]), and packets go
//! from place to place by [`fanout`](crate::fanout), whose rules are those of the forwarding code
//! ([`frames`](crate::frames) has the test). [`Lines`] say how long that takes and what is lost, a
//! [`Meter`] counts it.
//!
//! Beside what was sent, the meter has what the same messages would have cost as a datagram to each, on
//! the same paths at the same moment: a paired comparison within one run. It is exact where nothing is
//! lost; where something is, compare two runs, one of them with [`Access::Unicast`].

mod lines;
mod load;
mod meter;
mod outbox;
mod run;
mod settings;

pub use lines::Lines;
pub use load::Load;
pub use meter::{Meter, Tally};
pub use run::{Classify, Sent, World};
pub use settings::{Access, WorldSettings};
