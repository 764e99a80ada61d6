//! x

mod code_points;
mod destination;
mod engine;
pub mod envelope;
pub mod liveness;
mod outlet;
pub mod packet;
mod plan;
pub mod policy;
pub mod queue;
pub mod raw;
mod receiver;
mod sender;
mod statistics;
#[cfg(feature = "tokio")]
pub mod tokio;
#[cfg(test)]
mod what_policies_bring;

pub use code_points::{CodePointError, CodePoints};
pub use destination::{Destination, Options, Unusable};
pub use engine::{SendError, Sent, Settings, Unreached};
pub use liveness::Probing;
pub use outlet::Outlet;
pub use plan::Limits;
pub use queue::{Message, Queue};
pub use receiver::{Received, Receiver, ReceiverStatistics};
pub use sender::Sender;
pub use statistics::{Cause, Statistics};
