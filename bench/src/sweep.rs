//! What is measured: sections, each a set of loads on a set of subjects, side by side.

use std::rc::Rc;

use ::tests::family::Family;
use anyhow::Result;
use clap::ValueEnum;

use crate::{
    changes, combining,
    family::{named, number},
    generator::Generator,
    lookup,
    measure::{self, Effort, Measured},
    progress::Progress,
    report::{Bound, Report, Row, Table, ratio, rows},
    sender,
    site::{NEXT_HOPS, PORTS},
    stages,
    subject::{
        Load, Spread, Subject,
        kernel::{Ipmr, Unicast},
        rivals::{Broadcast, CloneRedirect, Each, Floor},
        router::{Path, Router},
        tunnel::{Carriage, Tunnelled},
    },
    table::Routes,
    unmodified,
};

/// A part of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Section {
    /// Eight copies to eight destinations by everything, and the targets
    Headline,
    /// 1 to 8 copies
    Copies,
    /// 1 to 127 destinations, 125 of IPv6
    Destinations,
    /// 64 to 1400 octets of payload
    Payload,
    /// 10 to 1,000,000 routes, 200,000 of IPv6
    Routes,
    /// Copies that leave in tunnels, and packets that arrive in one, beside those without
    Tunnels,
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
/// Lists of destinations that come again and again, one packet of each in turn.
const STREAMS_IN_TURNS: usize = 16;
/// Numbers of copies.
const COPIES: [usize; 4] = [1, 2, 4, 8];
/// Numbers of destinations; and as many as fit.
const DESTINATIONS: [usize; 7] = [1, 2, 4, 8, 16, 32, 64];
/// Octets of payload.
const PAYLOADS: [usize; 5] = [64, 200, 512, 1000, 1400];
/// By how much the most routes may slow the router down, to call the curve flat.
const FLAT: f64 = 1.1;

/// Routes in the table: a stub network's, up to the Internet's or, of IPv4, twice as many; and what
/// ratios call the most by the fewest.
fn tables(family: Family) -> (&'static [usize], &'static str) {
    match family {
        Family::Ipv4 => (&[10, 10_000, 500_000, 1_000_000], "1M/10 routes"),
        Family::Ipv6 => (&[10, 10_000, 200_000], "200k/10 routes"),
    }
}

/// What a section works with.
pub struct Bench {
    /// Sends the frames.
    pub generator: Generator,
    /// What the frames are.
    pub families: &'static [Family],
    /// CPU it does so on.
    pub cpu: usize,
    /// How much to measure.
    pub effort: Effort,
    /// Says what is going on.
    pub progress: Progress,
    /// Where results go.
    pub report: Report,
}

/// Everything of a family that is compared, ready to run.
struct Subjects {
    family: Family,
    floor: Floor,
    xcast: Router,
    miss: Router,
    open: Router,
    broadcast: Broadcast,
    with_program: Broadcast,
    /// Of IPv4 alone.
    readdress: Option<Broadcast>,
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
            let families = self.families.iter();
            let subjects = families.map(|&family| self.subjects(family));
            let mut subjects = subjects.collect::<Result<Vec<_>>>()?;
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
                Section::Tunnels => self.tunnels()?,
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

