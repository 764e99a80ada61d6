//! What is known of a socket and of its destinations, and what follows for the two. No I/O, no clock.
//!
//! An Xcast packet may stand for a datagram only if nothing about the datagram is special. Whoever is
//! not sure sends the datagram as it is.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use foldhash::fast::RandomState;
use xcast_host::Options;

/// How long a look at the route to a destination counts.
const LOOK: Duration = Duration::from_secs(5);
/// How long the first one does: word of a smaller MTU may still be on its way back.
const FIRST_LOOK: Duration = Duration::from_millis(500);
/// Hops that no path has more of. Who sends for fewer, and asks for errors, wants to hear where packets end.
const FEW_HOPS: u8 = 32;
/// Most destinations of a socket that are remembered.
const MAX_DESTINATIONS: usize = 8192;

/// What the kernel says of a socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Traits {
    /// Where it is bound; `None` if it is no UDP socket.
    pub local: Option<SocketAddr>,
    /// Whether it is connected.
    pub connected: bool,
    /// Whether an option is set that an Xcast packet would not honour.
    pub special: bool,
    /// Whether errors are reported to it (`IP_RECVERR`).
    pub errors: bool,
    /// TTL and TOS of IPv4, hop limit and traffic class of IPv6; `None` if it does not have them.
    pub headers: [Option<(i32, i32)>; 2],
}

/// What an Xcast packet has in place of the socket's datagrams, for IPv4 and IPv6.
pub type Headers = [Option<Options>; 2];

/// Why a socket's datagrams are left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obstacle {
    /// For now: it has no port yet.
    Unbound,
    /// Until somebody changes it.
    Unfit,
}

/// Judges a socket. `hops` are those that a packet takes more than a datagram: natively one, to the router
/// on the host.
///
/// # Errors
///
/// Its datagrams are to be left alone.
pub fn judge(traits: &Traits, hops: u8) -> Result<Headers, Obstacle> {
    let local = traits.local.ok_or(Obstacle::Unfit)?;
    if traits.connected || traits.special {
        return Err(Obstacle::Unfit);
    }
    if local.port() == 0 {
        return Err(Obstacle::Unbound);
    }
    let headers = traits.headers.map(|headers| {
        let (ttl, tos) = headers?;
        let ttl = u8::try_from(ttl).ok().filter(|ttl| *ttl > 0)?;
        if traits.errors && ttl < FEW_HOPS {
            return None;
        }
        ttl.checked_add(hops)?;
        let tos = u8::try_from(tos).ok()?;
        // An Xcast packet is not ECN-capable.
        (tos & 3 == 0).then(|| Options {
            ttl,
            dscp: tos >> 2,
            ..Options::default()
        })
    });
    match headers {
        [None, None] => Err(Obstacle::Unfit),
        headers => Ok(headers),
    }
}

/// The way to a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The source address of the socket's datagrams to it.
    pub source: IpAddr,
    /// Path MTU, as far as the kernel knows it, in octets.
    pub mtu: usize,
}

/// What was found of a list of destinations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// The way to all of them, with the least MTU of all.
    pub path: Path,
    /// Until when that counts.
    pub until: Instant,
}

/// What is known of a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Nothing: the kernel judges its next datagram.
    New,
    /// The kernel has taken a datagram to it. The way to it is to be looked at.
    Taken,
    /// It can be in a list.
    Fit(Path),
    /// It cannot.
    Unfit,
}

/// The destinations of a socket.
#[derive(Debug, Default)]
pub struct Destinations {
    known: HashMap<SocketAddr, (Standing, Option<Instant>), RandomState>,
}

impl Destinations {
    /// What is known of one now.
    pub fn standing(&self, to: SocketAddr, now: Instant) -> Standing {
        match self.known.get(&to) {
            None => Standing::New,
            Some((standing, Some(until))) if now < *until => *standing,
            Some(_) => Standing::Taken,
        }
    }

    /// The kernel has taken a datagram to it.
    pub fn taken(&mut self, to: SocketAddr) {
        if self.known.len() >= MAX_DESTINATIONS {
            self.known.clear();
        }
        self.known.entry(to).or_insert((Standing::Taken, None));
    }

    /// The way to it, if it has one, was looked at.
    pub fn looked(&mut self, to: SocketAddr, path: Option<Path>, now: Instant) {
        let standing = path.map_or(Standing::Unfit, Standing::Fit);
        let is_first = matches!(self.known.get(&to), None | Some((_, None)));
        let counts = if is_first { FIRST_LOOK } else { LOOK };
        self.known.insert(to, (standing, Some(now + counts)));
    }

    /// What is known of a list as a whole; `None` if one of it cannot be in a list now, or if their
    /// datagrams have not the same source.
    pub fn fit(&self, list: &[SocketAddr], now: Instant) -> Option<Fit> {
        let mut whole: Option<Fit> = None;
        for to in list {
            let (standing, until) = self.known.get(to)?;
            let (Standing::Fit(path), Some(until)) = (*standing, *until) else {
                return None;
            };
            let before = whole.get_or_insert(Fit { path, until });
            if now >= until || path.source != before.path.source {
                return None;
            }
            before.path.mtu = before.path.mtu.min(path.mtu);
            before.until = before.until.min(until);
        }
        whole
    }

    /// The kernel has refused a datagram to it.
    pub fn refused(&mut self, to: SocketAddr) {
        self.known.remove(&to);
    }
}

/// Whether a destination is one host that routers deliver to.
pub fn is_routed(to: SocketAddr) -> bool {
    to.port() != 0
        && match to.ip().to_canonical() {
            IpAddr::V4(ip) => {
                !(ip.octets()[0] == 0
                    || ip.is_multicast()
                    || ip.octets()[0] >= 240
                    || ip.is_link_local())
            }
            IpAddr::V6(ip) => {
                !(ip.is_unspecified() || ip.is_multicast() || ip.is_unicast_link_local())
            }
        }
}

