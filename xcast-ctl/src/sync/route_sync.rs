//! Kernel events in, edits out.
//!
//! [`RouteSync`] collects what a batch of events changes, decides anew whatever that touches, and
//! writes only what is different afterwards. The work is proportional to the change, not to the
//! size of the tables.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
};

use ipnet::IpNet;
use tracing::warn;
use xcast_common::maps::{
    ADDRESS_ANYCAST, ADDRESS_OWN, MAX_POLICY_SOURCES, NEXT_HOP_NEVER, PORT_ASK_SOURCE,
    PORT_ASK_SOURCE6, PORT_IN_VRF, PORT_TO_STACK, PORT_TO_STACK6, port_bit,
};

use super::{
    edit::Edit,
    event::{Hop, KernelEvent, Link, NeighbourState, RouteKind, Via},
    fib::{self, Entry, Fib},
    next_hops::{
        EntryContext, FIXED, GroupKey, Key, Member, NEXT_HOP_BLACKHOLE, NEXT_HOP_LOCAL,
        NEXT_HOP_NO_PORT, NEXT_HOP_POLICY, NEXT_HOP_UNREACHABLE, NextHops, Target,
    },
    path::{OnLink, PathId, Resolution},
    prefix,
    rib::{Hops, Liveness, Rib, TABLE_LOCAL, TABLE_MAIN},
    rules::{Policy, PolicyRow, Rules, Step},
    tunnels::{TunnelSpec, Tunnels},
};
use crate::gateways::Gateways;

/// What the configuration says about routes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncConfig {
    /// Gateways that speak Xcast.
    pub gateways: Gateways,
    /// Anycast addresses this router answers to (RFC 5058 section 11.5).
    pub anycast: Vec<IpAddr>,
    /// Routing tables, in the order in which they are consulted as long as the kernel has no policy rules to
    /// tell: the first that has a matching route decides. Those besides the local and the main table are
    /// consulted after the tables that its rules name.
    pub tables: Vec<u32>,
    /// The Xcast routing table (RFC 5058 section 11.1): routes for lists, which count only while what they lead to takes
    /// lists.
    pub xcast_table: Option<u32>,
    /// Whether routes of IPv6 are followed, too.
    pub ipv6: bool,
    /// Tunnels to other routers, the preferred ones first.
    pub tunnels: Vec<TunnelSpec>,
}

impl Default for SyncConfig {
    fn default() -> Self {
        Self {
            gateways: Gateways::default(),
            anycast: Vec::new(),
            tables: vec![TABLE_LOCAL, TABLE_MAIN],
            xcast_table: None,
            ipv6: true,
            tunnels: Vec::new(),
        }
    }
}

/// Policies of IPsec of a family whose destinations are told apart.
const MAX_IPSEC: usize = 256;

/// Follows the kernel's routes and says what has to change in the datapath's maps.
#[derive(Debug)]
pub struct RouteSync {
    config: SyncConfig,
    pub(super) rib: Rib,
    /// Slots of the interfaces that are ports.
    pub(super) ports: HashMap<u32, u8>,
    /// Ports, whether or not they can send, with their slots and the interfaces on top of each that packets belong to
    /// which arrive by it.
    arrivals: HashMap<u32, (u8, Vec<u32>)>,
    /// The ports by which packets arrive that belong to an interface: [`port_bit`]s.
    arrival_ports: HashMap<u32, u64>,
    pub(super) next_hops: NextHops,
    pub(super) fib: Fib,
    /// Policy rules of IPv4 and IPv6.
    rules: [Rules; 2],
    /// They may amount to something else than before.
    rules_changed: bool,
    /// What they amount to.
    policy: [Policy; 2],
    /// Sources of policy rules that the datapath knows, of both families: not always those of `policy`, which may be too
    /// many.
    policy_sources: [BTreeSet<IpNet>; 2],
    /// Destinations that policies of IPsec apply to, of IPv4 and IPv6.
    ipsec: [Vec<IpNet>; 2],
    /// Gateways the kernel was asked to keep resolved.
    resolving: HashSet<(u32, IpAddr)>,
    /// Neighbours that do not answer.
    unanswering: HashSet<(u32, IpAddr)>,
    /// Gateways that proved that they speak Xcast.
    proven: HashSet<(u32, IpAddr)>,
    pub(super) tunnels: Tunnels,
    /// The entries that are always there are written.
    started: bool,
    /// Paths and neighbours that got no next-hop id of their own because there were none left.
    starved_paths: HashSet<PathId>,
    starved_hosts: HashSet<IpNet>,
    warned: bool,
}

