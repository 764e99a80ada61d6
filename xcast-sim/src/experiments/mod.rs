//! What is measured, and how it is shown.

mod actor;
mod collapse;
mod converge;
mod d1ht;
mod edra;
mod fanouts;
mod formula;
mod kademlia;
mod lists;
mod models;
mod operations;
mod paths;
mod plot;
mod savings;
mod shape;
mod soak;
mod source;
mod tree;
pub mod work;

pub use actor::Actor;
pub use collapse::{Collapse, CollapseRow, System, collapse_point};
pub use converge::{Converge, ConvergeRow, Overlay};
pub use d1ht::{D1ht, D1htRow};
pub use edra::{Edra, EdraRow};
pub use fanouts::{ExperimentError, Fanouts, PlacedShare, Row, Variant};
pub use formula::{FORMULA_LABEL, formula_percent};
pub use kademlia::{Kademlia, KademliaError, KademliaRow, LookupVariant, Rule, Stage, join};
pub use lists::{Lists, ListsRow};
pub use models::reference_models;
pub use operations::{Operation, OperationRow, Operations};
pub use plot::{Plot, PlotError, Series};
pub use savings::{Cost, Difference, Savings};
pub use soak::{Hour, Soak, SoakOverlay};
pub use source::Source;
pub use tree::{Growth, TreeRow, Trees};
