//! The numbers that mark packets as Xcast, on the command line.

use std::{
    net::{Ipv4Addr, Ipv6Addr},
    path::PathBuf,
};

use anyhow::{Context as _, Result, bail};
use xcast_host::{CodePoints, Ipv6CodePoints};

use crate::{
    config::load_code_points,
    control::{self, ControlError, Request, Response},
};

/// The numbers that mark packets as Xcast.
#[derive(Clone, Debug, clap::Args)]
pub(in crate::tools) struct CodePointArgs {
    /// Take the code points from this configuration file
    #[arg(long, value_name = "FILE", conflicts_with_all = ["protocol", "group"])]
    config: Option<PathBuf>,

    /// IPv4 protocol number of Xcast
    #[arg(long, value_name = "N", requires = "group")]
    protocol: Option<u8>,

    /// All-Xcast-Routers group of IPv4
    #[arg(long, value_name = "ADDRESS", requires = "protocol")]
    group: Option<Ipv4Addr>,

    /// All-Xcast-Routers group of IPv6
    #[arg(long, value_name = "ADDRESS", requires_all = ["protocol", "routing_type", "ports_option"])]
    group6: Option<Ipv6Addr>,

    /// Routing type of Xcast6
    #[arg(long, value_name = "N", requires = "group6")]
    routing_type: Option<u8>,

    /// Option type of the Xcast6 port list, decimal or hexadecimal with 0x
    #[arg(long, value_name = "N", requires = "group6", value_parser = octet)]
    ports_option: Option<u8>,
}

impl CodePointArgs {
    /// Whether any is stated.
    pub(super) fn are_stated(&self) -> bool {
        self.config.is_some() || self.protocol.is_some()
    }

    /// The code points, for a sender that opens its own socket.
    ///
    /// # Errors
    ///
    /// There are none, or they cannot be used.
    pub(in crate::tools) fn find(&self, router: &str) -> Result<CodePoints> {
        self.code_points_from(control::ask(router, &Request::Status))
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
        if let Some(path) = &self.config {
            return Ok(load_code_points(path)?);
        }
        if let (Some(protocol), Some(group)) = (self.protocol, self.group) {
            let ipv4 = CodePoints::new(protocol, group)?;
            let ipv6 = (self.group6, self.routing_type, self.ports_option);
            let (Some(group), Some(routing_type), Some(ports_option)) = ipv6 else {
                return Ok(ipv4);
            };
            return Ok(ipv4.with_ipv6(Ipv6CodePoints {
                group,
                routing_type,
                ports_option,
            })?);
        }
        const REMEDY: &str = "give --config FILE, or the network's own --protocol and --group";
        match running {
            Ok(Response::Status(status)) => Ok(CodePoints {
                protocol: status.protocol,
                group: status.group,
                ipv6: status.ipv6.map(Into::into),
            }),
            Ok(_) => bail!("the running router does not tell its code points; {REMEDY}"),
            Err(ControlError::NotRunning(_)) => bail!(
                "no code points: no router runs here to take them from, and they have no default; \
                 {REMEDY}"
            ),
            Err(error) => Err(error).with_context(|| {
                format!("cannot take the code points from the running router; {REMEDY}")
            }),
        }
    }
}

fn octet(text: &str) -> Result<u8, String> {
    match text.strip_prefix("0x") {
        Some(digits) => u8::from_str_radix(digits, 16),
        None => text.parse(),
    }
    .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::report::Status;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        args: CodePointArgs,
    }

    fn args(line: &str) -> CodePointArgs {
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
}
