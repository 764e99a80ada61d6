//! Everything that `check` needs to know, gathered once.

use anyhow::Result;
use aya::{programs::ProgramType, sys::is_program_supported};
use ipnet::IpNet;

use super::setting::Setting;
use crate::kernel::{
    self, Link, MemoryLimit, Netfilter, Rule, TrafficControl, XdpFeatures, local_port,
};
use crate::{
    config::{Config, DATAPATH_SUFFIX, Source},
    control::{self, ControlError, Request, Response},
    datapath::{
        bpffs::{self, Place},
        foreign, pin,
    },
    report,
};

/// What there is to judge.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Release of the running kernel.
    pub(super) kernel: String,
    /// Size of a page of memory, in octets.
    pub(super) page_size: u32,
    /// Why XDP programs cannot be loaded, if they cannot.
    pub(super) no_bpf: Option<String>,
    /// Capabilities that a router needs and this process does not have.
    pub(super) missing_capabilities: Vec<&'static str>,
    /// The limit of memory of the running router, or of this process.
    pub(super) memory_limit: Option<MemoryLimit>,
    /// Where a router started by this process would pin what is to outlive it.
    pub(super) place: Place,
    /// What routers pinned that is of no use to anybody any more.
    pub(super) abandoned: Vec<String>,
    /// The packet filter.
    pub(super) netfilter: Netfilter,
    /// Destinations that policies of IPsec apply to.
    pub(super) ipsec: Vec<IpNet>,
    /// Rules of policy routing.
    pub(super) rules: Vec<Rule>,
    /// Interfaces that are on top of others, with their effective reverse path filters.
    pub(super) uppers: Vec<Link>,
    /// The configured ports, in their order.
    pub(super) ports: Vec<Interface>,
    /// Name of the router's own interface.
    pub(super) own_name: String,
    /// The router's own interface, if it exists.
    pub(super) own: Option<Interface>,
    /// Its other end, which the datapath sends by, if it exists in this network namespace.
    pub(super) own_peer: Option<Link>,
    /// What others run on the router's own interface before copies are handed over to the ports.
    pub(super) own_before_handover: Vec<String>,
    /// The router's own interface has an IPv4 address.
    pub(super) own_has_address: bool,
    /// UDP port for Xcast inside UDP, if the configuration has one.
    pub(super) udp_port: Option<u16>,
    /// A program listens on that port.
    pub(super) udp_port_in_use: bool,
    /// The kernel may give that port to a socket that asks for any.
    pub(super) udp_port_ephemeral: bool,
    /// The configuration has the router serve sources that nothing is known of.
    pub(super) is_relay: bool,
    /// Number of ports that take sources only that have proven their address.
    pub(super) proven_ports: usize,
    /// The configuration has code points for IPv6.
    pub(super) wants_ipv6: bool,
    /// Whether the kernel forwards IPv6; `None` if it has no IPv6.
    pub(super) forwards_ipv6: Option<bool>,
    /// Packets that are forwarded are held against path MTUs that the host has learned.
    pub(super) forwards_by_path_mtu: bool,
    /// What the running router says, if there is one.
    pub(super) running: Option<Running>,
}

/// An interface, and what is set for it.
#[derive(Clone, Debug, Default)]
pub(super) struct Interface {
    pub(super) name: String,
    /// `None` if it does not exist.
    pub(super) link: Option<Link>,
    /// Its XDP features, if the kernel reports them (Linux 6.3).
    pub(super) features: Option<XdpFeatures>,
    /// Generic receive offload of the interface itself.
    pub(super) gro: Option<bool>,
    /// Whether the other end of a pair has GRO or an XDP program, if that end is in this namespace.
    pub(super) peer_receives: Option<bool>,
    /// Name of the other end of a pair, if that end is in this namespace.
    pub(super) peer_name: Option<String>,
    /// The bridge, bond, team or VRF that it is a member of.
    pub(super) master: Option<Link>,
    /// VLAN tags may be taken off before XDP sees a frame.
    pub(super) takes_vlan_tags_off: Option<bool>,
    /// Offloads that merge frames before XDP sees them, by the names that `ethtool -K` takes.
    pub(super) merging_offloads: Vec<&'static str>,
    /// Name of the XDP program attached to it.
    pub(super) xdp_name: Option<String>,
    /// The effective reverse path filter: the stricter of its own and the one for all.
    pub(super) rp_filter: Option<u32>,
    /// The kernel forwards what arrives on it, by IPv4.
    pub(super) forwarding: Option<bool>,
    /// The kernel has IPv6 on it.
    pub(super) ipv6: Option<bool>,
    /// What traffic control does on it.
    pub(super) traffic_control: TrafficControl,
    /// Settings that are on.
    pub(super) unlike_unicast: Vec<Setting>,
}

