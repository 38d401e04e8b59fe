//! `kill -9` at any moment loses nothing that was answered.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{Appliance, Net, TestSite, dhcp};

/// How often the appliance is killed. `GROUNDCREW_CRASHES` raises it.
fn rounds() -> u32 {
    std::env::var("GROUNDCREW_CRASHES").map_or(12, |text| text.parse().expect("a number"))
}

#[test]
fn acknowledged_leases_survive_kill_9() {
    let (net, site) = (Net::new(), TestSite::new());
    // Room for hundreds of rounds; the question by ARP would only slow them down.
    site.edit_settings("address = \"10.77.0.1/24\"", "address = \"10.77.0.1/16\"");
    site.edit_settings(
        "pool = \"10.77.0.128-10.77.0.254\"",
        "pool = \"10.77.1.0-10.77.250.255\"\nconflict_probe = false",
    );
    let mut held: HashMap<[u8; 6], Ipv4Addr> = HashMap::new();
    let mut killed_in_flight = 0;
    for round in 0..rounds() {
        let mut appliance = Appliance::start(&net, &site.dir());
        let stop = Arc::new(AtomicBool::new(false));
        let client = {
            let (stop, round) = (Arc::clone(&stop), round);
            let namespace = std::fs::File::open(format!("/run/netns/{}", net.client)).unwrap();
            std::thread::spawn(move || {
                nix::sched::setns(namespace, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                storm(round, &stop)
            })
        };
        // The kill lands where it lands: what is waited for is only that the
        // storm has begun.
        for _ in 0..(round % 7) * 3 + 1 {
            appliance.wait_for("REQUEST -> ACK");
        }
        appliance.signal(nix::sys::signal::Signal::SIGKILL);
        appliance.end();
        stop.store(true, Ordering::Relaxed);
        let (acknowledged, unanswered) = client.join().unwrap();
        killed_in_flight += u32::from(unanswered > 0);
        for (mac, ip) in acknowledged {
            let other = held.iter().find(|(m, i)| **i == ip && **m != mac);
            assert_eq!(other, None, "{ip} was given twice");
            held.insert(mac, ip);
        }
    }
    assert!(
        killed_in_flight > 0,
        "no kill fell into an exchange: the test proves nothing"
    );
    let _appliance = Appliance::start(&net, &site.dir());
    let leases = common::succeeded("lease list", &site.groundcrew(&["lease", "list", "--json"]));
    let leases: serde_json::Value = serde_json::from_str(&leases).unwrap();
    let kept: HashMap<Ipv4Addr, &str> = leases
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            let ip = row["ip"].as_str().unwrap().parse().unwrap();
            (ip, row["mac"].as_str().unwrap())
        })
        .collect();
    for (mac, ip) in &held {
        let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(kept.get(ip), Some(&mac.join(":").as_str()), "{ip} was lost");
    }
    eprintln!(
        "{} kills, {killed_in_flight} of them into an exchange; {} leases acknowledged, none lost, none given twice",
        rounds(),
        held.len()
    );
    let sample: Vec<([u8; 6], Ipv4Addr)> = held.iter().map(|(m, i)| (*m, *i)).take(40).collect();
    for (mac, ip) in sample {
        let again = net.on_client(move || dhcp::lease(mac, Duration::from_secs(10)));
        assert_eq!(again, Some(ip), "{mac:02x?} held {ip}");
    }
}

type Acknowledged = Vec<([u8; 6], Ipv4Addr)>;

/// Exchanges one after the other, each with a new MAC, until told to stop.
fn storm(round: u32, stop: &AtomicBool) -> (Acknowledged, u32) {
    let mut acknowledged = Vec::new();
    let mut unanswered = 0;
    for number in 0..u8::MAX {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let [.., high, low] = round.to_be_bytes();
        let mac = [2, 0, high, low, 0, number];
        match dhcp::lease(mac, Duration::from_millis(400)) {
            Some(ip) => acknowledged.push((mac, ip)),
            None => unanswered += 1,
        }
    }
    (acknowledged, unanswered)
}
