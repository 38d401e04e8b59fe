//! Random lives: what must hold whatever happens.

use super::*;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Act {
    Register(u8),
    Ask { machine: u8, key: u8, cut: u8 },
    Approve(u8),
    Reject(u8),
    Grant(u8),
    Finish(u8, bool),
    Reprovision(u8),
    Retire(u8),
    Hold(u8),
    Release(u8),
}

fn act() -> impl Strategy<Value = Act> {
    let machine = 1u8..5;
    prop_oneof![
        1 => machine.clone().prop_map(Act::Register),
        6 => (machine, 1u8..9, 0u8..5).prop_map(|(machine, key, cut)| Act::Ask { machine, key, cut }),
        2 => (0u8..8).prop_map(Act::Approve),
        1 => (0u8..8).prop_map(Act::Reject),
        3 => (0u8..8).prop_map(Act::Grant),
        3 => (0u8..8, any::<bool>()).prop_map(|(n, good)| Act::Finish(n, good)),
        1 => (0u8..8).prop_map(Act::Reprovision),
        1 => (0u8..8).prop_map(Act::Retire),
        1 => (0u8..8).prop_map(Act::Hold),
        1 => (0u8..8).prop_map(Act::Release),
    ]
}

/// A machine that hides or changes some of its hardware.
fn disguised(machine: u8, cut: u8) -> HardwareReport {
    let mut report = report(machine);
    match cut {
        1 => report.smbios.uuid = None,
        2 => report.smbios.serial = None,
        3 => report.nics.clear(),
        4 => report.smbios.uuid = super::report(machine + 1).smbios.uuid,
        _ => {}
    }
    report
}

fn perform(site: &mut Site, act: &Act) {
    let ids: Vec<DeviceId> = site.registry.devices().map(|d| d.id.clone()).collect();
    let pick = |n: &u8| ids.get(usize::from(*n) % ids.len().max(1)).cloned();
    let found = |n: &u8| pick(n).and_then(|id| site.registry.device(&id).cloned());
    let changes = match act {
        Act::Register(machine) => {
            let id = DeviceId::new(site.registry.site(), [9, 9, 9, 9, *machine]);
            if site.registry.device(&id).is_none() {
                site.register(*machine);
            }
            return;
        }
        Act::Ask { machine, key, cut } => {
            site.ask(disguised(*machine, *cut), *key);
            return;
        }
        Act::Grant(n) => {
            if let Some(device) = found(n).filter(|d| d.phase == Phase::Approved) {
                site.grant(&device.id);
            }
            return;
        }
        Act::Finish(n, good) => {
            let Some(device) = found(n) else { return };
            let (Some(grant), Some(admitted)) = (device.grant(), &device.admitted) else {
                return;
            };
            // Keys, seal keys and nonces are made of one number here.
            let key = admitted.nonce.0[0];
            let result = if *good {
                ReceiptResult::Provisioned
            } else {
                ReceiptResult::Failed {
                    reason: "no".into(),
                }
            };
            let _ = site.receipt(&device.id, key, grant, result);
            return;
        }
        Act::Approve(n) => found(n).and_then(|device| {
            let code = device.pending.as_ref()?.code;
            site.registry.approve(&device.id, code, "tech").ok()
        }),
        Act::Reject(n) => pick(n).and_then(|id| site.registry.reject(&id, "no", "tech").ok()),
        Act::Reprovision(n) => pick(n).and_then(|id| site.registry.reprovision(&id, "tech").ok()),
        Act::Hold(n) => pick(n).and_then(|id| site.registry.hold(&id, "h", Actor::Site).ok()),
        Act::Release(n) => pick(n).and_then(|id| site.registry.release_held(&id, "tech").ok()),
        Act::Retire(n) => pick(n).and_then(|id| site.registry.retire(&id, "old", "tech").ok()),
    };
    site.record(changes.into_iter().collect());
}

/// How many different keys the journal lets in without a technician, against
/// what the technicians allowed: one registration, and one per reprovision.
fn consumed_at_most_once(lines: &[String]) -> bool {
    let mut allowed: std::collections::BTreeMap<DeviceId, i64> = Default::default();
    let mut last: std::collections::BTreeMap<DeviceId, [u8; 32]> = Default::default();
    lines.iter().all(|line| {
        let entry = Entry::read(line).unwrap();
        let id = entry.device().clone();
        match entry.event() {
            Event::Registered { .. } | Event::ReprovisionAsked => {
                *allowed.entry(id).or_default() += 1;
            }
            Event::Approved { sign_key, .. } => {
                let key = *sign_key.as_bytes();
                let same = last.insert(id.clone(), key) == Some(key);
                if *entry.actor() == Actor::Site && !same {
                    let left = allowed.entry(id).or_default();
                    *left -= 1;
                    return *left >= 0;
                }
            }
            _ => {}
        }
        true
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn whatever_happens(acts in proptest::collection::vec(act(), 0..60)) {
        let mut site = Site::with(Limits { waiting: 4 });
        let (mut early, half) = (site.registry.clone(), acts.len() / 2);
        for (n, act) in acts.iter().enumerate() {
            if n == half {
                early = site.registry.clone();
            }
            perform(&mut site, act);
            prop_assert!(site.registry.lobby().count() <= 4);
        }
        prop_assert!(consumed_at_most_once(&site.lines));
        // The journal alone makes the same state, and verifies.
        let restarted = site.restarted();
        prop_assert!(restarted == site.registry);
        prop_assert!(site.thawed(&site.registry, site.lines.len()) == site.registry);
        let after = early.chain().seq() as usize;
        prop_assert!(site.thawed(&early, after) == site.registry);
        let chain = journal::verify(site.registry.site(), site.lines.iter().map(String::as_str));
        prop_assert_eq!(chain.unwrap(), site.registry.chain());
    }
}
