//! The commands about devices and the journal, as a technician types them: on a
//! site that nobody serves, and some on one that is served.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot go on ends"
)]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::{Appliance, GROUNDCREW, Net, TestSite, succeeded};

fn fixture(name: &str) -> String {
    format!(
        "{}/tests/fixtures/hardware/{name}",
        env!("CARGO_MANIFEST_DIR")
    )
}

fn run(arguments: &[&str]) -> Output {
    Command::new(GROUNDCREW).args(arguments).output().unwrap()
}

fn failed(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!text.contains("panicked"), "{text}");
    text
}

fn id_of(site: &TestSite, serial: &str) -> String {
    let listed = succeeded("list", &site.groundcrew(&["device", "list", "--json"]));
    let devices: Vec<serde_json::Value> = serde_json::from_str(&listed).unwrap();
    let found = devices.iter().find(|device| device["serial"] == serial);
    found.unwrap()["id"].as_str().unwrap().to_owned()
}

#[test]
fn bad_rows_come_back_and_good_ones_can_be_exported_and_explained() {
    let site = TestSite::new();
    let mend = site.folder.path().join("mend.csv");
    let import = site.groundcrew(&[
        "device",
        "import",
        &fixture("faults.csv"),
        "--rejects",
        mend.to_str().unwrap(),
    ]);
    assert_eq!(import.status.code(), Some(1));
    let said = String::from_utf8(import.stdout).unwrap();
    assert!(
        said.contains("faults.csv:4: InvalidZtdHardwareHash")
            && said.contains("2 registered, 5 refused"),
        "{said}"
    );
    let rejects = std::fs::read_to_string(&mend).unwrap();
    assert_eq!(rejects.lines().count(), 6, "header and five rows");
    let again = site.groundcrew(&["device", "import", "--dry-run", mend.to_str().unwrap()]);
    assert!(failed(&again).is_empty(), "it is read as it is");

    let export = succeeded("export", &site.groundcrew(&["device", "export"]));
    assert!(export.starts_with(
        "Device Serial Number,Windows Product ID,Hardware Hash,Group Tag,Assigned User\r\n"
    ));
    let file = site.folder.path().join("export.csv");
    std::fs::write(&file, &export).unwrap();
    succeeded("show", &run(&["hash", "show", file.to_str().unwrap()]));
    let back = site.groundcrew(&[
        "device",
        "import",
        "--dry-run",
        "--json",
        file.to_str().unwrap(),
    ]);
    let view: serde_json::Value = serde_json::from_slice(&back.stdout).unwrap();
    assert_eq!(
        view["refused"].as_array().unwrap().len(),
        2,
        "the very same devices: {view}"
    );
    assert!(
        view["refused"]
            .as_array()
            .unwrap()
            .iter()
            .all(|row| row["name"] == "ZtdDeviceAlreadyAssigned")
    );

    let row = format!("{}:2", fixture("faults.csv"));
    let explained = succeeded("explain", &site.groundcrew(&["device", "explain", &row]));
    assert!(explained.contains("Serial number  agrees"), "{explained}");
    let journal = succeeded("show", &site.groundcrew(&["journal", "show"]));
    assert!(journal.contains("from faults.csv"), "{journal}");
}

