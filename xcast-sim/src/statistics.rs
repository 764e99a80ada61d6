//! Means over seeds, and how sure they are.

use serde::Serialize;

/// A mean with its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Half the width of the 95 % confidence interval, by Student's t; none for one sample.
    pub half_width: Option<f64>,
}

impl Estimate {
    /// Of independent samples, one for each seed; of none, no estimate.
    #[must_use]
    pub fn of(samples: &[f64]) -> Option<Self> {
        let count = samples.len();
        let mean = samples.iter().sum::<f64>() / count as f64;
        let squares: f64 = samples.iter().map(|sample| (sample - mean).powi(2)).sum();
        let half_width = (count > 1).then(|| {
            let freedom = count - 1;
            let error = (squares / freedom as f64 / count as f64).sqrt();
            student_t(freedom) * error
        });
        (count > 0).then_some(Self { mean, half_width })
    }

    /// Of what each seed gives for one thing less what it gives for another: what the seeds have
    /// in common cancels out.
    ///
    /// # Panics
    ///
    /// There are not equally many of both.
    #[must_use]
    pub fn of_differences(samples: &[f64], baseline: &[f64]) -> Option<Self> {
        assert_eq!(samples.len(), baseline.len(), "each seed has both");
        let pairs = samples.iter().zip(baseline);
        Self::of(&pairs.map(|(one, other)| one - other).collect::<Vec<_>>())
    }
}

/// How likely two samples of one distribution are at least as different as these, by the test of
/// Kolmogorov and Smirnov: from 0 to 1, approximately; more where values repeat. Of an empty sample
/// nothing can be said: 1.
#[must_use]
pub fn kolmogorov_smirnov(one: &[f64], other: &[f64]) -> f64 {
    if one.is_empty() || other.is_empty() {
        return 1.0;
    }
    let share = |sample: &[f64], value: f64| {
        let below = sample.iter().filter(|sampled| **sampled <= value);
        below.count() as f64 / sample.len() as f64
    };
    let values = one.iter().chain(other);
    let gaps = values.map(|value| (share(one, *value) - share(other, *value)).abs());
    let distance = gaps.fold(0.0, f64::max);
    let (one, other) = (one.len() as f64, other.len() as f64);
    let root = (one * other / (one + other)).sqrt();
    // Stephens' approximation for small samples.
    let lambda = (root + 0.12 + 0.11 / root) * distance;
    if lambda < 0.3 {
        // The series converges badly, and the sum is 1 to six digits.
        return 1.0;
    }
    let terms = (1..=100).map(|j| {
        let j = f64::from(j);
        let sign = if j % 2.0 == 1.0 { 1.0 } else { -1.0 };
        sign * (-2.0 * (j * lambda).powi(2)).exp()
    });
    (2.0 * terms.sum::<f64>()).clamp(0.0, 1.0)
}

/// The quantile 0.975 of Student's t distribution.
fn student_t(freedom: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160,
        2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056,
        2.052, 2.048, 2.045, 2.042,
    ];
    // Beyond the table the first terms of the expansion in 1 / freedom are exact to three digits.
    let beyond = 1.960 + 2.372 / freedom as f64 + 2.823 / (freedom as f64).powi(2);
    TABLE.get(freedom - 1).copied().unwrap_or(beyond)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        // Mean 3, variance 2.5, standard error sqrt(0.5), t of 4 degrees of freedom.
        let estimate = Estimate::of(&[1.0, 2.0, 3.0, 4.0, 5.0]).expect("there are samples");
        assert_eq!(estimate.mean, 3.0);
        let half_width = estimate.half_width.expect("there are several");
        assert!((half_width - 2.776 * 0.5_f64.sqrt()).abs() < 1e-9);
        assert_eq!(Estimate::of(&[2.0]).expect("one").half_width, None);
        assert_eq!(Estimate::of(&[]), None);
    }

    #[test]
    fn differences_do_not_see_what_is_common() {
        let baseline = [10.0, 20.0, 60.0];
        let better = [11.0, 21.0, 61.0];
        let difference = Estimate::of_differences(&better, &baseline).expect("there are samples");
        assert_eq!((difference.mean, difference.half_width), (1.0, Some(0.0)));
    }

    #[test]
    fn samples_of_two_distributions_are_told_apart() {
        let mut random = crate::random::Random::new(1);
        let mut sample =
            |shift: f64| -> Vec<f64> { (0..200).map(|_| random.unit() + shift).collect() };
        let (one, same, other) = (sample(0.0), sample(0.0), sample(0.3));
        assert!(kolmogorov_smirnov(&one, &same) > 0.05);
        assert!(kolmogorov_smirnov(&one, &other) < 1e-6);
        assert_eq!(kolmogorov_smirnov(&one, &one), 1.0);
        // D = 0.5 of 4 and 4: lambda = (1.4142 + 0.12 + 0.0778) * 0.5 = 0.806.
        let p = kolmogorov_smirnov(&[1.0, 2.0, 3.0, 4.0], &[3.0, 4.0, 5.0, 6.0]);
        assert!((p - 0.534).abs() < 0.005, "{p}");
    }

    #[test]
    fn quantiles_go_on_where_the_table_ends() {
        for (freedom, expected) in [(31, 2.040), (60, 2.000), (120, 1.980)] {
            assert!((student_t(freedom) - expected).abs() < 0.001, "{freedom}");
        }
    }
}
