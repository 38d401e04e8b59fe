//! Boot order: what goes before the registry's word.

use groundcrew_netboot::story::{Cause, State};

use crate::common::succeeded;
use crate::device::{Device, Firmware, get};
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
