//! What a sender has once for each family of addresses: its uplink, whether the router answers, and
//! its part of a list.

use std::{
    collections::VecDeque,
    io, iter,
    net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6},
    ops::Range,
    os::fd::{AsFd as _, BorrowedFd},
    time::Instant,
};

use tracing::{debug, trace, warn};

use super::{
    cause::UnicastCause,
    destination::{Destination, Options, Unusable},
    in_flight::{InFlight, Left},
    liveness::Watcher,
    open_uplink::{OpenUplink, PROBE, Probe, anywhere},
    relay_link::{Outlet, RelayLink},
    settings::Settings,
    split::Split,
    statistics::SenderStatistics,
    uplink::{Uplink, UplinkState},
};
use crate::packet::{Entry, Template};

/// One family's part of a sender.
#[derive(Debug)]
pub(crate) struct FamilySender {
    /// What the socket is bound to, in this family.
    local: SocketAddr,
    /// An IPv6 socket serves IPv4.
    mapped: bool,
    uplink: Uplink,
    liveness: Watcher,
    was_up: bool,
    pub open: Option<OpenUplink>,
    /// Of an uplink by relays, once they are asked.
    pub relays: Option<RelayLink>,
    /// How `open` was opened, if by a relay.
    outlet: Option<Outlet>,
    probe: Option<Probe>,
    /// Where packets go, as far as no message has said so.
    toward: Option<IpAddr>,
    /// Packets that may still be refused.
    in_flight: InFlight,
    /// Packets that were refused: their destinations are to get datagrams.
    pub again: VecDeque<Left>,
    pub split: Split,
    /// The interfaces of link-local destinations.
    scopes: Vec<(Ipv6Addr, u32)>,
}

impl FamilySender {
    pub fn new(local: SocketAddr, mapped: bool, settings: &Settings) -> Self {
        Self {
            local,
            mapped,
            uplink: settings.uplink.clone(),
            liveness: Watcher::new(
                settings.watch.clone().unwrap_or_default(),
                local.ip(),
                settings.probing,
            ),
            was_up: false,
            open: None,
            relays: None,
            outlet: None,
            probe: None,
            toward: None,
            in_flight: InFlight::default(),
            again: VecDeque::new(),
            split: Split::default(),
            scopes: Vec::new(),
        }
    }

    pub fn is_ipv6(&self) -> bool {
        self.local.is_ipv6()
    }

    /// Port of the sender's own socket.
    pub fn local_port(&self) -> u16 {
        self.local.port()
    }

    /// Whether the uplink has a way for this family.
    pub fn is_served(&self) -> bool {
        self.uplink.serves(self.is_ipv6())
    }

    /// Makes room for a message.
    pub fn start(&mut self) {
        self.split.start();
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
        self.split.entries.push(entry);
        Ok(())
    }

    fn scope(&self, address: Ipv6Addr) -> Option<u32> {
        let mut scopes = self.scopes.iter();
        scopes.find(|scope| scope.0 == address).map(|scope| scope.1)
    }

