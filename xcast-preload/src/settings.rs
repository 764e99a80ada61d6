//! What `xcast-ctl exec` says, by environment variables.
//!
//! | variable | value |
//! |---|---|
//! | `XCAST_UPLINK` | `native:INTERFACE`, or `udp:ADDRESS:PORT[,ADDRESS:PORT]`; without it nothing is done |
//! | `XCAST_CODE_POINTS` | `PROTOCOL,GROUP[,GROUP6,ROUTING_TYPE,PORTS_OPTION]` |
//! | `XCAST_MIN` | fewest destinations that share a packet |
//! | `XCAST_MAX_DELAY` | microseconds after which a group ends even if the program calls nothing; 0 for never |
//! | `XCAST_ALLOW` | prefixes of destinations, with commas; without it all |
//! | `XCAST_STATISTICS` | file to append statistics to at the end; `-` for standard error |
//! | `XCAST_STATISTICS_JSON` | if set, as a JSON object on one line |
//! | `XCAST_STATISTICS_SIGNAL` | number of a signal that shows them, too |

use std::{net::IpAddr, net::SocketAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use thiserror::Error;
use xcast_host::{CodePoints, Ipv6CodePoints, RouterAddresses, Uplink};

/// Fewest destinations that share a packet, unless said otherwise.
const MIN: usize = 3;
/// How long a group may stay open, unless said otherwise.
const MAX_DELAY: Duration = Duration::from_millis(5);

/// What the library is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How packets reach the first router; unicast if none is named.
    pub uplink: Uplink,
    /// Fewest destinations that share a packet, at least 2.
    pub min: usize,
    /// How long a group may stay open; zero for as long as the program calls nothing.
    pub max_delay: Duration,
    /// Destinations that may be in a list; all if empty.
    pub allow: Vec<IpNet>,
    /// Where statistics go, if anywhere.
    pub statistics: Option<PathBuf>,
    /// Whether they are JSON.
    pub json: bool,
    /// A signal that shows them.
    pub signal: Option<i32>,
}

/// A variable that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{variable}: {value:?} {wanted}")]
pub struct SettingsError {
    variable: &'static str,
    value: String,
    wanted: &'static str,
}

impl Settings {
    /// Reads the variables.
    ///
    /// # Errors
    ///
    /// Names the one that cannot be used.
    pub fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, SettingsError> {
        let number = |name, wanted| match variable(name) {
            None => Ok(None),
            Some(value) => match value.parse::<u32>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(SettingsError {
                    variable: name,
                    value,
                    wanted,
                }),
            },
        };
        let min = number("XCAST_MIN", "is not a number")?;
        let max_delay = number("XCAST_MAX_DELAY", "is not a number of microseconds")?;
        let signal = number("XCAST_STATISTICS_SIGNAL", "is not the number of a signal")?;
        Ok(Self {
            uplink: uplink(&variable)?,
            min: min.map_or(MIN, |min| min.max(2) as usize),
            max_delay: max_delay.map_or(MAX_DELAY, |delay| Duration::from_micros(delay.into())),
            allow: match variable("XCAST_ALLOW") {
                None => Vec::new(),
                Some(value) => list(&value).ok_or(SettingsError {
                    variable: "XCAST_ALLOW",
                    value,
                    wanted: "is not a list of prefixes, as in 10.0.0.0/8,fd00::/8",
                })?,
            },
            statistics: variable("XCAST_STATISTICS").map(PathBuf::from),
            json: variable("XCAST_STATISTICS_JSON").is_some(),
            signal: signal.and_then(|signal| i32::try_from(signal).ok()),
        })
    }

    /// Whether a destination may be in a list.
    pub fn allows(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allow.is_empty() || self.allow.iter().any(|prefix| prefix.contains(&address))
    }
}

fn uplink(variable: &impl Fn(&str) -> Option<String>) -> Result<Uplink, SettingsError> {
    let Some(value) = variable("XCAST_UPLINK") else {
        return Ok(Uplink::Unicast);
    };
    let numbers = variable("XCAST_CODE_POINTS").unwrap_or_default();
    let Some(code_points) = code_points(&numbers) else {
        return Err(SettingsError {
            variable: "XCAST_CODE_POINTS",
            value: numbers,
            wanted: "is not PROTOCOL,GROUP or PROTOCOL,GROUP,GROUP6,ROUTING_TYPE,PORTS_OPTION",
        });
    };
    let uplink = match value.split_once(':') {
        Some(("native", interface)) if !interface.is_empty() => Some(Uplink::Native {
            code_points,
            interface: interface.to_owned(),
        }),
        Some(("udp", addresses)) => {
            routers(addresses).map(|routers| Uplink::udp(code_points, routers))
        }
        _ => None,
    };
    uplink.ok_or(SettingsError {
        variable: "XCAST_UPLINK",
        value,
        wanted: "is neither native:INTERFACE nor udp:ADDRESS:PORT",
    })
}