impl RouteSync {
    /// Knows nothing of the kernel yet.
    pub fn new(config: SyncConfig) -> Self {
        let mut rib = Rib::new(&config.tables, config.xcast_table);
        rib.changes.addresses.extend(&config.anycast);
        let tunnels = Tunnels::new(&config.tunnels);
        Self {
            config,
            rib,
            tunnels,
            ports: HashMap::new(),
            arrivals: HashMap::new(),
            arrival_ports: HashMap::new(),
            next_hops: NextHops::new(),
            fib: Fib::default(),
            rules: Default::default(),
            rules_changed: false,
            policy: Default::default(),
            policy_sources: Default::default(),
            ipsec: Default::default(),
            resolving: HashSet::new(),
            unanswering: HashSet::new(),
            proven: HashSet::new(),
            started: false,
            starved_paths: HashSet::new(),
            starved_hosts: HashSet::new(),
            warned: false,
        }
    }

    /// Takes in one event.
    ///
    /// The very first edits are the entries that are always there. Between
    /// [`KernelEvent::ResyncBegin`] and [`KernelEvent::ResyncEnd`] there are no others.
    pub fn apply(&mut self, event: KernelEvent, edits: &mut Vec<Edit>) {
        self.apply_all([event], edits);
    }

    /// Takes in events that came together; only where they lead in the end matters.
    pub fn apply_all(
        &mut self,
        events: impl IntoIterator<Item = KernelEvent>,
        edits: &mut Vec<Edit>,
    ) {
        for event in events {
            if self.config.ipv6 || !event.is_route_of_ipv6() {
                self.take_in_rule(&event);
                self.rib.apply(event);
            }
        }
        self.update(edits);
    }

    /// Packets arrive by the interface, which has a slot, and belong to it and to these on top of it; with `None` none do
    /// so any more. What a route to a source leads by says whether it is behind the port. Whether it can send is another
    /// matter.
    pub fn set_arrival(
        &mut self,
        ifindex: u32,
        arrival: Option<(u8, Vec<u32>)>,
        edits: &mut Vec<Edit>,
    ) {
        match arrival {
            Some(arrival) => self.arrivals.insert(ifindex, arrival),
            None => self.arrivals.remove(&ifindex),
        };
        let mut ports = HashMap::new();
        for (&ifindex, (slot, above)) in &self.arrivals {
            for &interface in above.iter().chain([&ifindex]) {
                *ports.entry(interface).or_default() |= port_bit(*slot);
            }
        }
        let old = std::mem::replace(&mut self.arrival_ports, ports);
        let links = old.keys().chain(self.arrival_ports.keys());
        let changed = links.filter(|link| old.get(link) != self.arrival_ports.get(link));
        self.rib.changes.links.extend(changed);
        self.update(edits);
    }

    /// Some route leads to a gateway on this link, of either family.
    pub fn has_gateway(&self, ifindex: u32) -> bool {
        self.next_hops.has_gateway(ifindex)
    }

    /// The gateways that the kernel is to keep resolved, with their interfaces.
    pub fn resolving(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.resolving.iter().copied()
    }

    /// The interface is a port now, with this slot.
    pub fn attach_port(&mut self, ifindex: u32, slot: u8, edits: &mut Vec<Edit>) {
        if self.ports.insert(ifindex, slot) != Some(slot) {
            self.rib.changes.links.insert(ifindex);
        }
        self.update(edits);
    }

    /// The interface is no port any more.
    pub fn detach_port(&mut self, ifindex: u32, edits: &mut Vec<Edit>) {
        if self.ports.remove(&ifindex).is_some() {
            self.rib.changes.links.insert(ifindex);
        }
        self.update(edits);
    }

    /// Gateways that routes lead to by ports that can send.
    pub(super) fn gateways_in_use(&self) -> impl Iterator<Item = (u32, IpAddr)> {
        self.resolving.iter().copied()
    }

    /// The gateway proved that it speaks Xcast, or counts as proven no longer.
    pub fn set_proven(
        &mut self,
        (ifindex, gateway): (u32, IpAddr),
        proven: bool,
        edits: &mut Vec<Edit>,
    ) {
        if proven {
            self.proven.insert((ifindex, gateway));
        } else {
            self.proven.remove(&(ifindex, gateway));
        }
        self.rib.changes.neighbours.push((ifindex, gateway));
        self.update(edits);
    }

