//! Programs of others: on the host's end of the router's own pair, where they get what the kernel's stack is to have, and
//! on ports, where they do not get what they would of unicast.

use anyhow::{Context as _, Result, bail};

use super::{
    bpf::{self, Tcx},
    handover,
};
use crate::kernel::{self, TrafficControl, XdpPlace};

/// Takes the XDP program with this id off an interface that is the router's own, whoever attached it.
///
/// # Errors
///
/// It cannot be told from one in another network namespace, or the kernel refuses.
pub(crate) fn take_xdp_off(ifindex: u32, program: u32, place: XdpPlace) -> Result<()> {
    let links = bpf::xdp_links(ifindex, program).context("cannot list the links of programs")?;
    match &links[..] {
        [] => kernel::take_xdp_off(ifindex, place),
        [link] => bpf::detach(link).context("cannot detach a program"),
        _ => bail!("the same program is on an interface with the same index elsewhere"),
    }
}

/// What runs on an interface before the program that hands copies over to the ports, and may keep them from it.
pub(crate) fn before_handover(ifindex: u32) -> Vec<String> {
    let filters = kernel::ingress_filters_before(ifindex, handover::NAME);
    let mut found = filters.unwrap_or_default();
    found.extend(at_tcx(ifindex, Tcx::Ingress));
    found
}

/// What traffic control does on a port: it sees nothing of what XDP takes there, or sends.
pub(crate) fn passed_by(ifindex: u32) -> TrafficControl {
    let mut control = kernel::traffic_control(ifindex).unwrap_or_default();
    control.ingress.extend(at_tcx(ifindex, Tcx::Ingress));
    control.egress.extend(at_tcx(ifindex, Tcx::Egress));
    control
}

fn at_tcx(ifindex: u32, place: Tcx) -> Option<String> {
    let name = match place {
        Tcx::Ingress => "ingress",
        Tcx::Egress => "egress",
    };
    match bpf::tcx(ifindex, place) {
        Ok(0) | Err(_) => None,
        Ok(count) => Some(format!("{count} programs at tcx/{name}")),
    }
}
