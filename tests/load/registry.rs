//! How a site's registry grows: `scripts/bench registry` runs this.
//!
//! `make DIR DEVICES EVENTS` writes a site with a journal of that length;
//! `measure DIR` opens it as `serve` does and prints one row of figures;
//! `import DIR ROWS` registers a file's rows while somebody else asks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a measurement that cannot go on ends"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use groundcrew::hq::found;
use groundcrew::office::{Command, FileTerms, ImportRow, Office, Order, Outcome, PART, Part};
use groundcrew::site::Site;
use groundcrew::site::create::{FirstMode, NewSite};
use groundcrew::store::{self, Store};
use groundcrew_core::hardware::{Identity, MacAddr, SmbiosUuid};
use groundcrew_core::{DeviceId, SiteId, UnixTime};
use groundcrew_registry::device::Registration;
use groundcrew_registry::search::Search;
use groundcrew_registry::state::{Limits, Record};
use groundcrew_registry::{Actor, Change, Event, Registry};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        ["make", dir, devices, events] => {
            make(
                Path::new(dir),
                devices.parse().unwrap(),
                events.parse().unwrap(),
            );
        }
        ["measure", dir] => measure(Path::new(dir)),
        ["import", dir, rows] => import(Path::new(dir), rows.parse().unwrap()),
        _ => panic!("make DIR DEVICES EVENTS | measure DIR | import DIR ROWS"),
    }
}

fn site_name() -> SiteId {
    "lab".parse().unwrap()
}

fn found_site(dir: &Path) -> Site {
    let name = site_name();
    let new = NewSite {
        organisation: "Bench",
        name: &name,
        address: "10.9.0.1/24".parse().unwrap(),
        interface: "eth9",
        mode: FirstMode::default(),
    };
    found::create(dir, &new).unwrap()
}

fn identity(n: u32) -> Identity {
    let [a, b, c, d] = n.to_be_bytes();
    let mut uuid = [0x5a; 16];
    uuid[..4].copy_from_slice(&n.wrapping_mul(2_654_435_761).to_be_bytes());
    Identity {
        uuid: Some(SmbiosUuid::from_canonical(uuid)),
        serial: Some(format!("BENCH{n:07}")),
        manufacturer: Some("Example Corp".into()),
        product: Some(format!("Model {}", n % 40)),
        macs: vec![MacAddr([2, 1, a, b, c, d]), MacAddr([2, 2, a, b, c, d])],
        ..Identity::default()
    }
}

fn registration(n: u32) -> Registration {
    Registration {
        identity: identity(n),
        tag: None,
        user: None,
        product_id: None,
        hash: None,
        source: "bench".into(),
    }
}

fn make(dir: &Path, devices: u32, events: u32) {
    let site = found_site(dir);
    let mut store = Store::open(&site.registry_file()).unwrap();
    let mut registry = Registry::new(site_name(), Limits::default());
    let now = UnixTime::new(1_800_000_000);
    let id = |n: u32| {
        let [a, b, c, d] = n.to_be_bytes();
        DeviceId::new(&site_name(), [7, a, b, c, d])
    };
    let change = |n: u32| Change {
        device: id(n % devices),
        actor: Actor::Site,
        event: match n < devices {
            true => Event::Registered {
                registration: Box::new(registration(n)),
            },
            false => Event::Tagged {
                tag: Some(format!("tag-{}", n / devices).parse().unwrap()),
            },
        },
    };
    for start in (0..events).step_by(20_000) {
        let end = (start + 20_000).min(events);
        let records = registry.record(now, (start..end).map(change).collect());
        let rows = records.unwrap().into_iter().map(|record| match record {
            Record::Entry(entry) => store::Change::Journal {
                seq: entry.seq(),
                line: entry.into_line(),
            },
            other => panic!("{other:?}"),
        });
        store.write(&rows.collect::<Vec<_>>()).unwrap();
    }
}

