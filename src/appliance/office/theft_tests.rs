//! The last row of the table of thefts: the key of a device.

use super::tests::{World, terms, waits};
use super::*;
use crate::hq::change::NewTerms;
use groundcrew_core::enroll::Decision;

#[tokio::test]
async fn a_stolen_device_key_on_other_hardware_waits_and_is_retired() {
    let world = World::new(&terms(9, &[]));
    world.import(&["SN-AAAA-1"]).await;
    let granted = world.decision("SN-AAAA-1", 1).await;
    let Decision::Granted { .. } = &granted else {
        panic!("{granted:?}")
    };
    // Attack: the key from its disk, on another machine.
    let elsewhere = world.decision("SN-BBBB-2", 1).await;
    assert!(
        matches!(elsewhere, Decision::Waiting { .. }),
        "{elsewhere:?}"
    );
    // And on one that claims to be the device: the very same request. It gets
    // what the device got, which is public, and nothing that is sealed.
    let posing = world.decision("SN-AAAA-1", 1).await;
    assert!(matches!(posing, Decision::Granted { .. }));
    // Recovery: the device is taken out of service, and its key with it.
    let id = world.device("SN-AAAA-1").await;
    let retire = Command::Retire {
        device: id,
        reason: "stolen".into(),
    };
    world.order(retire).await;
    // Registered anew, the machine enrolls with a key of its own ...
    world.import(&["SN-AAAA-1"]).await;
    let fresh = world.decision("SN-AAAA-1", 7).await;
    assert!(matches!(fresh, Decision::Granted { .. }), "{fresh:?}");
    // ... and the stolen one is a second key: it waits for a technician.
    let after = world.decision("SN-AAAA-1", 1).await;
    assert!(waits(&after).contains("another key"), "{after:?}");
}

#[tokio::test]
async fn a_retired_device_frees_its_place_in_the_charter_s_count() {
    let world = World::new(&terms(1, &[]));
    world.import(&["SN-AAAA-1", "SN-AAAA-2"]).await;
    let first = world.decision("SN-AAAA-1", 1).await;
    assert!(matches!(first, Decision::Granted { .. }));
    let full = world.decision("SN-AAAA-2", 2).await;
    assert!(waits(&full).contains("admits 1 devices"), "{full:?}");
    let id = world.device("SN-AAAA-1").await;
    let retire = Command::Retire {
        device: id,
        reason: "replaced".into(),
    };
    world.order(retire).await;
    let second = world.decision("SN-AAAA-2", 2).await;
    assert!(matches!(second, Decision::Granted { .. }), "{second:?}");
}

#[tokio::test]
async fn an_expired_charter_and_a_spent_budget_let_nobody_in() {
    let mut world = World::new(&terms(9, &[]));
    world.import(&["SN-AAAA-1", "SN-AAAA-2"]).await;
    // As if the site had set its limit after it was without HQ for long.
    let site = world.office.site.clone();
    crate::site::staleness::hear(&site, UnixTime::new(crate::clock::read().seconds() - 900))
        .unwrap();
    world.office.staleness.after = Some(600);
    let decision = world.decision("SN-AAAA-1", 1).await;
    assert!(
        waits(&decision).contains("nothing new came from HQ"),
        "{decision:?}"
    );
    world.office.staleness.after = Some(3600);
    let decision = world.decision("SN-AAAA-1", 1).await;
    assert!(matches!(decision, Decision::Granted { .. }));

    // A charter of a moment.
    let world = World::new(&NewTerms {
        lifetime: Some(2),
        ..terms(9, &[])
    });
    world.import(&["SN-AAAA-1"]).await;
    let charter = crate::site::charter::read(&world.office.site, &"lab".parse().unwrap()).unwrap();
    while charter
        .unexpired(groundcrew_core::time::Now::Clock(crate::clock::read()))
        .is_ok()
    {
        tokio::task::yield_now().await;
    }
    let decision = world.decision("SN-AAAA-1", 1).await;
    assert!(
        waits(&decision).contains("HQ must sign a new one"),
        "{decision:?}"
    );
}
