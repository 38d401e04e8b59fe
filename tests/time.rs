//! The time at a site: what clients that others wrote get by SNTP, and what an
//! appliance says whose clock is wrong or that saw no HQ for long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]

mod common;

use std::process::{Command, Output};

use common::{Appliance, GROUNDCREW, Net, TestSite, at_clock, succeeded};

const DAY: f64 = 86_400.0;

/// Debian's ntpdig (ntpsec), as a device behind the switch runs it; it sets nothing.
fn ntpdig(net: &Net) -> Output {
    let mut client = net.in_client("ntpdig");
    client
        .args(["-j", "-t", "2", "10.77.0.1"])
        .output()
        .unwrap()
}

/// The client's distance from the server, in seconds.
fn offset(net: &Net) -> f64 {
    let text = succeeded("ntpdig", &ntpdig(net));
    assert!(text.contains("\"stratum\":10"), "{text}");
    let at = text.split("\"offset\":").nth(1).unwrap();
    at.split(',').next().unwrap().trim().parse().unwrap()
}

fn at(clock: &str, site: &TestSite, arguments: &[&str]) -> (bool, String) {
    let output = Command::new(GROUNDCREW)
        .args(arguments)
        .arg("--site")
        .arg(site.dir())
        .envs(at_clock(clock))
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_stock_client_gets_the_time_from_the_site_s_interface_only() {
    let (net, site) = (Net::new(), TestSite::new());
    net.address_client();
    let appliance = Appliance::start(&net, &site.dir());
    assert!(offset(&net).abs() < 1.0);
    let elsewhere = net
        .in_server("ntpdig")
        .args(["-t", "1", "127.0.0.1"])
        .output()
        .unwrap();
    assert!(
        !elsewhere.status.success(),
        "it answers on other interfaces"
    );
    drop(appliance);
    // A clock ahead is believed as long as HQ vouches, and passed on as it is.
    let mut ahead = Appliance::spawn_at(&net, &site.dir(), "+300d");
    ahead.wait_for("ready: ");
    let ahead = offset(&net) / DAY;
    assert!((299.9..300.1).contains(&ahead), "{ahead}");
}

#[test]
fn an_appliance_with_a_wrong_clock_tells_no_time_and_says_what_to_do() {
    let (net, site) = (Net::new(), TestSite::new());
    net.address_client();
    for (clock, why) in [
        ("@1970-01-02 00:00:00", "before 20"),
        ("@2039-03-01 00:00:00", "HQ's signatures ended"),
        ("-3h", "this site signed its metadata"),
    ] {
        let mut appliance = Appliance::spawn_at(&net, &site.dir(), clock);
        appliance.wait_for("ready: ");
        let told = appliance.wait_for("the clock stands at");
        assert!(
            told.contains(why) && told.contains("groundcrew clock set"),
            "{told}"
        );
        let output = ntpdig(&net);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(!said.contains("offset"), "{clock}: {said}");
        appliance.wait_for("SNTP answered");
        let (good, shown) = at(clock, &site, &["clock", "show"]);
        assert!(!good && shown.contains("NOT believed"), "{shown}");
        let (good, checked) = at(clock, &site, &["check", "--quiet-wire"]);
        assert!(!good && checked.contains("MEND   clock"), "{checked}");
    }
}

#[test]
fn who_may_not_set_the_clock_is_told_and_nothing_is_decided() {
    let site = TestSite::new();
    let output = Command::new("setpriv")
        .args(["--bounding-set", "-sys_time", GROUNDCREW, "clock", "set"])
        .args(["2026-12-24 10:00", "--site"])
        .arg(site.dir())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && said.contains("run this as root"),
        "{said}"
    );
    assert!(!site.dir().join("clock.json").exists());
}

#[test]
fn a_year_without_hq_is_loud_before_it_is_spent() {
    let (net, site) = (Net::new(), TestSite::new());
    site.edit_settings("# stale_after = \"365d\"", "stale_after = \"365d\"");
    let (good, status) = at("+10d", &site, &["trust", "status"]);
    assert!(good && status.contains("ok   budget"), "{status}");

    let (good, status) = at("+320d", &site, &["trust", "status"]);
    assert!(good && status.contains("look budget"), "{status}");
    let (_, checked) = at("+320d", &site, &["check", "--quiet-wire"]);
    assert!(
        checked.contains("look   trust metadata: the budget"),
        "{checked}"
    );
    let mut appliance = Appliance::spawn_at(&net, &site.dir(), "+320d");
    let told = appliance.wait_for("HQ is missed");
    assert!(
        told.contains("budget") && told.contains("hq renew"),
        "{told}"
    );
    drop(appliance);

    let (good, status) = at("+370d", &site, &["trust", "status"]);
    assert!(!good && status.contains("MEND budget"), "{status}");
    // HQ signs anew, and the year begins again.
    let hq = site.hq();
    let hq = hq.to_str().unwrap();
    let courier = site.folder.path().join("courier");
    let courier = courier.to_str().unwrap();
    for arguments in [
        &["hq", "renew", "--hq", hq][..],
        &["trust", "export", courier, "--hq", hq, "--name", "hq"],
    ] {
        let output = Command::new(GROUNDCREW)
            .args(arguments)
            .envs(at_clock("+370d"))
            .output()
            .unwrap();
        succeeded("at HQ", &output);
    }
    let (good, told) = at("+370d", &site, &["trust", "import", courier]);
    assert!(good, "{told}");
    let (good, status) = at("+371d", &site, &["trust", "status"]);
    assert!(good && status.contains("ok   budget"), "{status}");
    // The same file once more is no news, and buys no time.
    let (good, told) = at("+700d", &site, &["trust", "import", courier]);
    assert!(good, "{told}");
    let (good, status) = at("+740d", &site, &["trust", "status"]);
    assert!(!good && status.contains("MEND budget"), "{status}");
}
