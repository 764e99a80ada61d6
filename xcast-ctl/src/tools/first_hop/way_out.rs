//! How the messages of a program that stays leave this host.

use std::net::SocketAddr;

use anyhow::Result;
use tracing::info;
use xcast_host::Uplink;

use super::{
    address::{router_addresses, router_in_udp},
    code_points::CodePointArgs,
};
use crate::control::{self, ControlError, Request};

/// How messages to several leave: by a router on this machine, by one on the network, or as unicast.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::tools) struct WayOutArgs {
    /// Send inside UDP to this router; give it twice for its IPv4 and its IPv6 address
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = router_in_udp, conflicts_with = "unicast")]
    udp: Vec<SocketAddr>,

    /// Send a datagram to each receiver, even if a router runs here
    #[arg(long)]
    unicast: bool,

    #[command(flatten)]
    code_points: CodePointArgs,
}

impl WayOutArgs {
    /// Whether packets travel inside UDP to the first router.
    pub(in crate::tools) fn is_in_udp(&self) -> bool {
        !self.udp.is_empty()
    }

    /// The way out, and what to call it. `router` is the interface of the router that may run here.
    ///
    /// # Errors
    ///
    /// No code points, or two addresses of a family.
    pub(in crate::tools) fn uplink(&self, router: &str) -> Result<(Uplink, String)> {
        if self.unicast {
            return Ok((Uplink::Unicast, "unicast, as wanted".to_owned()));
        }
        if self.is_in_udp() {
            let to = router_addresses(&self.udp)?;
            let uplink = Uplink::udp(self.code_points.find(router)?, to);
            let names: Vec<_> = self.udp.iter().map(ToString::to_string).collect();
            return Ok((
                uplink,
                format!("Xcast inside UDP to {}", names.join(" and ")),
            ));
        }
        let runs = control::ask(router, &Request::Status);
        if matches!(runs, Err(ControlError::NotRunning(_))) {
            let why = match self.code_points.are_stated() {
                true => "no router runs here, and no --udp names one on the network",
                false => "no router runs here",
            };
            info!("messages leave as unicast: {why}");
            return Ok((Uplink::Unicast, format!("unicast, since {why}")));
        }
        let uplink = Uplink::Native {
            code_points: self.code_points.find(router)?,
            interface: router.to_owned(),
        };
        Ok((
            uplink,
            format!("Xcast by the router of {router} on this machine"),
        ))
    }
}
