//! Services in a distributed hash table: described, signed, and found by type, text and place
//! (WO 2007/030742, paragraphs 46 to 48).
//!
//! * [`Service`] is a description: a mechanism (LDAP, SLP, UDDI, DNS-SD), how to reach it (a URI),
//!   attributes, and where it is. [`Entry`] is one that its publisher has signed, for a time.
//! * An entry is stored under several [`Keys`]: by type, by place, and by the words of its text, their
//!   beginnings and pieces.
//! * [`Query`] says under which keys to look, and then which of what is found is meant.
//! * [`Shelf`] is the store of a node: several entries of several publishers under a key, a quota for
//!   each publisher, and answers in pages.
//! * [`dns_sd`], [`slp`] and [`uddi`] read what mechanisms of a link or a registry say, so that it can be
//!   found by others.
//!
//! Nothing here sends anything.

pub mod dns_sd;
mod entry;
mod keys;
mod query;
mod shelf;
pub mod slp;
pub mod uddi;

pub use self::{
    entry::{Entry, EntryError, MAX_ENTRY_OCTETS, Service},
    keys::{Keys, MAX_KEYS},
    query::{Pattern, Query, QueryError},
    shelf::{Page, Shelf, ShelfConfig, ShelfError},
};
