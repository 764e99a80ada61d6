//! What is measured, and how it is shown.

mod fanouts;
mod formula;
mod models;
mod plot;
mod source;

pub use fanouts::{Difference, ExperimentError, Fanouts, PlacedShare, Row, Savings, Variant};
pub use formula::{FORMULA_LABEL, formula_percent};
pub use models::reference_models;
pub use plot::{Plot, PlotError, Series};
pub use source::Source;
