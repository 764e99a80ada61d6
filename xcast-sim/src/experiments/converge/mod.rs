//! How overlays come through churn and loss, and how soon they are right again.
//!
//! Each runs in a network in memory ([`xcast_overlay::memory`]): latencies, but no routers. Nodes do what
//! the overlay is for, again and again, and each outcome is held against who is there:
//!
//! 1. *calm*: nobody comes or goes, and nothing is lost;
//! 2. *churn*: sessions are exponential, each node that goes is replaced, datagrams and whole packets are
//!    lost;
//! 3. *blow*: that has ended, and a part of all nodes vanishes at one moment. How long until 99 % of
//!    outcomes (or what was right when calm, if that was less) are right again?

mod driver;
mod subject;
mod subjects;

pub use self::driver::{Converge, ConvergeRow, SentList, sent_lists};
pub(super) use self::subject::Truth;
pub use self::subjects::Overlay;
