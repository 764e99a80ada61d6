//! Interfaces.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use netlink_packet_core::{NLM_F_ACK, NLM_F_DUMP};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{
        AfSpecInet, AfSpecInet6, AfSpecUnspec, BondPortState, BridgePortState, InfoBondPort,
        InfoBridge, InfoBridgePort, InfoData, InfoPortData, LinkAttribute, LinkFlags, LinkInfo,
        LinkMessage, LinkXdp, Prop,
    },
};
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::ask;

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
    /// Neighbours on it have no link layer addresses to be asked for (IFF_NOARP).
    pub(crate) no_arp: bool,
    /// `veth`, `bridge`, ...; hardware has none.
    pub(crate) kind: Option<String>,
    /// Index of the other end of a pair, valid in this namespace if [`Link::peer_elsewhere`] is
    /// false.
    pub(crate) peer: Option<u32>,
    /// The other end is in another network namespace.
    pub(crate) peer_elsewhere: bool,
    /// What somebody wrote down about it.
    pub(crate) alias: Option<String>,
    /// Id of the XDP program attached to it.
    pub(crate) xdp_program: Option<u32>,
    /// Where that runs.
    pub(crate) xdp_place: XdpPlace,
    /// A bridge that keeps VLANs apart (`vlan_filtering`).
    pub(crate) filters_vlans: bool,
    /// Index of the bridge, bond or VRF that it is a member of.
    pub(crate) master: Option<u32>,
    /// Why that bridge or bond takes less from it than from its other members, if it does.
    pub(crate) barred: Option<Barred>,
    /// Further names, by which it can be found as well.
    pub(crate) alt_names: Vec<String>,
    /// Its own reverse path filter (`net.ipv4.conf.X.rp_filter`).
    pub(crate) rp_filter: Option<u32>,
    /// The kernel forwards IPv4 that arrives on it (`net.ipv4.conf.X.forwarding`).
    pub(crate) forwarding: Option<bool>,
    /// Largest packet of IPv6 that it sends, in octets (`net.ipv6.conf.X.mtu`).
    pub(crate) ipv6_mtu: Option<u32>,
    /// The kernel takes IPv6 that arrives on it: not with an MTU below 1280, nor with `net.ipv6.conf.X.disable_ipv6`.
    pub(crate) takes_ipv6: bool,
    /// It forwards IPv6 that arrives on it, whatever is set for all (`net.ipv6.conf.X.force_forwarding`, Linux 6.17).
    pub(crate) forces_forwarding6: bool,
}

/// Where an XDP program runs: whoever takes it off has to say so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum XdpPlace {
    /// In the driver.
    #[default]
    Driver,
    /// In the kernel's stack (generic XDP).
    Generic,
    /// On the card.
    Card,
}

impl XdpPlace {
    /// Its flag of netlink (linux/if_link.h): without one, the kernel takes the driver to be meant if that has XDP.
    fn flag(self) -> u32 {
        match self {
            Self::Generic => 1 << 1,
            Self::Driver => 1 << 2,
            Self::Card => 1 << 3,
        }
    }

    /// Its word for `ip link`.
    fn word(self) -> &'static str {
        match self {
            Self::Generic => "xdpgeneric",
            Self::Driver => "xdp",
            Self::Card => "xdpoffload",
        }
    }
}

/// Why a bridge or bond does not take what a member receives. The later ones are the stricter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Barred {
    /// The bridge takes frames only of hosts that it was told of (802.1X): only the kernel knows which.
    Locked,
    /// It is a backup of the bond.
    Backup,
    /// The port of the bridge is not in the state "forwarding", by the spanning tree or by an administrator.
    NotForwarding,
}

impl Barred {
    /// Whether nothing is sent by it, either.
    pub(crate) fn sends_nothing(self) -> bool {
        self > Self::Locked
    }
}

impl fmt::Display for Barred {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Locked => "its bridge has it locked (802.1X)",
            Self::Backup => "its bond has it as a backup",
            Self::NotForwarding => "its bridge has it not forwarding (spanning tree)",
        })
    }
}

/// Why an interface cannot be a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Obstacle {
    pub(crate) what: String,
    /// What to do instead.
    pub(crate) remedy: &'static str,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; {}", self.what, self.remedy)
    }
}

