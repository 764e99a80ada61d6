//! Places as keys of a distributed hash table (WO 2007/030742, paragraph 45).
//!
//! The Earth is divided into the hexagons of the H3 grid. What has a place is stored under the cells
//! it lies in, one of each size in [`SIZES`]. Whoever looks for what is in an [`Area`] asks for the
//! cells that cover it, of the smallest size of which not too many are needed, and sorts out what
//! lies outside. Adjacent cells are different keys, which [`find_many`] asks for by shared packets.
//!
//! [`find_many`]: crate::kademlia::Node::find_many

use std::{
    collections::{BTreeSet, VecDeque},
    f64::consts::FRAC_PI_2,
};

use h3o::{CellIndex, LatLng, Resolution};
use thiserror::Error;

use crate::id::Id;

/// Sizes of cells that are used, from the largest: edges of some 480, 70, 10 and 1.4 km.
pub const SIZES: [Resolution; 4] = [
    Resolution::One,
    Resolution::Three,
    Resolution::Five,
    Resolution::Seven,
];

/// Mean radius of the Earth in metres, as H3 has it.
const EARTH_RADIUS_M: f64 = 6_371_007.180_918_475;

/// Largest distance of a polygon's corner from any of its cells, as an angle: beyond, no plane shows
/// it.
const MAX_ANGLE: f64 = FRAC_PI_2 * 0.9;

/// A place on the Earth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Place {
    position: LatLng,
}

/// Why there is no such place or area.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlaceError {
    /// A coordinate is not finite or out of range.
    #[error("latitude is not within -90 to 90 degrees, or longitude not within -180 to 180")]
    OutOfRange,
    /// A radius is not finite or negative.
    #[error("radius is negative or not a number")]
    Radius,
    /// A polygon has less than three corners.
    #[error("a polygon has at least three corners")]
    Corners,
    /// An area needs more cells than allowed, even of the largest size.
    #[error("area is too large: more than {0} of the largest cells; ask for parts of it")]
    TooLarge(usize),
}

/// Where to look.
#[derive(Clone, Debug, PartialEq)]
pub enum Area {
    /// The smallest cell around a place.
    Point(Place),
    /// The cell around a place, and so many rings of cells around that.
    Neighbourhood {
        /// In the middle.
        place: Place,
        /// The size of cells: a place in [`SIZES`].
        size: usize,
        /// How many rings.
        rings: u32,
    },
    /// Everything so near.
    Circle {
        /// In the middle.
        place: Place,
        /// Great-circle distance in metres.
        radius_m: f64,
    },
    /// Everything within a polygon, whose edges are parts of great circles. It may lie anywhere, also
    /// on a pole or the date line, but within a hemisphere.
    Polygon(Vec<Place>),
}

impl Place {
    /// The place at these degrees.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn new(latitude: f64, longitude: f64) -> Result<Self, PlaceError> {
        if !(latitude.abs() <= 90.0 && longitude.abs() <= 180.0) {
            return Err(PlaceError::OutOfRange);
        }
        let position = LatLng::new(latitude, longitude).map_err(|_| PlaceError::OutOfRange)?;
        Ok(Self { position })
    }

    /// Degrees to the north of the equator.
    pub fn latitude(self) -> f64 {
        self.position.lat()
    }

    /// Degrees to the east of Greenwich.
    pub fn longitude(self) -> f64 {
        self.position.lng()
    }

    /// Great-circle distance in metres.
    pub fn distance_m(self, other: Self) -> f64 {
        self.position.distance_m(other.position)
    }

    /// The cells it lies in, one of each size.
    pub fn cells(self) -> [CellIndex; SIZES.len()] {
        SIZES.map(|size| self.position.to_cell(size))
    }
}

/// The key of things of a kind in a cell.
pub fn key(cell: CellIndex, kind: &[u8]) -> Id {
    Id::hash_of(&[b"xcast place 1", &u64::from(cell).to_be_bytes(), kind])
}

