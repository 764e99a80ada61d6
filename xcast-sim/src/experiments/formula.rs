//! The estimate in the patent application that this project starts from.

/// What the formula is called beside results. It is an estimate, and never a result.
pub const FORMULA_LABEL: &str = "formula 1 - m^-0.18";

/// The saving in links that WO 2007/030742 estimates for one packet to `m` destinations, in percent:
/// by the scaling law of Chuang and Sirbu (Telecommunication Systems 17, 2001), with the exponent
/// that its figures fit.
#[must_use]
pub fn formula_percent(m: usize) -> f64 {
    100.0 * (1.0 - (m as f64).powf(-0.18))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The application has whole percents, for Kademlia's alpha and k.
    #[test]
    fn figures_of_the_application() {
        assert_eq!(formula_percent(3).round(), 18.0);
        assert_eq!(formula_percent(20).round(), 42.0);
    }
}