    /// Looks after neighbours; to be called every second or so, with the ids of next hops that packets used since the
    /// last time.
    ///
    /// The kernel doubts a neighbour it has not heard of for a while (STALE, RFC 4861 section 7.3.2) and probes it when
    /// it sends to it. Packets that the datapath sends have to count as well. Gateways that lost their flag to
    /// somebody else's write are asked for again; here and not at once, so that two who disagree do not
    /// take turns as fast as they can.
    pub fn tend(&self, used: &[u32], edits: &mut Vec<Edit>) {
        let stale = |&(ifindex, address): &(u32, IpAddr)| {
            let neighbour = self.rib.neighbour(ifindex, address);
            neighbour.is_some_and(|neighbour| neighbour.state == NeighbourState::Stale)
        };
        let used = used.iter().flat_map(|&id| self.neighbours_of(id));
        let neighbours: BTreeSet<_> = used.filter(stale).collect();
        if !neighbours.is_empty() {
            let neighbours = neighbours.into_iter().collect();
            edits.push(Edit::Use { neighbours });
        }
        if !self.rib.resyncing() {
            self.tend_remotes(edits);
        }
        for &(ifindex, gateway) in &self.resolving {
            let kept = self.rib.neighbour(ifindex, gateway).is_some_and(|known| {
                let asks = !matches!(
                    known.state,
                    NeighbourState::Permanent | NeighbourState::NoArp
                );
                known.managed || !asks
            });
            if !kept && !self.rib.resyncing() {
                edits.push(Edit::Resolve { ifindex, gateway });
            }
        }
    }

    /// The neighbours that packets with this next hop are sent to.
    fn neighbours_of(&self, id: u32) -> Vec<(u32, IpAddr)> {
        let Some(slot) = self.next_hops.get(id) else {
            return Vec::new();
        };
        let (outer, native) = match slot.key {
            Key::Tunnel { tunnel, native } => (self.outer(usize::from(tunnel)).ok(), native),
            _ => (None, id),
        };
        let outer = outer.map(|outer| outer.neighbour);
        outer
            .into_iter()
            .chain(self.next_hops.neighbour_of(native))
            .collect()
    }

    fn take_in_rule(&mut self, event: &KernelEvent) {
        let family = |ipv6: bool| usize::from(ipv6);
        match event {
            KernelEvent::ResyncBegin => self.rules.iter_mut().for_each(Rules::begin),
            KernelEvent::ResyncEnd => self.rules.iter_mut().for_each(Rules::end),
            KernelEvent::RulesKnown { ipv6 } => self.rules[family(*ipv6)].complete(),
            KernelEvent::Rule { rule, is_dumped } => {
                self.rules[family(rule.ipv6)].add(rule.clone(), *is_dumped);
            }
            KernelEvent::RuleRemoved(rule) => self.rules[family(rule.ipv6)].remove(rule),
            KernelEvent::Ipsec(destinations) => {
                let new = ipsec_by_family(destinations);
                if new == self.ipsec {
                    return;
                }
                self.ipsec = new;
            }
            _ => return,
        }
        self.rules_changed = true;
    }

    /// What policy rules, or its VRF, say about an interface as a port: flags of the port table.
    pub fn port_flags(&self, interface: &Link) -> u8 {
        let mut flags = if interface.in_vrf { PORT_IN_VRF } else { 0 };
        let of_families = [
            (PORT_TO_STACK, PORT_ASK_SOURCE),
            (PORT_TO_STACK6, PORT_ASK_SOURCE6),
        ];
        for (policy, (to_stack, ask_source)) in self.policy.iter().zip(of_families) {
            if interface.in_vrf
                || policy.of_interface(interface.names()).is_some()
                || policy.sources.len() > MAX_POLICY_SOURCES as usize
            {
                flags |= to_stack;
            } else if !policy.sources.is_empty() {
                flags |= ask_source;
            }
        }
        flags
    }

    /// Whether policy rules ask for an interface, of either family.
    pub fn is_in_rules(&self, interface: &Link) -> bool {
        let mut policies = self.policy.iter();
        policies.any(|policy| policy.of_interface(interface.names()).is_some())
    }

    /// What a port needs beside, if sources that arrive by it are to have a way back: flags of the port table. By IP version,
    /// whether they are, and whether the kernel would not see to that by itself.
    ///
    /// The kernel looks for that way as of an answer, which comes by the interface that the packet leaves by. So where rules ask
    /// for interfaces, only the kernel knows. Where they ask for sources, what is to go there goes to the stack anyway, and
    /// the kernel has to be asked if its own filter does not.
    pub fn way_back_flags(&self, is_wanted: [bool; 2], is_to_be_asked: [bool; 2]) -> u8 {
        let mut flags = 0;
        for (version, to_stack) in [PORT_TO_STACK, PORT_TO_STACK6].into_iter().enumerate() {
            let policy = &self.policy[version];
            if is_wanted[version] && !policy.interfaces.is_empty()
                || is_to_be_asked[version] && !policy.sources.is_empty()
            {
                flags |= to_stack;
            }
        }
        flags
    }

