//! What the kernel does without any program: multicast forwarding, and unicast forwarding.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::AsRawFd as _,
    rc::Rc,
};

use ::tests::{
    family::Family,
    packet::{ETHERNET_LEN, Ip, Mac, ethernet, group_mac},
};
use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Case, Copy, Load, Subject};
use crate::{
    generator::Generator,
    shared::FRAMES,
    sinks::{Kind, Sinks},
    site::{self, INGRESS, PORTS, SOURCE, Site, gateway_mac, port_mac, port_of},
    table::Routes,
};

/// The kernel's multicast forwarding, with static entries: a group for each number of copies.
pub struct Ipmr {
    site: Site,
    // Forwarding ends with the socket.
    _socket: Socket,
}

/// From linux/mroute.h.
mod mroute {
    pub const INIT: libc::c_int = 200;
    pub const ADD_VIF: libc::c_int = 202;
    pub const ADD_MFC: libc::c_int = 204;
    pub const VIFF_USE_IFINDEX: u8 = 8;
    pub const MAXVIFS: usize = 32;

    /// `struct vifctl`; the interface is given by its index.
    #[repr(C)]
    pub struct Vif {
        pub vif: u16,
        pub flags: u8,
        pub threshold: u8,
        pub rate_limit: u32,
        pub ifindex: libc::c_int,
        pub remote: u32,
    }

    /// `struct mfcctl`; addresses in network byte order.
    #[repr(C)]
    pub struct Entry {
        pub origin: u32,
        pub group: u32,
        pub parent: u16,
        pub ttls: [u8; MAXVIFS],
        pub counters: [u32; 3],
        pub expire: libc::c_int,
    }
}

/// From linux/mroute6.h.
mod mroute6 {
    pub const INIT: libc::c_int = 200;
    pub const ADD_MIF: libc::c_int = 202;
    pub const ADD_MFC: libc::c_int = 204;

    /// `struct mif6ctl`.
    #[repr(C)]
    pub struct Mif {
        pub mif: u16,
        pub flags: u8,
        pub threshold: u8,
        pub ifindex: u16,
        pub rate_limit: libc::c_uint,
    }

    /// `struct mf6cctl`; a bit for each interface that copies leave by.
    #[repr(C)]
    pub struct Entry {
        pub origin: libc::sockaddr_in6,
        pub group: libc::sockaddr_in6,
        pub parent: u16,
        pub interfaces: [u32; 8],
    }
}

impl Ipmr {
    /// Sets the entries up.
    ///
    /// # Errors
    ///
    /// See [`Site::new`]; or the kernel has no multicast routing.
    pub fn new(generator: &mut Generator, family: Family) -> Result<Self> {
        let site = Site::new(generator, family, "ipmr", Kind::Tc, None)?;
        let socket = site.router.enter(|| {
            let socket = multicast_router(family)?;
            // Interface 0 is where packets arrive.
            for number in 0..=PORTS {
                let name = match number {
                    0 => INGRESS.to_owned(),
                    _ => site::interface(number - 1),
                };
                let ifindex = if_nametoindex(name.as_str())?;
                add_interface(&socket, family, number as u16, ifindex)?;
            }
            for copies in 1..=PORTS {
                add_entry(&socket, copies, Self::group(family, copies))?;
            }
            Ok(socket)
        })?;
        Ok(Self {
            site,
            _socket: socket,
        })
    }

    fn group(family: Family, copies: usize) -> IpAddr {
        family.address(Ipv4Addr::new(239, 5, 0, copies as u8))
    }
}

/// A socket for whose lifetime the kernel forwards multicast.
fn multicast_router(family: Family) -> Result<Socket> {
    // Only such sockets may ask for it.
    let (domain, protocol, level, init) = match family {
        Family::Ipv4 => (
            Domain::IPV4,
            libc::IPPROTO_IGMP,
            libc::IPPROTO_IP,
            mroute::INIT,
        ),
        Family::Ipv6 => (
            Domain::IPV6,
            libc::IPPROTO_ICMPV6,
            libc::IPPROTO_IPV6,
            mroute6::INIT,
        ),
    };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
    set_option(&socket, level, init, &1_i32)
        .with_context(|| format!("this kernel has no multicast routing of {family:?}"))?;
    Ok(socket)
}

/// Has an interface take part, by this number.
fn add_interface(socket: &Socket, family: Family, number: u16, ifindex: u32) -> io::Result<()> {
    match family {
        Family::Ipv4 => {
            let vif = mroute::Vif {
                vif: number,
                flags: mroute::VIFF_USE_IFINDEX,
                threshold: 1,
                rate_limit: 0,
                ifindex: ifindex as libc::c_int,
                remote: 0,
            };
            set_option(socket, libc::IPPROTO_IP, mroute::ADD_VIF, &vif)
        }
        Family::Ipv6 => {
            let mif = mroute6::Mif {
                mif: number,
                flags: 0,
                threshold: 1,
                // Few interfaces, all of one namespace.
                ifindex: ifindex as u16,
                rate_limit: 0,
            };
            set_option(socket, libc::IPPROTO_IPV6, mroute6::ADD_MIF, &mif)
        }
    }
}