fn open(dir: &Path) -> (Office, Duration) {
    let site = Site::at(dir.join("site"));
    let settings = site.settings().unwrap();
    let begun = Instant::now();
    let store = Store::open(&site.registry_file()).unwrap();
    let office = Office::open(&site, &settings, store).unwrap();
    (office, begun.elapsed())
}

fn order(command: Command) -> Order {
    Order {
        by: "bench".into(),
        command,
    }
}

fn measure(dir: &Path) {
    let (office, start) = open(dir);
    let rss = resident_mib();
    let count = office.find(&Search::first(0)).matching as u32;
    let mut times: Vec<Duration> = (0..2000u32)
        .map(|n| {
            let known = n.wrapping_mul(7919) % count.max(1);
            let asked = vec![identity(if n % 2 == 0 { known } else { count + n })];
            let begun = Instant::now();
            let runtime = futures_util::FutureExt::now_or_never(
                office.execute(order(Command::ExplainIdentities(asked))),
            );
            let took = begun.elapsed();
            let Some(Ok(Outcome::Explained(found))) = runtime else {
                panic!("no answer")
            };
            assert_eq!(found[0].device.is_some(), n % 2 == 0, "{found:?}");
            took
        })
        .collect();
    times.sort_unstable();
    // The median of some: other programs come between.
    let time = |work: &dyn Fn() -> usize| {
        let mut times = [0; 9].map(|_| {
            let begun = Instant::now();
            assert!(work() > 0);
            begun.elapsed()
        });
        times.sort_unstable();
        times[4]
    };
    let page = time(&|| office.find(&Search::first(50)).devices.len());
    let search = time(&|| {
        office
            .find(&Search::first(50).text("model 7"))
            .devices
            .len()
    });
    let one = time(&|| {
        office
            .find(&Search::first(50).text("bench0000003"))
            .devices
            .len()
    });
    println!(
        "{count:>8}  {:>9.0}  {rss:>7.1}  {:>9.1} {:>9.1}  {:>7.1} {:>9.1} {:>9.1}",
        millis(start),
        micros(times[times.len() / 2]),
        micros(times[times.len() * 99 / 100]),
        millis(page),
        millis(search),
        millis(one)
    );
}

/// How long an import takes, and how long others wait meanwhile.
fn import(dir: &Path, rows: u32) {
    let _ = found_site(dir);
    let (office, _) = open(dir);
    let office = Arc::new(office);
    let done = Arc::new(AtomicBool::new(false));
    let asking = {
        let (office, done) = (Arc::clone(&office), Arc::clone(&done));
        std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !done.load(Ordering::Relaxed) {
                let begun = Instant::now();
                let query =
                    groundcrew_netboot::ipxe::IpxeQuery::parse("serial=BENCH0000001").unwrap();
                office.boot_state(&query);
                worst = worst.max(begun.elapsed());
                std::thread::sleep(Duration::from_millis(1));
            }
            worst
        })
    };
    let row = |n: u32| ImportRow {
        line: u64::from(n) + 1,
        registration: registration(n),
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let begun = Instant::now();
    let registered = runtime.block_on(async {
        let mut import = office
            .import_file(FileTerms::default(), "bench".into())
            .unwrap();
        for start in (0..rows).step_by(PART) {
            let rows = (start..rows).take(PART).map(row).collect();
            let hashes = Vec::new();
            import.add(Part { rows, hashes }).await.unwrap();
        }
        let (mut registering, mut all) = (import.accept().await.unwrap(), 0);
        while let Some(progress) = registering.next().await.unwrap() {
            all += progress.registered;
        }
        all
    });
    let took = begun.elapsed();
    done.store(true, Ordering::Relaxed);
    println!(
        "{} rows registered in {:.1} s; the longest wait of others: {:.0} ms",
        registered,
        took.as_secs_f64(),
        millis(asking.join().unwrap())
    );
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn resident_mib() -> f64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: f64 = line
        .unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap();
    kib / 1024.0
}