    /// Why all that arrives from a source by an interface goes to the stack, if so.
    pub fn stack_policy(&self, source: IpAddr, interface: Option<&str>) -> Option<String> {
        let policy = &self.policy[usize::from(source.is_ipv6())];
        let by_interface = interface.and_then(|name| {
            let link = self.rib.links().find(|link| link.name == name)?;
            let rule = policy
                .of_interface(link.names())
                .map(|rule| format!("rule {rule}"));
            rule.or_else(|| link.in_vrf.then(|| format!("{name} belongs to a VRF")))
        });
        by_interface.or_else(|| policy.of_source(source).map(|rule| format!("rule {rule}")))
    }

    /// Policy rules and VRFs that put something to the stack.
    pub fn policy_rows(&self) -> Vec<PolicyRow> {
        let rules = self
            .policy
            .iter()
            .flat_map(|policy| policy.rows.iter().cloned());
        let is_port = |ifindex: &u32| {
            self.ports.contains_key(ifindex) || self.arrival_ports.contains_key(ifindex)
        };
        let members = self
            .rib
            .links()
            .filter(|link| link.in_vrf && is_port(&link.ifindex));
        let members = members.map(|link| PolicyRow {
            cause: format!("{} belongs to a VRF", link.name),
            effect: format!("what arrives by {}", link.name),
        });
        let mut rows: Vec<PolicyRow> = rules.chain(members).collect();
        rows.sort_by(|a, b| a.effect.cmp(&b.effect));
        rows
    }

    /// Decides anew what is consulted.
    fn update_policy(&mut self, edits: &mut Vec<Edit>) {
        let step = |&id: &u32| Step::Table {
            id,
            longer_than: None,
        };
        for (ipv6, family) in [(false, 0), (true, 1)] {
            let mut new = self.rules[family].policy().unwrap_or_else(|| Policy {
                steps: [TABLE_LOCAL, TABLE_MAIN].iter().map(step).collect(),
                ..Policy::default()
            });
            new.add_ipsec(&self.ipsec[family]);
            let mut steps = new.steps.clone();
            let is_new = |id: &&u32| {
                let named =
                    |step: &Step| matches!(step, Step::Table { id: named, .. } if named == *id);
                **id != TABLE_LOCAL && **id != TABLE_MAIN && !steps.iter().any(named)
            };
            let more: Vec<Step> = self.config.tables.iter().filter(is_new).map(step).collect();
            steps.extend(more);
            self.rib.set_steps(ipv6, steps);

            self.policy[family] = new;
            let new = &self.policy[family];
            if new.sources.len() > MAX_POLICY_SOURCES as usize {
                warn!(
                    "policy rules name more than {MAX_POLICY_SOURCES} sources: everything goes to the kernel stack"
                );
                continue;
            }
            // What goes makes room for what comes.
            let known = &mut self.policy_sources[family];
            let edit = |is_there| move |&source: &IpNet| Edit::PolicySource { source, is_there };
            let gone = known
                .iter()
                .filter(|prefix| !new.sources.contains_key(*prefix));
            edits.extend(gone.map(edit(false)));
            let missing = new.sources.keys().filter(|prefix| !known.contains(*prefix));
            edits.extend(missing.map(edit(true)));
            *known = new.sources.keys().copied().collect();
        }
    }

    /// A dump is under way: edits wait for its end.
    pub fn resyncing(&self) -> bool {
        self.rib.resyncing()
    }

