//! Plots of what is saved, as SVG.

use plotters::{
    coord::combinators::IntoLogRange as _,
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use crate::statistics::Estimate;

/// Lines of percentages.
#[derive(Clone, Debug)]
pub struct Plot {
    /// What it shows, in a sentence.
    pub title: String,
    /// How to read it, in a smaller line below.
    pub subtitle: String,
    /// What the x axis says.
    pub x: String,
    /// What the y axis says: percentages of what.
    pub y: String,
    /// Whether the x axis is logarithmic.
    pub log_x: bool,
    /// What is measured, from top to bottom.
    pub series: Vec<Series>,
    /// What is only a formula: dashed, grey, and without intervals.
    pub formula: Option<(String, Vec<(f64, f64)>)>,
}

/// One line.
#[derive(Clone, Debug)]
pub struct Series {
    /// What it is called beside its end.
    pub name: String,
    /// x, and the percentage.
    pub points: Vec<(f64, Estimate)>,
}

/// Why there is no plot.
#[derive(Debug, thiserror::Error)]
pub enum PlotError {
    /// There are no points.
    #[error("there is nothing to draw: measure at least one row")]
    Empty,
    /// The drawing failed.
    #[error("cannot draw: {0}")]
    Draw(String),
}

const SIZE: (u32, u32) = (920, 540);
const FONT: &str = "sans-serif";
/// Okabe and Ito's colours, which everyone can tell apart.
const COLOURS: [RGBColor; 6] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];
const GREY: RGBColor = RGBColor(110, 110, 110);
/// Room for names on the right, and for one name's height.
const NAMES: (i32, i32) = (210, 22);

impl Plot {
    /// The picture. The same numbers give the same text.
    ///
    /// # Errors
    ///
    /// There is nothing to draw.
    pub fn to_svg(&self) -> Result<String, PlotError> {
        if self.series.iter().all(|series| series.points.is_empty()) {
            return Err(PlotError::Empty);
        }
        let mut text = String::new();
        let drawn = self.draw(&mut text);
        drawn.map_err(|error| PlotError::Draw(error.to_string()))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        let measured = || self.series.iter().flat_map(|series| &series.points);
        let mut xs: Vec<_> = measured().map(|point| point.0).collect();
        xs.sort_by(f64::total_cmp);
        xs.dedup();
        // Bars that reach further are cut.
        let means = measured().map(|(_, y)| y.mean);
        let formula = self.formula.iter().flat_map(|formula| &formula.1);
        let ys: Vec<_> = means.chain(formula.map(|point| point.1)).collect();
        let floor = (ys.iter().copied().fold(0.0, f64::min) / 10.0).floor() * 10.0;
        let ceiling = (ys.iter().copied().fold(10.0, f64::max) / 10.0).ceil() * 10.0;
        let (first, right) = (xs[0], xs[xs.len() - 1]);
        let left = if self.log_x { first } else { first.min(0.0) };
        let root = SVGBackend::with_string(text, SIZE).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title.as_str(), (16, 14), (FONT, 24)))?;
        let small = (FONT, 16).into_text_style(&root).color(&GREY);
        root.draw(&Text::new(self.subtitle.as_str(), (16, 42), small))?;
        let mut builder = ChartBuilder::on(&root);
        builder
            .margin(12)
            .margin_top(72)
            .margin_right(NAMES.0)
            .x_label_area_size(48)
            .y_label_area_size(66);
        let mut names = Vec::new();
        // The two kinds of axis are two types.
        macro_rules! chart {
            ($x:expr) => {{
                let mut chart = builder.build_cartesian_2d($x, floor..ceiling)?;
                chart
                    .configure_mesh()
                    .light_line_style(WHITE.mix(0.0))
                    .bold_line_style(RGBColor(226, 226, 226))
                    .x_desc(&self.x)
                    .y_desc(&self.y)
                    .x_label_formatter(&|x| on_axis(*x))
                    .y_label_formatter(&|y| format!("{y} %"))
                    .label_style((FONT, 16))
                    .draw()?;
                if let Some((name, points)) = &self.formula {
                    let line = points.iter().copied();
                    chart.draw_series(DashedLineSeries::new(line, 6, 5, GREY.stroke_width(2)))?;
                    if let Some(end) = points.last() {
                        names.push((chart.backend_coord(end).1, name, GREY));
                    }
                }
                for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
                    let means = series.points.iter().map(|(x, y)| (*x, y.mean));
                    chart.draw_series(LineSeries::new(means.clone(), colour.stroke_width(3)))?;
                    chart
                        .draw_series(means.clone().map(|at| Circle::new(at, 4, colour.filled())))?;
                    chart.draw_series(series.points.iter().map(|(x, y)| {
                        PathElement::new(
                            [(*x, low(y).max(floor)), (*x, high(y).min(ceiling))],
                            colour.mix(0.6),
                        )
                    }))?;
                    if let Some(end) = means.last() {
                        names.push((chart.backend_coord(&end).1, &series.name, *colour));
                    }
                }
            }};
        }
        if self.log_x {
            chart!(
                (left..right.max(left * 1.1))
                    .log_scale()
                    .with_key_points(xs)
            );
        } else {
            chart!(left..right.max(left + 1.0));
        }
        // Names beside the ends of their lines, moved apart where they would meet.
        names.sort_by_key(|name| name.0);
        let mut free = i32::MIN;
        for (y, name, colour) in names {
            let y = y.max(free);
            free = y + NAMES.1;
            let style = (FONT, 18)
                .into_text_style(&root)
                .color(&colour)
                .pos(Pos::new(HPos::Left, VPos::Center));
            let x = SIZE.0 as i32 - NAMES.0 + 10;
            root.draw(&Text::new(name.as_str(), (x, y), style))?;
        }
        root.present()?;
        Ok(())
    }
}

/// A number as it stands at an axis, without what binary fractions leave over.
fn on_axis(x: f64) -> String {
    ((x * 1e6).round() / 1e6).to_string()
}

fn low(estimate: &Estimate) -> f64 {
    estimate.mean - estimate.half_width.unwrap_or_default()
}

fn high(estimate: &Estimate) -> f64 {
    estimate.mean + estimate.half_width.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, Estimate)>) -> Plot {
        Plot {
            title: "Links saved".to_owned(),
            subtitle: "each against unicast".to_owned(),
            x: "destinations".to_owned(),
            y: "saved".to_owned(),
            log_x: true,
            series: vec![Series {
                name: "a tree".to_owned(),
                points,
            }],
            formula: Some(("a formula".to_owned(), vec![(2.0, 11.7), (50.0, 50.6)])),
        }
    }

    #[test]
    fn numbers_at_an_axis_are_short() {
        assert_eq!(on_axis(0.1 + 0.2), "0.3");
        assert_eq!(on_axis(0.001), "0.001");
        assert_eq!(on_axis(125.0), "125");
    }

    #[test]
    fn names_are_beside_lines() {
        let estimate = |mean| Estimate {
            mean,
            half_width: Some(1.0),
        };
        let points = vec![(2.0, estimate(20.0)), (50.0, estimate(-3.0))];
        for log_x in [true, false] {
            let plot = Plot {
                log_x,
                ..plot(points.clone())
            };
            let svg = plot.to_svg().expect("there are points");
            for text in [
                "Links saved",
                "a tree",
                "a formula",
                "destinations",
                "-10 %",
            ] {
                assert!(svg.contains(text), "{text} is not in {svg}");
            }
            assert_eq!(svg, plot.to_svg().expect("there are points"));
        }
        assert!(matches!(plot(Vec::new()).to_svg(), Err(PlotError::Empty)));
    }
}
