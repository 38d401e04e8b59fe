use super::*;
use groundcrew_core::Digest;
use groundcrew_core::hardware::{MacAddr, SmbiosUuid};

fn machine(n: u8) -> Identity {
    Identity {
        ek: None,
        uuid: Some(SmbiosUuid::from_canonical([
            n, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15,
        ])),
        serial: Some(format!("SYNTH-{n:04}")),
        manufacturer: Some("Example Corp".into()),
        product: Some("Model One".into()),
        macs: vec![MacAddr([2, 0, 0, 0, 0, n])],
    }
}

fn id(n: u8) -> DeviceId {
    DeviceId::new(&"hq".parse().unwrap(), [0, 0, 0, 0, n])
}

fn index(machines: &[(Identity, Standing)]) -> Index {
    let mut index = Index::default();
    for (n, (identity, standing)) in machines.iter().enumerate() {
        index.insert(Known {
            device: id(n as u8 + 1),
            usable: Junk::built_in().usable(identity),
            standing: *standing,
        });
    }
    index
}

fn verdict(seen: &Identity, index: &Index) -> Verdict {
    match_device(seen, index, Junk::built_in()).verdict
}

fn known(by: By) -> Verdict {
    Verdict::Known { device: id(1), by }
}

use Standing::{Admitted, Registered, Waiting};

#[test]
fn the_order_of_the_design() {
    let mut full = machine(1);
    full.ek = Some(Digest::of(b"ek 1"));
    let index = index(&[(full.clone(), Registered), (machine(2), Registered)]);
    // The endorsement key outweighs everything else.
    let mut seen = machine(2);
    seen.ek = full.ek;
    assert_eq!(verdict(&seen, &index), known(By::Ek));
    assert_eq!(verdict(&machine(1), &index), known(By::UuidSerial));
    let mut seen = machine(1);
    seen.uuid = None;
    assert_eq!(verdict(&seen, &index), known(By::SerialModel));
    // One value alone is a hint.
    let alone = Identity {
        macs: machine(1).macs,
        ..Identity::default()
    };
    let (device, by) = (id(1), By::Mac);
    assert_eq!(verdict(&alone, &index), Verdict::Hint { device, by });
    let alone = Identity {
        uuid: machine(1).uuid,
        ..Identity::default()
    };
    let (device, by) = (id(1), By::Uuid);
    assert_eq!(verdict(&alone, &index), Verdict::Hint { device, by });
    assert_eq!(verdict(&machine(9), &index), Verdict::Unknown);
}

#[test]
fn uuids_agree_in_both_orders() {
    let index = index(&[(machine(1), Registered)]);
    let mut seen = machine(1);
    seen.uuid = seen
        .uuid
        .map(|u| SmbiosUuid::from_canonical(u.little_endian()));
    assert_eq!(verdict(&seen, &index), known(By::UuidSerial));
}

#[test]
fn a_new_board_is_changed_hardware() {
    let mut old = machine(1);
    old.ek = Some(Digest::of(b"old TPM"));
    let index = index(&[(old.clone(), Admitted)]);
    let mut board = old.clone();
    board.ek = Some(Digest::of(b"new TPM"));
    board.uuid = machine(7).uuid;
    let changed = |by| Verdict::Changed { device: id(1), by };
    assert_eq!(verdict(&board, &index), changed(By::SerialModel));
    board.uuid = old.uuid;
    assert_eq!(verdict(&board, &index), changed(By::UuidSerial));
    let mut donor = machine(1);
    donor.serial = Some("SYNTH-DONOR".into());
    assert_eq!(verdict(&donor, &index), changed(By::Uuid));
    // Another maker's serial number is somebody else's.
    let stranger = Identity {
        serial: old.serial,
        manufacturer: Some("Other Corp".into()),
        ..Identity::default()
    };
    assert_eq!(verdict(&stranger, &index), Verdict::Unknown);
}

#[test]
fn what_two_admitted_machines_hold_counts_for_neither() {
    let (one, mut two) = (machine(1), machine(2));
    two.uuid = one.uuid;
    let alone = Identity {
        macs: Vec::new(),
        ..one.clone()
    };
    // A registration nobody was let in by does not demote.
    let fresh = index(&[(one.clone(), Admitted), (two.clone(), Registered)]);
    assert_eq!(verdict(&alone, &fresh), known(By::UuidSerial));
    let both = index(&[(one, Admitted), (two, Admitted)]);
    assert_eq!(verdict(&alone, &both), known(By::SerialModel));
    let result = match_device(&alone, &both, Junk::built_in());
    assert_eq!(
        result.explanation[1].finding,
        Finding::Shared(vec![id(1), id(2)])
    );
}

#[test]
fn junk_never_decides_and_says_so() {
    let mut junk = machine(1);
    junk.serial = Some("To Be Filled By O.E.M.".into());
    junk.uuid = Some("03000200-0400-0500-0006-000700080009".parse().unwrap());
    let index = index(&[(junk.clone(), Admitted)]);
    let mut other = junk.clone();
    other.macs = machine(2).macs;
    assert_eq!(verdict(&other, &index), Verdict::Unknown);
    let result = match_device(&junk, &index, Junk::built_in());
    let (device, by) = (id(1), By::Mac);
    assert_eq!(result.verdict, Verdict::Hint { device, by });
    let findings: Vec<&Finding> = result.explanation.iter().map(|f| &f.finding).collect();
    assert!(matches!(
        findings[..],
        [
            Finding::NotSaid,
            Finding::Junk(JunkReason::Template),
            Finding::Junk(JunkReason::Listed(_)),
            Finding::Agrees,
            Finding::Agrees,
            Finding::Agrees,
        ]
    ));
}

#[test]
fn a_stranger_in_the_lobby_gets_his_own_place() {
    let index = index(&[(machine(1), Waiting)]);
    let mut copy = machine(1);
    assert_eq!(verdict(&copy, &index), known(By::UuidSerial));
    copy.macs = machine(2).macs;
    assert_eq!(verdict(&copy, &index), Verdict::Unknown);
}

#[test]
fn several_that_fit_are_all_named() {
    let index = index(&[(machine(1), Registered), (machine(1), Registered)]);
    let devices = vec![id(1), id(2)];
    assert_eq!(verdict(&machine(1), &index), Verdict::Ambiguous { devices });
}

#[test]
fn a_crowd_tells_nobody_apart_and_costs_nothing() {
    let crowd = vec![(machine(1), Registered); 200];
    let index = index(&crowd);
    let mut seen = machine(1);
    seen.macs = Vec::new();
    assert_eq!(verdict(&seen, &index), Verdict::Unknown);
}

#[test]
fn strangers_cannot_hide_a_registration() {
    let mut known_and_crowd = vec![(machine(1), Registered)];
    known_and_crowd.extend(vec![(machine(1), Waiting); 200]);
    let index = index(&known_and_crowd);
    assert_eq!(verdict(&machine(1), &index), known(By::UuidSerial));
}
