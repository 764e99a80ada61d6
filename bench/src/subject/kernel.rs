//! What the kernel does without any program: multicast forwarding, and unicast forwarding.

use std::{io, net::Ipv4Addr, os::fd::AsRawFd as _, rc::Rc};

use ::tests::packet::{ETHER_TYPE_IPV4, ETHERNET_LEN, Ip, Mac, ethernet, group_mac};
use anyhow::{Context as _, Result};
use nix::net::if_::if_nametoindex;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Case, Copy, Load, Subject};
use crate::{
    generator::Generator,
    routes::RouteSet,
    shared::FRAMES,
    sinks::{Kind, Sinks},
    site::{self, INGRESS, PORTS, SOURCE, Site, gateway_mac, port_mac, port_of},
};

/// The kernel's multicast forwarding, with static entries: a group for each number of copies.
pub struct Ipmr {
    site: Site,
    // Forwarding ends with the socket.
    _socket: Socket,
}

/// From linux/mroute.h.
mod mroute {
    pub const MRT_INIT: libc::c_int = 200;
    pub const MRT_ADD_VIF: libc::c_int = 202;
    pub const MRT_ADD_MFC: libc::c_int = 204;
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

impl Ipmr {
    /// Sets the entries up.
    ///
    /// # Errors
    ///
    /// See [`Site::new`]; or the kernel has no multicast routing.
    pub fn new(generator: &mut Generator) -> Result<Self> {
        let none = RouteSet::internet(0, 1);
        let site = Site::new(generator, "ipmr", Kind::Tc, &none)?;
        // Only such a socket may ask for it.
        let igmp = Protocol::from(libc::IPPROTO_IGMP);
        let socket = site
            .router
            .enter(|| Ok(Socket::new(Domain::IPV4, Type::RAW, Some(igmp))?))?;
        site.router.enter(|| {
            set_option(&socket, mroute::MRT_INIT, &1_i32)
                .context("this kernel has no IPv4 multicast routing")?;
            // Virtual interface 0 is where packets arrive.
            for vif in 0..=PORTS {
                let name = match vif {
                    0 => INGRESS.to_owned(),
                    _ => site::interface(vif - 1),
                };
                let vif = mroute::Vif {
                    vif: vif as u16,
                    flags: mroute::VIFF_USE_IFINDEX,
                    threshold: 1,
                    rate_limit: 0,
                    ifindex: if_nametoindex(name.as_str())? as libc::c_int,
                    remote: 0,
                };
                set_option(&socket, mroute::MRT_ADD_VIF, &vif)?;
            }
            for copies in 1..=PORTS {
                let mut ttls = [255; mroute::MAXVIFS];
                ttls[1..=copies].fill(1);
                let entry = mroute::Entry {
                    origin: SOURCE.to_bits().to_be(),
                    group: Self::group(copies).to_bits().to_be(),
                    parent: 0,
                    ttls,
                    counters: [0; 3],
                    expire: 0,
                };
                set_option(&socket, mroute::MRT_ADD_MFC, &entry)?;
            }
            Ok(())
        })?;
        Ok(Self {
            site,
            _socket: socket,
        })
    }

    fn group(copies: usize) -> Ipv4Addr {
        Ipv4Addr::new(239, 5, 0, copies as u8)
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
        let group = Self::group(load.copies);
        let frame = load.udp_frame(group);
        let copy = |port| Copy {
            port,
            frame: forwarded(&frame, group_mac(group), port_mac(port)),
        };
        Ok(Case {
            subject: self.name(),
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
    routes: Rc<RouteSet>,
}

impl Unicast {
    /// Sets the routes.
    ///
    /// # Errors
    ///
    /// See [`Site::new`].
    pub fn new(generator: &mut Generator, routes: Rc<RouteSet>) -> Result<Self> {
        let site = Site::new(generator, "unicast", Kind::Tc, &routes)?;
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
                frame: forwarded(&frame, gateway_mac(next_hop), port_mac(port)),
            }]);
            frames.push(frame);
        }
        Ok(Case {
            subject: self.name(),
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
fn forwarded(frame: &[u8], to: Mac, from: Mac) -> Vec<u8> {
    let Some((ip, payload)) = Ip::parse(::tests::family::Family::Ipv4, &frame[ETHERNET_LEN..])
    else {
        return Vec::new();
    };
    let ip = Ip {
        ttl: ip.ttl - 1,
        checksum: None,
        ..ip
    };
    ethernet(to, from, ETHER_TYPE_IPV4, &ip.emit(payload))
}

/// Sets an option of IPv4 sockets to a value as the kernel's headers lay it out.
fn set_option<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value is as long as its type says, and the kernel only reads it.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_IP,
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
