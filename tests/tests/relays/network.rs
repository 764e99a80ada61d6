//! Hosts around a gateway that knows nothing of Xcast, some of them relays.
//!
//! | node | interface | address | the gateway's side |
//! |---|---|---|---|
//! | host n | h0 | 10.70.n.2/24 | gn, 10.70.n.1 |

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};
use tests::daemon::{Daemon, PATIENCE};
use tests::family::{self, Family};
use tests::layout::{GROUP, PORTS_OPTION, PROTOCOL};
use tests::namespace::{self, Namespace};
use tests::trio::code_points as code_point_lines;
use xcast_host::relay::Timing;
use xcast_host::{CodePoints, Ipv6CodePoints, RelayStatus, Relays, Sender, Settings, Uplink};

/// UDP port of Xcast in UDP.
pub const UDP_PORT: u16 = 4242;
/// Where receivers listen.
pub const PORT: u16 = 5000;

/// A gateway, and hosts on links of their own.
pub struct Network {
    /// The gateway: plain kernel forwarding.
    pub gateway: Namespace,
    hosts: Vec<Namespace>,
}

/// Runs a test for both families, on host 1, where the source is: a sender opens sockets when it needs them.
#[track_caller]
pub fn with(hosts: u8, test: impl Fn(&Network) -> Result<()> + Sync) {
    if !namespace::available() {
        return;
    }
    for family in Family::ALL {
        let outcome = family::with(family, || Network::up(hosts)).and_then(|network| {
            let test = || family::with(family, || test(&network));
            network.host(1).enter(test)
        });
        if let Err(error) = outcome {
            panic!("{family:?}: {error:#}");
        }
    }
}

/// What stands for an IPv4 address in the family under test.
pub fn ip(address: impl Into<Ipv4Addr>) -> IpAddr {
    Family::under_test().address(address)
}

/// The address of host `number` in IPv4, which frames are written with.
pub fn host4(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 70, number, 2)
}

/// The address of host `number`.
pub fn host(number: u8) -> IpAddr {
    ip(host4(number))
}

/// Where host `number` takes Xcast inside UDP, if it is a relay.
pub fn relay(number: u8) -> SocketAddr {
    (host(number), UDP_PORT).into()
}

/// Makes a node without interfaces, whose addresses are there at once and stay.
pub fn node(label: &str) -> Result<Namespace> {
    let node = Namespace::new(label)?;
    for interfaces in ["all", "default"] {
        node.sysctl(&format!("ipv6/conf/{interfaces}/disable_ipv6"), "0")?;
        node.sysctl(&format!("ipv6/conf/{interfaces}/accept_dad"), "0")?;
        node.sysctl(&format!("ipv6/conf/{interfaces}/router_solicitations"), "0")?;
        node.sysctl(&format!("ipv4/conf/{interfaces}/rp_filter"), "0")?;
        node.sysctl(&format!("ipv4/conf/{interfaces}/send_redirects"), "0")?;
    }
    Ok(node)
}

/// Has a node forward.
pub fn forward(node: &Namespace) -> Result<()> {
    node.sysctl("ipv4/ip_forward", "1")?;
    node.sysctl("ipv6/conf/all/forwarding", "1")
}

/// Runs `ip` in a node with what stands for IPv4 addresses in the family under test.
pub fn run_ip(node: &Namespace, command: &str) -> Result<()> {
    node.ip(&Family::under_test().command(command)).map(|_| ())
}

/// Joins two nodes by a link with addresses, the lower one at `upper`; the other has its default route there.
pub fn join(
    (upper, upper_name): (&Namespace, &str),
    (lower, lower_name): (&Namespace, &str),
    network: u8,
) -> Result<()> {
    upper.ip(&format!(
        "link add {upper_name} type veth peer name {lower_name} netns {}",
        lower.name()
    ))?;
    for (node, name, last) in [(upper, upper_name, 1), (lower, lower_name, 2)] {
        node.set_gro(name, true)?;
        node.set_tx_checksum(name, false)?;
        node.ip(&format!("link set {name} up"))?;
        run_ip(
            node,
            &format!("address add 10.70.{network}.{last}/24 dev {name}"),
        )?;
    }
    run_ip(
        lower,
        &format!(
            "route add default via {}",
            Ipv4Addr::new(10, 70, network, 1)
        ),
    )
}

impl Network {
    fn up(hosts: u8) -> Result<Self> {
        let gateway = node("gateway")?;
        forward(&gateway)?;
        let hosts = (1..=hosts).map(|number| {
            let host = node(&format!("h{number}"))?;
            join((&gateway, &*format!("g{number}")), (&host, "h0"), number)?;
            Ok(host)
        });
        let hosts = hosts.collect::<Result<Vec<_>>>()?;
        Ok(Self { gateway, hosts })
    }

