//! Plots, as SVG.

use std::path::Path;

use anyhow::{Result, anyhow};
use plotters::{
    coord::combinators::IntoLogRange as _,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

/// Points of one subject: x, and least, middle and greatest y.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called beside its line.
    pub name: String,
    /// Its points, from left to right.
    pub points: Vec<(f64, [f64; 3])>,
}

/// A plot with both axes logarithmic: ratios are distances.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What is above it.
    pub title: String,
    /// What the x axis says.
    pub x: &'static str,
    /// What the y axis says.
    pub y: &'static str,
    /// Lines.
    pub series: Vec<Series>,
}

const SIZE: (u32, u32) = (760, 480);
/// Okabe and Ito's colours, which everyone can tell apart; a subject has the same in all plots.
const COLOURS: [(&str, RGBColor); 9] = [
    ("xcast", RGBColor(0, 114, 178)),
    ("broadcast", RGBColor(0, 0, 0)),
    ("unicast", RGBColor(213, 94, 0)),
    ("ipmr", RGBColor(0, 158, 115)),
    ("tc", RGBColor(204, 121, 167)),
    ("sendto", RGBColor(230, 159, 0)),
    ("sendmmsg", RGBColor(213, 94, 0)),
    ("lpm_trie", RGBColor(0, 158, 115)),
    ("flat", RGBColor(0, 0, 0)),
];
const OTHERS: RGBColor = RGBColor(86, 180, 233);
const FONT: &str = "sans-serif";

impl Plot {
    /// Writes it.
    ///
    /// # Errors
    ///
    /// There is nothing to draw, or the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        self.draw(path)
            .map_err(|error| anyhow!("cannot draw {}: {error}", path.display()))
    }

    fn draw(&self, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
        let points = || self.series.iter().flat_map(|series| &series.points);
        let xs = || points().map(|point| point.0);
        // Of the middle values: the least may be anything, even below zero, where little is left
        // after the generator's time is taken off.
        let low = points().map(|point| point.1[1]).fold(f64::MAX, f64::min) / 1.5;
        let high = points().map(|point| point.1[1]).fold(0.0, f64::max) * 1.5;
        let (left, right) = (xs().fold(f64::MAX, f64::min), xs().fold(0.0, f64::max));
        let mut ticks: Vec<_> = xs().collect();
        ticks.sort_by(f64::total_cmp);
        ticks.dedup();
        if high <= 0.0 {
            return Err("there is nothing to draw".into());
        }
        let root = SVGBackend::new(path, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        // The room on the right is for the names.
        let mut chart = ChartBuilder::on(&root)
            .caption(&self.title, (FONT, 17))
            .margin(12)
            .margin_right(150)
            .x_label_area_size(40)
            .y_label_area_size(64)
            .build_cartesian_2d(
                (left..right.max(left * 1.1))
                    .log_scale()
                    .with_key_points(ticks),
                (low..high).log_scale(),
            )?;
        chart
            .configure_mesh()
            .light_line_style(WHITE.mix(0.0))
            .bold_line_style(RGBColor(225, 225, 225))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| number(*value))
            .y_label_formatter(&|value| number(*value))
            .label_style((FONT, 12))
            .draw()?;
        let (floor, ceiling) = (low, high);
        let mut names = Vec::new();
        for series in &self.series {
            let colour = colour(&series.name);
            let middle = series.points.iter().map(|&(x, [_, y, _])| (x, y));
            chart.draw_series(LineSeries::new(middle.clone(), colour.stroke_width(2)))?;
            chart.draw_series(middle.map(|point| Circle::new(point, 3, colour.filled())))?;
            chart.draw_series(series.points.iter().map(|&(x, [low, _, high])| {
                PathElement::new(
                    [(x, low.max(floor)), (x, high.min(ceiling))],
                    colour.mix(0.5),
                )
            }))?;
            if let Some(&(x, [_, y, _])) = series.points.last() {
                names.push((chart.backend_coord(&(x, y)), &series.name, colour));
            }
        }
        // Names beside the ends of their lines, moved apart where they would meet.
        names.sort_by_key(|((_, y), ..)| *y);
        let mut free = i32::MIN;
        for ((_, y), name, colour) in names {
            let y = y.max(free);
            free = y + 15;
            let style = (FONT, 13)
                .into_text_style(&root)
                .color(&colour)
                .pos(Pos::new(HPos::Left, VPos::Center));
            root.draw(&Text::new(name.as_str(), (SIZE.0 as i32 - 112, y), style))?;
        }
        root.present()?;
        Ok(())
    }
}

fn colour(name: &str) -> RGBColor {
    let known = COLOURS
        .iter()
        .find(|(subject, _)| name.starts_with(subject));
    known.map_or(OTHERS, |(_, colour)| *colour)
}

/// Thousands and millions by their letters.
fn number(value: f64) -> String {
    match value {
        1e6.. => format!("{}M", value / 1e6),
        1e3.. => format!("{}k", value / 1e3),
        _ => format!("{value}"),
    }
}
