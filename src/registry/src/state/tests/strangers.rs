//! Machines that nobody registered, and keys that nobody let in.

use super::*;

#[test]
fn strangers_write_no_journal_until_somebody_decides() {
    let mut site = Site::new();
    let (device, _) = site.ask(report(1), 11);
    let device = device.unwrap();
    for key in 12..60 {
        site.ask(report(1), key);
        site.ask(report(key), key);
    }
    assert_eq!(site.lines.len(), 0);
    assert_eq!(site.registry.lobby().count(), site.waiting.len());
    assert_eq!(site.restarted(), site.registry);
    let code = site.registry.device(&device).unwrap();
    let code = code.pending.as_ref().unwrap().code;
    let change = site.registry.approve(&device, code, "tech").unwrap();
    site.record(vec![change]);
    let names: Vec<String> = site
        .lines
        .iter()
        .map(|line| Entry::read(line).unwrap().event().name().to_owned())
        .collect();
    assert_eq!(names, ["requested", "approved"]);
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn an_unknown_device_waits_for_its_code() {
    let mut site = Site::new();
    let (device, answer) = site.ask(report(1), 11);
    let device = device.unwrap();
    let Answer::Wait { code, .. } = answer else {
        panic!("{answer:?}");
    };
    assert!(waits(&answer, &Cause::Unknown));
    // A restart brings a new key and a new code, and keeps the name.
    let (same, newer) = site.ask(report(1), 12);
    assert_eq!(same.as_ref(), Some(&device));
    let Answer::Wait { code: new, .. } = newer else {
        panic!("{newer:?}");
    };
    assert_ne!(new, code);
    assert!(matches!(
        site.registry.approve(&device, code, "tech"),
        Err(ApproveError::WrongCode { .. })
    ));
    let change = site.registry.approve(&device, new, "tech").unwrap();
    assert_eq!(change.actor, Actor::Technician("tech".into()));
    site.record(vec![change]);
    let (first, second) = (request(report(1), 11).0, request(report(1), 12).0);
    let answer = |r: &Request| site.registry.answer(&device, &r.sign_key, &r.nonce);
    assert!(matches!(answer(&first), Answer::Reject { .. }));
    let assurance = Assurance::Approved;
    assert_eq!(answer(&second), Answer::Admit { assurance });
    assert!(matches!(
        site.registry.approve(&device, new, "tech"),
        Err(ApproveError::NothingWaiting {
            phase: "approved",
            ..
        })
    ));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_second_key_is_held_and_disturbs_nobody() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let grant = site.grant(&device);
    let (held, answer) = site.ask(report(1), 12);
    assert_eq!(held.as_ref(), Some(&device));
    assert!(waits(&answer, &Cause::SecondKey));
    assert_eq!(site.phase(&device), "provisioning");
    let done = ReceiptResult::Provisioned;
    assert_eq!(site.receipt(&device, 11, grant, done), Ok(true));
    assert!(matches!(site.boot(1), BootState::OwnDisk { .. }));
    // Refusing the claim leaves the device as it is.
    let change = site.registry.reject(&device, "not mine", "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.phase(&device), "provisioned");
    // The very device, which nobody asked for again.
    let (_, answer) = site.ask(report(1), 11);
    assert!(waits(&answer, &Cause::AlreadyProvisioned));
    // Asked for, the next key is let in, and only that one.
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    assert!(matches!(site.boot(1), BootState::Provision { .. }));
    assert_eq!(site.ask(report(1), 13).1, ADMIT);
    assert!(waits(&site.ask(report(1), 14).1, &Cause::SecondKey));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn strangers_are_counted_and_the_oldest_makes_room() {
    let mut site = Site::with(Limits { waiting: 3 });
    let first = site.ask(report(1), 1).0.unwrap();
    let second = site.ask(report(2), 2).0.unwrap();
    site.ask(report(3), 3);
    site.ask(report(1), 11); // asks again: no longer the oldest
    site.ask(report(4), 4);
    assert_eq!(site.phase(&second), "none");
    assert_eq!(site.phase(&first), "waiting");
    assert_eq!(site.registry.lobby().count(), 3);
    let old = request(report(2), 2).0;
    let answer = site.registry.answer(&second, &old.sign_key, &old.nonce);
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("withdrawn")));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_waiting_stranger_is_let_in_by_an_import() {
    let mut site = Site::new();
    let device = site.ask(report(1), 11).0.unwrap();
    let csv =
        b"Device Serial Number,Manufacturer name,Device model\nSYNTH-0001,Example Corp,Model One\n";
    let mut entropy = || [1; 5];
    let plan = crate::import::plan(
        &site.registry,
        csv.as_slice(),
        "late.csv",
        &mut entropy,
        &mut |_| {},
    );
    let plan = plan.unwrap();
    let let_in = crate::import::Outcome::LetIn {
        device: device.clone(),
    };
    assert_eq!(plan.verdicts[0].outcome, let_in);
    site.record(plan.changes);
    assert_eq!(site.phase(&device), "approved");
    assert_eq!(site.restarted(), site.registry);
}
