//! Questions to the kernel, one at a time: interfaces and what XDP can do on them, routes,
//! neighbours, settings.

use std::{
    fmt::Debug,
    fs, io,
    net::{IpAddr, Ipv4Addr},
};

use anyhow::{Context as _, Result};
use netlink_packet_core::{
    DecodeError, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkBuffer,
    NetlinkDeserializable, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator,
    ParseableParametrized, parse_u32, parse_u64,
};
use netlink_packet_generic::{
    GenlFamily, GenlHeader, GenlMessage,
    ctrl::{GenlCtrl, GenlCtrlCmd, nlas::GenlCtrlAttrs},
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkFlags, LinkInfo, LinkMessage, LinkXdp},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage},
};
use netlink_sys::{
    Socket, SocketAddr,
    protocols::{NETLINK_GENERIC, NETLINK_ROUTE},
};
use nix::errno::Errno;

/// An interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) ifindex: u32,
    pub(crate) name: String,
    /// Link layer address, where it is an Ethernet one.
    pub(crate) mac: Option<[u8; 6]>,
    pub(crate) mtu: u32,
    /// Set up by the administrator.
    pub(crate) up: bool,
    /// Has a carrier.
    pub(crate) running: bool,
    pub(crate) loopback: bool,
    /// `veth`, `bridge`, ...; hardware has none.
    pub(crate) kind: Option<String>,
    /// Index of the other end of a pair, valid in this namespace if [`Link::peer_elsewhere`] is
    /// false.
    pub(crate) peer: Option<u32>,
    /// The other end is in another network namespace.
    pub(crate) peer_elsewhere: bool,
    /// Id of the XDP program attached to it.
    pub(crate) xdp_program: Option<u32>,
}

/// What the kernel says about a way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// `None` where the destination is on the link.
    pub(crate) gateway: Option<IpAddr>,
    pub(crate) ifindex: u32,
    /// The source address the kernel would choose.
    pub(crate) source: Option<IpAddr>,
}

/// XDP features of an interface, as the kernel's `netdev` netlink family tells them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) struct XdpFeatures(pub(crate) u64);

impl XdpFeatures {
    /// The driver runs XDP programs (NETDEV_XDP_ACT_BASIC).
    pub(crate) fn native(self) -> bool {
        self.0 & 1 != 0
    }

    /// The driver sends frames that XDP programs redirect to it (NETDEV_XDP_ACT_NDO_XMIT).
    pub(crate) fn transmit(self) -> bool {
        self.0 & 4 != 0
    }
}

/// Every interface of this network namespace.
pub(crate) fn links() -> Result<Vec<Link>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the interfaces")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(message)),
            _ => None,
        })
        .collect())
}

fn link(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.into_iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            LinkAttribute::Xdp(attributes) => {
                link.xdp_program = attributes.iter().find_map(|attribute| match attribute {
                    LinkXdp::ProgId(id) => Some(*id),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link
}

/// Removes an interface; the other end of a pair goes with it.
pub(crate) fn remove_link(ifindex: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    ask(
        NETLINK_ROUTE,
        RouteNetlinkMessage::DelLink(message),
        NLM_F_ACK,
    )
    .map(drop)
    .context("cannot remove the interface")
}

/// The way the kernel would take to `destination`, by `ifindex` only if one is given; `None` if
/// there is none.
pub(crate) fn route(destination: IpAddr, ifindex: Option<u32>) -> Result<Option<Route>> {
    let mut message = RouteMessage::default();
    let address = match destination {
        IpAddr::V4(address) => {
            message.header.address_family = AddressFamily::Inet;
            message.header.destination_prefix_length = 32;
            RouteAddress::Inet(address)
        }
        IpAddr::V6(address) => {
            message.header.address_family = AddressFamily::Inet6;
            message.header.destination_prefix_length = 128;
            RouteAddress::Inet6(address)
        }
    };
    message.attributes = vec![RouteAttribute::Destination(address)];
    message.attributes.extend(ifindex.map(RouteAttribute::Oif));
    let answers = match ask(
        NETLINK_ROUTE,
        RouteNetlinkMessage::GetRoute(message),
        NLM_F_ACK,
    ) {
        Ok(answers) => answers,
        // Blackhole, prohibit and unreachable routes have an error of their own each.
        Err(error) if is_no_route(&error) => return Ok(None),
        Err(error) => {
            return Err(error).with_context(|| format!("cannot look up a route to {destination}"));
        }
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewRoute(message) => Some(parse_route(&message)),
        _ => None,
    }))
}

fn is_no_route(error: &io::Error) -> bool {
    const NO_ROUTE: [Errno; 4] = [
        Errno::ENETUNREACH,
        Errno::EHOSTUNREACH,
        Errno::EACCES,
        Errno::EINVAL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| NO_ROUTE.contains(&Errno::from_raw(code)))
}

fn parse_route(message: &RouteMessage) -> Route {
    let mut route = Route {
        gateway: None,
        ifindex: 0,
        source: None,
    };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(ifindex) => route.ifindex = *ifindex,
            _ => {}
        }
    }
    route
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

