//! What became of a message.

use std::{io, net::SocketAddr};

use thiserror::Error;

use super::{
    cause::UnicastCause,
    destination::{Destination, Unusable},
};
use crate::packet::PacketError;

/// What a message became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sent {
    /// Xcast packets handed to the kernel.
    pub xcast_packets: usize,
    /// Ordinary datagrams handed to the kernel.
    pub unicast_packets: usize,
}

/// Why a message was not sent, or not to everyone.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SendError {
    /// A destination cannot be sent to. Nothing was sent.
    #[error("destination {index}, {address}: {reason}")]
    Destination {
        /// Place in the list, from 0.
        index: usize,
        /// Its address.
        address: SocketAddr,
        /// What is wrong with it.
        reason: Unusable,
    },
    /// The payload does not fit in a packet of [`PacketLimits::mtu_octets`](crate::PacketLimits).
    /// Nothing was sent.
    #[error(
        "payload of {payload} octets: at most {largest} fit a packet, so shorten it or raise the \
         MTU limit"
    )]
    TooLarge {
        /// Its length, in octets.
        payload: usize,
        /// What would fit, in octets.
        largest: usize,
    },
    /// The message must stay Xcast ([`Options::stay_xcast`](crate::Options::stay_xcast)), and there
    /// is no router for it. Xcast packets for a part of the list may have left.
    #[error("a message that must stay xcast cannot be sent: {cause}")]
    NoXcast {
        /// Why not.
        cause: UnicastCause,
    },
    /// The kernel refused datagrams to some destinations. All others were served.
    #[error("{} of {destinations} destinations not reached, the first of them {}", failed.len(), first(failed))]
    Unreached {
        /// The destinations that were not reached, at least one.
        failed: Vec<Unreached>,
        /// How many there were in all, repeats left out.
        destinations: usize,
    },
    /// A socket's send buffer is full, so that a part of the list is left. Only
    /// [`Sender::try_send_with`](crate::Sender::try_send_with) returns this.
    #[error("the send buffer is full: {} destinations are left, send to them again", rest.len())]
    WouldBlock {
        /// What was sent.
        sent: Sent,
        /// Destinations that the kernel refused a datagram to.
        failed: Vec<Unreached>,
        /// Destinations that are not served yet, at least one.
        rest: Vec<Destination>,
    },
    /// The packet cannot be built: an option is out of range. Nothing was sent.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// The task of a `tokio::CombiningSender` has ended.
    #[error("the sender is closed")]
    Closed,
    /// The kernel cannot wait for a socket, or refuses it as a whole.
    #[error("cannot use the socket to send")]
    Socket(#[from] io::Error),
}

/// A destination to which the kernel refused a datagram.
#[derive(Debug)]
pub struct Unreached {
    /// Place in the list, from 0.
    pub index: usize,
    /// Its address.
    pub address: SocketAddr,
    /// The kernel's error.
    pub error: io::Error,
}

fn first(failed: &[Unreached]) -> String {
    failed.first().map_or_else(String::new, |unreached| {
        let Unreached {
            index,
            address,
            error,
        } = unreached;
        format!("destination {index}, {address}: {error}")
    })
}

impl SendError {
    /// Fills in places in the list as it was given.
    pub(crate) fn locate<D: Into<Destination> + Copy>(mut self, to: &[D]) -> Self {
        let find = |found: SocketAddr, index: &mut usize| {
            let given = to.iter().map(|to| Into::<Destination>::into(*to).address);
            let at = |address: SocketAddr| (address.ip().to_canonical(), address.port());
            let place = given.map(at).position(|address| address == at(found));
            *index = place.unwrap_or_default();
        };
        match &mut self {
            Self::Unreached { failed, .. } | Self::WouldBlock { failed, .. } => {
                for unreached in failed {
                    find(unreached.address, &mut unreached.index);
                }
            }
            Self::Destination { index, address, .. } => find(*address, index),
            _ => {}
        }
        self
    }
}
