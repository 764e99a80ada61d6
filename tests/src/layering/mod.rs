//! Reads the source of a crate and says which of its files use which others.
//!
//! A file *depends* on another if its code names something that the other one defines: in a `use`,
//! in a path, or in the tokens of a macro. What counts is where a thing is defined, not the way by
//! which its name comes:
//!
//! * A `pub use` gives a thing another name and is no dependency by itself. Whoever uses that name
//!   depends on the file that defines the thing. This includes the file with the `pub use`, if its
//!   own code uses the name.
//! * So a path through `mod.rs` or `lib.rs` leads to that file only if the thing is defined there.
//!   Importing a module is no dependency yet; using something in it is.
//! * A glob import depends on everything that the glob brings in.
//! * `mod child;` is no dependency: a parent may own children that it does not use.
//!
//! For parents and children this means: a `mod.rs` either defines what its children use, or uses
//! its children, but not both. It may re-export its children in either case.
//!
//! Inline modules belong to their file. Test code (`#[cfg(test)]`, `#[test]`) is left out; all other
//! conditions are taken as true. A dependency without a name is not seen: a method call on a
//! value whose type the file does not mention, for example.
//!
//! `source` parses files and collects names and paths (`path`, and `tokens` for those in macros);
//! `graph` resolves them and finds rings.

mod graph;
mod path;
mod source;
mod tokens;

pub use self::{
    graph::{Dependency, Graph, Outside, Ring},
    source::{Source, SourceError},
};