    /// Makes all the places of a family and starts the routers.
    fn subjects(&mut self, family: Family) -> Result<Subjects> {
        let routes = Rc::new(Routes::internet(family, ROUTES, NEXT_HOPS));
        let generator = &mut self.generator;
        let mut next = |name: &str| self.progress.show(&named(name, family));
        next("generator");
        let floor = Floor::new(generator, Rc::clone(&routes))?;
        next("xcast");
        let xcast = Router::new(generator, Path::Prepared, Rc::clone(&routes))?;
        next("xcast-miss");
        let miss = Router::new(generator, Path::Unprepared, Rc::clone(&routes))?;
        next("xcast, open");
        let open = Router::new(generator, Path::Open, Rc::clone(&routes))?;
        next("broadcast");
        let broadcast = Broadcast::new(generator, Rc::clone(&routes), &COPIES, Each::Nothing)?;
        let mut eight = |each| {
            let copies = [Load::HEADLINE.copies];
            Broadcast::new(generator, Rc::clone(&routes), &copies, each)
        };
        let with_program = eight(Each::Program)?;
        let readdress = match family {
            Family::Ipv4 => Some(eight(Each::Readdress)?),
            Family::Ipv6 => None,
        };
        next("ipmr");
        let ipmr = Ipmr::new(generator, family)?;
        next("unicast");
        let unicast = Unicast::new(generator, Rc::clone(&routes))?;
        next("tc");
        let tc = CloneRedirect::new(generator, routes)?;
        Ok(Subjects {
            family,
            floor,
            xcast,
            miss,
            open,
            broadcast,
            with_program,
            readdress,
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
    fn headline(&mut self, all: &mut [Subjects]) -> Result<()> {
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
        const STREAMS: Load = Load {
            flows: STREAMS_IN_TURNS,
            ..LOAD
        };
        self.progress.section("headline");
        let mut entries: Vec<(&mut dyn Subject, _)> = Vec::new();
        for subjects in all {
            entries.push((&mut subjects.floor, vec![LOAD, ONE_FLOW, STREAMS, SMALL]));
            entries.push((&mut subjects.broadcast, vec![LOAD, ONE_FLOW]));
            entries.push((&mut subjects.with_program, vec![LOAD]));
            if let Some(readdress) = &mut subjects.readdress {
                entries.push((readdress, vec![LOAD]));
            }
            entries.push((
                &mut subjects.xcast,
                vec![LOAD, ONE_FLOW, STREAMS, SMALL, LAN],
            ));
            entries.push((&mut subjects.open, vec![LOAD, ONE_FLOW]));
            entries.push((&mut subjects.miss, vec![LOAD]));
            entries.push((&mut subjects.tc, vec![LOAD]));
            entries.push((&mut subjects.ipmr, vec![LOAD]));
            entries.push((&mut subjects.unicast, vec![LOAD]));
        }
        let measured = self.measure(entries)?;
        let rows = rows("headline", &measured);
        let find = |family, subject: &str, load: Load| {
            rows.iter().find(|row| {
                (row.batch, row.spread, row.flows) == (load.batch, load.spread, load.flows)
                    && (row.family, row.subject) == (number(family), subject)
            })
        };
        for &family in self.families {
            let find = |subject, load| find(family, subject, load);
            let by = |one, other| ratio(find(one, LOAD)?, find(other, LOAD)?);
            let lan = || ratio(find("xcast", LAN)?, find("xcast", SMALL)?);
            let report = &mut self.report;
            report.target(
                &named("xcast/broadcast", family),
                by("xcast", "broadcast"),
                Bound::AtMost(1.25),
                "the whole router by the bare broadcast of the frame",
            );
            let same = |subject| find(subject, ONE_FLOW);
            report.target(
                &named("xcast/broadcast, one flow", family),
                same("xcast")
                    .zip(same("broadcast"))
                    .and_then(|(one, other)| ratio(one, other)),
                Bound::AtMost(1.25),
                "the same for one frame, sent again and again",
            );
            report.target(
                &named("ipmr/xcast", family),
                by("ipmr", "xcast"),
                Bound::AtLeast(5.0),
                "the kernel's multicast forwarding by the router",
            );
            report.target(
                &named("tc/xcast", family),
                by("tc", "xcast"),
                Bound::AtLeast(2.5),
                "a classifier's clones by the router",
            );
            report.target(
                &named("xcast-miss/broadcast", family),
                by("xcast-miss", "broadcast"),
                Bound::AtMost(1.5),
                "a set of ports never seen before by the bare broadcast",
            );
            report.target(
                &named("lan/ports", family),
                lan(),
                Bound::AtMost(1.0),
                "eight next hops on one port by eight ports",
            );
            for (name, load) in [("xcast/open", LOAD), ("xcast/open, one flow", ONE_FLOW)] {
                let open = find("xcast, open", load);
                report.target(
                    &named(name, family),
                    find("xcast", load)
                        .zip(open)
                        .and_then(|(one, other)| ratio(one, other)),
                    Bound::AtMost(1.03),
                    "checks of sources, and limits, by the router without",
                );
            }
            report.ratio(&named("unicast/xcast", family), by("unicast", "xcast"));
            if family == Family::Ipv4 {
                // What is left of a target for receiving, checking, looking up and grouping.
                for one in ["broadcast, readdress", "tc", "ipmr"] {
                    let name = format!("{one}/broadcast");
                    report.ratio(&name, by(one, "broadcast"));
                }
            }
        }
        let families = || {
            let [ipv6, ipv4] =
                [Family::Ipv6, Family::Ipv4].map(|family| find(family, "xcast", LOAD));
            ratio(ipv6?, ipv4?)
        };
        self.report.ratio("xcast, IPv6/IPv4", families());
        self.finish("headline", rows)
    }

    fn copies(&mut self, all: &mut [Subjects]) -> Result<()> {
        let loads = COPIES.map(|copies| Load {
            copies,
            destinations: copies,
            ..Load::HEADLINE
        });
        self.same("copies", all, &loads)
    }

    fn payload(&mut self, all: &mut [Subjects]) -> Result<()> {
        let loads = PAYLOADS.map(|payload_bytes| Load {
            payload_bytes,
            ..Load::HEADLINE
        });
        self.same("payload", all, &loads)
    }

    /// The same loads on every subject.
    fn same(&mut self, section: &'static str, all: &mut [Subjects], loads: &[Load]) -> Result<()> {
        self.progress.section(section);
        let mut entries = Vec::new();
        for subjects in all {
            let subjects: [&mut dyn Subject; 6] = [
                &mut subjects.floor,
                &mut subjects.broadcast,
                &mut subjects.xcast,
                &mut subjects.tc,
                &mut subjects.ipmr,
                &mut subjects.unicast,
            ];
            entries.extend(subjects.map(|subject| (subject, loads.to_vec())));
        }
        let measured = self.measure(entries)?;
        self.finish(section, rows(section, &measured))
    }

    fn destinations(&mut self, all: &mut [Subjects]) -> Result<()> {
        self.progress.section("destinations");
        let mut entries = Vec::new();
        for subjects in all {
            let numbers = DESTINATIONS.into_iter();
            let loads: Vec<_> = numbers
                .chain([subjects.family.most_destinations()])
                .map(|destinations| Load {
                    destinations,
                    copies: destinations.min(PORTS),
                    ..Load::HEADLINE
                })
                .collect();
            let one_flow = loads.iter().map(|load| Load { flows: 1, ..*load });
            let with_one_flow: Vec<_> = loads.iter().copied().chain(one_flow).collect();
            let subjects: [(&mut dyn Subject, &Vec<_>); 4] = [
                (&mut subjects.floor, &with_one_flow),
                (&mut subjects.broadcast, &loads),
                (&mut subjects.xcast, &with_one_flow),
                (&mut subjects.unicast, &loads),
            ];
            entries.extend(subjects.map(|(subject, loads)| (subject, loads.clone())));
        }
        let measured = self.measure(entries)?;
        self.finish("destinations", rows("destinations", &measured))
    }

    fn routes(&mut self) -> Result<()> {
        self.progress.section("routes");
        let mut rows = Vec::new();
        // One after the other, since large tables take memory.
        for &family in self.families {
            rows.extend(self.routes_of(family)?);
        }
        self.finish("routes", rows)?;
        let text = self.report.load_table();
        self.print(&text)
    }

    fn routes_of(&mut self, family: Family) -> Result<Vec<Row>> {
        let (tables, name) = tables(family);
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        let small = Rc::new(Routes::internet(family, tables[0], PORTS));
        subjects.push(Box::new(Floor::new(&mut self.generator, small)?));
        for &count in tables {
            self.progress
                .show(&named(&format!("{count} routes"), family));
            let routes = Rc::new(Routes::internet(family, count, PORTS));
            let generator = &mut self.generator;
            let router = Router::new(generator, Path::Prepared, Rc::clone(&routes))?;
            self.report.tables.push(Table {
                family: number(family),
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
        let xcast = |routes: Option<&usize>, load: Load| {
            rows.iter().find(|row| {
                (row.subject, Some(&row.routes), row.flows) == ("xcast", routes, load.flows)
            })
        };
        let flat = |load| ratio(xcast(tables.last(), load)?, xcast(tables.first(), load)?);
        let report = &mut self.report;
        report.target(
            &named(name, family),
            flat(Load::HEADLINE),
            Bound::AtMost(FLAT),
            "the router with the most routes by the router with ten, random destinations",
        );
        report.target(
            &named(&format!("{name}, one flow"), family),
            flat(one_flow),
            Bound::AtMost(FLAT),
            "the same for a packet sent again and again",
        );
        Ok(rows)
    }

    fn tunnels(&mut self) -> Result<()> {
        // A copy for one destination alone would not be in a tunnel.
        const LOAD: Load = Load {
            destinations: 2 * PORTS,
            ..Load::HEADLINE
        };
        self.progress.section("tunnels");
        let mut subjects: Vec<Box<dyn Subject>> = Vec::new();
        for &family in self.families {
            let routes = Rc::new(Routes::internet(family, ROUTES, PORTS));
            let generator = &mut self.generator;
            subjects.push(Box::new(Floor::new(generator, Rc::clone(&routes))?));
            for carriage in [Carriage::None].into_iter().chain(Carriage::TUNNELS) {
                self.progress.show(&named(carriage.name(), family));
                let routes = Rc::clone(&routes);
                subjects.push(Box::new(Tunnelled::new(generator, routes, carriage)?));
            }
        }
        let mut entries: Vec<(&mut dyn Subject, _)> = Vec::new();
        for subject in &mut subjects {
            entries.push((subject.as_mut(), vec![LOAD]));
        }
        let measured = self.measure(entries)?;
        let rows = rows("tunnels", &measured);
        for &family in self.families {
            let find = |carriage: Carriage| {
                let mut rows = rows.iter();
                rows.find(|row| (row.family, row.subject) == (number(family), carriage.name()))
            };
            for carriage in Carriage::TUNNELS {
                let pair = find(carriage).zip(find(Carriage::None));
                self.report.target(
                    &named(&format!("{}/no tunnel", carriage.name()), family),
                    pair.and_then(|(one, other)| ratio(one, other)),
                    Bound::AtMost(1.15),
                    "a packet that is in a tunnel, or whose copies are, by one without",
                );
            }
        }
        self.finish("tunnels", rows)
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
        for &family in self.families {
            let of = stages::measure(family, self.cpu, self.effort, &mut self.progress)?;
            self.report.stages.stages.extend(of.stages);
            self.report.stages.programs.extend(of.programs);
        }
        let text = self.report.stages_table();
        self.print(&text)
    }

    fn sender(&mut self) -> Result<()> {
        self.progress.section("sender");
        for &family in self.families {
            let rows = sender::measure(family, self.cpu, self.effort, &mut self.progress)?;
            for destinations in [1, 20, 50, family.most_destinations()] {
                let find = |subject| {
                    rows.iter().find(|row| {
                        (row.subject, row.destinations) == (subject, destinations) && row.delivered
                    })
                };
                let by_xcast = |one| {
                    let (one, other) = (find(one)?, find("xcast")?);
                    Some(one.ns_per_message.median / other.ns_per_message.median)
                };
                let name = format!("sendmmsg/xcast, {destinations} destinations");
                let name = named(&name, family);
                let value = by_xcast("sendmmsg");
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
            self.report.sender.extend(rows);
            let rows = unmodified::measure(family, self.cpu, self.effort, &mut self.progress)?;
            let ns = |subject, destinations| {
                let mut rows = rows.iter();
                let row =
                    rows.find(|row| (row.subject, row.destinations) == (subject, destinations));
                row.map(|row| row.ns_per_message.median)
            };
            let by_exec = |destinations| {
                Some(ns("program", destinations)? / ns("program, exec", destinations)?)
            };
            self.report.target(
                &named("program/program under exec, 20 destinations", family),
                by_exec(20),
                Bound::AtLeast(10.0),
                "CPU time of a loop of sendto by that of the same under exec",
            );
            let name = named("program/program under exec, 1 destination", family);
            self.report.ratio(&name, by_exec(1));
            self.report.sender.extend(rows);
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
        for &family in self.families {
            let rows = changes::measure(
                &mut self.generator,
                family,
                self.cpu,
                ROUTES,
                &mut self.progress,
            )?;
            let at_1000 = rows.iter().find(|row| row.rate == 1000 && row.delivered);
            self.report.target(
                &named("route change p99 ms, 1000/s", family),
                at_1000.map(|row| row.p99_us / 1000.0),
                Bound::AtMost(5.0),
                "milliseconds from the request to the programs' map",
            );
            self.report.changes.extend(rows);
        }
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
