//! What is measured: sections, each a set of loads on a set of subjects, side by side.

use std::rc::Rc;

use anyhow::Result;
use clap::ValueEnum;

use crate::{
    changes, combining,
    generator::Generator,
    lookup,
    measure::{self, Effort, Measured},
    progress::Progress,
    report::{Bound, Report, Row, Table, ratio, rows},
    routes::RouteSet,
    sender,
    site::{NEXT_HOPS, PORTS},
    stages,
    subject::{
        Load, Spread, Subject,
        kernel::{Ipmr, Unicast},
        rivals::{Broadcast, CloneRedirect, Floor},
        router::{Path, Router},
    },
};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Eight copies to eight destinations by everything, and the targets
    Headline,
    /// 1 to 8 copies
    Copies,
    /// 1 to 127 destinations
    Destinations,
    /// 64 to 1400 octets of payload
    Payload,
    /// 10 to 1,000,000 routes
    Routes,
    /// Route maps by themselves
    Lookup,
    /// Stages of the ingress program, and how large the programs are
    Stages,
    /// Sending one Xcast packet, or many others
    Sender,
    /// The combining queue: messages a second, and octets on the first link
    Combining,
    /// Route changes, 100 to 10,000 a second
    Changes,
}

/// Routes in the table unless a sweep says otherwise.
const ROUTES: usize = 10_000;
/// With this batch, eight copies of each packet fit a veth's queue.
const LAN_BATCH: u32 = 16;
/// Numbers of copies.
const COPIES: [usize; 4] = [1, 2, 4, 8];
/// Numbers of destinations.
const DESTINATIONS: [usize; 8] = [1, 2, 4, 8, 16, 32, 64, 127];
/// Octets of payload.
const PAYLOADS: [usize; 5] = [64, 200, 512, 1000, 1400];
/// Routes in the table, from a stub network's to more than the Internet's.
const TABLES: [usize; 4] = [10, 10_000, 500_000, 1_000_000];

/// By how much a million routes may slow the router down, to call the curve flat.
const FLAT: f64 = 1.1;

/// What a section works with.
pub struct Bench {
    /// Sends the frames.
    pub generator: Generator,
    /// CPU it does so on.
    pub cpu: usize,
    /// How much to measure.
    pub effort: Effort,
    /// Says what is going on.
    pub progress: Progress,
    /// Where results go.
    pub report: Report,
}

/// Everything that is compared, ready to run.
struct Subjects {
    floor: Floor,
    xcast: Router,
    miss: Router,
    broadcast: Broadcast,
    with_program: Broadcast,
    ipmr: Ipmr,
    unicast: Unicast,
    tc: CloneRedirect,
}

impl Bench {
    /// Measures these sections and prints the table of each.
    ///
    /// # Errors
    ///
    /// Needs root, and a kernel that can do all this.
    pub fn run(&mut self, sections: &[Section]) -> Result<()> {
        let common = [
            Section::Headline,
            Section::Copies,
            Section::Destinations,
            Section::Payload,
        ];
        if sections.iter().any(|section| common.contains(section)) {
            self.progress.section("setting up");
            let mut subjects = self.subjects()?;
            for &section in sections {
                match section {
                    Section::Headline => self.headline(&mut subjects)?,
                    Section::Copies => self.copies(&mut subjects)?,
                    Section::Destinations => self.destinations(&mut subjects)?,
                    Section::Payload => self.payload(&mut subjects)?,
                    _ => {}
                }
            }
        }
        for &section in sections {
            match section {
                Section::Routes => self.routes()?,
                Section::Lookup => self.lookup()?,
                Section::Stages => self.stages()?,
                Section::Sender => self.sender()?,
                Section::Combining => self.combining()?,
                Section::Changes => self.changes()?,
                _ => {}
            }
        }
        let text = self.report.ratio_table();
        self.print(&text)
    }