    /// A host, from 1.
    pub fn host(&self, number: u8) -> &Namespace {
        &self.hosts[usize::from(number) - 1]
    }

    /// Has a host be a relay, with these lines in its configuration: of `[relay]`, and of its port.
    pub fn serve(&self, number: u8, relay: &str, port: &str) -> Result<Daemon> {
        self.serve_by(number, &format!("[relay]\n{relay}\n"), port)
    }

    /// The same with whole tables.
    pub fn serve_by(&self, number: u8, tables: &str, port: &str) -> Result<Daemon> {
        let node = self.host(number);
        forward(node)?;
        let configuration = format!(
            "{}\n[router]\ngateways = \"none\"\n\n[udp]\nport = {UDP_PORT}\n\n{tables}\n\
             [[port]]\ninterface = \"h0\"\n{port}\n",
            code_point_lines()
        );
        Daemon::start(node, &configuration)
    }

    /// A receiver on a host.
    pub fn receiver(&self, number: u8) -> Result<UdpSocket> {
        let address = host(number);
        self.host(number).enter(move || {
            let socket = UdpSocket::bind((address, PORT))?;
            socket.set_read_timeout(Some(PATIENCE))?;
            // Room for a stream: a packet that XDP forwarded takes a page.
            setsockopt(&socket, RcvBufForce, &(8 << 20))?;
            Ok(socket)
        })
    }

    /// A sender on a host, as a user without privileges.
    pub fn sender(&self, number: u8, relays: Relays) -> Result<Sender> {
        sender(self.host(number), relays)
    }

    /// Has the gateway drop what comes by an interface that is not the way back to its source: strict reverse-path
    /// filters (RFC 3704 section 2.2). The kernel has one for IPv4, and the packet filter for IPv6.
    pub fn filter_strictly(&self) -> Result<()> {
        for number in 1..=self.hosts.len() {
            let key = format!("ipv4/conf/g{number}/rp_filter");
            self.gateway.sysctl(&key, "1")?;
        }
        nft(
            &self.gateway,
            "table ip6 filter { chain prerouting { type filter hook prerouting priority raw;\n\
             ip6 saddr fe80::/10 accept\nfib saddr . iif oif missing counter drop\n}\n}\n",
        )
    }
}

/// Loads rules of a packet filter.
pub fn nft(node: &Namespace, rules: &str) -> Result<()> {
    namespace::run(node.command("nft").args(["-f", "-"]), rules).map(|_| ())
}

/// A sender in a node, as a user without privileges.
pub fn sender(node: &Namespace, relays: Relays) -> Result<Sender> {
    let any = ip(Ipv4Addr::UNSPECIFIED);
    let settings = Settings::new(Uplink::Relays {
        code_points: code_points()?,
        relays,
    });
    node.enter_as_nobody(move || Ok(Sender::new(UdpSocket::bind((any, 0))?, settings)?))
}

/// Relays that are asked often, so that tests need not wait for long.
pub fn relays(numbers: &[u8]) -> Relays {
    Relays {
        timing: Timing {
            interval: Duration::from_millis(200),
            timeout: Duration::from_millis(300),
            slowest: Duration::from_secs(1),
            hold: Duration::from_secs(3),
            calm: Duration::from_secs(3),
            patience: 3,
        },
        ..Relays::new(numbers.iter().map(|&number| relay(number)))
    }
}

fn code_points() -> Result<CodePoints> {
    let ipv6 = Ipv6CodePoints {
        group: "ff02::114".parse()?,
        routing_type: PROTOCOL,
        ports_option: PORTS_OPTION,
    };
    Ok(CodePoints::new(PROTOCOL, GROUP)?.with_ipv6(ipv6)?)
}

/// Tends a sender until something is so.
pub fn until(
    sender: &mut Sender,
    what: &str,
    condition: impl Fn(&mut Sender) -> Result<bool>,
) -> Result<()> {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition(sender)? {
        let known: Vec<RelayStatus> = sender.relays();
        ensure!(
            std::time::Instant::now() < deadline,
            "not so in time: {what}; {:?}, {known:?}",
            sender.router()
        );
        sender.tend();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// The next message that comes, and its sender.
pub fn receive(socket: &UdpSocket) -> Result<(Vec<u8>, SocketAddr)> {
    let mut buffer = [0; 2000];
    let (len, from) = socket.recv_from(&mut buffer).context("receive")?;
    Ok((buffer[..len].to_vec(), from))
}

/// Nothing waits to be received.
pub fn is_empty(socket: &UdpSocket) -> Result<bool> {
    socket.set_nonblocking(true)?;
    let empty = socket.recv_from(&mut [0; 2000]).is_err();
    socket.set_nonblocking(false)?;
    Ok(empty)
}