/// What the running router says.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) ports: Vec<report::Port>,
    pub(super) stats: report::Stats,
    pub(super) status: report::Status,
    pub(super) tunnels: Vec<report::Tunnel>,
    /// Gateways that routes lead to.
    pub(super) neighbors: Vec<report::Neighbor>,
}

impl Interface {
    /// The XDP program on it is a router's.
    pub(super) fn runs_router(&self) -> bool {
        let name = self.xdp_name.as_deref();
        name.is_some_and(|name| name == "xcast" || name.starts_with("xcast_"))
    }
}

impl Facts {
    pub(super) fn gather(config: &Config) -> Result<Self> {
        let links = kernel::links()?;
        let features = kernel::xdp_features()?;
        let interface = |name: &str| interface(name, &links, features.as_deref());
        let own_name = config.router.interface.clone();
        let own = Some(interface(&own_name)).filter(|own| own.link.is_some());
        let own_peer = format!("{own_name}{DATAPATH_SUFFIX}");
        let running = running(&own_name)?;
        let process = running.as_ref().map_or_else(
            || "self".to_owned(),
            |running| running.status.pid.to_string(),
        );
        Ok(Self {
            kernel: kernel::release()?,
            page_size: page_size(),
            no_bpf: no_bpf(),
            missing_capabilities: kernel::missing_capabilities().unwrap_or_default(),
            memory_limit: kernel::memory_limit(&process),
            place: bpffs::look(),
            abandoned: pin::abandoned(),
            netfilter: kernel::netfilter(),
            ipsec: kernel::ipsec_destinations().unwrap_or_default(),
            rules: kernel::rules()?,
            own_peer: links.iter().find(|link| link.name == own_peer).cloned(),
            own_before_handover: own
                .as_ref()
                .and_then(|own| own.link.as_ref())
                .map_or_else(Vec::new, |link| foreign::before_handover(link.ifindex)),
            own_has_address: match own.as_ref().and_then(|own| own.link.as_ref()) {
                Some(link) => !kernel::ipv4_addresses(link.ifindex)?.is_empty(),
                None => false,
            },
            ports: config
                .ports
                .iter()
                .map(|port| interface(&port.interface))
                .collect(),
            own,
            udp_port: config.udp.as_ref().map(|udp| udp.port.get()),
            udp_port_in_use: config
                .udp
                .as_ref()
                .is_some_and(|udp| kernel::udp_port_in_use(udp.port.get())),
            udp_port_ephemeral: config
                .udp
                .as_ref()
                .is_some_and(|udp| local_port::is_ephemeral(udp.port.get())),
            is_relay: config.relay.is_some(),
            proven_ports: config
                .ports
                .iter()
                .filter(|port| port.source == Source::Proven)
                .count(),
            wants_ipv6: config.code_points.ipv6.is_some(),
            forwards_ipv6: kernel::sysctl("ipv6/conf/all/forwarding").map(|value| value != 0),
            forwards_by_path_mtu: kernel::sysctl("ipv4/ip_forward_use_pmtu") == Some(1),
            running,
            own_name,
            uppers: links
                .iter()
                .filter(|link| link.peer.is_some() && link.kind.as_deref() != Some("veth"))
                .map(|link| Link {
                    rp_filter: link
                        .rp_filter
                        .max(kernel::sysctl("ipv4/conf/all/rp_filter")),
                    ..link.clone()
                })
                .collect(),
        })
    }
}

