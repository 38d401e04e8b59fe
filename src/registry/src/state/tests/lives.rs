//! Devices from their first request to their last.

use super::*;

#[test]
fn a_registered_device_is_let_in_provisioned_and_left_alone() {
    let mut site = Site::new();
    let device = site.register(1);
    assert_eq!(
        site.boot(1),
        BootState::Provision {
            device: device.clone()
        }
    );
    assert_eq!(site.ask(report(1), 11), (Some(device.clone()), ADMIT));
    assert_eq!(site.registry.ungranted().count(), 1);
    let grant = site.grant(&device);
    assert_eq!(site.registry.ungranted().count(), 0);
    // It did not hear the answer.
    let lines = site.lines.len();
    let again = site.ask(report(1), 11);
    assert_eq!(again, (Some(device.clone()), Answer::Granted { grant }));
    let done = ReceiptResult::Provisioned;
    assert_eq!(
        site.receipt(&device, 12, grant, done.clone()),
        Err(ReceiptError::Key(device.clone()))
    );
    assert_eq!(
        site.receipt(&device, 11, Digest::of(b"?"), done.clone()),
        Err(ReceiptError::Grant(device.clone()))
    );
    assert_eq!(site.receipt(&device, 11, grant, done.clone()), Ok(true));
    assert_eq!(site.receipt(&device, 11, grant, done), Ok(false));
    assert_eq!(site.lines.len(), lines + 1);
    let BootState::OwnDisk { bundle: told, .. } = site.boot(1) else {
        panic!("{:?}", site.boot(1));
    };
    assert_eq!(told, bundle());
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_failed_device_waits_for_a_technician() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let grant = site.grant(&device);
    let reason = "the bundle's signature does not match".to_owned();
    let failed = ReceiptResult::Failed {
        reason: reason.clone(),
    };
    assert_eq!(site.receipt(&device, 11, grant, failed), Ok(true));
    let BootState::Failed { reason: told, .. } = site.boot(1) else {
        panic!("{:?}", site.boot(1));
    };
    assert_eq!(told, reason);
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.ask(report(1), 12).1, ADMIT);
}

#[test]
fn a_rejected_device_stays_rejected_until_somebody_says_otherwise() {
    let mut site = Site::new();
    let (device, _) = site.ask(report(1), 11);
    let device = device.unwrap();
    let change = site.registry.reject(&device, "not ours", "tech").unwrap();
    site.record(vec![change]);
    let (again, answer) = site.ask(report(1), 12);
    assert_eq!(again.as_ref(), Some(&device));
    assert!(matches!(answer, Answer::Reject { ref reason } if reason.contains("not ours")));
    assert!(matches!(site.boot(1), BootState::Rejected { .. }));
    let change = site.registry.reprovision(&device, "tech").unwrap();
    site.record(vec![change]);
    let (again, answer) = site.ask(report(1), 13);
    assert_eq!(again.as_ref(), Some(&device));
    assert!(waits(&answer, &Cause::Unknown));
    assert_eq!(site.restarted(), site.registry);
}

#[test]
fn a_retired_machine_is_a_stranger() {
    let mut site = Site::new();
    let device = site.register(1);
    let change = site.registry.retire(&device, "sold", "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.boot(1), BootState::Unknown);
    let (other, answer) = site.ask(report(1), 11);
    assert_ne!(other, Some(device.clone()));
    assert!(waits(&answer, &Cause::Unknown));
    assert!(site.registry.reprovision(&device, "tech").is_err());
}

#[test]
fn a_device_in_service_is_retired_before_it_is_forgotten() {
    let mut site = Site::new();
    let device = site.register(1);
    site.ask(report(1), 11);
    let error = site.registry.forget(&device, "tech").unwrap_err();
    assert!(error.to_string().contains("retire it first"), "{error}");
    let change = site.registry.retire(&device, "sold", "tech").unwrap();
    site.record(vec![change]);
    let lines = site.lines.len();
    let change = site.registry.forget(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.registry.device(&device), None);
    assert_eq!(site.lines.len(), lines + 1, "the journal only grows");
    assert_eq!(site.restarted(), site.registry);
    assert_eq!(site.boot(1), BootState::Unknown);
}