    /// Makes all the places and starts the routers.
    fn subjects(&mut self) -> Result<Subjects> {
        let routes = Rc::new(RouteSet::internet(ROUTES, NEXT_HOPS));
        let generator = &mut self.generator;
        let mut next = |name: &str| self.progress.show(name);
        next("generator");
        let floor = Floor::new(generator, Rc::clone(&routes))?;
        next("xcast");
        let xcast = Router::new(generator, Path::Prepared, Rc::clone(&routes))?;
        next("xcast-miss");
        let miss = Router::new(generator, Path::Unprepared, Rc::clone(&routes))?;
        next("broadcast");
        let broadcast = Broadcast::new(generator, Rc::clone(&routes), &COPIES, false)?;
        let with_program = Broadcast::new(
            generator,
            Rc::clone(&routes),
            &[Load::HEADLINE.copies],
            true,
        )?;
        next("ipmr");
        let ipmr = Ipmr::new(generator)?;
        next("unicast");
        let unicast = Unicast::new(generator, Rc::clone(&routes))?;
        next("tc");
        let tc = CloneRedirect::new(generator, routes)?;
        Ok(Subjects {
            floor,
            xcast,
            miss,
            broadcast,
            with_program,
            ipmr,
            unicast,
            tc,
        })
    }

    fn measure(&mut self, subjects: Vec<(&mut dyn Subject, Vec<Load>)>) -> Result<Vec<Measured>> {
        measure::measure(
            &mut self.generator,
            subjects,
            self.effort,
            &mut self.progress,
        )
    }

    /// Eight copies to eight destinations by everything there is.
    fn headline(&mut self, subjects: &mut Subjects) -> Result<()> {
        const LOAD: Load = Load::HEADLINE;
        const SMALL: Load = Load {
            batch: LAN_BATCH,
            ..LOAD
        };
        const LAN: Load = Load {
            spread: Spread::Lan,
            ..SMALL
        };
        const ONE_FLOW: Load = Load { flows: 1, ..LOAD };
        self.progress.section("headline");
        let measured = self.measure(vec![
            (&mut subjects.floor, vec![LOAD, SMALL]),
            (&mut subjects.broadcast, vec![LOAD]),
            (&mut subjects.with_program, vec![LOAD]),
            (&mut subjects.xcast, vec![LOAD, ONE_FLOW, SMALL, LAN]),
            (&mut subjects.miss, vec![LOAD]),
            (&mut subjects.tc, vec![LOAD]),
            (&mut subjects.ipmr, vec![LOAD]),
            (&mut subjects.unicast, vec![LOAD]),
        ])?;
        let rows = rows("headline", &measured);
        let find = |subject: &str, load: Load| {
            rows.iter().find(|row| {
                (row.batch, row.spread, row.flows) == (load.batch, load.spread, load.flows)
                    && row.subject == subject
            })
        };
        let ratio = |one, other| ratio(find(one, LOAD)?, find(other, LOAD)?);
        let lan = || crate::report::ratio(find("xcast", LAN)?, find("xcast", SMALL)?);
        let report = &mut self.report;
        report.target(
            "xcast/broadcast",
            ratio("xcast", "broadcast"),
            Bound::AtMost(1.25),
            "the whole router by the bare broadcast of the frame",
        );
        report.target(
            "ipmr/xcast",
            ratio("ipmr", "xcast"),
            Bound::AtLeast(5.0),
            "the kernel's multicast forwarding by the router",
        );
        report.target(
            "tc/xcast",
            ratio("tc", "xcast"),
            Bound::AtLeast(2.5),
            "a classifier's clones by the router",
        );
        report.target(
            "xcast-miss/broadcast",
            ratio("xcast-miss", "broadcast"),
            Bound::AtMost(1.5),
            "a set of ports never seen before by the bare broadcast",
        );
        report.target(
            "lan/ports",
            lan(),
            Bound::AtMost(1.0),
            "eight next hops on one port by eight ports",
        );
        report.ratio("unicast/xcast", ratio("unicast", "xcast"));
        self.finish("headline", rows)
    }

    fn copies(&mut self, subjects: &mut Subjects) -> Result<()> {
        let loads = COPIES.map(|copies| Load {
            copies,
            destinations: copies,
            ..Load::HEADLINE
        });
        self.all("copies", subjects, &loads)
    }

