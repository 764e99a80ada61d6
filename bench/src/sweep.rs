//! What is measured: sections, each a set of loads on a set of subjects, side by side.

use anyhow::Result;

use crate::{
    generator::Generator,
    measure::{Effort, measure},
    progress::Progress,
    report::{Report, Row, Target, ratio, rows},
    routes::RouteSet,
    site::NEXT_HOPS,
    subject::{
        Load, Spread, Subject,
        kernel::{Ipmr, Unicast},
        rivals::{Broadcast, CloneRedirect, Floor},
        router::{Path, Router},
    },
};

/// Routes in the table unless a sweep says otherwise.
const ROUTES: usize = 10_000;
/// With this batch, eight copies of each packet fit a veth's queue.
const LAN_BATCH: u32 = 16;
/// Numbers of copies.
const COPIES: [usize; 4] = [1, 2, 4, 8];

/// Everything that is compared, ready to run.
pub struct Subjects {
    floor: Floor,
    xcast: Router,
    miss: Router,
    broadcast: Broadcast,
    ipmr: Ipmr,
    unicast: Unicast,
    tc: CloneRedirect,
}

impl Subjects {
    /// Makes all the places and starts the routers.
    ///
    /// # Errors
    ///
    /// Needs root, and a kernel that can do all this.
    pub fn new(generator: &mut Generator, progress: &mut Progress) -> Result<Self> {
        let routes = RouteSet::internet(ROUTES, NEXT_HOPS);
        let mut next = |name: &str| progress.show(name);
        next("generator");
        let floor = Floor::new(generator, routes.clone())?;
        next("xcast");
        let xcast = Router::new(generator, Path::Prepared, routes.clone())?;
        next("xcast-miss");
        let miss = Router::new(generator, Path::Unprepared, routes.clone())?;
        next("broadcast");
        let broadcast = Broadcast::new(generator, routes.clone(), &COPIES)?;
        next("ipmr");
        let ipmr = Ipmr::new(generator)?;
        next("unicast");
        let unicast = Unicast::new(generator, routes.clone())?;
        next("tc");
        let tc = CloneRedirect::new(generator, routes)?;
        Ok(Self {
            floor,
            xcast,
            miss,
            broadcast,
            ipmr,
            unicast,
            tc,
        })
    }

    /// Eight copies to eight destinations by everything there is.
    ///
    /// # Errors
    ///
    /// See [`measure`].
    pub fn headline(
        &mut self,
        generator: &mut Generator,
        effort: Effort,
        progress: &mut Progress,
        report: &mut Report,
    ) -> Result<()> {
        const LOAD: Load = Load::HEADLINE;
        let small = Load {
            batch: LAN_BATCH,
            ..LOAD
        };
        let lan = Load {
            spread: Spread::Lan,
            ..small
        };
        let one: Vec<Load> = vec![LOAD];
        let measured = measure(
            generator,
            vec![
                (&mut self.floor as &mut dyn Subject, vec![LOAD, small]),
                (&mut self.broadcast, one.clone()),
                (&mut self.xcast, vec![LOAD, small, lan]),
                (&mut self.miss, one.clone()),
                (&mut self.tc, one.clone()),
                (&mut self.ipmr, one.clone()),
                (&mut self.unicast, one),
            ],
            effort,
            progress,
        )?;
        let rows = rows("headline", &measured);
        let find = |subject: &str, load: Load| {
            rows.iter().find(|row| {
                row.subject == subject && row.batch == load.batch && row.spread == load.spread
            })
        };
        let mut add = |name: &str, one: Option<&Row>, other: Option<&Row>| {
            let value = one.zip(other).and_then(|(one, other)| ratio(one, other));
            if let Some(value) = value {
                report.ratios.insert(name.to_owned(), value);
            }
            value
        };
        let xcast = find("xcast", LOAD);
        let broadcast = find("broadcast", LOAD);
        let targets = [
            (
                add("xcast/broadcast", xcast, broadcast),
                target(
                    "xcast/broadcast",
                    Bound::AtMost(1.25),
                    "the whole router by the bare broadcast of the frame",
                ),
            ),
            (
                add("ipmr/xcast", find("ipmr", LOAD), xcast),
                target(
                    "ipmr/xcast",
                    Bound::AtLeast(5.0),
                    "the kernel's multicast forwarding by the router",
                ),
            ),
            (
                add("tc/xcast", find("tc", LOAD), xcast),
                target(
                    "tc/xcast",
                    Bound::AtLeast(2.5),
                    "a classifier's clones by the router",
                ),
            ),
            (
                add("xcast-miss/broadcast", find("xcast-miss", LOAD), broadcast),
                target(
                    "xcast-miss/broadcast",
                    Bound::AtMost(1.5),
                    "a set of ports never seen before, by the bare broadcast",
                ),
            ),
            (
                add("lan/ports", find("xcast", lan), find("xcast", small)),
                target(
                    "lan/ports",
                    Bound::AtMost(1.0),
                    "eight next hops on one port by eight ports",
                ),
            ),
        ];
        add("unicast/xcast", find("unicast", LOAD), xcast);
        for (value, mut target) in targets {
            target.value = value;
            target.met = value.is_some_and(|value| {
                target.at_most.is_none_or(|most| value <= most)
                    && target.at_least.is_none_or(|least| value >= least)
            });
            report.targets.push(target);
        }
        report.results.extend(rows);
        Ok(())
    }
}

enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

fn target(ratio: &str, bound: Bound, meaning: &'static str) -> Target {
    let (at_most, at_least) = match bound {
        Bound::AtMost(most) => (Some(most), None),
        Bound::AtLeast(least) => (None, Some(least)),
    };
    Target {
        ratio: ratio.to_owned(),
        meaning,
        at_most,
        at_least,
        value: None,
        met: false,
    }
}
