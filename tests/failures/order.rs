//! Boot order: what goes before the registry's word.

use groundcrew_netboot::story::{Cause, State};

use crate::common::succeeded;
use crate::device::{Device, Firmware, Tftp, get};
use crate::stage::Stage;

#[test]
fn the_third_failure_of_one_kind_holds_a_device_until_it_is_released() {
    let stage = Stage::authoritative();
    let net = &stage.switched.net;
    let mut device = Device::new(1, Firmware::Ipxe);
    let mut boot = |fails: bool| {
        let ip = device.lease(net);
        let text = device.ask_text(net, ip, "SYNTH-77");
        if fails {
            // No kernel was ever built here.
            get(net, ip, "/boot/vmlinuz", usize::MAX);
        }
        device = device.again();
        text
    };
    for round in 1..=3 {
        assert!(boot(true).contains("kernel http"), "round {round}");
    }
    let held = boot(false);
    assert!(held.contains("failed the same way 3 times"), "{held}");
    assert!(held.contains(Cause::BootImageMissing.short()), "{held}");
    assert!(held.contains("boot release 02:00:5e:00:00:01"), "{held}");
    assert!(
        !held.contains("kernel http") && held.contains("local.efi"),
        "{held}"
    );
    let told = stage.says("fails the same way three times", "SYNTH-77", Cause::Held);
    assert_eq!((told.state, told.past.len()), (State::Held, 3));
    assert!(boot(false).contains("failed the same way"), "still");

    let said = succeeded(
        "boot release",
        &stage.site.groundcrew(&["boot", "release", "SYNTH-77"]),
    );
    assert!(said.contains("is released"), "{said}");
    assert!(boot(true).contains("kernel http"), "released");
    let again = stage.site.groundcrew(&["boot", "release", "SYNTH-77"]);
    assert!(succeeded("again", &again).contains("is not held"));
}

#[test]
fn a_site_may_want_a_menu() {
    let stage = Stage::with("mode = \"authoritative\"\nconflict_probe = false", |site| {
        site.edit_settings("[boot]", "[boot]\nmenu = true");
    });
    let net = &stage.switched.net;
    let device = Device::new(1, Firmware::Ipxe);
    let ip = device.lease(net);
    let text = device.ask_text(net, ip, "SYNTH-79");
    assert!(
        text.contains("choose --default agent --timeout 8000"),
        "{text}"
    );
    let told = stage.says(
        "something was chosen at its menu",
        "SYNTH-79",
        Cause::ByHand,
    );
    assert_eq!(told.state, State::ByHand);
    assert!(
        told.lines
            .iter()
            .any(|line| line.text.contains("shown a menu"))
    );
}

#[test]
fn an_order_for_one_boot_is_used_up_and_outlives_a_restart() {
    let mut stage = Stage::authoritative();
    let device = Device::new(1, Firmware::Ipxe);
    let name = device.name();
    let ip = device.lease(&stage.switched.net);
    let once = |stage: &Stage, what: &str| stage.site.groundcrew(&["boot", "once", &name, what]);
    let said = succeeded("boot once", &once(&stage, "menu"));
    assert!(
        said.contains("gets `menu` at its next start, once"),
        "{said}"
    );
    let refused = once(&stage, "memtest");
    let why = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(
        !refused.status.success() && why.contains("memtest86+"),
        "{why}"
    );

    stage.appliance.signal(nix::sys::signal::Signal::SIGTERM);
    assert_eq!(stage.appliance.end().0, Some(0));
    stage.appliance = crate::common::Appliance::start(&stage.switched.net, &stage.site.dir());
    let net = &stage.switched.net;
    let ask = || device.ask_text(net, ip, "SYNTH-78");
    let menu = ask();
    assert!(
        menu.contains("choose --default agent --timeout 60000"),
        "{menu}"
    );
    assert!(!menu.contains("memtest"), "{menu}");
    assert!(!ask().contains("choose"), "used up");
    for (what, holds) in [("shell", "\nshell\n"), ("disk", "ordered it for this once")] {
        succeeded(what, &once(&stage, what));
        let text = ask();
        assert!(text.contains(holds), "{what}: {text}");
        assert!(ask().contains("kernel http"));
    }
    std::fs::write(stage.site.dir().join("boot/memtest.efi"), "x").unwrap();
    succeeded("memtest", &once(&stage, "memtest"));
    assert!(ask().contains("chain http://10.77.0.1/boot/memtest.efi"));
    succeeded("disk", &once(&stage, "disk"));
    succeeded(
        "clear",
        &stage.site.groundcrew(&["boot", "once", &name, "--clear"]),
    );
    assert!(ask().contains("kernel http"));

    // What was told before the restart is still told.
    let story = stage.story(&name);
    let orders = story
        .diagnosis
        .lines
        .iter()
        .filter(|l| l.text.contains("told for once"));
    assert_eq!(orders.count(), 4, "{:?}", story.diagnosis.lines);
    assert!(
        story.diagnosis.lines[0]
            .text
            .contains("asked for an address")
    );
}