    /// Decides anew whatever the noted changes touch.
    pub(super) fn update(&mut self, edits: &mut Vec<Edit>) {
        if !self.started {
            self.started = true;
            self.write_fixed(edits);
        }
        if self.rib.resyncing() {
            return;
        }
        if std::mem::take(&mut self.rules_changed) {
            self.update_policy(edits);
        }
        let changes = std::mem::take(&mut self.rib.changes);
        let mut prefixes = changes.prefixes;
        let mut paths: BTreeSet<PathId> = changes.paths.into_iter().collect();
        // References are given back last, when the routes have been moved.
        let mut retired = Vec::new();

        if self.next_hops.has_free() {
            paths.extend(self.starved_paths.drain());
            prefixes.extend(self.starved_hosts.drain());
        }
        let mut entries = self.note_links(&changes.links, &mut paths, &mut prefixes);
        paths.extend(self.note_answers(&changes.neighbours));
        for &(ifindex, address) in &changes.neighbours {
            entries.extend(self.next_hops.of_neighbour(ifindex, address));
            prefixes.push(prefix::host(address));
        }

        for &path in &paths {
            self.update_path(path, &mut prefixes, &mut retired, edits);
        }
        for id in entries {
            let (next_hops, context) = self.parts();
            next_hops.refresh(id, context, edits);
        }
        self.weigh_routes_for_lists(&mut prefixes);
        self.update_routes(prefixes, &mut retired, edits);
        let mut prefixes = self.update_tunnels(edits);
        self.weigh_routes_for_lists(&mut prefixes);
        for id in self.next_hops.of_tunnels() {
            let (next_hops, context) = self.parts();
            next_hops.refresh(id, context, edits);
        }
        self.update_routes(prefixes, &mut retired, edits);
        for address in changes.addresses {
            self.update_own_address(address, edits);
        }
        for id in retired {
            self.next_hops.release(id);
        }
        for path in paths {
            self.drop_unused_path(path);
        }
        self.update_gateways(&changes.neighbours, edits);
    }

    fn write_fixed(&mut self, edits: &mut Vec<Edit>) {
        let fixed = (0..).zip(FIXED);
        edits.extend(fixed.map(|(id, entry)| Edit::NextHop { id, entry }));
        for (prefix, next_hop) in fib::NEVER {
            if !self.config.ipv6 && prefix.addr().is_ipv6() {
                continue;
            }
            self.fib.insert(prefix, next_hop);
            edits.push(Edit::Route { prefix, next_hop });
        }
    }

    /// Notes what depends on links that changed; returns the next-hop entries that do.
    fn note_links(
        &mut self,
        links: &HashSet<u32>,
        paths: &mut BTreeSet<PathId>,
        prefixes: &mut Vec<IpNet>,
    ) -> Vec<u32> {
        if links.is_empty() {
            return Vec::new();
        }
        let all = self.rib.paths.iter();
        let over = all.filter(|(_, path)| self.rib.leads_over(path, links));
        paths.extend(over.map(|(id, _)| id));
        let everywhere = self.rib.neighbours();
        let there = everywhere.filter(|neighbour| links.contains(&neighbour.ifindex));
        prefixes.extend(there.map(|neighbour| prefix::host(neighbour.address)));
        self.next_hops.of_links(links)
    }

    /// Notes which neighbours answer; returns the multipath routes that may pass over other gateways than before.
    fn note_answers(&mut self, neighbours: &[(u32, IpAddr)]) -> Vec<PathId> {
        let mut gateways = HashSet::new();
        for &neighbour @ (ifindex, address) in neighbours {
            let known = self.rib.neighbour(ifindex, address);
            let is_news = match known.is_some_and(|known| !known.is_valid()) {
                true => self.unanswering.insert(neighbour),
                false => self.unanswering.remove(&neighbour),
            };
            if is_news && self.next_hops.uses_gateway(ifindex, address) {
                gateways.insert(neighbour);
            }
        }
        if gateways.is_empty() {
            return Vec::new();
        }
        self.rib.multipath_by(&gateways)
    }

    /// Looks at where a path leads; if that changed, its users are added to `prefixes`.
    fn update_path(
        &mut self,
        id: PathId,
        prefixes: &mut Vec<IpNet>,
        retired: &mut Vec<u32>,
        edits: &mut Vec<Edit>,
    ) {
        let Some(path) = self.rib.paths.get(id) else {
            return;
        };
        let new = if path.users.is_empty() {
            Resolution::Unusable
        } else {
            self.resolve(id, edits)
        };
        let Some(path) = self.rib.paths.get_mut(id) else {
            return;
        };
        let old = std::mem::replace(&mut path.resolution, new);
        if old != new {
            prefixes.extend(&path.users);
        }
        retired.extend(old.next_hop());
    }

    /// Routes of the Xcast routing table count while what they lead to takes lists: looked at again when entries were
    /// written.
    fn weigh_routes_for_lists(&mut self, prefixes: &mut Vec<IpNet>) {
        let paths: Vec<PathId> = self.rib.paths.for_lists().collect();
        for id in paths {
            let resolution = self.rib.paths[id].resolution;
            let new = match (self.tunnel_of(id), resolution.next_hop()) {
                _ if self.rib.paths[id].users.is_empty() => continue,
                (Some(tunnel), _) => {
                    tunnel.map_or(Resolution::Unusable, |tunnel| Resolution::Tunnel { tunnel })
                }
                (None, None) => continue,
                (None, Some(id)) if self.next_hops.takes_lists(id) => {
                    Resolution::Use { id, on_link: None }
                }
                (None, Some(id)) => Resolution::Waiting { id },
            };
            let path = &mut self.rib.paths[id];
            if std::mem::replace(&mut path.resolution, new) != new {
                prefixes.extend(&path.users);
            }
        }
    }