    fn payload(&mut self, subjects: &mut Subjects) -> Result<()> {
        let loads = PAYLOADS.map(|payload_bytes| Load {
            payload_bytes,
            ..Load::HEADLINE
        });
        self.all("payload", subjects, &loads)
    }

    /// The same loads on every subject.
    fn all(
        &mut self,
        section: &'static str,
        subjects: &mut Subjects,
        loads: &[Load],
    ) -> Result<()> {
        self.progress.section(section);
        let loads = loads.to_vec();
        let measured = self.measure(vec![
            (&mut subjects.floor, loads.clone()),
            (&mut subjects.broadcast, loads.clone()),
            (&mut subjects.xcast, loads.clone()),
            (&mut subjects.tc, loads.clone()),
            (&mut subjects.ipmr, loads.clone()),
            (&mut subjects.unicast, loads),
        ])?;
        self.finish(section, rows(section, &measured))
    }

    fn destinations(&mut self, subjects: &mut Subjects) -> Result<()> {
        self.progress.section("destinations");
        let loads: Vec<_> = DESTINATIONS
            .iter()
            .map(|&destinations| Load {
                destinations,
                copies: destinations.min(PORTS),
                ..Load::HEADLINE
            })
            .collect();
        let measured = self.measure(vec![
            (&mut subjects.floor, loads.clone()),
            (&mut subjects.broadcast, loads.clone()),
            (&mut subjects.xcast, loads.clone()),
            (&mut subjects.unicast, loads),
        ])?;
        self.finish("destinations", rows("destinations", &measured))
    }

    fn routes(&mut self) -> Result<()> {
        self.progress.section("routes");
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        let small = Rc::new(RouteSet::internet(TABLES[0], PORTS));
        subjects.push(Box::new(Floor::new(&mut self.generator, small)?));
        for count in TABLES {
            self.progress.show(&format!("{count} routes"));
            let routes = Rc::new(RouteSet::internet(count, PORTS));
            let generator = &mut self.generator;
            let router = Router::new(generator, Path::Prepared, Rc::clone(&routes))?;
            self.report.tables.push(Table {
                routes: count,
                ready_ms: router.ready_after().as_millis(),
                rss_bytes: router.rss_bytes()?,
            });
            subjects.push(Box::new(router));
            subjects.push(Box::new(Unicast::new(generator, routes)?));
        }
        let one_flow = Load {
            flows: 1,
            ..Load::HEADLINE
        };
        let mut entries: Vec<(&mut dyn Subject, _)> = Vec::new();
        for subject in &mut subjects {
            entries.push((subject.as_mut(), vec![Load::HEADLINE, one_flow]));
        }
        let measured = self.measure(entries)?;
        let rows = rows("routes", &measured);
        let xcast = |routes, load: Load| {
            rows.iter()
                .find(|row| (row.subject, row.routes, row.flows) == ("xcast", routes, load.flows))
        };
        let flat = |load| ratio(xcast(1_000_000, load)?, xcast(10, load)?);
        let report = &mut self.report;
        report.target(
            "1M/10 routes",
            flat(Load::HEADLINE),
            Bound::AtMost(FLAT),
            "the router with a million routes by the router with ten, random destinations",
        );
        report.target(
            "1M/10 routes, one flow",
            flat(one_flow),
            Bound::AtMost(FLAT),
            "the same for a packet sent again and again",
        );
        self.finish("routes", rows)?;
        let text = self.report.load_table();
        self.print(&text)
    }

