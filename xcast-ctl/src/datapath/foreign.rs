//! Programs of others on the host's end of the router's own pair: they get what the kernel's stack is to have.

use anyhow::{Context as _, Result, bail};

use super::{bpf, handover};
use crate::kernel::{self, XdpPlace};

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
    match bpf::tcx_ingress(ifindex) {
        Ok(0) | Err(_) => {}
        Ok(count) => found.push(format!("{count} programs at tcx/ingress")),
    }
    found
}
