//! What a sender has once for each family of addresses: the way to the router, whether the router
//! answers, and the part of the message that goes there.

use std::{
    io, iter,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6, UdpSocket},
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

use socket2::SockRef;
use tracing::{debug, trace, warn};

use crate::{
    Cause, CodePoints, Options, Outlet, Settings, Statistics, Unusable,
    liveness::Liveness,
    outlet::{Exit, PROBE, Probe, anywhere},
    packet::{Entry, Template},
    plan::{Plan, Way},
};

/// One family's part of a sender.
#[derive(Debug)]
pub(crate) struct Side {
    /// What the socket is bound to, in this family.
    local: SocketAddr,
    /// An IPv6 socket serves IPv4.
    mapped: bool,
    outlet: Outlet,
    liveness: Liveness,
    was_up: bool,
    pub exit: Option<Exit>,
    probe: Option<Probe>,
    pub plan: Plan,
    /// The interfaces of link-local destinations.
    scopes: Vec<(Ipv6Addr, u32)>,
    /// TTL and DSCP that the socket has now.
    applied: Option<(u8, u8)>,
}

impl Side {
    pub fn new(local: SocketAddr, mapped: bool, settings: &Settings) -> Self {
        Self {
            local,
            mapped,
            outlet: settings.outlet.clone(),
            liveness: Liveness::new(settings.probing),
            was_up: false,
            exit: None,
            probe: None,
            plan: Plan::default(),
            scopes: Vec::new(),
            applied: None,
        }
    }

    fn is_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// Whether the outlet has a way for this family.
    pub fn is_served(&self) -> bool {
        self.outlet.serves(self.is_ipv6())
    }

    /// Makes room for a message.
    pub fn start(&mut self) {
        self.plan.start();
        self.scopes.clear();
    }

    /// Takes in a destination of this family.
    pub fn take(&mut self, entry: Entry, scope: Option<(Ipv6Addr, u32)>) -> Result<(), Unusable> {
        if let Some((address, scope)) = scope {
            match self.scope(address) {
                Some(other) if other != scope => return Err(Unusable::Scope),
                Some(_) => {}
                None => self.scopes.push((address, scope)),
            }
        }
        self.plan.entries.push(entry);
        Ok(())
    }

    fn scope(&self, address: Ipv6Addr) -> Option<u32> {
        let mut scopes = self.scopes.iter();
        scopes.find(|scope| scope.0 == address).map(|scope| scope.1)
    }