    /// A destination as it was given.
    pub fn destination(&self, entry: &Entry) -> Destination {
        let address = match entry.address {
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                let scope = self.scope(address).unwrap_or(0);
                SocketAddrV6::new(address, entry.port, 0, scope).into()
            }
            address => (address, entry.port).into(),
        };
        Destination {
            address,
            dscp: entry.dscp,
        }
    }

    /// The destination of a datagram, as the socket wants it.
    pub fn address(&self, entry: &Entry) -> SocketAddr {
        match self.destination(entry).address {
            SocketAddr::V4(address) if self.mapped => {
                (address.ip().to_ipv6_mapped(), address.port()).into()
            }
            address => address,
        }
    }

    /// What becomes readable when the router answers, while it is asked.
    pub fn answer_from(&self) -> Option<BorrowedFd<'_>> {
        match &self.relays {
            Some(relays) => Some(relays.as_fd()),
            None => self.probe.as_ref().map(|probe| probe.as_fd()),
        }
    }

    /// Whether messages go by a router at this time.
    pub fn check(&self, now: Instant) -> Result<(), UnicastCause> {
        match (self.is_served(), &self.relays) {
            (false, _) => Err(UnicastCause::Configured),
            (true, Some(relays)) => relays.check(now),
            (true, None) => self.liveness.check(now),
        }
    }

    /// When the router is asked next; `None` if never, or at once.
    pub fn deadline(&self) -> Option<Instant> {
        match &self.relays {
            Some(relays) => relays.deadline(),
            None => self.liveness.deadline(),
        }
    }

    /// Looks after the router: takes its answer in, and asks again when it is time. `packet` is
    /// where a probe is built.
    pub fn tend(&mut self, now: Instant, statistics: &mut SenderStatistics, packet: &mut Vec<u8>) {
        if !self.is_served() {
            return;
        }
        match self.uplink {
            Uplink::Relays { .. } => {
                if let Err(error) = self.tend_relays(now, statistics, packet) {
                    self.lose(now, &error);
                }
            }
            _ => self.tend_router(now, statistics, packet),
        }
        let up = self.check(now).is_ok();
        if up != self.was_up {
            self.was_up = up;
            statistics.lost += u64::from(!up);
            let (uplink, ipv6) = (&self.uplink, self.is_ipv6());
            if up {
                debug!(?uplink, ipv6, "the router answers");
            } else {
                warn!(?uplink, ipv6, "the router is lost: sending unicast");
            }
        }
    }

    fn tend_router(
        &mut self,
        now: Instant,
        statistics: &mut SenderStatistics,
        packet: &mut Vec<u8>,
    ) {
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
        // Another sender may have found that the router answers.
        if self.open.is_none()
            && self.liveness.check(now).is_ok()
            && let Err(error) = self.open()
        {
            self.lose(now, &error);
        }
    }

    fn tend_relays(
        &mut self,
        now: Instant,
        statistics: &mut SenderStatistics,
        packet: &mut Vec<u8>,
    ) -> io::Result<()> {
        if let (
            None,
            Uplink::Relays {
                code_points,
                relays,
            },
        ) = (&self.relays, &self.uplink)
        {
            self.relays = Some(RelayLink::open(*code_points, relays, self.local.ip())?);
        }
        let Some(relays) = &mut self.relays else {
            return Ok(());
        };
        relays.advance(now, statistics, packet);
        let outlet = relays.outlet(now);
        if outlet != self.outlet || self.open.is_none() {
            self.open = outlet.map(|outlet| relays.uplink(outlet)).transpose()?;
            self.outlet = outlet;
        }
        Ok(())
    }

    /// Sends a probe, by an uplink that is opened anew unless it is known to work.
    fn ask(&mut self, now: Instant, packet: &mut Vec<u8>) -> io::Result<()> {
        if self.open.is_none() || self.liveness.check(now).is_err() {
            self.open()?;
        }
        let (Some(open), Some(code_points)) = (&self.open, self.uplink.code_points()) else {
            return Ok(());
        };
        let (probe, port, entry) = open.probe()?;
        Template::new(code_points, (open.source, port).into(), &Options::default())
            .emit(&[entry], PROBE, packet)
            .map_err(io::Error::other)?;
        open.send(packet, 0)?;
        trace!(to = %entry.address, port = entry.port, "probe");
        self.probe = Some(probe);
        Ok(())
    }

    fn open(&mut self) -> io::Result<()> {
        let destinations = self.split.entries.iter().map(|entry| entry.address);
        let toward = destinations
            .filter(|address| !address.is_loopback())
            .chain(self.toward)
            .chain(iter::once(anywhere(self.is_ipv6())))
            .next()
            .unwrap_or(self.local.ip());
        self.in_flight = InFlight::default();
        self.open = OpenUplink::open(&self.uplink, self.local.ip(), toward)?;
        Ok(())
    }

    /// Chooses the source towards this address, unless that has been done, or there is no choice.
    pub fn go_toward(&mut self, address: IpAddr) {
        let is_native = matches!(self.uplink, Uplink::Native { .. });
        if self.toward.is_some() || !is_native || !self.local.ip().is_unspecified() {
            return;
        }
        self.toward = Some(address);
        if self.open.is_some()
            && let Err(error) = self.open()
        {
            debug!(%address, %error, "the source stays as it is");
        }
    }

    /// The router, or the way to it, does not work.
    pub fn lose(&mut self, now: Instant, error: &io::Error) -> UnicastCause {
        let cause = match error.kind() {
            io::ErrorKind::ConnectionRefused => UnicastCause::Refused,
            _ => UnicastCause::Unavailable,
        };
        debug!(uplink = ?self.uplink, %error, "cannot send to the router");
        self.take_refused(now);
        self.open = None;
        self.probe = None;
        self.liveness.failed(now, cause);
        cause
    }

    /// Takes in which packets have been refused since they left.
    pub fn take_refused(&mut self, now: Instant) {
        if let Some(open) = &self.open {
            self.again
                .extend(self.in_flight.refused(now, &open.refused()));
        }
    }

    /// Whether a packet has been refused that left lately: the router is lost then.
    pub fn look(&mut self, now: Instant) {
        if self.in_flight.is_recent(now)
            && let Some(error) = self.open.as_ref().and_then(OpenUplink::error)
        {
            self.lose(now, &error);
        }
    }

    /// A part of the list has left as this packet, which ends with the payload.
    pub fn left(
        &mut self,
        now: Instant,
        options: &Options,
        range: Range<usize>,
        packet: &[u8],
        payload: usize,
    ) {
        if self.open.as_ref().is_some_and(OpenUplink::can_be_refused) {
            let entries = &self.split.entries[range];
            self.in_flight.note(now, options, entries, packet, payload);
        }
    }

    /// Whether messages can go by the router now; opens the uplink if they can.
    pub fn uplink_state(&mut self, now: Instant) -> UplinkState {
        if let Err(cause) = self.check(now) {
            return UplinkState::Down(cause);
        }
        if self.open.is_none()
            && let Err(error) = self.open()
        {
            return UplinkState::Down(self.lose(now, &error));
        }
        match &self.open {
            Some(open) => UplinkState::Up {
                overhead_octets: open.overhead_octets(),
                source: open.source,
            },
            None => UplinkState::Down(UnicastCause::Configured),
        }
    }

    /// Where Xcast packets leave, and what they have in common; `None` if the uplink is closed.
    pub fn xcast(&self, options: &Options) -> Option<(&OpenUplink, Template)> {
        let (open, code_points) = (self.open.as_ref()?, self.uplink.code_points()?);
        let port = open.source_port.unwrap_or(self.local.port());
        let mut template = Template::new(code_points, (open.source, port).into(), options);
        if matches!(self.uplink, Uplink::Native { .. }) {
            // The router on the host is a hop that datagrams do not have.
            template.ttl = template.ttl.saturating_add(1);
        }
        Some((open, template))
    }
}
