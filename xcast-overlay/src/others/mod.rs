//! Other overlays that WO 2007/030742 names, small, each with the operation that it runs in parallel.
//!
//! They have no public specification of datagrams, or one for TCP only, so these are *in the manner of*
//! them: the same operations, as datagrams of their own ([`is_for_flood`]).
//!
//! | | operation that is one message to a list |
//! |---|---|
//! | [`flood`], as a Gnutella servent | pings and queries go to all neighbours |
//! | [`flood`], as FastTrack | leaves give their keys to super nodes; only these flood |

pub mod can;
pub mod flood;
mod flood_message;
pub mod freenet;
pub mod tapestry;

pub use self::flood_message::is_for_flood;
