//! Wireshark's dissector of SLP.

use std::{fs, process::Command};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use tests::namespace;
use xcast_overlay::services::slp;

/// Link type of captures that begin with the IP header.
const LINKTYPE_RAW: u32 = 101;

/// What the dissector makes of datagrams of SLP, one by one.
///
/// # Errors
///
/// It finds something wrong with one.
pub fn dissect(datagrams: &[impl AsRef<[u8]>]) -> Result<Vec<Value>> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("slp.pcap");
    fs::write(&path, capture(datagrams)?)?;
    let mut tshark = Command::new("tshark");
    tshark.args(["-n", "-T", "json", "-r"]).arg(&path);
    let document = namespace::run(&mut tshark, "")?;
    let packets: Vec<Value> = serde_json::from_str(&document)?;
    ensure!(packets.len() == datagrams.len(), "{document}");
    for packet in &packets {
        let layers = packet["_source"]["layers"]
            .as_object()
            .context("no layers")?;
        ensure!(layers.contains_key("srvloc"), "not taken for SLP: {packet}");
        let wrong = ["_ws.malformed", "_ws.expert", "_ws.short"];
        let wrong = wrong
            .iter()
            .find(|name| packet.to_string().contains(**name));
        ensure!(wrong.is_none(), "{wrong:?}: {packet}");
    }
    Ok(packets)
}

/// The values of a field, wherever it is.
pub fn values(packet: &Value, field: &str) -> Vec<String> {
    match packet {
        Value::Object(members) => {
            let of = |(name, value): (&String, &Value)| match value {
                Value::String(text) if name == field => vec![text.clone()],
                value => values(value, field),
            };
            members.iter().flat_map(of).collect()
        }
        Value::Array(elements) => elements.iter().flat_map(|e| values(e, field)).collect(),
        _ => Vec::new(),
    }
}

/// A capture in the format of pcap, with headers of IPv4 and UDP before each datagram.
fn capture(datagrams: &[impl AsRef<[u8]>]) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    file.extend(0xa1b2_c3d4_u32.to_be_bytes());
    file.extend([0, 2, 0, 4]);
    file.extend([0; 8]);
    for word in [65_535, LINKTYPE_RAW] {
        file.extend(word.to_be_bytes());
    }
    for datagram in datagrams {
        let datagram = datagram.as_ref();
        let udp_len = u16::try_from(8 + datagram.len())?;
        let mut packet = vec![0x45, 0];
        packet.extend((20 + udp_len).to_be_bytes());
        packet.extend([0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        for word in [slp::PORT, slp::PORT, udp_len, 0] {
            packet.extend(word.to_be_bytes());
        }
        packet.extend(datagram);
        let len = u32::try_from(packet.len())?;
        for word in [0, 0, len, len] {
            file.extend(word.to_be_bytes());
        }
        file.extend(packet);
    }
    Ok(file)
}