    fn resolve(&mut self, id: PathId, edits: &mut Vec<Edit>) -> Resolution {
        if !self.rib.paths[id].spec.for_lists {
            return self.resolve_for_kernel(id, edits);
        }
        // What else such a table may say, such as where to discard, is not about lists.
        if self.rib.paths[id].spec.kind != RouteKind::Unicast {
            return Resolution::Unusable;
        }
        if let Some(tunnel) = self.tunnel_of(id) {
            return tunnel.map_or(Resolution::Unusable, |tunnel| Resolution::Tunnel { tunnel });
        }
        match self.resolve_for_kernel(id, edits).next_hop() {
            Some(id) => Resolution::Waiting { id },
            None => Resolution::Unusable,
        }
    }

    fn resolve_for_kernel(&mut self, id: PathId, edits: &mut Vec<Edit>) -> Resolution {
        let fixed = |id| Resolution::Use { id, on_link: None };
        let spec = &self.rib.paths[id].spec;
        let mtu_bytes = spec.mtu_bytes;
        if spec.kernel_only.is_some() && spec.kind != RouteKind::Local {
            return fixed(NEXT_HOP_POLICY);
        }
        match spec.kind {
            RouteKind::Unicast => {}
            RouteKind::Local => return fixed(NEXT_HOP_LOCAL),
            RouteKind::Broadcast | RouteKind::Multicast => return fixed(NEXT_HOP_NEVER),
            RouteKind::Blackhole => return fixed(NEXT_HOP_BLACKHOLE),
            RouteKind::Unreachable | RouteKind::Prohibit => return fixed(NEXT_HOP_UNREACHABLE),
            RouteKind::Throw => return Resolution::Throw,
            RouteKind::Other => return fixed(NEXT_HOP_POLICY),
        }
        let (object, members) = match self.rib.hops(&self.rib.paths[id]) {
            None => return Resolution::Unusable,
            Some(Hops::Blackhole) => return fixed(NEXT_HOP_BLACKHOLE),
            // The entry of a group tells several ports.
            Some(Hops::One(hop)) if self.context().arrive_by_several(hop.ifindex) => {
                (None, self.members(id, &[hop]))
            }
            Some(Hops::One(hop)) => return self.resolve_hop(id, hop, edits),
            Some(Hops::Many(object, hops)) => (object, self.members(id, &hops)),
        };
        if !members.iter().any(|member| member.usable) {
            return Resolution::Unusable;
        }
        let key = match object {
            Some(object) => {
                // Routes of IPv4 may use an object whose gateways are of IPv6, and have MTUs of their own.
                GroupKey::Object(object, mtu_bytes, self.rib.paths[id].spec.ipv6)
            }
            None => {
                let members = members.iter();
                let members = members.map(|m| (m.target.clone(), m.weight)).collect();
                GroupKey::Members(members, self.rib.paths[id].spec.ipv6)
            }
        };
        let (next_hops, context) = self.parts();
        let group = next_hops.acquire_group(key, &members, context, edits);
        fixed(group.unwrap_or_else(|| self.starve_path(id)))
    }

    fn resolve_hop(&mut self, id: PathId, hop: Hop, edits: &mut Vec<Edit>) -> Resolution {
        let path = &self.rib.paths[id];
        let mtu_bytes = path.spec.mtu_bytes;
        if self.rib.liveness(path, &hop) == Liveness::Dead {
            return Resolution::Unusable;
        }
        let ipv6 = path.spec.ipv6;
        let target = self.target(&hop, mtu_bytes, ipv6);
        let (next_hops, context) = self.parts();
        let next_hop = next_hops.acquire(&target, context, edits);
        Resolution::Use {
            id: next_hop.unwrap_or_else(|| self.starve_path(id)),
            on_link: (hop.via == Via::Link).then(|| OnLink {
                ifindex: hop.ifindex,
                mtu_bytes: self.lowered_mtu(hop.ifindex, mtu_bytes, ipv6),
            }),
        }
    }

