//! The status page as a browser gets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use common::machine::Machine;
use common::{Appliance, Net, TestSite, succeeded};
use groundcrew_core::enroll::{Decision, ReceiptResult};

/// A site that is served, with a client beside it.
struct Page {
    net: Net,
    site: TestSite,
    appliance: Appliance,
}

impl Page {
    fn new() -> Self {
        let (net, site) = (Net::new(), TestSite::new());
        net.address_client();
        let appliance = Appliance::start(&net, &site.dir());
        Self {
            net,
            site,
            appliance,
        }
    }

    fn code(&self) -> String {
        let text = succeeded("code", &self.site.groundcrew(&["page", "code", "--json"]));
        let page: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(page["url"], "https://10.77.0.1/");
        page["code"].as_str().unwrap().to_owned()
    }

    /// Status line, headers and body.
    fn curl(&self, arguments: &[&str]) -> String {
        let mut curl = self.net.in_client("curl");
        curl.args(["-s", "-S", "-k", "-i", "--max-time", "10"]);
        succeeded("curl", &curl.args(arguments).output().unwrap())
    }

    /// The cookie of somebody who logs in.
    fn log_in(&self) -> String {
        let code = format!("code={}", self.code());
        let answer = self.curl(&["-d", "name=desk", "-d", &code, "https://10.77.0.1/login"]);
        assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
        let line = answer
            .lines()
            .find(|l| l.starts_with("set-cookie: "))
            .unwrap();
        for part in [
            "__Host-groundcrew=",
            "; Secure",
            "; HttpOnly",
            "; SameSite=Strict",
            "; Path=/",
        ] {
            assert!(line.contains(part), "{line}");
        }
        line["set-cookie: ".len()..]
            .split(';')
            .next()
            .unwrap()
            .to_owned()
    }
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text
        .split_once(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"))
        .1;
    rest.split_once(after).unwrap().0
}

#[test]
fn strangers_see_a_log_in_and_technicians_approve_by_code() {
    let page = Page::new();
    let device = Machine::new("SYNTH-<7>", "Model One", 7)
        .ask(&page.net)
        .device;
    let id = device.as_str();
    let plain = page.curl(&["http://10.77.0.1/"]);
    assert!(
        plain.starts_with("HTTP/1.1 307") && plain.contains("location: https://10.77.0.1/\r"),
        "{plain}"
    );

    let stranger = page.curl(&["https://10.77.0.1/"]);
    assert!(stranger.starts_with("HTTP/1.1 200") && stranger.contains("Set-up code"));
    assert!(!stranger.contains("SYNTH") && !stranger.contains(id));
    for header in [
        "content-security-policy: default-src 'none'",
        "cache-control: no-store",
        "x-content-type-options: nosniff",
    ] {
        assert!(stranger.contains(header), "{header} in {stranger}");
    }
    let approve = format!("https://10.77.0.1/device/{id}/approve");
    for path in ["https://10.77.0.1/events", &approve] {
        let answer = page.curl(&[
            "-d",
            "form=0",
            "-d",
            "code=AAAA-AAAA",
            "-X",
            if path == approve { "POST" } else { "GET" },
            path,
        ]);
        assert!(
            answer.contains("Set-up code") && !answer.contains("text/event-stream"),
            "{answer}"
        );
    }
    let wrong = page.curl(&[
        "-d",
        "name=desk",
        "-d",
        "code=AAAA-AAAA",
        "https://10.77.0.1/login",
    ]);
    assert!(
        wrong.starts_with("HTTP/1.1 403") && wrong.contains("not the set-up code"),
        "{wrong}"
    );

    let cookie = page.log_in();
    let seen = page.curl(&["-b", &cookie, "https://10.77.0.1/"]);
    assert!(
        seen.contains("serial SYNTH-&lt;7&gt;") && seen.contains("1 waits for you"),
        "{seen}"
    );
    let form = between(&seen, "name=\"form\" value=\"", "\"").to_owned();
    let code = between(&seen, "name=\"code\" value=\"", "\"").to_owned();
    let post = |form: &str, code: &str, more: &[&str]| {
        let (form, code) = (format!("form={form}"), format!("code={code}"));
        let arguments = ["-b", &cookie, "-d", &form, "-d", &code, &approve];
        page.curl(&[more, &arguments[..]].concat())
    };
    assert!(
        post("0", &code, &[]).starts_with("HTTP/1.1 403"),
        "another page's form"
    );
    assert!(post(&form, &code, &["-H", "Sec-Fetch-Site: cross-site"]).starts_with("HTTP/1.1 403"));
    assert!(post(&form, "AAAA-AAAA", &[]).starts_with("HTTP/1.1 303"));
    let told = page.curl(&["-b", &cookie, "https://10.77.0.1/"]);
    assert!(
        told.contains("waits with another code than AAAA-AAAA") && told.contains("1 waits for you")
    );
    assert!(post(&form, &code, &[]).starts_with("HTTP/1.1 303"));
    let told = page.curl(&["-b", &cookie, "https://10.77.0.1/"]);
    assert!(
        told.contains(&format!("{id} is ")) && told.contains("None waits for you"),
        "{told}"
    );
    let journal = succeeded("journal", &page.site.groundcrew(&["journal", "show"]));
    assert!(
        journal.contains("approved by desk (status page)"),
        "{journal}"
    );

    let found = page.curl(&[
        "-b",
        &cookie,
        "https://10.77.0.1/?q=no-such&phase=lost&page=x",
    ]);
    assert!(found.contains("No device fits"), "{found}");
    succeeded(
        "new code",
        &page.site.groundcrew(&["page", "code", "--new"]),
    );
    let out = page.curl(&["-b", &cookie, "https://10.77.0.1/"]);
    assert!(out.contains("Set-up code"), "a new code lets everybody out");
}

#[test]
fn a_browser_hears_of_changes_and_a_stop_waits_for_no_watcher() {
    let mut page = Page::new();
    let cookie = page.log_in();
    let mut curl = page.net.in_client("curl");
    curl.args(["-s", "-k", "-N", "-b", &cookie, "https://10.77.0.1/events"]);
    let mut watcher = curl.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(watcher.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let mut next = || lines.by_ref().find(|line| line.starts_with("event:"));
    assert_eq!(
        next().as_deref(),
        Some("event: change"),
        "at once: the page may be old"
    );
    Machine::new("SYNTH-8", "Model One", 8).ask(&page.net);
    assert_eq!(next().as_deref(), Some("event: change"));
    page.appliance.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(next(), None);
    assert!(
        watcher.wait().unwrap().success(),
        "the answer ended in order"
    );
    assert_eq!(page.appliance.end().0, Some(0));
}

#[test]
#[ignore = "needs Chromium: run `scripts/test --full`"]
fn chromium_shows_it_live_and_without_scripts() {
    let page = Page::new();
    page.site.publish_welcome();
    let shots = std::env::var("GROUNDCREW_SHOTS")
        .map_or_else(|_| page.site.folder.path().join("shots"), Into::into);
    std::fs::create_dir_all(&shots).unwrap();
    let shots = shots.to_str().unwrap();
    let mut empty = page.net.in_client("python3");
    empty.args(["-B", "tests/page_browser.py", &page.code(), shots]);
    succeeded("an empty site", &empty.output().unwrap());
    let csv = page.site.folder.path().join("devices.csv");
    let rows: String = (1..=9)
        .map(|n| format!("SYNTH-010{n},,,Example Corp,Model Two\n"))
        .collect();
    std::fs::write(&csv, format!("Device Serial Number,Windows Product ID,Hardware Hash,Manufacturer name,Device model\n{rows}")).unwrap();
    succeeded(
        "import",
        &page
            .site
            .groundcrew(&["device", "import", csv.to_str().unwrap()]),
    );
    let net = &page.net;
    let known = |last: u8| Machine::new(&format!("SYNTH-010{last}"), "Model Two", 100 + last);
    let granted: Vec<_> = (1..=4)
        .map(|last| (known(last), known(last).ask(net)))
        .collect();
    assert!(
        granted
            .iter()
            .all(|(_, a)| matches!(a.decision, Decision::Granted { .. })),
        "{:?}",
        granted[0].1.decision
    );
    granted[0]
        .0
        .progress(net, &granted[0].1, 4, "write /etc/hostname");
    granted[1]
        .0
        .finish(net, &granted[1].1, ReceiptResult::Provisioned);
    let reason = "step branding: no space left on /dev/sda2".to_owned();
    granted[2]
        .0
        .finish(net, &granted[2].1, ReceiptResult::Failed { reason });
    succeeded(
        "hold",
        &page.site.groundcrew(&[
            "device",
            "hold",
            granted[3].1.device.as_str(),
            "--reason",
            "display is broken",
        ]),
    );
    let waiting = Machine::new("SYNTH-0007", "Model One", 7).ask(net).device;
    let second = Machine::new(
        "SYNTH-0008",
        "Model One <script>alert(1)</script> with a name much too long for any screen",
        8,
    );
    second.ask(net);

    let mut browser = net
        .in_client("python3")
        .args([
            "-B",
            "tests/page_browser.py",
            &page.code(),
            waiting.as_str(),
            granted[2].1.device.as_str(),
            shots,
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut input, output) = (
        browser.stdin.take().unwrap(),
        browser.stdout.take().unwrap(),
    );
    let mut asked = 0u8;
    for line in BufReader::new(output).lines().map_while(Result::ok) {
        println!("{line}");
        if line == "ask" {
            asked += 1;
            let serial = format!("SYNTH-LIVE-{asked}");
            let device = Machine::new(&serial, "Model One", 200 + asked)
                .ask(net)
                .device;
            std::io::Write::write_all(&mut input, format!("{device}\n").as_bytes()).unwrap();
        }
    }
    assert!(browser.wait().unwrap().success());
    let journal = succeeded("journal", &page.site.groundcrew(&["journal", "show"]));
    assert!(
        journal.contains(&format!("{waiting}  approved by front desk (status page)")),
        "{journal}"
    );
    assert!(
        journal.contains("rejected by front desk (status page): not ours"),
        "{journal}"
    );
}
