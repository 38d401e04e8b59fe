//! Devices whose hardware changed, or says little.

use super::*;

#[test]
fn a_new_board_waits_and_keeps_the_name() {
    let mut site = Site::new();
    let device = site.register(1);
    let mut board = report(1);
    board.smbios.uuid = report(7).smbios.uuid;
    let (asked, answer) = site.ask(board.clone(), 11);
    assert_eq!(asked.as_ref(), Some(&device));
    let Answer::Wait { code, ref reason } = answer else {
        panic!("{answer:?}");
    };
    assert!(reason.contains("changed"), "{reason}");
    let change = site.registry.approve(&device, code, "tech").unwrap();
    site.record(vec![change]);
    let identity = &site.registry.device(&device).unwrap().identity;
    assert_eq!(identity.uuid, board.smbios.uuid);
    assert_eq!(site.boot(1), BootState::Unknown, "the old board is gone");
}

#[test]
fn the_boot_goes_by_what_is_known_and_not_by_junk() {
    let mut site = Site::new();
    let device = site.register(1);
    let s = report(1).smbios;
    let look = |serial: Option<&str>, uuid, mac| site.registry.lookup_boot(serial, uuid, mac);
    let known = BootState::Provision { device };
    let serial = s.serial.as_deref();
    assert_eq!(look(serial, s.uuid, None), known);
    assert_eq!(look(serial, None, Some(MacAddr([2, 9, 9, 9, 9, 9]))), known);
    assert_eq!(look(Some("None"), s.uuid, None), known);
    assert_eq!(look(None, None, Some(MacAddr([2, 0, 0, 0, 0, 1]))), known);
    assert_eq!(
        look(serial, report(2).smbios.uuid, None),
        BootState::Unknown
    );
    assert_eq!(look(Some("OTHER-1"), s.uuid, None), BootState::Unknown);
    assert_eq!(look(Some("None"), None, None), BootState::Unknown);
    // A stranger with the same serial number changes nothing.
    let mut copy = report(1);
    copy.smbios.uuid = None;
    copy.smbios.manufacturer = Some("Other".into());
    copy.nics.clear();
    site.ask(copy, 50);
    assert_eq!(site.registry.lookup_boot(serial, s.uuid, None), known);
}

#[test]
fn changed_hardware_is_accepted_with_one_command_and_nothing_else_is() {
    let mut site = Site::new();
    let device = site.register(1);
    assert!(matches!(
        site.registry.accept(&device, "tech"),
        Err(ApproveError::NothingWaiting { .. })
    ));
    let mut board = report(1);
    board.smbios.uuid = report(7).smbios.uuid;
    site.ask(board.clone(), 11);
    let explained = site.registry.explain_device(&device).unwrap();
    assert!(
        explained.verdict.to_string().contains("changed hardware"),
        "{}",
        explained.verdict
    );
    let change = site.registry.accept(&device, "tech").unwrap();
    site.record(vec![change]);
    assert_eq!(site.phase(&device), "approved");
    assert_eq!(
        site.registry
            .device(&device)
            .unwrap()
            .admitted
            .as_ref()
            .unwrap()
            .assurance,
        Assurance::Claimed
    );
    // A second key is never accepted without its code.
    let (_, answer) = site.ask(board, 12);
    assert!(waits(&answer, &Cause::SecondKey));
    assert!(matches!(
        site.registry.accept(&device, "tech"),
        Err(ApproveError::NotChanged { .. })
    ));
    assert_eq!(site.restarted(), site.registry);
}