    fn lookup(&mut self) -> Result<()> {
        self.progress.section("lookup");
        self.report.lookup = lookup::measure(self.cpu, self.effort, &mut self.progress)?;
        let find = |family, map, routes, addresses| {
            let row = self.report.lookup.iter().find(|row| {
                (row.family, row.map, row.routes, row.addresses) == (family, map, routes, addresses)
            });
            row.map(|row| row.ns_per_lookup.median)
        };
        let random = find(4, "xcast", 500_000, lookup::RANDOM);
        let small = find(4, "xcast", 10_000, lookup::RANDOM);
        let hot = find(4, "xcast", 500_000, lookup::HOT);
        let trie = find(4, "lpm_trie", 500_000, lookup::RANDOM);
        let ipv6 = find(6, "xcast", 200_000, lookup::RANDOM);
        let trie_by_map = trie.zip(random).map(|(trie, map)| trie / map);
        let report = &mut self.report;
        report.target(
            "look-up ns, 500k routes",
            random,
            Bound::AtMost(30.0),
            "nanoseconds for one of a million random destinations",
        );
        report.target(
            "look-up ns, 10k routes",
            small,
            Bound::AtMost(10.0),
            "the same in a smaller table",
        );
        report.target(
            "look-up ns, hot",
            hot,
            Bound::AtMost(3.0),
            "one of a thousand destinations, 500k routes",
        );
        report.target(
            "lpm_trie/xcast look-up",
            trie_by_map,
            Bound::AtLeast(30.0),
            "the kernel's trie by the route map, 500k routes, random",
        );
        report.target(
            "look-up ns, IPv6",
            ipv6,
            Bound::AtMost(60.0),
            "one of a million random destinations of IPv6, 200k routes",
        );
        let text = self.report.lookup_table();
        self.print(&text)
    }

    fn stages(&mut self) -> Result<()> {
        self.progress.section("stages");
        self.report.stages = stages::measure(self.cpu, self.effort, &mut self.progress)?;
        let text = self.report.stages_table();
        self.print(&text)
    }

    fn sender(&mut self) -> Result<()> {
        self.progress.section("sender");
        self.report.sender = sender::measure(self.cpu, self.effort, &mut self.progress)?;
        for destinations in [1, 20, 50, 127] {
            let find = |subject| {
                self.report.sender.iter().find(|row| {
                    row.subject == subject && row.destinations == destinations && row.delivered
                })
            };
            let ratio = |one| {
                let (one, other) = (find(one)?, find("xcast")?);
                Some(one.ns_per_message.median / other.ns_per_message.median)
            };
            let name = format!("sendmmsg/xcast, {destinations} destinations");
            let value = ratio("sendmmsg");
            if destinations == 20 {
                self.report.target(
                    &name,
                    value,
                    Bound::AtLeast(16.0),
                    "one sendmmsg by building and sending one packet",
                );
            } else {
                self.report.ratio(&name, value);
            }
        }
        let text = self.report.sender_table();
        self.print(&text)
    }

    fn combining(&mut self) -> Result<()> {
        self.progress.section("combining");
        self.report.combining = combining::measure(self.cpu, self.effort, &mut self.progress)?;
        let find = |overlap| {
            let mut rows = self.report.combining.queue.iter();
            let row = rows.find(|row| row.overlap == overlap);
            row.map(|row| row.messages_per_second.median / 1e6)
        };
        let (whole, partial) = (find("whole"), find("partial"));
        let per_second = "million messages a second through the queue, on one core";
        for (name, value) in [
            ("queue, whole overlap", whole),
            ("queue, partial overlap", partial),
        ] {
            self.report
                .target(name, value, Bound::AtLeast(1.0), per_second);
        }
        let text = self.report.combining_table();
        self.print(&text)
    }

    fn changes(&mut self) -> Result<()> {
        self.progress.section("changes");
        let rows = changes::measure(&mut self.generator, self.cpu, ROUTES, &mut self.progress)?;
        let at_1000 = rows.iter().find(|row| row.rate == 1000 && row.delivered);
        self.report.target(
            "route change p99 ms, 1000/s",
            at_1000.map(|row| row.p99_us / 1000.0),
            Bound::AtMost(5.0),
            "milliseconds from the request to the programs' map",
        );
        self.report.changes = rows;
        let text = self.report.changes_table();
        self.print(&text)
    }

    fn finish(&mut self, section: &str, rows: Vec<Row>) -> Result<()> {
        self.report.results.extend(rows);
        let text = self.report.table(section);
        self.print(&text)
    }

    fn print(&mut self, text: &str) -> Result<()> {
        self.progress.clear();
        xtask::print(text)
    }
}