fn interface(name: &str, links: &[Link], features: Option<&[(u32, XdpFeatures)]>) -> Interface {
    let Some(link) = links.iter().find(|link| link.is_named(name)) else {
        return Interface {
            name: name.to_owned(),
            ..Interface::default()
        };
    };
    let peer = links
        .iter()
        .find(|other| !link.peer_elsewhere && Some(other.ifindex) == link.peer);
    // The kernel's settings have the name itself, which may be another one than the configuration's.
    let kernel_name = &link.name;
    let written = name;
    let filter = |name: &str| kernel::sysctl(&format!("ipv4/conf/{name}/rp_filter"));
    let find = |ifindex: u32| links.iter().find(|other| other.ifindex == ifindex);
    let takes_vlan_tags_off = match peer {
        // The other end decides whether tags are in the frame, by its own offload of sent ones.
        Some(peer) if link.kind.as_deref() == Some("veth") => {
            kernel::leaves_vlan_tags_out(&peer.name)
        }
        None if link.kind.as_deref() == Some("veth") => Some(true),
        _ => kernel::takes_vlan_tags_off(kernel_name),
    };
    Interface {
        name: written.to_owned(),
        features: features.and_then(|features| {
            let found = features
                .iter()
                .find(|(ifindex, _)| *ifindex == link.ifindex);
            found.map(|(_, features)| *features)
        }),
        gro: kernel::gro(kernel_name),
        peer_receives: peer.and_then(|peer| {
            let gro = kernel::gro(&peer.name)?;
            Some(gro || peer.xdp_program.is_some())
        }),
        peer_name: peer.map(|peer| peer.name.clone()),
        master: link.master.and_then(find).cloned(),
        takes_vlan_tags_off,
        merging_offloads: kernel::merging_offloads(link.ifindex),
        xdp_name: link.xdp_program.and_then(kernel::program_name),
        rp_filter: filter(kernel_name).max(filter("all")),
        forwarding: kernel::sysctl(&format!("ipv4/conf/{kernel_name}/forwarding"))
            .map(|value| value != 0),
        // With an MTU below the minimum for IPv6 the interface has no such entry.
        ipv6: kernel::sysctl("ipv6/conf/all/disable_ipv6")
            .map(|_| kernel::sysctl(&format!("ipv6/conf/{kernel_name}/disable_ipv6")) == Some(0)),
        traffic_control: traffic_control(link, link.master.and_then(find)),
        unlike_unicast: unlike_unicast(kernel_name),
        link: Some(link.clone()),
    }
}

/// That on a port, and that which sees what the port's bridge or bond receives.
fn traffic_control(link: &Link, master: Option<&Link>) -> TrafficControl {
    let mut control = foreign::passed_by(link.ifindex);
    if let Some(master) = master {
        let above = foreign::passed_by(master.ifindex).ingress.into_iter();
        let named = above.map(|text| format!("{text} on {}", master.name));
        control.ingress.extend(named);
    }
    control
}

fn unlike_unicast(interface: &str) -> Vec<Setting> {
    let is_on = |setting: Setting, name: &str| {
        let path = format!("ipv4/conf/{name}/{}", setting.name());
        kernel::sysctl(&path).is_some_and(|value| value != 0)
    };
    let mut settings = Setting::ALL.to_vec();
    settings.retain(|setting| setting.holds(is_on(*setting, "all"), is_on(*setting, interface)));
    settings
}

fn page_size() -> u32 {
    nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE)
        .ok()
        .flatten()
        .and_then(|size| size.try_into().ok())
        .unwrap_or(4096)
}

fn no_bpf() -> Option<String> {
    match is_program_supported(ProgramType::Xdp) {
        Ok(true) => None,
        Ok(false) => Some("the kernel has no XDP programs".to_owned()),
        Err(error) => Some(format!("{:#}", anyhow::Error::new(error))),
    }
}

fn running(name: &str) -> Result<Option<Running>> {
    let ports = match control::ask(name, &Request::Ports) {
        Ok(Response::Ports(ports)) => ports,
        Ok(_) | Err(ControlError::NotRunning(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let status = control::ask(name, &Request::Status)?;
    let stats = control::ask(name, &Request::Stats)?;
    let tunnels = match control::ask(name, &Request::Tunnels) {
        Ok(Response::Tunnels(tunnels)) => tunnels,
        // One of a version without tunnels.
        _ => Vec::new(),
    };
    let neighbors = match control::ask(name, &Request::Neighbors)? {
        Response::Neighbors(neighbors) => neighbors,
        _ => Vec::new(),
    };
    Ok(match (status, stats) {
        (Response::Status(status), Response::Stats(stats)) => Some(Running {
            ports,
            stats,
            status: *status,
            tunnels,
            neighbors,
        }),
        _ => None,
    })
}