/// The link layer address of a neighbour, if the kernel knows it.
pub(crate) fn neighbour(ifindex: u32, address: IpAddr) -> Result<Option<[u8; 6]>> {
    let mut message = NeighbourMessage::default();
    let wanted = match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    };
    message.header.family = match address {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    };
    let request = RouteNetlinkMessage::GetNeighbour(message);
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the neighbours")?;
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == ifindex => {
            let mut mac = None;
            let mut found = false;
            for attribute in message.attributes {
                match attribute {
                    NeighbourAttribute::Destination(address) => found = address == wanted,
                    NeighbourAttribute::LinkLayerAddress(octets) => mac = octets.try_into().ok(),
                    _ => {}
                }
            }
            mac.filter(|_| found)
        }
        _ => None,
    }))
}

/// XDP features of every interface, by index; `None` on kernels before 6.3, which do not tell.
pub(crate) fn xdp_features() -> Result<Option<Vec<(u32, XdpFeatures)>>> {
    let request = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName("netdev".to_owned())],
    });
    let answers = match ask(NETLINK_GENERIC, request, NLM_F_ACK) {
        Ok(answers) => answers,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(error) => return Err(error).context("cannot look up the netlink family netdev"),
    };
    let Some(family) = answers
        .iter()
        .flat_map(|answer| &answer.payload.nlas)
        .find_map(|attribute| match attribute {
            GenlCtrlAttrs::FamilyId(id) => Some(*id),
            _ => None,
        })
    else {
        return Ok(None);
    };
    let mut request = GenlMessage::from_payload(NetdevGet::default());
    request.set_resolved_family_id(family);
    let answers = ask(NETLINK_GENERIC, request, NLM_F_DUMP)
        .context("cannot list the XDP features of the interfaces")?;
    let features = |answer: GenlMessage<NetdevGet>| {
        (answer.payload.ifindex, XdpFeatures(answer.payload.features))
    };
    Ok(Some(answers.into_iter().map(features).collect()))
}

/// NETDEV_CMD_DEV_GET, as a request and as an answer.
#[derive(Clone, Copy, Debug, Default)]
struct NetdevGet {
    /// NETDEV_A_DEV_IFINDEX
    ifindex: u32,
    /// NETDEV_A_DEV_XDP_FEATURES
    features: u64,
}

