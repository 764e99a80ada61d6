//! Savings of one packet are those of an independent simulation, to within two percentage points.
//!
//! That one has its own generators, counts shortest paths in hops with random choice between equal
//! ones, and states these figures to within 1.5 points. Here a graph of one seed is enough to see
//! that nothing is fundamentally different; `xcast-sim savings` has intervals.

use xcast_sim::{
    experiments::{Fanouts, Source, Variant, reference_models},
    fanout::{Family, PacketFormat},
};

/// By topology: links saved at 3 and at 10 destinations, in percent.
const FIGURES: [(&str, [f64; 2]); 4] = [
    ("random tree", [35.4, 52.5]),
    ("transit-stub", [26.4, 42.9]),
    ("Barabasi-Albert", [20.6, 33.6]),
    ("Waxman", [14.0, 25.2]),
];
const BAND: f64 = 2.0;

#[test]
fn savings_are_in_the_bands() {
    let models = reference_models();
    assert_eq!(models.len(), FIGURES.len());
    for (model, (name, figures)) in models.into_iter().zip(FIGURES) {
        assert_eq!(model.name(), name);
        let experiment = Fanouts {
            source: Source::Generated(model),
            seeds: vec![1],
            messages: 40,
            destinations: vec![3, 10],
            format: PacketFormat {
                family: Family::V4,
                payload_octets: 100,
                ports: false,
            },
            variants: vec![Variant::full()],
        };
        let rows = experiment.run(|_, _| {}).expect("it runs");
        assert_eq!(rows.len(), figures.len());
        for (row, figure) in rows.iter().zip(figures) {
            let links = row.saved_percent.links.mean;
            assert!(
                (links - figure).abs() <= BAND,
                "{name}, {} destinations: {links:.1} %, and the independent simulation has {figure} %",
                row.m
            );
        }
    }
}