#[test]
fn a_device_is_tagged_transferred_and_forgotten() {
    let site = TestSite::new();
    let lab = TestSite {
        folder: tempfile::tempdir().unwrap(),
    };
    let init = [
        "--org",
        "Other",
        "--name",
        "lab",
        "--address",
        "10.78.0.1/24",
        "--interface",
        "gc0",
    ];
    let folder = lab.folder.path().join("gc");
    succeeded(
        "init",
        &run(&[&["init", folder.to_str().unwrap()], &init[..]].concat()),
    );
    succeeded(
        "import",
        &site.groundcrew(&["device", "import", &fixture("partner.csv")]),
    );
    let id = id_of(&site, "SYNTH-0021");
    succeeded("tag", &site.groundcrew(&["device", "tag", &id, "kiosk"]));
    let why = succeeded("which", &site.groundcrew(&["profile", "which", &id]));
    assert!(
        why.contains("gets the profile standard") && why.contains("tag `kiosk`"),
        "{why}"
    );
    assert!(failed(&site.groundcrew(&["device", "accept", &id])).contains("no request that waits"));

    let release = site.folder.path().join("one.release");
    let transfer = [
        "device",
        "transfer",
        &id,
        "--to",
        "lab",
        "--out",
        release.to_str().unwrap(),
    ];
    let said = succeeded("transfer", &site.groundcrew(&transfer));
    let key = said.split("--key ").nth(1).unwrap().trim();
    assert!(failed(&site.groundcrew(&transfer)).contains("exists already"));
    let receive = |key: &[&str]| {
        let mut arguments = vec!["device", "receive", release.to_str().unwrap()];
        arguments.extend(key);
        lab.groundcrew(&arguments)
    };
    assert!(failed(&receive(&[])).contains("give --key"), "another HQ");
    let wrong = format!("ed25519:{}", "5".repeat(64));
    assert!(failed(&receive(&["--key", &wrong])).contains("no signature"));
    succeeded("receive", &receive(&["--key", key]));
    assert!(
        failed(&receive(&["--key", key])).contains("ZtdDeviceAlreadyAssigned"),
        "once"
    );
    assert!(id_of(&lab, "SYNTH-0021").starts_with("lab-"));
    succeeded("forget", &site.groundcrew(&["device", "forget", &id]));
    assert!(failed(&site.groundcrew(&["device", "show", &id])).contains("there is no device"));
    let journal = succeeded(
        "show",
        &site.groundcrew(&["journal", "show", "--device", &id]),
    );
    assert!(
        journal.contains("released to site lab") && journal.contains("forgotten"),
        "{journal}"
    );
}

#[test]
fn a_served_site_signs_its_journal_and_is_backed_up() {
    let (net, site) = (Net::new(), TestSite::new());
    let mut appliance = Appliance::start(&net, &site.dir());
    succeeded(
        "import",
        &site.groundcrew(&["device", "import", &fixture("partner.csv")]),
    );
    let path = |name: &str| site.folder.path().join(name);
    let text = |path: &Path| path.to_str().unwrap().to_owned();
    let backup = path("site.backup");
    succeeded(
        "backup",
        &site.groundcrew(&["backup", &text(&backup), "--with-keys"]),
    );
    assert!(failed(&site.groundcrew(&["backup", &text(&backup)])).contains("must not exist"));
    appliance.signal(nix::sys::signal::Signal::SIGTERM);
    appliance.end();

    let verified = succeeded("verify", &site.groundcrew(&["journal", "verify"]));
    assert!(
        verified.contains("the last one signs line 2"),
        "signed when it stopped: {verified}"
    );
    let exported = path("journal.jsonl");
    succeeded(
        "export",
        &site.groundcrew(&["journal", "export", &text(&exported)]),
    );
    let honest = std::fs::read_to_string(&exported).unwrap();
    let lines: Vec<&str> = honest.lines().collect();
    let check = |lines: &[&str]| {
        std::fs::write(&exported, lines.join("\n")).unwrap();
        site.groundcrew(&["journal", "verify", "--file", &text(&exported)])
    };
    succeeded("verify", &check(&lines));
    assert!(
        failed(&check(&[lines[1], lines[0], lines[2]])).contains("journal line 1"),
        "reordered"
    );
    assert!(
        failed(&check(&[lines[0], lines[2]])).contains("cut off"),
        "the end is missing"
    );
    let changed = lines[1].replace("registered", "registerex");
    assert!(failed(&check(&[lines[0], &changed, lines[2]])).contains("line 2: it was changed"));

    let copy = path("copy");
    succeeded(
        "restore",
        &run(&["restore", &text(&backup), "--site", &text(&copy)]),
    );
    assert!(
        failed(&run(&["restore", &text(&backup), "--site", &text(&copy)]))
            .contains("never overwrites")
    );
    let listed = succeeded("list", &run(&["device", "list", "--site", &text(&copy)]));
    assert!(listed.contains("SYNTH-0021"), "{listed}");
    let bytes = std::fs::read(&backup).unwrap();
    let cut = path("cut.backup");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).unwrap();
    failed(&run(&[
        "restore",
        &text(&cut),
        "--site",
        &text(&path("never")),
    ]));
    assert!(!path("never").exists(), "nothing is left of it");
}