impl GenlFamily for NetdevGet {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        1
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for NetdevGet {
    fn buffer_len(&self) -> usize {
        0
    }

    fn emit(&self, _buffer: &mut [u8]) {}
}

impl ParseableParametrized<[u8], GenlHeader> for NetdevGet {
    fn parse_with_param(buffer: &[u8], _header: GenlHeader) -> Result<Self, DecodeError> {
        let mut device = Self::default();
        for attribute in NlasIterator::new(buffer) {
            let attribute = attribute?;
            match attribute.kind() {
                1 => device.ifindex = parse_u32(attribute.value())?,
                3 => device.features = parse_u64(attribute.value())?,
                _ => {}
            }
        }
        Ok(device)
    }
}

/// Whether generic receive offload is on; `None` if the kernel does not tell.
pub(crate) fn gro(interface: &str) -> Option<bool> {
    /// `struct ethtool_value`
    #[repr(C)]
    struct Value {
        command: u32,
        data: u32,
    }
    const ETHTOOL_GGRO: u32 = 0x2b;
    nix::ioctl_readwrite_bad!(ethtool, libc::SIOCETHTOOL, libc::ifreq);

    let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    let mut value = Value {
        command: ETHTOOL_GGRO,
        data: 0,
    };
    // SAFETY: `ifreq` is plain old data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last octet stays zero, as the kernel requires.
    let octets = interface.bytes().take(libc::IFNAMSIZ - 1);
    for (to, from) in request.ifr_name.iter_mut().zip(octets) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = std::ptr::from_mut(&mut value).cast();
    // SAFETY: the kernel reads an `ethtool_value` through the pointer and writes one back; `value`
    // is one, and outlives the call.
    unsafe { ethtool(std::os::fd::AsRawFd::as_raw_fd(&socket), &raw mut request) }.ok()?;
    Some(value.data != 0)
}

/// A number under /proc/sys/net, if it exists.
pub(crate) fn sysctl(path: &str) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/sys/net/{path}")).ok()?;
    text.trim().parse().ok()
}

/// Whether a socket is bound to this UDP port, at whatever address.
pub(crate) fn udp_port_in_use(port: u16) -> bool {
    // A line per socket: "  42: 00000000:1092 00000000:0000 07 ...", number, local, remote, state.
    let bound_to = |line: &str| {
        let local = line.split_whitespace().nth(1)?;
        let (_, bound) = local.rsplit_once(':')?;
        u16::from_str_radix(bound, 16).ok()
    };
    ["udp", "udp6"].iter().any(|table| {
        let text = fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default();
        text.lines().any(|line| bound_to(line) == Some(port))
    })
}

/// Release of the running kernel, as `uname -r` prints it.
pub(crate) fn release() -> Result<String> {
    let uname = nix::sys::utsname::uname().context("cannot ask for the kernel's release")?;
    Ok(uname.release().to_string_lossy().into_owned())
}

/// Sends one request and collects the answers until the kernel says that it is done.
fn ask<T>(protocol: isize, request: T, flags: u16) -> io::Result<Vec<T>>
where
    T: NetlinkSerializable + NetlinkDeserializable + Debug,
    NetlinkPayload<T>: From<T>,
{
    let socket = Socket::new(protocol)?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut message = NetlinkMessage::from(request);
    message.header.flags = NLM_F_REQUEST | flags;
    message.finalize();
    let mut buffer = vec![0; message.buffer_len()];
    message.serialize(&mut buffer);
    socket.send(&buffer, 0)?;

    let mut answers = Vec::new();
    loop {
        let (datagram, _) = socket.recv_from_full()?;
        let mut rest = &datagram[..];
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let length = header.length() as usize;
            // What the library cannot parse is newer than it, and of no interest here.
            if let Ok(message) = NetlinkMessage::<T>::deserialize(&rest[..length]) {
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => answers.push(answer),
                    NetlinkPayload::Done(_) => return Ok(answers),
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(answers),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
            rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_namespace_has_a_loopback_interface() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback);
        assert_eq!(lo.ifindex, 1);
    }

    #[test]
    fn an_address_of_this_host_is_reached_by_lo() {
        let route = route(Ipv4Addr::LOCALHOST.into(), None).unwrap().unwrap();
        assert_eq!((route.gateway, route.ifindex), (None, 1));
        assert_eq!(route.source, Some(Ipv4Addr::LOCALHOST.into()));
    }

    #[test]
    fn a_bound_socket_uses_its_port() {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(udp_port_in_use(socket.local_addr().unwrap().port()));
        // Nothing can be bound to it.
        assert!(!udp_port_in_use(0));
    }

    #[test]
    fn sysctls_are_numbers() {
        assert!(sysctl("ipv4/ip_forward").is_some());
        assert_eq!(sysctl("ipv4/conf/no-such-interface/rp_filter"), None);
    }

    #[test]
    fn features_of_lo_are_known_or_the_kernel_is_old() {
        if let Some(features) = xdp_features().unwrap() {
            let (_, lo) = features.iter().find(|(ifindex, _)| *ifindex == 1).unwrap();
            assert!(!lo.native());
        }
    }
}