fn routers(text: &str) -> Option<RouterAddresses> {
    let mut routers = RouterAddresses::default();
    for address in list::<SocketAddr>(text)? {
        let twice = match address {
            SocketAddr::V4(address) => routers.ipv4.replace(address).is_some(),
            SocketAddr::V6(address) => routers.ipv6.replace(address).is_some(),
        };
        if twice {
            return None;
        }
    }
    Some(routers)
}

fn code_points(text: &str) -> Option<CodePoints> {
    let words: Vec<&str> = text.split(',').collect();
    let ipv4 = CodePoints::new(words.first()?.parse().ok()?, words.get(1)?.parse().ok()?).ok()?;
    match words[2..] {
        [] => Some(ipv4),
        [group, routing_type, ports_option] => {
            let ipv6 = Ipv6CodePoints {
                group: group.parse().ok()?,
                routing_type: routing_type.parse().ok()?,
                ports_option: ports_option.parse().ok()?,
            };
            ipv4.with_ipv6(ipv6).ok()
        }
        _ => None,
    }
}

fn list<T: std::str::FromStr>(text: &str) -> Option<Vec<T>> {
    text.split(',').map(|word| word.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, SettingsError> {
        Settings::read(|name| {
            let mut variables = variables.iter();
            let found = variables.find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn without_an_uplink_nothing_is_done() {
        let settings = read(&[]).unwrap();
        assert_eq!((settings.uplink, settings.min), (Uplink::Unicast, 3));
        assert!(settings.allow.is_empty() && settings.statistics.is_none());
    }

    #[test]
    fn an_uplink_of_both_families() {
        let settings = read(&[
            ("XCAST_UPLINK", "udp:10.0.0.1:4242,[fd00::1]:4242"),
            ("XCAST_CODE_POINTS", "253,224.0.0.254,ff02::114,253,94"),
            ("XCAST_MIN", "0"),
            ("XCAST_MAX_DELAY", "250"),
        ])
        .unwrap();
        let Uplink::Udp {
            router,
            code_points,
            ..
        } = settings.uplink
        else {
            panic!("not in UDP");
        };
        assert!(router.ipv4.is_some() && router.ipv6.is_some() && code_points.ipv6.is_some());
        assert_eq!((settings.min, settings.max_delay.as_micros()), (2, 250));
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        let wrong = |variables: &[(&str, &str)]| read(variables).unwrap_err().to_string();
        let numbers = ("XCAST_CODE_POINTS", "253,224.0.0.254");
        for uplink in [
            "tcp:10.0.0.1:4",
            "udp:10.0.0.1",
            "native:",
            "udp:10.0.0.1:4,10.0.0.2:4",
        ] {
            let error = wrong(&[("XCAST_UPLINK", uplink), numbers]);
            assert!(error.starts_with("XCAST_UPLINK: "), "{error}");
        }
        for numbers in [
            "",
            "253",
            "17,224.0.0.254",
            "253,10.0.0.1",
            "253,224.0.0.254,ff02::114",
        ] {
            let error = wrong(&[
                ("XCAST_UPLINK", "native:xcast0"),
                ("XCAST_CODE_POINTS", numbers),
            ]);
            assert!(error.starts_with("XCAST_CODE_POINTS: "), "{error}");
        }
        assert!(wrong(&[("XCAST_MIN", "few")]).contains("\"few\" is not a number"));
        assert!(wrong(&[("XCAST_ALLOW", "10.0.0.0/8,x")]).starts_with("XCAST_ALLOW: "));
    }

    #[test]
    fn an_allow_list_is_of_prefixes() {
        let settings = read(&[("XCAST_ALLOW", "10.0.0.0/8,fd00::/8")]).unwrap();
        let allows = |address: &str| settings.allows(address.parse().unwrap());
        assert!(allows("10.1.2.3") && allows("fd00::1") && allows("::ffff:10.1.2.3"));
        assert!(!allows("11.0.0.1") && !allows("2001:db8::1"));
    }
}
