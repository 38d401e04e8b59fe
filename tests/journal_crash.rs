//! `kill -9` while the registry is written: the journal stays whole, a file is
//! registered altogether or not at all, and what was acknowledged stays.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use common::{Appliance, GROUNDCREW, Net, TestSite, succeeded};

/// Rows of one file: several parts, so that kills come between them, too.
const ROWS: usize = 1500;

/// How often the program is killed. `GROUNDCREW_CRASHES` raises it.
fn rounds() -> u32 {
    std::env::var("GROUNDCREW_CRASHES").map_or(25, |text| text.parse().expect("a number"))
}

fn csv(round: u32) -> String {
    let mut text = String::from("Device Serial Number,Manufacturer name,Device model\n");
    for row in 0..ROWS {
        text.push_str(&format!("CRASH-{round}-{row:04},Example Corp,Model One\n"));
    }
    text
}

#[test]
fn a_file_is_registered_altogether_or_not_at_all() {
    let site = TestSite::new();
    let file = site.folder.path().join("devices.csv");
    std::fs::write(&file, csv(0)).unwrap();
    let begun = Instant::now();
    succeeded(
        "import",
        &site.groundcrew(&["device", "import", file.to_str().unwrap()]),
    );
    // Kills are spread evenly around the end of an import, where it is written.
    let whole = begun.elapsed();
    let (mut acknowledged, mut killed) = (vec![0], 0);
    for round in 1..=rounds() {
        std::fs::write(&file, csv(round)).unwrap();
        let mut child = Command::new(GROUNDCREW)
            .args(["device", "import", file.to_str().unwrap(), "--site"])
            .arg(site.dir())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let part = f64::from((round * 7) % rounds()) / f64::from(rounds());
        std::thread::sleep(whole.mul_f64(0.3 + part));
        let _ = child.kill();
        let status = child.wait().unwrap();
        if status.success() {
            acknowledged.push(round);
        } else {
            assert_eq!(status.signal(), Some(9), "it ended by itself: {status}");
            killed += 1;
        }
        let verified = succeeded("verify", &site.groundcrew(&["journal", "verify"]));
        assert!(verified.contains("every one in its place"), "{verified}");
    }
    assert!(killed > 0, "no kill came in time: the test proves nothing");
    let registered = whole_files(&site, &acknowledged);
    eprintln!(
        "{} rounds, {killed} killed, {} acknowledged, {registered} registered",
        rounds(),
        acknowledged.len(),
    );
}

/// How many files are registered, each of them to its last row, and none of the
/// acknowledged ones missing.
fn whole_files(site: &TestSite, acknowledged: &[u32]) -> usize {
    let listed = succeeded("list", &site.groundcrew(&["device", "list", "--json"]));
    let devices: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let mut per_round: BTreeMap<u32, usize> = BTreeMap::new();
    for device in devices {
        let serial = device["serial"].as_str().unwrap().to_owned();
        let round = serial.split('-').nth(1).unwrap().parse().unwrap();
        *per_round.entry(round).or_default() += 1;
    }
    for (round, count) in &per_round {
        assert_eq!(*count, ROWS, "round {round} is registered in part");
    }
    for round in acknowledged {
        assert!(
            per_round.contains_key(round),
            "round {round} was acknowledged and is lost"
        );
    }
    per_round.len()
}

/// Kills in one site: a start reads its journal, which grows by each file.
const IN_ONE_SITE: u32 = 9;

#[test]
fn a_served_site_that_is_killed_has_all_of_a_file_or_nothing() {
    let rounds = rounds().div_ceil(3);
    let (mut cut, mut registered) = (0, 0);
    for first in (0..rounds).step_by(IN_ONE_SITE as usize) {
        let moments = (first..rounds.min(first + IN_ONE_SITE))
            .map(|round| 1.1 * f64::from((round * 7) % rounds) / f64::from(rounds));
        let (more, whole) = kill_at(&moments.collect::<Vec<_>>());
        cut += more;
        registered += whole;
    }
    assert!(cut > 0, "no kill came in time: the test proves nothing");
    eprintln!("served: {rounds} kills, {cut} imports cut, {registered} files whole, none in part");
}