    /// The members of a group; those without carrier, or whose gateways do not answer, are used if there is nothing
    /// better.
    fn members(&self, id: PathId, hops: &[Hop]) -> Vec<Member> {
        let path = &self.rib.paths[id];
        let best = hops.iter().map(|hop| self.rib.liveness(path, hop)).max();
        let needed = best.unwrap_or(Liveness::Dead).max(Liveness::NoCarrier);
        let is_fit = |hop: &Hop| self.rib.liveness(path, hop) >= needed;
        let answers = |hop: &Hop| is_fit(hop) && !self.rib.passes_over(path, hop);
        let some_answers = hops.iter().any(answers);
        let member = |hop: &Hop| Member {
            target: self.target(hop, path.spec.mtu_bytes, path.spec.ipv6),
            weight: hop.weight,
            usable: if some_answers {
                answers(hop)
            } else {
                is_fit(hop)
            },
        };
        hops.iter().map(member).collect()
    }

    fn target(&self, hop: &Hop, mtu_bytes: Option<u32>, ipv6: bool) -> Target {
        let ifindex = hop.ifindex;
        match hop.via {
            Via::Link => Target::Key(Key::Link { ifindex }),
            Via::Gateway(gateway) => Target::Key(Key::Gateway {
                ifindex,
                gateway,
                mtu_bytes: self.lowered_mtu(ifindex, mtu_bytes, ipv6),
            }),
            Via::Kernel => Target::Fixed(NEXT_HOP_POLICY),
        }
    }

    /// The largest packet of a family that goes a way, if it is below the link's MTU: by a route's MTU metric, or by the
    /// link's MTU for IPv6. Routes that do not lower the MTU share their gateway's next hop, whatever else they say.
    fn lowered_mtu(&self, ifindex: u32, mtu_bytes: Option<u32>, ipv6: bool) -> Option<u16> {
        let link = self.rib.link(ifindex)?;
        let of_family = self.rib.link_mtu(ifindex, ipv6);
        let mtu_bytes = mtu_bytes.map_or(of_family, |mtu| mtu.min(of_family));
        if mtu_bytes >= link.mtu_bytes {
            return None;
        }
        u16::try_from(mtu_bytes).ok()
    }

    fn starve_path(&mut self, id: PathId) -> u32 {
        self.starved_paths.insert(id);
        self.warn_starved();
        NEXT_HOP_NO_PORT
    }

    fn warn_starved(&mut self) {
        if !std::mem::replace(&mut self.warned, true) {
            warn!(
                "more next hops than the next-hop table holds: further destinations are left to the kernel"
            );
        }
    }

    /// Brings the route map up to date at these prefixes and wherever else their routes matter.
    fn update_routes(
        &mut self,
        mut prefixes: Vec<IpNet>,
        retired: &mut Vec<u32>,
        edits: &mut Vec<Edit>,
    ) {
        if self.tunnels.len() > 0 {
            // What leads into tunnels goes by what is around it, too.
            let tunnels = &self.tunnels;
            let under = prefixes.iter().flat_map(|&prefix| tunnels.under(prefix));
            let mut under: Vec<IpNet> = under.collect();
            if let Some((_, routes)) = self.rib.xcast_routes() {
                let prefixes = prefixes.iter();
                under.extend(prefixes.flat_map(|&prefix| routes.more_specific(prefix)));
            }
            prefixes.extend(under);
        }
        // A prefix may be noted for several reasons. In order, the maps' tree nodes stay in the cache.
        prefixes.sort_unstable();
        prefixes.dedup();
        let mut affected = Vec::new();
        for &prefix in &prefixes {
            self.fib.note(&mut self.rib, prefix, &mut affected);
        }
        prefixes.append(&mut affected);
        // Removals come last: nothing is without a route while its routes are exchanged.
        let mut removals = Vec::new();
        for prefix in prefixes {
            if fib::never(prefix).is_some() {
                continue;
            }
            let ports = &self.ports;
            let entry = self
                .fib
                .entry(&self.rib, prefix, |ifindex| ports.contains_key(&ifindex));
            let entry = match self.tunnels.of(prefix) {
                Some(tunnel) => Entry::Tunnel(tunnel),
                None => entry,
            };
            let next_hop = match entry {
                Entry::Absent => {
                    removals.push(prefix);
                    continue;
                }
                Entry::Id(id) => id,
                Entry::Held(key) => self.held_id(prefix, key, edits),
                Entry::Tunnel(tunnel) => {
                    let native = self.native_next_hop(prefix);
                    self.held_id(prefix, Key::Tunnel { tunnel, native }, edits)
                }
            };
            let old = self.fib.routes.get(prefix).copied();
            if old != Some(next_hop) {
                self.fib.insert(prefix, next_hop);
                edits.push(Edit::Route { prefix, next_hop });
                retired.extend(old.filter(|&id| self.is_held(id)));
            }
        }
        for prefix in removals {
            // The same prefix may be there twice.
            if let Some(old) = self.fib.remove(prefix) {
                edits.push(Edit::RemoveRoute { prefix });
                retired.extend(self.is_held(old).then_some(old));
            }
        }
    }

