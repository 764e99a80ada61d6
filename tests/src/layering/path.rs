//! A path as it is written, and under which condition.

use syn::{Attribute, Meta, punctuated::Punctuated};

/// How a path is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Usage {
    /// In code, or in a macro's tokens.
    Code,
    /// As the name of a macro that is called.
    Macro,
    /// A `use` that is private to the module.
    Import,
    /// A `use` for others, with a visibility.
    Reexport,
}

/// A path as it is written.
#[derive(Clone, Debug)]
pub(super) struct UsedPath {
    pub segments: Vec<String>,
    /// It begins with `::`.
    pub absolute: bool,
    pub line: usize,
    pub usage: Usage,
    /// Everything in it is used, if it is a module.
    pub glob: bool,
    /// Compiled with some feature, or in tests, only.
    pub gated: bool,
}

/// On what it depends whether something is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Gate {
    /// On nothing that matters here.
    Open,
    /// On a feature, or tests: with neither, it is not there.
    Feature,
    /// It is there in tests only.
    Test,
}

impl Gate {
    pub(super) fn of(attributes: &[Attribute]) -> Self {
        let gates = attributes.iter().map(|attribute| {
            if attribute.path().is_ident("test") {
                return Self::Test;
            }
            Self::of_attribute(&attribute.meta)
        });
        gates.max().unwrap_or(Self::Open)
    }

    /// That of an attribute, if it is `cfg`.
    pub(super) fn of_attribute(meta: &Meta) -> Self {
        match meta {
            Meta::List(list) if list.path.is_ident("cfg") => list
                .parse_args::<Meta>()
                .map_or(Self::Open, |condition| Self::of_condition(&condition)),
            _ => Self::Open,
        }
    }

    fn of_condition(condition: &Meta) -> Self {
        match condition {
            Meta::Path(path) if path.is_ident("test") => Self::Test,
            Meta::NameValue(pair) if pair.path.is_ident("feature") => Self::Feature,
            Meta::List(list) => {
                let parser = Punctuated::<Meta, syn::Token![,]>::parse_terminated;
                let Ok(conditions) = list.parse_args_with(parser) else {
                    return Self::Open;
                };
                let gates = conditions.iter().map(Self::of_condition);
                let gate = if list.path.is_ident("all") {
                    gates.max()
                } else if list.path.is_ident("any") {
                    gates.min()
                } else {
                    None
                };
                gate.unwrap_or(Self::Open)
            }
            _ => Self::Open,
        }
    }
}
