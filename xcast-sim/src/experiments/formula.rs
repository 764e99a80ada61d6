//! The estimate of the patent application that Xcast for overlays comes from.

/// What the formula is called beside results. It is an estimate, and never a result.
pub const FORMULA_LABEL: &str = "formula 1 - m^-0.18";

/// The saving in links that WO 2007/030742 assumes for one packet to `m` destinations, in percent.
#[must_use]
pub fn formula_percent(m: usize) -> f64 {
    100.0 * (1.0 - (m as f64).powf(-0.18))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The four figures of the application.
    #[test]
    fn figures_of_the_application() {
        for (m, percent) in [(3, 17.9), (10, 33.9), (20, 41.7)] {
            assert!((formula_percent(m) - percent).abs() < 0.06, "{m}");
        }
    }
}
