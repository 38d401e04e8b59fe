//! Held devices: by a technician, or after the same failure again and again.

use super::*;

fn fails(site: &mut Site, device: &DeviceId, reason: &str) {
    let grant = site.grant(device);
    let reason = reason.to_owned();
    let result = ReceiptResult::Failed { reason };
    assert_eq!(site.receipt(device, 11, grant, result), Ok(true));
}

fn again(site: &mut Site, device: &DeviceId) {
    let change = site.registry.reprovision(device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.ask(report(1), 11), (Some(device.clone()), ADMIT));
}

fn released(site: &mut Site, device: &DeviceId) {
    let change = site.registry.release_held(device, "tech").unwrap();
    site.record(vec![change]);
}

#[test]
fn three_same_failures_hold_a_device_until_it_is_released() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    for reason in [
        "disk full",
        "disk full",
        "no bundle",
        "disk full",
        "disk full",
    ] {
        fails(&mut site, &device, reason);
        assert_eq!(site.phase(&device), "failed", "{reason}");
        again(&mut site, &device);
    }
    fails(&mut site, &device, "disk full");
    assert_eq!(site.phase(&device), "held");
    let BootState::Held { reason, .. } = site.boot(1) else {
        panic!("{:?}", site.boot(1))
    };
    assert_eq!(reason, "failed 3 times in a row: disk full");
    let error = site.registry.reprovision(&device, "tech").unwrap_err();
    assert!(error.to_string().contains("release it first"), "{error}");
    let before = site.lines.len();
    let (_, answer) = site.ask(report(1), 11);
    assert!(matches!(answer, Answer::Reject { reason } if reason.contains("disk full")));
    assert_eq!(site.lines.len(), before, "a held device writes nothing");

    released(&mut site, &device);
    assert_eq!(site.phase(&device), "failed");
    again(&mut site, &device);
    fails(&mut site, &device, "disk full");
    assert_eq!(site.phase(&device), "failed", "the count starts anew");
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_device_held_at_work_still_tells_what_came_of_it() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let grant = site.grant(&device);
    let hold = |site: &Site| site.registry.hold(&device, "wait", Actor::Site);
    let change = hold(&site).unwrap();
    site.record(vec![change]);
    assert_eq!(site.phase(&device), "held");
    assert!(hold(&site).is_err(), "once is enough");
    let done = ReceiptResult::Provisioned;
    assert_eq!(site.receipt(&device, 11, grant, done), Ok(true));
    assert_eq!(site.phase(&device), "held");
    released(&mut site, &device);
    assert_eq!(site.phase(&device), "provisioned");
    assert!(matches!(site.boot(1), BootState::OwnDisk { .. }));
    assert!(site.registry.release_held(&device, "tech").is_err());
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_held_stranger_asks_anew_after_its_release() {
    let mut site = Site::with(Limits { waiting: 1 });
    let (device, _) = site.ask(report(1), 11);
    let device = device.unwrap();
    let change = site.registry.hold(&device, "whose?", Actor::Site).unwrap();
    site.record(vec![change]);
    assert_eq!(site.registry.lobby().count(), 0);
    released(&mut site, &device);
    // Nothing waits, so nothing can be withdrawn for the next stranger.
    site.ask(report(2), 12);
    site.ask(report(3), 13);
    assert_eq!(site.registry.lobby().count(), 1);
    let (same, answer) = site.ask(report(1), 11);
    assert_eq!(same, Some(device));
    assert!(waits(&answer, &Cause::Unknown));
    assert_eq!(site.restarted(), site.registry);
}
