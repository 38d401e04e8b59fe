//! A client that others wrote believes what the appliance serves: python-tuf
//! refreshes and downloads, also after a ceremony has changed HQ's keys.
//!
//! `scripts/test --full` installs it and names the Python that has it in
//! `GROUNDCREW_PYTHON_TUF`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::{Appliance, GROUNDCREW, Net, TestSite, succeeded};

#[test]
#[ignore = "needs PyPI's tuf: run `scripts/test --full`"]
fn python_tuf_refreshes_and_downloads() {
    let python = std::env::var("GROUNDCREW_PYTHON_TUF")
        .expect("GROUNDCREW_PYTHON_TUF: a Python that has `tuf`");
    let (net, site) = (Net::new(), TestSite::new());
    net.address_client();
    let first_root = site.folder.path().join("root.json");
    fs::copy(site.dir().join("trust/metadata/1.root.json"), &first_root).unwrap();
    let charter = file_of(&site.dir().join("trust/targets/sites"));
    let _appliance = Appliance::start(&net, &site.dir());
    let client = |name: &str, charter: &Path| {
        let output = net
            .in_client(&python)
            .arg("tests/python_tuf.py")
            .args([
                &first_root,
                Path::new("http://10.77.0.1"),
                Path::new("sites/hq.json"),
                charter,
            ])
            .arg(site.folder.path().join(name))
            .output()
            .unwrap();
        println!("{}", succeeded("python-tuf", &output).trim());
    };
    client("before", &charter);

    // New keys at HQ, and everything signed anew, while the appliance runs.
    let hq = site.hq();
    let hq = hq.to_str().unwrap();
    for arguments in [
        &[
            "hq", "key", "rotate", "root", "root-2", "--role", "root", "--hq", hq,
        ][..],
        &[
            "hq",
            "key",
            "rotate",
            "targets",
            "targets-2",
            "--role",
            "targets",
            "--hq",
            hq,
        ],
        &["hq", "site", "charter", "hq", "--devices", "7", "--hq", hq],
        &["trust", "export", "courier", "--name", "hq", "--hq", hq],
    ] {
        groundcrew(&site, arguments);
    }
    let output = site.groundcrew(&[
        "trust",
        "import",
        site.folder.path().join("courier").to_str().unwrap(),
    ]);
    println!("{}", succeeded("import", &output).trim());
    let after = newest_file_of(&site.dir().join("trust/targets/sites"), &charter);
    client("after", &after);
}

fn groundcrew(site: &TestSite, arguments: &[&str]) {
    let mut command = Command::new(GROUNDCREW);
    let output = command
        .args(arguments)
        .current_dir(site.folder.path())
        .output()
        .unwrap();
    succeeded(&arguments.join(" "), &output);
}

fn file_of(folder: &Path) -> PathBuf {
    fs::read_dir(folder)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path()
}

fn newest_file_of(folder: &Path, known: &Path) -> PathBuf {
    let mut paths = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path());
    paths.find(|path| path != known).expect("a second charter")
}
