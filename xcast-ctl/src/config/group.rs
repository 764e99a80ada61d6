//! Groups of users by number or by name.

use nix::unistd::Group;
use serde::{Deserialize, Deserializer, de::Error as _};

#[derive(Deserialize)]
#[serde(untagged, expecting = "a group's number, or its name")]
enum Named {
    Number(u32),
    Name(String),
}

/// A group's number.
pub(super) fn deserialize<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<u32>, D::Error> {
    match Named::deserialize(deserializer)? {
        Named::Number(number) => Ok(Some(number)),
        Named::Name(name) => match Group::from_name(&name) {
            Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
            Ok(None) => Err(D::Error::custom(format!(
                "no group is called {name:?}: make it with \"groupadd --system {name}\", or give another one's name or number"
            ))),
            Err(error) => Err(D::Error::custom(format!(
                "cannot look for the group {name:?} ({error}): give its number"
            ))),
        },
    }
}