impl Area {
    /// The cells that cover it: of the smallest size of which `most` are enough.
    ///
    /// # Errors
    ///
    /// If the area is none, or too large.
    pub fn cells(&self, most: usize) -> Result<Vec<CellIndex>, PlaceError> {
        match self {
            Self::Point(place) => Ok(vec![place.cells()[SIZES.len() - 1]]),
            Self::Neighbourhood { place, size, rings } => {
                let cell = place.cells()[(*size).min(SIZES.len() - 1)];
                // Three cells around a corner are the fewest that a ring can have.
                if *rings as usize > most {
                    return Err(PlaceError::TooLarge(most));
                }
                let cells: BTreeSet<CellIndex> = cell.grid_disk_safe(*rings).collect();
                if cells.len() > most {
                    return Err(PlaceError::TooLarge(most));
                }
                Ok(cells.into_iter().collect())
            }
            Self::Circle { place, radius_m } => {
                if !(radius_m.is_finite() && *radius_m >= 0.0) {
                    return Err(PlaceError::Radius);
                }
                let touches = |cell: CellIndex| {
                    let middle = LatLng::from(cell);
                    middle.distance_m(place.position) <= radius_m + reach(cell) * EARTH_RADIUS_M
                };
                smallest_cover(*place, most, touches)
            }
            Self::Polygon(corners) => {
                let [first, _, _, ..] = corners.as_slice() else {
                    return Err(PlaceError::Corners);
                };
                smallest_cover(*first, most, |cell| {
                    match Plane::around(LatLng::from(cell), corners) {
                        Some(plane) => {
                            plane.contains_middle()
                                || plane.distance_of_edges() <= reach(cell).tan()
                        }
                        // So far away that no edge can touch the cell.
                        None => false,
                    }
                })
            }
        }
    }

    /// Whether a place lies in the area itself.
    pub fn contains(&self, place: Place) -> bool {
        match self {
            Self::Point(_) | Self::Neighbourhood { .. } => self
                .cells(usize::MAX)
                .is_ok_and(|cells| place.cells().iter().any(|cell| cells.contains(cell))),
            Self::Circle {
                place: middle,
                radius_m,
            } => middle.distance_m(place) <= *radius_m,
            Self::Polygon(corners) => {
                Plane::around(place.position, corners).is_some_and(|plane| plane.contains_middle())
            }
        }
    }
}

/// The smallest cells that touch an area of which `start` is a part, if at most `most` are needed.
fn smallest_cover(
    start: Place,
    most: usize,
    touches: impl Fn(CellIndex) -> bool,
) -> Result<Vec<CellIndex>, PlaceError> {
    let covers = SIZES.iter().rev().find_map(|size| {
        let first = start.position.to_cell(*size);
        let mut cover = BTreeSet::from([first]);
        let mut edge = VecDeque::from([first]);
        while let Some(cell) = edge.pop_front() {
            for neighbour in cell.grid_disk_safe(1) {
                if !cover.contains(&neighbour) && touches(neighbour) {
                    cover.insert(neighbour);
                    edge.push_back(neighbour);
                }
                if cover.len() > most {
                    return None;
                }
            }
        }
        Some(cover.into_iter().collect())
    });
    covers.ok_or(PlaceError::TooLarge(most))
}

/// The angle from the middle of a cell to its farthest corner.
fn reach(cell: CellIndex) -> f64 {
    let middle = LatLng::from(cell);
    let corners = cell.boundary();
    corners
        .iter()
        .map(|corner| middle.distance_rads(*corner))
        .fold(0.0, f64::max)
}

/// A polygon in the gnomonic projection around a point: great circles are straight lines, and angles
/// from the middle are the arc tangents of distances.
struct Plane {
    corners: Vec<(f64, f64)>,
}