impl Link {
    /// Why it cannot be a port; `None` if nothing is known against it. `native` says whether its
    /// driver runs XDP programs, if anybody knows.
    pub(crate) fn obstacle(&self, native: Option<bool>) -> Option<Obstacle> {
        if self.loopback || self.mac.is_none() {
            return Some(Obstacle {
                what: "not an Ethernet interface, and a port has to be one".to_owned(),
                remedy: "use another interface",
            });
        }
        let kind = self.kind.as_deref()?;
        let remedy = match kind {
            "veth" | "tun" => return None,
            // XDP runs on the members, and is told their indices.
            "bond" | "team" => "make its members ports: they accept its address",
            "vrf" => "make its members ports",
            _ if native == Some(true) => return None,
            "bridge" => "make its members ports: they accept its address",
            "macvlan" => "make the interface below it a port: that accepts its address",
            "macvtap" | "ipvlan" | "ipvtap" => "make the interface below it a port",
            "vlan" => {
                "make the interface below it a port, and have frames arrive there without a tag"
            }
            _ => "use another interface",
        };
        Some(Obstacle {
            what: format!("a {kind} cannot be a port: XDP programs cannot run on it natively"),
            remedy,
        })
    }

    /// The command that takes off the XDP program that is on it.
    pub(crate) fn xdp_off(&self) -> String {
        format!(
            "ip link set dev {} {} off",
            self.name,
            self.xdp_place.word()
        )
    }

    /// Whether this is a name of it.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        self.name == name || self.alt_names.iter().any(|other| other == name)
    }
}

/// Every interface of this network namespace.
pub(crate) fn links() -> Result<Vec<Link>> {
    let request = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the interfaces")?;
    Ok(answers
        .into_iter()
        .filter_map(|answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(parse(message)),
            _ => None,
        })
        .collect())
}

/// The interface of this name, if there is one.
pub(crate) fn link_named(name: &str) -> Result<Option<Link>> {
    Ok(links()?.into_iter().find(|link| link.is_named(name)))
}

/// The interface with this index, if there is one in this network namespace.
pub(crate) fn link(ifindex: u32) -> Result<Option<Link>> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let request = RouteNetlinkMessage::GetLink(message);
    let answers = match ask(NETLINK_ROUTE, request, NLM_F_ACK) {
        Ok(answers) => answers,
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
        Err(error) => return Err(error).context("cannot ask for an interface"),
    };
    Ok(answers.into_iter().find_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(parse(message)),
        _ => None,
    }))
}

/// IPv4 addresses of an interface.
pub(crate) fn ipv4_addresses(ifindex: u32) -> Result<Vec<Ipv4Addr>> {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet;
    let request = RouteNetlinkMessage::GetAddress(message);
    let answers = ask(NETLINK_ROUTE, request, NLM_F_DUMP).context("cannot list the addresses")?;
    let of_interface = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewAddress(message) if message.header.index == ifindex => {
            Some(message.attributes)
        }
        _ => None,
    });
    let local = of_interface
        .flatten()
        .filter_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(address),
            _ => None,
        });
    Ok(local.collect())
}

fn parse(message: LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        ifindex: message.header.index,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::LowerUp),
        loopback: flags.contains(LinkFlags::Loopback),
        no_arp: flags.contains(LinkFlags::Noarp),
        ..Link::default()
    };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(address) => link.mac = address.try_into().ok(),
            LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Link(peer) => link.peer = Some(peer),
            LinkAttribute::Controller(master) => link.master = Some(master),
            LinkAttribute::PropList(names) => {
                link.alt_names
                    .extend(names.into_iter().filter_map(|name| match name {
                        Prop::AltIfName(name) => Some(name),
                        _ => None,
                    }));
            }
            LinkAttribute::LinkNetNsId(_) => link.peer_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    match info {
                        LinkInfo::Kind(kind) => link.kind = Some(kind.to_string()),
                        LinkInfo::Data(InfoData::Bridge(settings)) => {
                            link.filters_vlans =
                                settings.contains(&InfoBridge::VlanFiltering(true));
                        }
                        LinkInfo::PortData(member) => link.barred = barred(&member),
                        _ => {}
                    }
                }
            }
            LinkAttribute::AfSpecUnspec(families) => {
                families
                    .iter()
                    .for_each(|family| read_settings(&mut link, family));
            }
            LinkAttribute::Xdp(attributes) => {
                // The card may have one beside that of the driver or of the stack, which then counts.
                for attribute in attributes {
                    let (id, place) = match attribute {
                        LinkXdp::HwProgId(id) if link.xdp_program.is_none() => (id, XdpPlace::Card),
                        LinkXdp::DrvProgId(id) => (id, XdpPlace::Driver),
                        LinkXdp::SkbProgId(id) => (id, XdpPlace::Generic),
                        _ => continue,
                    };
                    (link.xdp_program, link.xdp_place) = (Some(id), place);
                }
            }
            _ => {}
        }
    }
    link
}

