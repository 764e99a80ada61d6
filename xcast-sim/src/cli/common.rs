//! What all experiments are told.

use std::{
    fs::{self, File},
    io::{BufReader, Write as _},
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum, builder::PossibleValuesParser};
use serde::Serialize;
use xcast_sim::{
    experiments::{Overlay, Source, reference_models},
    fanout::Family,
    topology::{Model, Parts, read_edge_list, read_graphml},
};

/// Where results go, and how often is measured.
#[derive(Debug, Args)]
pub struct Common {
    /// Directory for rows (JSON) and plots (SVG); made if missing
    #[arg(long, default_value = "target/simulate")]
    pub out: PathBuf,
    /// Print rows as JSON instead of a table
    #[arg(long)]
    pub json: bool,
    /// The first seed; the same seed gives the same bytes
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// How many seeds: a graph for each, counted up from the first
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub seeds: u64,
    /// Xcast6 instead of Xcast4
    #[arg(short = '6', long)]
    pub ipv6: bool,
}

impl Common {
    /// All seeds.
    pub fn seeds(&self) -> Vec<u64> {
        (0..self.seeds)
            .map(|number| self.seed.wrapping_add(number))
            .collect()
    }

    /// The version of IP.
    pub fn family(&self) -> Family {
        if self.ipv6 { Family::V6 } else { Family::V4 }
    }

    /// Writes rows to a file, and prints them if JSON is asked for: whether it was.
    pub fn rows<R: Serialize>(&self, name: &str, rows: &[R]) -> Result<bool> {
        let lines: Result<Vec<_>, _> = rows.iter().map(serde_json::to_string).collect();
        let text = format!("[\n{}\n]\n", lines?.join(",\n"));
        self.write(name, &text)?;
        if self.json {
            std::io::stdout().write_all(text.as_bytes())?;
        }
        Ok(self.json)
    }

    /// Writes a file, and says so.
    pub fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.out.join(name);
        fs::create_dir_all(&self.out)
            .with_context(|| format!("cannot make {}", self.out.display()))?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        eprintln!("{}", path.display());
        Ok(())
    }
}

/// Which graphs.
#[derive(Debug, Args)]
pub struct Graphs {
    /// Map of a real network instead of the generated ones: GraphML if its name ends so, otherwise
    /// a list of links; may be given several times
    #[arg(long, value_name = "FILE")]
    pub graph: Vec<PathBuf>,
    /// Keep the largest part alone of a map that is not connected
    #[arg(long, requires = "graph")]
    pub largest_part: bool,
}

impl Graphs {
    /// The maps that were asked for, or else the generated graphs: all, or one.
    pub fn sources(&self, only: Option<TopologyName>) -> Result<Vec<Source>> {
        if self.graph.is_empty() {
            let models = reference_models().into_iter();
            let models = models.filter(|model| only.is_none_or(|name| name.is(model)));
            return Ok(models.map(Source::Generated).collect());
        }
        let parts = if self.largest_part {
            Parts::Largest
        } else {
            Parts::Connected
        };
        self.graph.iter().map(|path| map(path, parts)).collect()
    }
}

/// Which graphs, of the generated ones one if that is wanted.
#[derive(Debug, Args)]
pub struct Topologies {
    #[command(flatten)]
    graphs: Graphs,
    /// Only this generated topology
    #[arg(long, value_enum, conflicts_with = "graph")]
    topology: Option<TopologyName>,
}

impl Topologies {
    /// The maps that were asked for, or else the generated graphs.
    pub fn sources(&self) -> Result<Vec<Source>> {
        self.graphs.sources(self.topology)
    }
}

/// Which overlays.
#[derive(Debug, Args)]
pub struct Overlays {
    /// Only this overlay; may be given several times
    #[arg(long, ignore_case = true, value_parser = PossibleValuesParser::new(Overlay::ALL.map(Overlay::name)))]
    overlay: Vec<String>,
}

impl Overlays {
    /// Those that were asked for, or all.
    pub fn chosen(&self) -> impl Iterator<Item = Overlay> {
        let is_asked_for = |overlay: &Overlay| {
            self.overlay
                .iter()
                .any(|wanted| wanted.eq_ignore_ascii_case(overlay.name()))
        };
        let all = Overlay::ALL.into_iter();
        all.filter(move |overlay| self.overlay.is_empty() || is_asked_for(overlay))
    }
}

/// Names of the generated graphs.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum TopologyName {
    RandomTree,
    TransitStub,
    BarabasiAlbert,
    Waxman,
}

impl TopologyName {
    fn is(self, model: &Model) -> bool {
        matches!(
            (self, model),
            (Self::RandomTree, Model::RandomRecursiveTree(_))
                | (Self::TransitStub, Model::TransitStub(_))
                | (Self::BarabasiAlbert, Model::BarabasiAlbert(_))
                | (Self::Waxman, Model::Waxman(_))
        )
    }
}

fn map(path: &Path, parts: Parts) -> Result<Source> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let file = BufReader::new(file);
    let is_graphml = path
        .extension()
        .is_some_and(|extension| extension == "graphml");
    let topology = if is_graphml {
        read_graphml(file, parts)
    } else {
        read_edge_list(file, parts)
    };
    Ok(Source::Map {
        name: path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned(),
        topology: topology.with_context(|| format!("cannot use {}", path.display()))?,
    })
}

/// Reads a number within a range, and says what it has to be otherwise.
pub fn within(range: RangeInclusive<f64>) -> impl Fn(&str) -> Result<f64, String> + Clone + Send {
    move |text| {
        let number = text.parse().ok().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("give a number from {} to {}", range.start(), range.end()))
    }
}

/// Reads a share in percent.
pub fn percent(text: &str) -> Result<f64, String> {
    within(0.0..=100.0)(text)
}

/// A mean for people, with its interval.
pub fn sure(estimate: xcast_sim::statistics::Estimate) -> String {
    match estimate.half_width {
        Some(half_width) => format!("{:.1} +-{half_width:.1}", estimate.mean),
        None => format!("{:.1}", estimate.mean),
    }
}

/// How much memory the program has, in MiB, where the kernel tells.
pub fn memory_mib() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let mut lines = status.lines();
    let line = lines.find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_within_their_range() {
        assert_eq!(percent("0.5"), Ok(0.5));
        for wrong in ["NaN", "inf", "-1", "101", "", "1e999", "many"] {
            let error = percent(wrong).expect_err(wrong);
            assert_eq!(error, "give a number from 0 to 100");
        }
    }
}
