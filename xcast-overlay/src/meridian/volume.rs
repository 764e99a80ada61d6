//! Which members of a ring see the network from the most different sides: hypervolume.
//!
//! Members are points whose coordinates are their latencies to each other. A set is good if the
//! simplex that it spans has a large volume: `sqrt(det G) / m!` where `G` is the Gram determinant
//! of the `m` edges from one corner (Wong, Slivkins, Sirer, SIGCOMM 2005, section 2.2). Sets of the
//! same size are compared, so the factor is left out, and logarithms keep numbers small.

/// Logarithm of the squared volume, but for a constant factor; minus infinity for points that do
/// not span a simplex.
fn log_volume(points: &[&[f64]]) -> f64 {
    let Some((corner, others)) = points.split_first() else {
        return f64::NEG_INFINITY;
    };
    let edges: Vec<Vec<f64>> = others
        .iter()
        .map(|point| point.iter().zip(*corner).map(|(a, b)| a - b).collect())
        .collect();
    let dot = |a: &[f64], b: &[f64]| -> f64 { a.iter().zip(b).map(|(a, b)| a * b).sum() };
    // Cholesky: the determinant is the product of the squared pivots.
    let mut lower: Vec<Vec<f64>> = Vec::with_capacity(edges.len());
    let mut log = 0.0;
    for (row, edge) in edges.iter().enumerate() {
        let mut line: Vec<f64> = Vec::with_capacity(row + 1);
        for (column, other) in edges[..row].iter().enumerate() {
            let sum = dot(&line, &lower[column][..column]);
            line.push((dot(edge, other) - sum) / lower[column][column]);
        }
        let length = dot(edge, edge);
        let pivot = length - dot(&line, &line);
        if pivot <= length * 1e-12 {
            return f64::NEG_INFINITY;
        }
        log += pivot.ln();
        line.push(pivot.sqrt());
        lower.push(line);
    }
    log
}

/// The places of `count` points that span a large volume: points are left out one after the other,
/// each time the one without which the most is left.
///
/// That is not always the largest volume, which would take a search of all subsets; the paper does the same.
pub(super) fn choose(points: &[Vec<f64>], count: usize) -> Vec<usize> {
    let mut chosen: Vec<usize> = (0..points.len()).collect();
    while chosen.len() > count {
        let without = |left_out: usize| {
            let rest: Vec<&[f64]> = chosen
                .iter()
                .enumerate()
                .filter(|(at, _)| *at != left_out)
                .map(|(_, point)| points[*point].as_slice())
                .collect();
            log_volume(&rest)
        };
        let worst = (0..chosen.len())
            .map(|at| (without(at), at))
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let Some((_, worst)) = worst else { break };
        chosen.remove(worst);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(points: &[Vec<f64>], which: &[usize]) -> f64 {
        let some: Vec<&[f64]> = which.iter().map(|at| points[*at].as_slice()).collect();
        log_volume(&some)
    }

    #[test]
    fn a_triangle_and_a_line() {
        let points = vec![
            vec![0.0, 0.0],
            vec![3.0, 0.0],
            vec![0.0, 4.0],
            vec![6.0, 0.0],
        ];
        // Twice the area of 6, squared.
        assert!((volume(&points, &[0, 1, 2]) - 144f64.ln()).abs() < 1e-9);
        assert_eq!(volume(&points, &[0, 1, 3]), f64::NEG_INFINITY);
        assert_eq!(volume(&points, &[]), f64::NEG_INFINITY);
    }

    #[test]
    fn twins_are_left_out() {
        // Three sites of four: one of each site is chosen.
        let site = |at: usize| at / 4;
        let latency = |a: usize, b: usize| match (a == b, site(a) == site(b)) {
            (true, _) => 0.0,
            (_, true) => 1.0 + (a + b) as f64 / 100.0,
            _ => 50.0 + (site(a) * 7 + site(b) * 7) as f64,
        };
        let points: Vec<Vec<f64>> = (0..12)
            .map(|a| (0..12).map(|b| latency(a, b)).collect())
            .collect();
        let mut sites: Vec<usize> = choose(&points, 3).into_iter().map(site).collect();
        sites.sort_unstable();
        assert_eq!(sites, [0, 1, 2]);
        assert_eq!(choose(&points[..2], 3), [0, 1]);
    }

    /// Against all subsets.
    #[test]
    fn what_is_chosen_is_nearly_the_best() {
        let mut random = crate::runtime::Random::from_number(3);
        let (mut logs, mut best_logs) = (0.0, 0.0);
        for _ in 0..30 {
            let places: Vec<[f64; 2]> = (0..9)
                .map(|_| [0; 2].map(|_: i32| random.below(1000) as f64))
                .collect();
            let points: Vec<Vec<f64>> = places
                .iter()
                .map(|a| {
                    places
                        .iter()
                        .map(|b| (a[0] - b[0]).hypot(a[1] - b[1]))
                        .collect()
                })
                .collect();
            let best = (0u32..1 << 9)
                .filter(|set| set.count_ones() == 4)
                .map(|set| (0..9).filter(|at| set & (1 << at) != 0).collect::<Vec<_>>())
                .map(|set| volume(&points, &set))
                .fold(f64::NEG_INFINITY, f64::max);
            let chosen = volume(&points, &choose(&points, 4));
            assert!(chosen <= best + 1e-9);
            logs += chosen;
            best_logs += best;
        }
        // Of squared volumes of three dimensions: the edges are nearly as long.
        assert!(
            best_logs - logs < 30.0 * 6.0 * 1.2f64.ln(),
            "{logs} {best_logs}"
        );
    }
}
