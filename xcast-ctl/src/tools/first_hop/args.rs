//! What the command line says about the first hop.

use std::{net::IpAddr, str::FromStr};

use anyhow::Result;
use xcast_host::CodePoints;

use super::{address, code_points::CodePointArgs};
use crate::control::{ControlError, Response};

/// How packets are to leave this host, and the numbers that mark them as Xcast.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::tools) struct FirstHopArgs {
    /// First-hop router to send to, even if a router runs here
    ///
    /// A list of both families is sent as one packet per family: the addresses of --via, --to and
    /// --source apply to packets of their own family. Packets of IPv4 alone may also be sent to a
    /// router with an address of IPv6. A link-local address needs an interface, as in fe80::1%eth0 or
    /// with --interface, if no route names it.
    #[arg(long, value_name = "ADDRESS[%IF]")]
    pub(super) via: Option<Via>,

    /// Interface to send from, by its name or an alternative one
    #[arg(long, value_name = "IF")]
    pub(super) interface: Option<String>,

    /// IP destination: group, router, or an (anycast) address
    ///
    /// The default is the group where packets go into a router's own interface, or to a router with an
    /// address of the other family, and the first-hop router elsewhere. "router" always means the first-hop router. With any
    /// other destination the frame is still sent to that router's link-layer address.
    #[arg(long, value_name = "WHERE")]
    pub(super) to: Option<To>,

    /// Source address (default: the one the kernel would choose)
    #[arg(long, value_name = "ADDRESS", value_parser = address::source)]
    pub(in crate::tools) source: Option<IpAddr>,

    #[command(flatten)]
    code_points: CodePointArgs,
}

/// A first-hop router that the user names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Via {
    pub(super) address: IpAddr,
    /// Name of the interface that a link-local address is to be found on (RFC 4007 section 11).
    pub(super) zone: Option<String>,
}

impl FromStr for Via {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (address, zone) = match text.split_once('%') {
            Some((address, zone)) => (address, Some(zone.to_owned())),
            None => (text, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("{address:?} is not an IP address"))?;
        if address.is_unspecified() || address.is_multicast() {
            return Err(format!("{address} is no address of a router"));
        }
        let via = Self { address, zone };
        if via.zone.is_some() && !via.is_link_local() {
            return Err(format!(
                "{address} is not a link-local address of IPv6: name the interface with --interface"
            ));
        }
        Ok(via)
    }
}

impl Via {
    /// Whether the address has to be looked for on one interface.
    pub(super) fn is_link_local(&self) -> bool {
        matches!(self.address, IpAddr::V6(address) if address.is_unicast_link_local())
    }
}

/// IP destination of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum To {
    Group,
    Router,
    Address(IpAddr),
}

impl FromStr for To {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "group" => Ok(Self::Group),
            "router" => Ok(Self::Router),
            _ => text.parse().map(Self::Address).map_err(|_| {
                format!("{text:?} is neither \"group\" nor \"router\" nor an IP address")
            }),
        }
    }
}

impl FirstHopArgs {
    /// The code points alone, for a sender that opens its own socket.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be used.
    pub(in crate::tools) fn code_points(&self, router: &str) -> Result<CodePoints> {
        self.code_points.read(router)
    }

    /// The code points these options state, otherwise those of the running router.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be used.
    pub(super) fn code_points_from(
        &self,
        running: Result<Response, ControlError>,
    ) -> Result<CodePoints> {
        self.code_points.read_from(running)
    }

    /// Options that apply to one family only, by name.
    pub(super) fn addresses(&self) -> impl Iterator<Item = (&'static str, IpAddr)> {
        let to = match self.to {
            Some(To::Address(address)) => Some(address),
            _ => None,
        };
        let via = self.via.as_ref().map(|via| via.address);
        let options = [("--via", via), ("--source", self.source), ("--to", to)];
        options
            .into_iter()
            .filter_map(|(option, address)| Some((option, address?)))
    }

    /// Without the options that apply to the other family only. `alone` says that there are no
    /// packets of the other family.
    pub(super) fn for_family(&self, ipv6: bool, alone: bool) -> Self {
        let here = |address: &IpAddr| address.is_ipv6() == ipv6;
        Self {
            via: self
                .via
                .clone()
                .filter(|via| here(&via.address) || (alone && !ipv6)),
            source: self.source.filter(here),
            to: self.to.filter(|to| match to {
                To::Address(address) => here(address),
                To::Group | To::Router => true,
            }),
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::report::Status;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: FirstHopArgs,
    }

    fn args(line: &str) -> FirstHopArgs {
        Command::try_parse_from(["send"].into_iter().chain(line.split_whitespace()))
            .unwrap()
            .args
    }

    #[test]
    fn code_points_are_never_guessed() {
        let running = || {
            Ok(Response::Status(Box::new(Status {
                protocol: 254,
                group: "224.0.0.254".parse().unwrap(),
                ..Status::example()
            })))
        };
        let none = || Err(ControlError::NotRunning("xcast/xcast0".into()));
        let given = args("--protocol 253 --group 224.0.0.254");
        assert_eq!(given.code_points_from(running()).unwrap().protocol, 253);
        assert_eq!(given.code_points_from(none()).unwrap().protocol, 253);
        let silent = args("");
        assert_eq!(silent.code_points_from(running()).unwrap().protocol, 254);
        for answer in [
            none(),
            Ok(Response::Stopping),
            Err(ControlError::Router("no".into())),
        ] {
            let error = silent.code_points_from(answer).unwrap_err();
            assert!(error.to_string().contains("--protocol"), "{error}");
        }
        let wrong = args("--protocol 17 --group 224.0.0.254");
        assert!(wrong.code_points_from(none()).is_err());
        assert!(Command::try_parse_from(["send", "--protocol", "253"]).is_err());
    }

    #[test]
    fn routers_by_name() {
        let via = |text: &str| text.parse::<Via>();
        assert_eq!(via("10.0.0.1").unwrap().zone, None);
        let zone = via("fe80::1%eth0").unwrap().zone;
        assert_eq!(zone.as_deref(), Some("eth0"));
        for text in [
            "10.0.0.1%eth0",
            "fd00::1%eth0",
            "0.0.0.0",
            "224.0.0.1",
            "ff02::2",
            "router",
        ] {
            assert!(via(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_router_of_ipv6_takes_ipv4_where_there_is_nothing_else() {
        let given = args("--via fd00::1 --source 10.0.0.1");
        let via = |ipv6, alone| given.for_family(ipv6, alone).via.is_some();
        assert!(via(true, true) && via(true, false) && via(false, true));
        assert!(!via(false, false));
        assert_eq!(args("--via 10.0.0.1").for_family(true, true).via, None);
    }

    #[test]
    fn where_to() {
        assert_eq!(args("--to group").to, Some(To::Group));
        let address = To::Address("10.9.9.9".parse().unwrap());
        assert_eq!(args("--to 10.9.9.9").to, Some(address));
        assert!("nowhere".parse::<To>().is_err());
    }
}
