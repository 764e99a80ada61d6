//! Answers to the questions that the control socket brings.

use anyhow::{Result, bail};
use xcast_common::maps::{
    NEXT_HOP_ON_LINK, NEXT_HOP_STACK_ROOM, NEXT_HOP_TUNNEL, NEXT_HOP_XCAST, NextHop, NextHopKind,
    PORT_STACK, PortCounters, counter,
};

use super::{explain, ports::Ports, state::Router};
use crate::{
    config,
    control::{Page, Request, Response},
    kernel, log,
    report::{self, Counters, Mode, PendingEdit, PendingEdits, mac_text},
    sync::{NextHopRow, PolicyRow, RouteRow, XcastTableRow},
};

/// Policy rules and VRFs that the status names.
const POLICY_ROWS: usize = 100;
/// Ways of the Xcast routing table that take no lists which the status names.
const PASSED_OVER_ROWS: usize = 100;

impl Router {
    /// Answers a question.
    ///
    /// # Errors
    ///
    /// The kernel does not tell, or the question makes no sense.
    pub(super) fn answer(&self, request: &Request) -> Result<Response> {
        Ok(match request {
            Request::Status => Response::Status(Box::new(self.status())),
            Request::Stats => Response::Stats(self.stats()?),
            Request::Routes { after, limit, ipv6 } => {
                let routes = self.sync.routes_after(*after, *ipv6);
                let routes = routes.map(|route| self.as_written(route));
                Response::Routes(Page::of(routes, *limit))
            }
            Request::NextHops { after } => {
                let next_hops = self.sync.next_hops_after(*after).map(Into::into);
                Response::NextHops(Page::of(next_hops, None))
            }
            Request::Ports => Response::Ports(self.ports.report()),
            Request::Neighbors => Response::Neighbors(self.discovery.report(&self.sync)),
            Request::Tunnels => Response::Tunnels(self.tunnels.report(&self.sync)),
            Request::Backbone => Response::Backbone(Box::new(report::Backbone {
                relay: self.relay.report(),
                neighbors: self.discovery.report(&self.sync),
            })),
            Request::Explain(request) => {
                let mut explain = explain::explain(
                    request,
                    &self.config,
                    &self.sync,
                    &self.ports,
                    &self.datapath,
                )?;
                self.say_who_gets_unicast(&mut explain);
                self.say_which_tunnels_fail(&mut explain);
                Response::Explain(explain)
            }
            Request::Stop => Response::Stopping,
            Request::Leave if !self.datapath.generation().is_pinned() => {
                bail!(
                    "forwarding would end with the router: it found no BPF file system that outlives it"
                )
            }
            Request::Leave => Response::Stopping,
        })
    }

    /// Adds to copies for gateways that take no lists why they do not.
    fn say_who_gets_unicast(&self, explain: &mut report::Explain) {
        let gateways = self.discovery.report(&self.sync);
        for copy in &mut explain.copies {
            let mut without = gateways.iter().filter(|row| !row.xcast);
            let gateway =
                without.find(|row| row.device == copy.port && Some(row.address) == copy.next_hop);
            if let Some(gateway) = gateway {
                copy.why += &format!("; it gets unicast: {}", gateway.why);
            }
        }
    }

    /// Adds which tunnels lists would go by if those worked, and why they do not.
    fn say_which_tunnels_fail(&self, explain: &mut report::Explain) {
        let rows = self.tunnels.report(&self.sync);
        let failing = |address| {
            let idle = self.sync.idle_tunnels(address).into_iter();
            let rows = idle.filter_map(|tunnel| rows.get(tunnel));
            rows.map(|row| format!("; tunnel {} does not work: {}", row.name, row.why))
                .collect::<String>()
        };
        for copy in &mut explain.copies {
            if let Some(first) = copy.destinations.first() {
                copy.why += &failing(first.address);
            }
        }
        for skipped in &mut explain.skipped {
            skipped.why += &failing(skipped.destination.address);
        }
    }

    /// A route as the datapath has it: those without room are handed to the stack.
    fn as_written(&self, row: RouteRow) -> report::Route {
        let pending = self.pending.has_route(row.prefix);
        let mut route = report::Route::from(row);
        if pending {
            route.next_hop = NEXT_HOP_STACK_ROOM;
            route.kind = "stack".to_owned();
            route.why = format!("no room in the route map; {}", route.why);
        }
        route
    }

    /// One line about a router that is ready.
    pub(super) fn summary(&self) -> String {
        format!(
            "{} ports, {} routes, group {}, protocol {}",
            self.ports.attached(),
            self.sync.route_count(),
            self.config.code_points.group,
            self.config.code_points.protocol
        )
    }

    /// What could not be written, with the device maps that could not be made.
    fn pending_edits(&self) -> PendingEdits {
        let mut pending = self.pending.report();
        if let Some(unmade) = self.datapath.unmade() {
            let names = unmade.slots.iter();
            let names: Vec<_> = names
                .map(|slot| self.ports.name(*slot).unwrap_or("the kernel's stack"))
                .collect();
            pending.count += names.len();
            pending.examples.push(PendingEdit {
                what: format!("device maps with {}", names.join(", ")),
                error: unmade.error,
                attempts: unmade.attempts,
            });
        }
        pending
    }

