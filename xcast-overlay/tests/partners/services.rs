//! Services of nodes of ours that know each other by way of a partner only.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use xcast_overlay::{
    krpc::signing_key,
    services::{Entry, Query, Service},
};

use super::{namespace::address, ours::Ours};

/// What tables call it.
pub const OPERATION: &str = "services of ours by way of it";
/// When entries expire, in seconds after our nodes have begun.
const LIFE_S: i64 = 3600;

/// Where the one is that finds.
pub fn second(ipv6: bool) -> SocketAddr {
    address(ipv6, 8, 6881)
}

/// One of ours publishes a service, the other one finds it: each begins with the partner as the only node that it
/// knows. `first` is the one that publishes.
pub async fn by_way_of(partner: SocketAddr, mut first: Ours) -> Result<()> {
    let ipv6 = partner.is_ipv6();
    let mut second = Ours::start(second(ipv6), &[partner]);
    first.join().await?;
    first.is_listed_by(partner).await?;
    let joined = async {
        second.join().await?;
        second.is_listed_by(partner).await
    };
    first.during(joined).await?;
    let service = Service {
        mechanism: "ldap".to_owned(),
        uri: "ldap://a".to_owned(),
        attributes: Default::default(),
        place: None,
    };
    let entry = Entry::sign(&signing_key([1; 32]), service, 1, LIFE_S)?;
    let put = first.run_many(|node, now| node.put_entry(now, &entry));
    let stored = second.during(put).await?;
    let nodes: u32 = stored.iter().map(|report| report.stored).sum();
    ensure!(nodes >= 1, "{stored:?}");
    let wanted = Query {
        mechanism: Some("ldap".to_owned()),
        ..Query::default()
    };
    let keys = wanted.keys(1)?;
    let found = second.run_many(|node, now| vec![node.find_entries(now, &keys)]);
    let found = first.during(found).await?;
    let mut entries = found.iter().flat_map(|report| report.targets.values());
    ensure!(
        entries.any(|found| found.entries.contains(&entry)),
        "{found:?}"
    );
    first.close().await;
    second.close().await;
    Ok(())
}
