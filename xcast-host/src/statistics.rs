//! What a sender and a queue have done, by reason.

use std::fmt;

/// Defines a struct of counters that prints those which are not zero.
macro_rules! statistics {
    ($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize))]
        #[non_exhaustive]
        pub struct $name {
            $($(#[$field_meta])* pub $field: u64,)*
        }

        impl ::std::fmt::Display for $name {
            /// Name and value of every counter that is not zero; `nothing yet` if all are.
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::statistics::display(&[$((stringify!($field), self.$field)),*], f)
            }
        }
    };
}
pub(crate) use statistics;

pub(crate) fn display(counters: &[(&str, u64)], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    let mut separator = "";
    for (name, value) in counters.iter().filter(|(_, value)| *value > 0) {
        write!(f, "{separator}{name} {value}")?;
        separator = ", ";
    }
    if separator.is_empty() {
        f.write_str("nothing yet")?;
    }
    Ok(())
}