/// Has packets from the source to a group leave by interfaces 1 to `copies`.
fn add_entry(socket: &Socket, copies: usize, group: IpAddr) -> io::Result<()> {
    let source = site::address(Family::of(group), SOURCE);
    match (source, group) {
        (IpAddr::V6(source), IpAddr::V6(group)) => {
            let mut interfaces = [0; 8];
            interfaces[0] = ((1 << copies) - 1) << 1;
            let entry = mroute6::Entry {
                origin: sockaddr_in6(source),
                group: sockaddr_in6(group),
                parent: 0,
                interfaces,
            };
            set_option(socket, libc::IPPROTO_IPV6, mroute6::ADD_MFC, &entry)
        }
        (IpAddr::V4(source), IpAddr::V4(group)) => {
            let mut ttls = [255; mroute::MAXVIFS];
            ttls[1..=copies].fill(1);
            let entry = mroute::Entry {
                origin: source.to_bits().to_be(),
                group: group.to_bits().to_be(),
                parent: 0,
                ttls,
                counters: [0; 3],
                expire: 0,
            };
            set_option(socket, libc::IPPROTO_IP, mroute::ADD_MFC, &entry)
        }
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

fn sockaddr_in6(address: Ipv6Addr) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: 0,
        sin6_flowinfo: 0,
        sin6_addr: libc::in6_addr {
            s6_addr: address.octets(),
        },
        sin6_scope_id: 0,
    }
}

impl Subject for Ipmr {
    fn name(&self) -> &'static str {
        "ipmr"
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let family = self.site.family;
        let group = Self::group(family, load.copies);
        let frame = load.udp_frame(group);
        let copy = |port| Copy {
            port,
            frame: forwarded(family, &frame, group_mac(group), port_mac(port)),
        };
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: 0,
            device: self.site.device,
            copies: vec![(0..load.copies).map(copy).collect()],
            frames: vec![frame],
            frames_per_packet: 1,
        })
    }
}

/// The kernel's unicast forwarding, a packet for each destination.
pub struct Unicast {
    site: Site,
    routes: Rc<Routes>,
}

impl Unicast {
    /// Sets the routes.
    ///
    /// # Errors
    ///
    /// See [`Site::new`].
    pub fn new(generator: &mut Generator, routes: Rc<Routes>) -> Result<Self> {
        let site = Site::new(
            generator,
            routes.family(),
            "unicast",
            Kind::Tc,
            Some(&routes),
        )?;
        Ok(Self { site, routes })
    }
}

impl Subject for Unicast {
    fn name(&self) -> &'static str {
        "unicast"
    }

    fn sinks(&mut self) -> &mut Sinks {
        &mut self.site.sinks
    }

    fn case(&mut self, load: Load) -> Result<Case> {
        let family = self.site.family;
        let lists = load.lists(&self.routes);
        let mut frames = Vec::new();
        let mut copies = Vec::new();
        // Whole packets only, as many as there is room for.
        let packets = (FRAMES / load.destinations).clamp(1, lists.len());
        for &(address, next_hop) in lists[..packets].iter().flatten() {
            let frame = load.udp_frame(address);
            let port = port_of(next_hop);
            copies.push(vec![Copy {
                port,
                frame: forwarded(family, &frame, gateway_mac(next_hop), port_mac(port)),
            }]);
            frames.push(frame);
        }
        Ok(Case {
            subject: self.name(),
            family,
            load,
            routes: self.routes.len(),
            device: self.site.device,
            copies,
            frames,
            frames_per_packet: load.destinations,
        })
    }
}

/// The frame after a router has sent it on: link layer addresses, and TTL.
fn forwarded(family: Family, frame: &[u8], to: Mac, from: Mac) -> Vec<u8> {
    let Some((ip, payload)) = Ip::parse(family, &frame[ETHERNET_LEN..]) else {
        return Vec::new();
    };
    let ip = Ip {
        ttl: ip.ttl - 1,
        checksum: None,
        ..ip
    };
    ethernet(to, from, family.ether_type(), &ip.emit(payload))
}

/// Sets an option of a socket to a value as the kernel's headers lay it out.
fn set_option<T>(
    socket: &Socket,
    level: libc::c_int,
    option: libc::c_int,
    value: &T,
) -> io::Result<()> {
    // SAFETY: the value is as long as its type says, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