    /// The destination of a datagram, as the socket wants it.
    pub fn address(&self, entry: &Entry) -> SocketAddr {
        match entry.address {
            IpAddr::V4(address) if self.mapped => (address.to_ipv6_mapped(), entry.port).into(),
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                let scope = self.scope(address).unwrap_or(0);
                SocketAddrV6::new(address, entry.port, 0, scope).into()
            }
            address => (address, entry.port).into(),
        }
    }

    /// Makes the socket send datagrams with this time to live and DSCP.
    pub fn apply(&mut self, socket: &UdpSocket, ttl: u8, dscp: u8) -> io::Result<()> {
        if self.applied == Some((ttl, dscp)) {
            return Ok(());
        }
        let socket = SockRef::from(socket);
        if self.is_ipv6() {
            socket.set_unicast_hops_v6(ttl.into())?;
            socket.set_tclass_v6(u32::from(dscp << 2))?;
        } else {
            socket.set_ttl_v4(ttl.into())?;
            socket.set_tos_v4(u32::from(dscp << 2))?;
        }
        self.applied = Some((ttl, dscp));
        Ok(())
    }

    /// What becomes readable when the router answers, while it is asked.
    pub fn answer_from(&self) -> Option<BorrowedFd<'_>> {
        self.probe.as_ref().map(|probe| probe.as_fd())
    }

    /// Whether messages go by a router at this time.
    pub fn check(&self, now: Instant) -> Result<(), Cause> {
        match self.is_served() {
            true => self.liveness.check(now),
            false => Err(Cause::Configured),
        }
    }

    /// When the router is asked next; `None` if never, or at once.
    pub fn deadline(&self) -> Option<Instant> {
        self.liveness.deadline()
    }

    /// Looks after the router: takes its answer in, and asks again when it is time. `packet` is
    /// where a probe is built.
    pub fn tend(&mut self, now: Instant, statistics: &mut Statistics, packet: &mut Vec<u8>) {
        if !self.is_served() {
            return;
        }
        if self.probe.as_ref().is_some_and(Probe::is_answered) {
            self.probe = None;
            self.liveness.answered();
            statistics.answers += 1;
        }
        if self.liveness.poll(now) {
            self.probe = None;
            match self.ask(now, packet) {
                Ok(()) => statistics.probes += 1,
                Err(error) => {
                    self.lose(now, &error);
                }
            }
        }
        let up = self.liveness.check(now).is_ok();
        if up != self.was_up {
            self.was_up = up;
            statistics.lost += u64::from(!up);
            let (outlet, ipv6) = (&self.outlet, self.is_ipv6());
            if up {
                debug!(?outlet, ipv6, "the router answers");
            } else {
                warn!(?outlet, ipv6, "the router is lost: sending unicast");
            }
        }
    }

    /// Sends a probe, by an exit opened anew unless it is known to work.
    fn ask(&mut self, now: Instant, packet: &mut Vec<u8>) -> io::Result<()> {
        if self.exit.is_none() || self.liveness.check(now).is_err() {
            self.open()?;
        }
        let (Some(exit), Some(code_points)) = (&self.exit, self.outlet.code_points()) else {
            return Ok(());
        };
        let (probe, port, entry) = exit.probe()?;
        template(code_points, exit.source, port, &Options::default())
            .emit(&[entry], PROBE, packet)
            .map_err(io::Error::other)?;
        exit.send(packet)?;
        trace!(to = %entry.address, port = entry.port, "probe");
        self.probe = Some(probe);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let destinations = self.plan.entries.iter().map(|entry| entry.address);
        let toward = destinations
            .filter(|address| !address.is_loopback())
            .chain(iter::once(anywhere(self.is_ipv6())))
            .next()
            .unwrap_or(self.local.ip());
        self.exit = Exit::open(&self.outlet, self.local.ip(), toward)?;
        Ok(())
    }

    /// The router, or the way to it, does not work.
    pub fn lose(&mut self, now: Instant, error: &io::Error) -> Cause {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => Cause::Refused,
            _ => Cause::Unavailable,
        };
        debug!(outlet = ?self.outlet, %error, "cannot send to the router");
        self.exit = None;
        self.probe = None;
        self.liveness.failed(now, cause);
        cause
    }

    /// The way that is open for a message now.
    pub fn way(&mut self, now: Instant) -> Way {
        if let Err(cause) = self.check(now) {
            return Way::Unicast(cause);
        }
        if self.exit.is_none()
            && let Err(error) = self.open()
        {
            return Way::Unicast(self.lose(now, &error));
        }
        match &self.exit {
            Some(exit) => Way::Xcast {
                overhead: exit.overhead(),
                source: exit.source,
            },
            None => Way::Unicast(Cause::Configured),
        }
    }

    /// Where Xcast packets leave, and what they have in common; `None` if the exit is closed.
    pub fn xcast(&self, options: &Options) -> Option<(&Exit, Template)> {
        let (exit, code_points) = (self.exit.as_ref()?, self.outlet.code_points()?);
        let template = template(code_points, exit.source, self.local.port(), options);
        Some((exit, template))
    }
}

fn template(
    code_points: CodePoints,
    source: IpAddr,
    source_port: u16,
    options: &Options,
) -> Template {
    Template {
        code_points,
        source,
        to: code_points.group_for(source),
        ttl: options.ttl,
        dscp: options.dscp,
        channel: options.channel,
        x: options.stay_xcast,
        anonymous: options.anonymous,
        source_port,
        port_list: false,
    }
}