/// Whether a packet of at most `mtu` octets has room for a payload and a list of `min` destinations,
/// in UDP where need be. Rather no than yes.
pub fn has_room(payload: usize, min: usize, ipv6: bool, mtu: usize) -> bool {
    // Outer headers, IP, fixed part of the list, UDP; then addresses and ports, and padding.
    let (headers, each) = match ipv6 {
        false => (28 + 20 + 12 + 4 + 8, 6),
        true => (48 + 40 + 24 + 8 + 8, 18),
    };
    payload + headers + each * min + 8 <= mtu
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traits() -> Traits {
        Traits {
            local: Some(([0, 0, 0, 0], 4000).into()),
            connected: false,
            special: false,
            errors: false,
            headers: [Some((64, 46 << 2)), None],
        }
    }

    #[test]
    fn ttl_and_dscp_are_the_sockets_own() {
        let [Some(options), None] = judge(&traits(), 1).unwrap() else {
            panic!("not IPv4 alone");
        };
        assert_eq!((options.ttl, options.dscp), (64, 46));
    }

    #[test]
    fn whatever_is_special_is_left_alone() {
        let unfit = |change: fn(&mut Traits)| {
            let mut traits = traits();
            change(&mut traits);
            judge(&traits, 1).unwrap_err()
        };
        assert_eq!(unfit(|it| it.connected = true), Obstacle::Unfit);
        assert_eq!(unfit(|it| it.special = true), Obstacle::Unfit);
        assert_eq!(unfit(|it| it.local = None), Obstacle::Unfit);
        let unbound = unfit(|it| it.local = Some(([0, 0, 0, 0], 0).into()));
        assert_eq!(unbound, Obstacle::Unbound);
        // ECN, and a hop limit that only the system knows.
        assert_eq!(unfit(|it| it.headers[0] = Some((64, 2))), Obstacle::Unfit);
        assert_eq!(unfit(|it| it.headers[0] = Some((-1, 0))), Obstacle::Unfit);
        // No room for one hop more, and somebody who looks for routers.
        assert_eq!(unfit(|it| it.headers[0] = Some((255, 0))), Obstacle::Unfit);
        let traces = |it: &mut Traits| (it.errors, it.headers[0]) = (true, Some((31, 0)));
        assert_eq!(unfit(traces), Obstacle::Unfit);
    }

    #[test]
    fn a_destination_is_fit_once_the_kernel_took_a_datagram_and_for_a_time() {
        let (start, to) = (Instant::now(), SocketAddr::from(([10, 0, 0, 1], 5000)));
        let path = Path {
            source: [10, 0, 0, 9].into(),
            mtu: 1500,
        };
        let mut destinations = Destinations::default();
        assert_eq!(destinations.standing(to, start), Standing::New);
        destinations.taken(to);
        assert_eq!(destinations.standing(to, start), Standing::Taken);
        destinations.looked(to, Some(path), start);
        destinations.taken(to);
        assert_eq!(destinations.standing(to, start), Standing::Fit(path));
        let later = start + FIRST_LOOK;
        assert_eq!(destinations.standing(to, later), Standing::Taken);
        destinations.looked(to, Some(path), start);
        assert_eq!(destinations.standing(to, later), Standing::Fit(path));
        assert_eq!(destinations.standing(to, start + LOOK), Standing::Taken);
        destinations.looked(to, None, start);
        assert_eq!(destinations.standing(to, start), Standing::Unfit);
        destinations.refused(to);
        assert_eq!(destinations.standing(to, start), Standing::New);
    }

    #[test]
    fn a_list_is_fit_while_all_of_it_is() {
        let start = Instant::now();
        let to = [1, 2, 3].map(|n| SocketAddr::from(([10, 0, 0, n], 5000)));
        let path = |mtu| Path {
            source: [10, 0, 0, 9].into(),
            mtu,
        };
        let mut destinations = Destinations::default();
        destinations.looked(to[0], Some(path(1500)), start);
        let later = start + FIRST_LOOK / 2;
        destinations.looked(to[1], Some(path(1400)), later);
        assert_eq!(destinations.fit(&to, later), None);
        let whole = destinations.fit(&to[..2], later).unwrap();
        assert_eq!((whole.path, whole.until), (path(1400), start + FIRST_LOOK));
        assert_eq!(destinations.fit(&to[..2], start + FIRST_LOOK), None);
        let other = Path {
            source: [10, 0, 1, 9].into(),
            mtu: 1500,
        };
        destinations.looked(to[2], Some(other), later);
        assert_eq!(destinations.fit(&to, later), None);
        destinations.looked(to[2], None, later);
        assert_eq!(destinations.fit(&to, later), None);
    }

    #[test]
    fn what_no_router_delivers_to() {
        for to in [
            "10.0.0.1:0",
            "224.0.0.1:5000",
            "255.255.255.255:5000",
            "169.254.1.1:5000",
            "[ff02::1]:5000",
            "[fe80::1]:5000",
            "[::ffff:224.0.0.1]:5000",
            "0.0.0.0:5000",
            "[::]:5000",
        ] {
            assert!(!is_routed(to.parse().unwrap()), "{to}");
        }
        assert!(is_routed("10.0.0.1:5000".parse().unwrap()));
        assert!(is_routed("[::ffff:10.0.0.1]:5000".parse().unwrap()));
    }

    #[test]
    fn room_for_a_list() {
        assert!(has_room(1300, 3, false, 1500) && !has_room(1450, 3, false, 1500));
        assert!(has_room(1300, 3, true, 1500) && !has_room(1400, 3, true, 1500));
    }
}