/// Kills an appliance at each of these parts of an import; how many were cut, and
/// how many files the site has, each to its last row.
fn kill_at(moments: &[f64]) -> (usize, usize) {
    let (net, site) = (Net::new(), TestSite::new());
    let file = site.folder.path().join("devices.csv");
    let import = || {
        let mut command = Command::new(GROUNDCREW);
        command.args(["device", "import", file.to_str().unwrap(), "--site"]);
        command.arg(site.dir()).stdout(Stdio::null());
        command.stderr(Stdio::null()).spawn().unwrap()
    };
    std::fs::write(&file, csv(0)).unwrap();
    let mut appliance = Appliance::start(&net, &site.dir());
    let begun = Instant::now();
    assert!(import().wait().unwrap().success());
    let whole = begun.elapsed();
    let (mut acknowledged, mut cut) = (vec![0], 0);
    for (round, part) in (1..).zip(moments) {
        appliance.signal(nix::sys::signal::Signal::SIGKILL);
        appliance.end();
        std::fs::write(&file, csv(round)).unwrap();
        appliance = Appliance::start(&net, &site.dir());
        let mut child = import();
        std::thread::sleep(whole.mul_f64(*part));
        appliance.signal(nix::sys::signal::Signal::SIGKILL);
        let told = child.wait().unwrap();
        assert_eq!(told.signal(), None, "the command itself lives on: {told}");
        match told.success() {
            true => acknowledged.push(round),
            false => cut += 1,
        }
        succeeded("verify", &site.groundcrew(&["journal", "verify"]));
    }
    appliance.signal(nix::sys::signal::Signal::SIGKILL);
    appliance.end();
    (cut, whole_files(&site, &acknowledged))
}

/// What was acknowledged to whom asked over the control socket.
fn tag_until_it_dies(socket: &Path, device: &str, round: u32, acknowledged: &AtomicU32) {
    for number in 1u32.. {
        let Ok(mut stream) = UnixStream::connect(socket) else {
            return;
        };
        let tag = format!("r{round}-{number}");
        let order = serde_json::json!({ "by": "test", "command": { "tag": { "device": device, "tag": tag } } });
        let mut answer = String::new();
        let asked = stream.write_all(format!("{order}\n").as_bytes());
        if asked.is_err() || BufReader::new(stream).read_line(&mut answer).is_err() {
            return;
        }
        if !answer.starts_with("{\"Ok\"") {
            assert_eq!(answer, "", "it refused");
            return;
        }
        acknowledged.store(number, Ordering::SeqCst);
    }
}

#[test]
fn acknowledged_changes_survive_kill_9_at_every_write() {
    let (net, site) = (Net::new(), TestSite::new());
    let file = site.folder.path().join("one.csv");
    std::fs::write(&file, "Example Corp,Model One,SYNTH-0001\n").unwrap();
    succeeded(
        "import",
        &site.groundcrew(&["device", "import", file.to_str().unwrap()]),
    );
    let device = || -> serde_json::Value {
        let listed = succeeded("list", &site.groundcrew(&["device", "list", "--json"]));
        serde_json::from_str::<Vec<serde_json::Value>>(&listed)
            .unwrap()
            .remove(0)
    };
    let id = device()["id"].as_str().unwrap().to_owned();
    let mut writes = 0;
    for round in 1..=rounds() {
        let mut appliance = Appliance::start(&net, &site.dir());
        let acknowledged = Arc::new(AtomicU32::new(0));
        let asking = {
            let (socket, id, acknowledged) = (
                site.dir().join("control.sock"),
                id.clone(),
                Arc::clone(&acknowledged),
            );
            std::thread::spawn(move || tag_until_it_dies(&socket, &id, round, &acknowledged))
        };
        // The kill lands where it lands, after some writes.
        while acknowledged.load(Ordering::SeqCst) < 1 + round % 13 {
            std::thread::yield_now();
        }
        appliance.signal(nix::sys::signal::Signal::SIGKILL);
        appliance.end();
        asking.join().unwrap();
        let last = acknowledged.load(Ordering::SeqCst);
        writes += last;
        succeeded("verify", &site.groundcrew(&["journal", "verify"]));
        let tag = device()["tag"].as_str().unwrap().to_owned();
        let kept: u32 = tag
            .strip_prefix(&format!("r{round}-"))
            .unwrap()
            .parse()
            .unwrap();
        // The one after the last acknowledged may be on disk: its answer was cut off.
        assert!(
            kept == last || kept == last + 1,
            "round {round}: {last} acknowledged, {kept} kept"
        );
    }
    eprintln!(
        "{} kills, {writes} acknowledged writes, none lost",
        rounds()
    );
}