    fn status(&self) -> report::Status {
        let own_interface = self.own_interface.report();
        let policy = self.sync.policy_rows();
        report::Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs(),
            ready: self.ready,
            interface: self.config.router.interface.clone(),
            protocol: self.config.code_points.protocol,
            group: self.config.code_points.group,
            ipv6: self.config.code_points.ipv6.map(Into::into),
            ports: self.ports.attached(),
            routes: self.sync.route_count(),
            next_hops: self.sync.next_hop_count(),
            subsets_installed: self.datapath.subsets_installed(),
            pending_edits: self.pending_edits(),
            resyncs: self.resyncs,
            kernel: kernel::release().unwrap_or_else(|_| "unknown".to_owned()),
            prune: config::prune_name(self.config.router.prune).to_owned(),
            gateways: self.config.router.gateways.clone(),
            xcast_table: self.sync.xcast_table().map(Into::into),
            udp_port: self.config.udp.as_ref().map(|udp| udp.port.get()),
            relay: self.relay.report(),
            lasting: self.datapath.generation().is_pinned(),
            log_lines_lost: log::lost_lines(),
            own_interface_repairs: own_interface.repairs,
            own_interface_fault: own_interface.fault,
            policy_more: policy.len().saturating_sub(POLICY_ROWS),
            policy: policy
                .into_iter()
                .take(POLICY_ROWS)
                .map(Into::into)
                .collect(),
        }
    }

    fn stats(&self) -> Result<report::Stats> {
        let counters = self.datapath.counters()?;
        let values = |slot: u8| -> Counters {
            let zero = PortCounters::default();
            let counts = &counters.get(slot as usize).unwrap_or(&zero).counts;
            let mut values = [0; counter::COUNT];
            for (value, count) in values.iter_mut().zip(counts) {
                *value = *count;
            }
            report::counters(&values)
        };
        let mut ports = vec![report::PortStats {
            name: self.config.router.interface.clone(),
            slot: PORT_STACK,
            ifindex: nix::net::if_::if_nametoindex(self.config.router.interface.as_str())
                .unwrap_or(0),
            counters: values(PORT_STACK),
            driver_drops: None,
        }];
        ports.extend(self.ports.stats(values));
        Ok(report::Stats::new(ports))
    }
}

impl Ports {
    /// For the `ports` verb.
    fn report(&self) -> Vec<report::Port> {
        self.ports
            .iter()
            .map(|port| {
                let attached = port.attached.as_ref().filter(|attached| attached.runs());
                let link = attached.map(|attached| &attached.link);
                report::Port {
                    name: port.interface.clone(),
                    slot: link.map(|_| port.slot),
                    ifindex: link.map(|link| link.ifindex),
                    mac: link.and_then(|link| link.mac).map(mac_text),
                    mtu: link.map(|link| link.mtu_bytes),
                    mode: link.map(|_| Mode::Native),
                    group_mac: port.group_mac,
                    up: link.is_some_and(|link| link.up && link.carrier),
                    error: port.cause(),
                }
            })
            .collect()
    }

    /// For the `stats` verb.
    fn stats(&self, values: impl Fn(u8) -> Counters) -> Vec<report::PortStats> {
        let drops = kernel::transmit_drops();
        self.ports
            .iter()
            .map(|port| report::PortStats {
                name: port.interface.clone(),
                slot: port.slot,
                ifindex: port
                    .attached
                    .as_ref()
                    .map_or(0, |attached| attached.link.ifindex),
                counters: values(port.slot),
                driver_drops: port.driver_drops(&drops),
            })
            .collect()
    }
}

impl From<XcastTableRow> for report::XcastTable {
    fn from(row: XcastTableRow) -> Self {
        let passed_over = row.passed_over.into_iter().take(PASSED_OVER_ROWS);
        Self {
            table: row.table,
            usable: row.usable,
            passed_over: passed_over
                .map(|(routes, example, why)| report::PassedOver {
                    routes,
                    example,
                    why,
                })
                .collect(),
        }
    }
}

impl From<PolicyRow> for report::PolicyRow {
    fn from(row: PolicyRow) -> Self {
        Self {
            cause: row.cause,
            effect: row.effect,
        }
    }
}

impl From<RouteRow> for report::Route {
    fn from(row: RouteRow) -> Self {
        Self {
            prefix: row.prefix,
            next_hop: row.next_hop,
            kind: kind_name(row.entry).to_owned(),
            via: row.via,
            device: row.device,
            table: row.table,
            why: row.why,
        }
    }
}

impl From<NextHopRow> for report::NextHop {
    fn from(row: NextHopRow) -> Self {
        let entry = row.entry;
        let forward = entry.kind == NextHopKind::Forward as u8;
        let counts =
            entry.kind == NextHopKind::Stack as u8 || entry.kind == NextHopKind::Skip as u8;
        let reason = counter::NAMES.get(usize::from(entry.reason));
        Self {
            id: row.id,
            kind: kind_name(entry).to_owned(),
            address: row.address,
            port: row.device,
            mac: forward.then(|| mac_text(entry.destination_mac)),
            mtu: match entry.flags & NEXT_HOP_TUNNEL {
                0 => forward.then_some(entry.mtu_bytes),
                _ => Some(entry.tunnel_mtu_bytes),
            },
            xcast: entry.flags & NEXT_HOP_XCAST != 0,
            on_link: entry.flags & NEXT_HOP_ON_LINK != 0,
            reason: reason.filter(|_| counts).map(|name| (*name).to_owned()),
        }
    }
}

/// The name of a next hop's kind in reports.
fn kind_name(entry: NextHop) -> &'static str {
    match entry.kind {
        _ if entry.flags & NEXT_HOP_TUNNEL != 0 => "tunnel",
        kind if kind == NextHopKind::Forward as u8 => "forward",
        kind if kind == NextHopKind::Stack as u8 => "stack",
        kind if kind == NextHopKind::Skip as u8 => "skip",
        kind if kind == NextHopKind::Ecmp as u8 => "ecmp",
        _ => "unused",
    }
}