    /// The id of a next hop that its routes hold, with a reference taken for this one if that is new.
    fn held_id(&mut self, prefix: IpNet, key: Key, edits: &mut Vec<Edit>) -> u32 {
        let current = self.fib.routes.get(prefix).copied();
        if let Some(id) = self.next_hops.id(&key)
            && current == Some(id)
        {
            return id;
        }
        let (next_hops, context) = self.parts();
        match next_hops.acquire(&Target::Key(key), context, edits) {
            Some(id) => id,
            None => {
                self.starved_hosts.insert(prefix);
                self.warn_starved();
                NEXT_HOP_NO_PORT
            }
        }
    }

    fn is_held(&self, id: u32) -> bool {
        let slot = self.next_hops.get(id);
        slot.is_some_and(|slot| matches!(slot.key, Key::Host { .. } | Key::Tunnel { .. }))
    }

    fn update_own_address(&mut self, address: IpAddr, edits: &mut Vec<Edit>) {
        let mut flags = 0;
        if self.rib.is_own_address(address) && !address.is_loopback() {
            flags |= ADDRESS_OWN;
        }
        if self.config.anycast.contains(&address) {
            flags |= ADDRESS_ANYCAST;
        }
        let old = self.fib.own_addresses.get(&address).copied();
        if flags == old.unwrap_or_default() {
            return;
        }
        if flags == 0 {
            self.fib.own_addresses.remove(&address);
            edits.push(Edit::RemoveOwnAddress { address });
        } else {
            self.fib.own_addresses.insert(address, flags);
            edits.push(Edit::OwnAddress { address, flags });
        }
    }

    fn drop_unused_path(&mut self, id: PathId) {
        let path = self.rib.paths.get(id);
        if path.is_some_and(|path| path.users.is_empty()) {
            self.rib.paths.remove(id);
        }
    }

    /// Asks for what the kernel should keep resolved: gateways in use, on ports that can send. Links
    /// that go down lose their neighbours, and people can remove them, so it is asked again then.
    fn update_gateways(&mut self, neighbours: &[(u32, IpAddr)], edits: &mut Vec<Edit>) {
        let gone: HashSet<_> = neighbours
            .iter()
            .filter(|&&(ifindex, address)| self.rib.neighbour(ifindex, address).is_none())
            .copied()
            .collect();
        let mut gateways = self.next_hops.take_gateways();
        gateways.extend(gone.intersection(&self.resolving));
        for gateway @ (ifindex, address) in gateways {
            let (next_hops, context) = self.parts();
            let port = context.port(ifindex);
            let wanted = port.is_some_and(|(_, link, _)| link.up && link.carrier)
                && next_hops.uses_gateway(ifindex, address);
            if wanted && (self.resolving.insert(gateway) || gone.contains(&gateway)) {
                let gateway = address;
                edits.push(Edit::Resolve { ifindex, gateway });
            } else if !wanted && self.resolving.remove(&gateway) {
                let gateway = address;
                edits.push(Edit::Release { ifindex, gateway });
            }
        }
    }

    /// What entries are made from.
    pub(super) fn context(&self) -> EntryContext<'_> {
        EntryContext {
            rib: &self.rib,
            ports: &self.ports,
            gateways: &self.config.gateways,
            proven: &self.proven,
            arrivals: &self.arrival_ports,
            tunnels: &self.tunnels,
        }
    }

    fn parts(&mut self) -> (&mut NextHops, EntryContext<'_>) {
        let context = EntryContext {
            rib: &self.rib,
            ports: &self.ports,
            gateways: &self.config.gateways,
            proven: &self.proven,
            arrivals: &self.arrival_ports,
            tunnels: &self.tunnels,
        };
        (&mut self.next_hops, context)
    }
}

/// Destinations of either family; all, if there are too many to tell them apart.
fn ipsec_by_family(destinations: &[IpNet]) -> [Vec<IpNet>; 2] {
    [false, true].map(|ipv6| {
        let of_family = destinations
            .iter()
            .filter(|prefix| matches!(prefix, IpNet::V6(_)) == ipv6);
        let prefixes: Vec<_> = of_family.copied().collect();
        match prefixes.len() > MAX_IPSEC {
            false => prefixes,
            true if ipv6 => vec![IpNet::V6(Default::default())],
            true => vec![IpNet::V4(Default::default())],
        }
    })
}