/// What a bridge or bond tells of its member.
fn barred(member: &InfoPortData) -> Option<Barred> {
    match member {
        InfoPortData::BridgePort(settings) => {
            let bars = settings.iter().filter_map(|setting| match setting {
                InfoBridgePort::State(BridgePortState::Forwarding) => None,
                InfoBridgePort::State(_) => Some(Barred::NotForwarding),
                InfoBridgePort::Locked(true) => Some(Barred::Locked),
                _ => None,
            });
            bars.max()
        }
        InfoPortData::BondPort(settings) => settings.iter().find_map(|setting| match setting {
            InfoBondPort::BondPortState(BondPortState::Active) => None,
            InfoBondPort::BondPortState(_) => Some(Barred::Backup),
            _ => None,
        }),
        _ => None,
    }
}

/// What the kernel tells of the interface's settings for one family.
fn read_settings(link: &mut Link, family: &AfSpecUnspec) {
    match family {
        AfSpecUnspec::Inet(attributes) => {
            for attribute in attributes {
                if let AfSpecInet::DevConf(settings) = attribute {
                    link.rp_filter = settings.rp_filter.try_into().ok();
                    link.forwarding = Some(settings.forwarding != 0);
                }
            }
        }
        AfSpecUnspec::Inet6(attributes) => {
            for attribute in attributes {
                if let AfSpecInet6::DevConf(settings) = attribute {
                    link.ipv6_mtu = settings.mtu6.try_into().ok();
                    link.takes_ipv6 = settings.disable_ipv6 == 0;
                    link.forces_forwarding6 = settings.force_forwarding != 0;
                }
            }
        }
        _ => {}
    }
}

/// The kernel's least MTU (`ETH_MIN_MTU`). Hardly an Xcast packet is as short.
const LEAST_MTU: u32 = 68;

/// How long what is queued between the ends of a pair may take until it is forwarded.
const DRAIN: Duration = Duration::from_millis(50);

/// Removes an interface; the other end of a pair goes with it. Whoever sends into it is told at once.
pub(crate) fn remove_link(ifindex: u32) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let remove = RouteNetlinkMessage::DelLink(message.clone());
    // From the time the kernel begins until it has shut the interface, it drops what is sent and says
    // nothing of it; a busy machine takes a second for that. What is longer than the MTU it refuses.
    message.attributes.push(LinkAttribute::Mtu(LEAST_MTU));
    let shorten = RouteNetlinkMessage::SetLink(message);
    let ask = |request| {
        ask(NETLINK_ROUTE, request, NLM_F_ACK)
            .map(drop)
            .context("cannot remove the interface")
    };
    ask(shorten)?;
    thread::sleep(DRAIN);
    ask(remove)
}

/// Takes off an XDP program that was attached by a message like this one.
pub(crate) fn take_xdp_off(ifindex: u32, place: XdpPlace) -> Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let none = LinkAttribute::Xdp(vec![LinkXdp::Fd(-1), LinkXdp::Flags(place.flag())]);
    message.attributes.push(none);
    let request = RouteNetlinkMessage::SetLink(message);
    ask(NETLINK_ROUTE, request, NLM_F_ACK)
        .map(drop)
        .context("cannot take a program off")
}

#[cfg(test)]
mod tests {
    use super::{super::sysctl, *};

    #[test]
    fn every_namespace_has_a_loopback_interface() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert!(lo.loopback);
        assert_eq!(lo.ifindex, 1);
    }

    #[test]
    fn members_that_are_barred() {
        let bridge = |state, is_locked| {
            barred(&InfoPortData::BridgePort(vec![
                InfoBridgePort::State(state),
                InfoBridgePort::Locked(is_locked),
            ]))
        };
        assert_eq!(bridge(BridgePortState::Forwarding, false), None);
        let locked = bridge(BridgePortState::Forwarding, true);
        assert_eq!(locked, Some(Barred::Locked));
        for state in [BridgePortState::Learning, BridgePortState::Blocking] {
            assert_eq!(bridge(state, true), Some(Barred::NotForwarding));
        }
        let bond = |state| {
            let state = InfoBondPort::BondPortState(state);
            barred(&InfoPortData::BondPort(vec![state]))
        };
        assert_eq!(bond(BondPortState::Active), None);
        assert_eq!(bond(BondPortState::Backup), Some(Barred::Backup));
        assert!(Barred::Backup.sends_nothing() && !Barred::Locked.sends_nothing());
    }

    #[test]
    fn settings_come_with_the_interface() {
        let links = links().unwrap();
        let lo = links.iter().find(|link| link.name == "lo").unwrap();
        assert_eq!(lo.rp_filter, sysctl("ipv4/conf/lo/rp_filter"));
        assert_eq!(
            lo.forwarding.map(u32::from),
            sysctl("ipv4/conf/lo/forwarding")
        );
        assert_eq!(lo.ipv6_mtu, sysctl("ipv6/conf/lo/mtu"));
    }
}
