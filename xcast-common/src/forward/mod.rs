//! The stages that a packet passes through in a router.
//!
//! 1. [`tunnelled`]: does it come through a tunnel from another router? Or does it come inside UDP ([`tunnel`])? Then the
//!    outer headers come off.
//! 2. [`ingress`]: is this frame ours, and is it well formed?
//!    [`limits`]: has its source any budget left?
//! 3. [`plan`]: look up every destination and group them into *branches*, one per output copy. A repeated
//!    list reuses the cached plan.
//! 4. [`mark`]: what a copy carries, so that it finds its plan where it leaves.
//! 5. [`emit`]: turn one copy of the frame into what its branch asks for: a shorter Xcast packet
//!    or, with one destination left, an ordinary unicast packet (X2U).
//!
//! [`tables`] is what all of them ask of a router.

pub mod emit;
pub mod ingress;
pub mod limits;
pub mod mark;
pub mod plan;
pub mod tables;
pub mod tunnel;
pub mod tunnelled;
