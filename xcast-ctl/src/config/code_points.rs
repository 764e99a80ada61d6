//! The `[code_points]` table: numbers that mark a packet as Xcast.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde::Deserialize;
use xcast_host::{CodePointError, CodePoints, Ipv6CodePoints};

use super::error::{ConfigError, invalid};

/// The table as it is written, before it is known to make sense.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatedCodePoints {
    protocol: Option<u8>,
    group: Option<Ipv4Addr>,
    group6: Option<Ipv6Addr>,
    routing_type: Option<u8>,
    ports_option: Option<u8>,
}

impl StatedCodePoints {
    pub(super) fn validate(&self) -> Result<CodePoints, ConfigError> {
        let protocol = self.protocol.ok_or(ConfigError::MissingCodePoint {
            field: "protocol",
            example: "protocol = 253",
        })?;
        let group = self.group.ok_or(ConfigError::MissingCodePoint {
            field: "group",
            example: "group = '224.0.0.254'",
        })?;
        let wrong =
            |error: CodePointError| invalid(format!("code_points.{}", error.field), error.reason);
        let ipv4 = CodePoints::new(protocol, group).map_err(wrong)?;
        match self.ipv6()? {
            Some(ipv6) => ipv4.with_ipv6(ipv6).map_err(wrong),
            None => Ok(ipv4),
        }
    }

    /// Those of Xcast6: all of them or none.
    fn ipv6(&self) -> Result<Option<Ipv6CodePoints>, ConfigError> {
        if self.group6.is_none() && self.routing_type.is_none() && self.ports_option.is_none() {
            return Ok(None);
        }
        Ok(Some(Ipv6CodePoints {
            group: self.group6.ok_or(ConfigError::MissingCodePoint {
                field: "group6",
                example: "group6 = 'ff02::114'",
            })?,
            routing_type: self.routing_type.ok_or(ConfigError::MissingCodePoint {
                field: "routing_type",
                example: "routing_type = 253",
            })?,
            ports_option: self.ports_option.ok_or(ConfigError::MissingCodePoint {
                field: "ports_option",
                example: "ports_option = 0x5e",
            })?,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{
        Config,
        testing::{CODE_POINTS, PORT, assert_says},
    };

    #[test]
    fn a_missing_code_point_says_which_line_to_add_and_why() {
        for text in ["", PORT, "[code_points]\ngroup = '224.0.0.254'"] {
            let says = [
                "code_points.protocol",
                "protocol = 253",
                "RFC 4727",
                "every router",
            ];
            assert_says(Config::parse(text), &says);
        }
        let text = "[code_points]\nprotocol = 253";
        assert_says(
            Config::parse(text),
            &["code_points.group", "group = '224.0.0.254'"],
        );
    }

    #[test]
    fn code_points_of_xcast6_come_together() {
        let ipv6 = "group6 = 'ff02::114'\nrouting_type = 253\nports_option = 0x5e\n";
        let config = Config::parse(&format!("{CODE_POINTS}{ipv6}{PORT}")).unwrap();
        assert_eq!(config.code_points.ipv6.unwrap().routing_type, 253);
        for line in ipv6.lines() {
            let some = format!("{CODE_POINTS}{}{PORT}", ipv6.replace(line, ""));
            assert_says(Config::parse(&some), &["code_points.", line]);
        }
        let wrong = format!("{CODE_POINTS}{}{PORT}", ipv6.replace("253", "4"));
        assert_says(
            Config::parse(&wrong),
            &["code_points.routing_type", "segment routing"],
        );
    }

    #[test]
    fn code_points_in_use_are_refused() {
        let stated = |protocol, group| {
            let (protocol, group) = (Some(protocol), Some(group));
            let ipv4 = StatedCodePoints {
                protocol,
                group,
                ..StatedCodePoints::default()
            };
            ipv4.validate()
        };
        let group = Ipv4Addr::new(224, 0, 0, 254);
        assert_says(
            stated(17, group),
            &["code_points.protocol", "17 is UDP", "253"],
        );
        assert_says(stated(89, group), &["OSPF"]);
        assert_says(stated(0, group), &["reserved"]);
        assert_says(stated(255, group), &["reserved"]);
        let unicast = Ipv4Addr::new(10, 0, 0, 1);
        assert_says(
            stated(253, unicast),
            &["code_points.group", "not a multicast"],
        );
        assert_says(stated(253, Ipv4Addr::new(224, 0, 0, 5)), &["OSPF"]);
        assert!(stated(254, group).is_ok());
    }
}