impl Plane {
    /// `None` if a corner is so far from the middle that it cannot be shown.
    fn around(middle: LatLng, corners: &[Place]) -> Option<Self> {
        let (sin_0, cos_0) = middle.lat_radians().sin_cos();
        let project = |place: &Place| {
            if middle.distance_rads(place.position) > MAX_ANGLE {
                return None;
            }
            let (sin, cos) = place.position.lat_radians().sin_cos();
            let east = place.position.lng_radians() - middle.lng_radians();
            let depth = sin_0 * sin + cos_0 * cos * east.cos();
            let (x, y) = (cos * east.sin(), cos_0 * sin - sin_0 * cos * east.cos());
            Some((x / depth, y / depth))
        };
        Some(Self {
            corners: corners.iter().map(project).collect::<Option<_>>()?,
        })
    }

    fn edges(&self) -> impl Iterator<Item = ((f64, f64), (f64, f64))> + '_ {
        let next = self.corners.iter().cycle().skip(1);
        self.corners.iter().copied().zip(next.copied())
    }

    /// Whether the polygon contains the middle: a ray to the east crosses an odd number of edges.
    fn contains_middle(&self) -> bool {
        let crosses = |((x1, y1), (x2, y2)): ((f64, f64), (f64, f64))| {
            (y1 > 0.0) != (y2 > 0.0) && x1 - y1 * (x2 - x1) / (y2 - y1) > 0.0
        };
        self.edges().filter(|edge| crosses(*edge)).count() % 2 == 1
    }

    /// Distance from the middle to the closest edge.
    fn distance_of_edges(&self) -> f64 {
        let distance = |((x1, y1), (x2, y2)): ((f64, f64), (f64, f64))| {
            let (dx, dy) = (x2 - x1, y2 - y1);
            let length = dx * dx + dy * dy;
            let along = if length > 0.0 {
                -(x1 * dx + y1 * dy) / length
            } else {
                0.0
            };
            let along = along.clamp(0.0, 1.0);
            (x1 + along * dx).hypot(y1 + along * dy)
        };
        self.edges().map(distance).fold(f64::INFINITY, f64::min)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn place(latitude: f64, longitude: f64) -> Place {
        Place::new(latitude, longitude).expect("a place")
    }

    fn anywhere() -> impl Strategy<Value = Place> {
        prop_oneof![
            8 => (-90.0..=90.0, -180.0..=180.0),
            1 => (89.0..=90.0, -180.0..=180.0),
            1 => (-5.0..=5.0, 179.5..=180.0),
        ]
        .prop_map(|(latitude, longitude)| place(latitude, longitude))
    }

    /// The place so far in a direction (the spherical law of cosines, solved).
    fn away(from: Place, distance_m: f64, bearing: f64) -> Place {
        let (sin, cos) = from.position.lat_radians().sin_cos();
        let angle = distance_m / EARTH_RADIUS_M;
        let latitude = (sin * angle.cos() + cos * angle.sin() * bearing.cos())
            .clamp(-1.0, 1.0)
            .asin();
        let east = (bearing.sin() * angle.sin() * cos).atan2(angle.cos() - sin * latitude.sin());
        let longitude = (from.longitude() + east.to_degrees() + 540.0).rem_euclid(360.0) - 180.0;
        place(latitude.to_degrees().clamp(-90.0, 90.0), longitude)
    }

    /// Whether somebody who looks for the area finds what lies at the place.
    fn is_found(area: &Area, most: usize, what: Place) -> bool {
        let cells = area.cells(most).expect("an area");
        what.cells().iter().any(|cell| cells.contains(cell))
    }

    proptest! {
        #[test]
        fn what_lies_in_a_circle_is_found(
            middle in anywhere(),
            radius_m in 1.0..500_000.0f64,
            part in 0.0..0.999f64,
            bearing in 0.0..6.3f64,
        ) {
            let area = Area::Circle { place: middle, radius_m };
            let what = away(middle, radius_m * part, bearing);
            prop_assert!(area.contains(what), "{} m away", middle.distance_m(what));
            prop_assert!(is_found(&area, 16, what));
            prop_assert!(!area.contains(away(middle, radius_m * 1.01 + 1.0, bearing)));
        }

        #[test]
        fn what_lies_in_a_polygon_is_found(
            middle in anywhere(),
            radius_m in 100.0..800_000.0f64,
            count in 3usize..9,
            part in 0.0..0.999f64,
            bearing in 0.0..6.3f64,
        ) {
            let turn = |at: usize| std::f64::consts::TAU * at as f64 / count as f64;
            let corners: Vec<Place> = (0..count).map(|at| away(middle, radius_m, turn(at))).collect();
            let area = Area::Polygon(corners);
            // The circle within.
            let inner = (radius_m / EARTH_RADIUS_M).tan() * (std::f64::consts::PI / count as f64).cos();
            let what = away(middle, inner.atan() * EARTH_RADIUS_M * part, bearing);
            prop_assert!(area.contains(what));
            prop_assert!(is_found(&area, 32, what));
            prop_assert!(!area.contains(away(middle, radius_m * 1.01, bearing)));
        }

        #[test]
        fn a_neighbourhood_is_found_too(middle in anywhere(), size in 0usize..4, bearing in 0.0..6.3f64) {
            let area = Area::Neighbourhood { place: middle, size, rings: 1 };
            let edge_m = SIZES[size].edge_length_m();
            prop_assert!((6..=7).contains(&area.cells(7).expect("an area").len()));
            // Cells differ in size, by a factor of two at most.
            prop_assert!(is_found(&area, 7, away(middle, edge_m * 0.4, bearing)));
        }
    }

    #[test]
    fn larger_areas_take_larger_cells() {
        let berlin = place(52.52, 13.405);
        let size = |radius_m| {
            let cells = Area::Circle {
                place: berlin,
                radius_m,
            }
            .cells(16)
            .expect("an area");
            assert!(cells.len() <= 16);
            cells[0].resolution()
        };
        assert_eq!(size(500.0), Resolution::Seven);
        assert_eq!(size(10_000.0), Resolution::Five);
        assert_eq!(size(50_000.0), Resolution::Three);
        assert_eq!(size(1_000_000.0), Resolution::One);
        let earth = Area::Circle {
            place: berlin,
            radius_m: 2e7,
        };
        assert_eq!(earth.cells(16), Err(PlaceError::TooLarge(16)));
        let hamburg = place(53.551, 9.994);
        assert!((berlin.distance_m(hamburg) - 255_000.0).abs() < 2_000.0);
    }

    #[test]
    fn what_is_no_place_or_area() {
        for (latitude, longitude) in [
            (91.0, 0.0),
            (0.0, 181.0),
            (f64::NAN, 0.0),
            (0.0, f64::INFINITY),
        ] {
            assert_eq!(Place::new(latitude, longitude), Err(PlaceError::OutOfRange));
        }
        let middle = place(0.0, 0.0);
        assert_eq!(
            Area::Polygon(vec![middle; 2]).cells(9),
            Err(PlaceError::Corners)
        );
        for radius_m in [-1.0, f64::NAN, f64::INFINITY] {
            let area = Area::Circle {
                place: middle,
                radius_m,
            };
            assert_eq!(area.cells(9), Err(PlaceError::Radius));
        }
        let rings = Area::Neighbourhood {
            place: middle,
            size: 9,
            rings: u32::MAX,
        };
        assert_eq!(rings.cells(9), Err(PlaceError::TooLarge(9)));
    }

    #[test]
    fn keys_differ_by_cell_and_kind() {
        let [one, three, ..] = place(1.0, 2.0).cells();
        let keys = [
            key(one, b"ldap"),
            key(three, b"ldap"),
            key(one, b"slp"),
            key(one, b""),
        ];
        assert_eq!(keys.into_iter().collect::<BTreeSet<_>>().len(), 4);
    }
}
