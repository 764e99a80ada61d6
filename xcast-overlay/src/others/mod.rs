//! Other overlays that WO 2007/030742 names, small, each with the operation that it runs in parallel.
//!
//! They have no public specification of datagrams, or one for TCP only, so these are *in the manner of*
//! them: the same operations, as datagrams of their own.
//!
//! | | operation that is one message to a list |
//! |---|---|
//! | [`flood`], as a Gnutella servent | pings and queries go to all neighbours |
//! | [`flood`], as FastTrack | leaves give their keys to super nodes; only these flood |
//! | [`can`] | neighbours hear of zones; look-ups start by several ways; news for all |
//! | [`tapestry`] | news of newcomers; what is published or looked for at several roots |
//! | [`freenet`] | requests and inserts start by several ways; announcements |

pub mod can;
pub mod flood;
mod flood_message;
pub mod freenet;
pub mod tapestry;

pub use self::flood_message::is_for_flood;