const ALONE: &str = "mode = \"authoritative\"\nconflict_probe = false";

fn site_of(boot: &str) -> Stage {
    let boot = format!("[boot]\n{boot}");
    Stage::with(ALONE, |site| site.edit_settings("[boot]", &boot))
}

fn refused(stage: &Stage, name: &str, what: &str) -> String {
    let output = stage.site.groundcrew(&["boot", "once", name, what]);
    assert!(!output.status.success(), "{what}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_order_reaches_grub_and_is_used_up_by_whoever_took_it() {
    let stage = site_of("uefi = \"shim\"");
    let net = &stage.switched.net;
    let device = Device::new(1, Firmware::Uefi);
    let name = device.name();
    let once = |what: &str| {
        let output = stage.site.groundcrew(&["boot", "once", &name, what]);
        succeeded(what, &output)
    };
    let ip = device.lease(net);
    once("menu");
    // A size probe, and a request that somebody forged.
    let file = device.text_name("grub/grub.cfg-");
    device.tftp(net, ip, &file, Tftp::RefuseOptions);
    device.tftp(net, ip, &file, Tftp::AskOnly);
    let read = |device: &Device, ip| device.boot_text(net, ip, "grub/grub.cfg-");
    for time in ["looks whether it is there", "reads it"] {
        let text = read(&device, ip);
        assert!(text.contains("set timeout=60\nmenuentry 'Prov"), "{time}");
    }
    let device = device.again();
    let ip = device.lease(net);
    let text = read(&device, ip);
    assert!(!text.contains("menuentry") && text.contains("linux '"));
    once("disk");
    let text = read(&device, ip);
    assert!(text.contains("ordered it for this once"), "{text}");
    let told = stage.story(&name).diagnosis;
    let once = told.lines.iter().filter(|l| l.text.contains("for once"));
    assert!(once.count() >= 1, "{:?}", told.lines);

    let why = refused(&stage, &name, "shell");
    assert!(why.contains("shim and GRUB"), "{why}");
    assert!(why.contains("works with it: menu, agent, disk"), "{why}");
}

#[test]
fn an_order_reaches_pxelinux_and_the_site_may_want_a_menu() {
    let stage = site_of("bios = \"pxelinux\"\nmenu = true");
    let net = &stage.switched.net;
    let device = Device::new(1, Firmware::Bios);
    let ip = device.lease(net);
    let read = |device: &Device, ip| device.boot_text(net, ip, "pxelinux.cfg/");
    let text = read(&device, ip);
    assert!(
        text.starts_with("DEFAULT agent\nPROMPT 1\nTIMEOUT 80\n"),
        "{text}"
    );
    let output = stage
        .site
        .groundcrew(&["boot", "once", &device.name(), "disk"]);
    succeeded("disk", &output);
    let text = read(&device, ip);
    assert!(text.contains("ordered it for this once"), "{text}");
    assert!(text.ends_with("  LOCALBOOT 0\n"), "{text}");
    let device = device.again();
    let ip = device.lease(net);
    assert!(read(&device, ip).contains("PROMPT 1"), "used up");
    let why = refused(&stage, &device.name(), "memtest");
    assert!(why.contains("pxelinux") && why.contains("disk"), "{why}");
}

#[test]
fn a_signed_image_is_held_until_it_is_released() {
    let stage = site_of("uefi = \"uki\"");
    stage.boot_file("groundcrew.efi", 1000);
    stage.boot_file("local.efi", 1000);
    let net = &stage.switched.net;
    // The network never hears its serial number, which the registry knows.
    let known = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/fixtures/hardware/info.utf16be.csv"
    );
    succeeded(
        "import",
        &stage.site.groundcrew(&["device", "import", known]),
    );
    let serial = "SYNTH-0010";
    let mut device = Device::new(1, Firmware::Uefi);
    device.uuid = ring::digest::digest(&ring::digest::SHA256, b"groundcrew synthetic 10").as_ref()
        [..16]
        .try_into()
        .unwrap();
    let name = device.name();
    let mut boot = |file: &str| {
        let ip = device.lease(net);
        device.tftp(net, ip, file, Tftp::Whole);
        // The next start begins once the appliance has seen the end of this one.
        let has = format!("has {file}");
        let seen = |l: &groundcrew_netboot::story::Line| l.text.starts_with(&has);
        let mut tries = (0..100).map(|_| stage.story(&name).diagnosis.lines);
        assert!(tries.any(|lines| lines.last().is_some_and(seen)), "{file}");
        device = device.again();
    };
    for _ in 0..3 {
        boot("groundcrew.efi");
    }
    // An image of an earlier version has no held.efi.
    for file in ["local.efi", "held.efi", "held.efi"] {
        boot(file);
        let told = stage.says("held on a site with its own image", &name, Cause::Held);
        assert_eq!(told.state, State::Held);
        let held = told.lines.iter().filter(|l| l.text.contains("HELD"));
        assert_eq!(held.count(), 1, "once for each start: {:?}", told.lines);
        let named = format!("boot file {file}");
        let file = |l: &groundcrew_netboot::story::Line| l.text.ends_with(&named);
        assert!(told.lines.iter().any(file), "{:?}", told.lines);
        stage.boot_file("held.efi", 1000);
    }
    let why = refused(&stage, serial, "menu");
    assert!(
        why.contains("signed image") && why.trim_end().ends_with("agent, disk"),
        "{why}"
    );
    let explained = stage.site.groundcrew(&["boot", "explain", serial]).stdout;
    let explained = String::from_utf8(explained).unwrap();
    assert!(explained.contains(&name), "{explained}");

    let release = |words: &[&str]| {
        let output = stage
            .site
            .groundcrew(&[&["boot", "release"][..], words].concat());
        succeeded("boot release", &output)
    };
    let released = release(&["--all", "--json"]);
    let released: serde_json::Value = serde_json::from_str(&released).unwrap();
    assert_eq!(released["released"].as_array().unwrap().len(), 1);
    assert!(release(&["--all"]).contains("no device is held"));
    boot("groundcrew.efi");
    let told = stage.ended(&name);
    assert_ne!(told.cause, Some(Cause::Held), "{:?}", told.lines);
}

#[test]
fn dhcp_carries_out_an_order_where_a_signed_image_asks_nobody() {
    let stage = site_of("uefi = \"uki\"");
    let net = &stage.switched.net;
    let mut device = Device::new(1, Firmware::Uefi);
    let name = device.name();
    let mut given = |file: &str| {
        device.lease(net);
        let lines = stage.story(&name).diagnosis.lines;
        let named = format!("boot file {file}");
        assert!(
            lines.iter().any(|line| line.text.ends_with(&named)),
            "{file}: {lines:?}"
        );
        device = device.again();
        lines
    };
    given("groundcrew.efi");
    let once = stage.site.groundcrew(&["boot", "once", &name, "disk"]);
    assert!(succeeded("boot once", &once).contains("gets `disk` at its next start, once"));
    let lines = given("local.efi");
    let told =
        |line: &&groundcrew_netboot::story::Line| line.text.contains("told for once: own disk");
    assert_eq!(lines.iter().filter(told).count(), 1, "{lines:?}");
    given("groundcrew.efi");
}
