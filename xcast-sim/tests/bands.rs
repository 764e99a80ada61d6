//! Savings of one packet are those of an independent simulation, to within two percentage points.
//!
//! That one has its own generators, counts shortest paths in hops with random choice between equal
//! ones, and states these figures to within 1.5 points. Here are three graphs of each kind;
//! `xcast-sim savings` has intervals.

use xcast_sim::{
    experiments::{Fanouts, Source, Variant, reference_models},
    fanout::{Family, PacketFormat},
};

const DESTINATIONS: [usize; 6] = [2, 3, 5, 10, 20, 50];
/// By topology: links saved at so many destinations, in percent.
const FIGURES: [(&str, [f64; 6]); 4] = [
    ("random tree", [25.7, 35.4, 44.2, 52.5, 58.2, 64.5]),
    ("transit-stub", [18.9, 26.4, 34.5, 42.9, 49.7, 56.9]),
    ("Barabasi-Albert", [14.4, 20.6, 27.2, 33.6, 39.0, 44.6]),
    ("Waxman", [9.6, 14.0, 19.0, 25.2, 31.2, 38.7]),
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
            seeds: vec![1, 2, 3],
            messages: 150,
            destinations: DESTINATIONS.to_vec(),
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
            println!("{name}, {}: {links:.1} for {figure}", row.m);
            assert!(
                (links - figure).abs() <= BAND,
                "{name}, {} destinations: {links:.1} %, and the independent simulation has {figure} %",
                row.m
            );
        }
    }
}
