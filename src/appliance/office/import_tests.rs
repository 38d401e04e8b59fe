//! Long imports: nobody waits for them, and none is left half done. And what
//! one device can make the journal grow by.

use groundcrew_core::enroll::Decision;

use super::tests::{World, terms};
use super::*;

/// Some commits of parts to stage, and more of parts to register.
const ROWS: u32 = 6_000;

fn file() -> Command {
    let row = |line: u32| ImportRow {
        line: line.into(),
        registration: groundcrew_registry::Registration {
            identity: groundcrew_core::hardware::Identity {
                serial: Some(format!("LONG-{line:06}")),
                manufacturer: Some("Example Corp".into()),
                ..Default::default()
            },
            tag: None,
            user: None,
            product_id: None,
            hash: None,
            source: "test".into(),
        },
    };
    // The last one is the first one again.
    let rows = (1..=ROWS).chain([1]).map(row).collect();
    Command::Import {
        rows,
        terms: FileTerms {
            tag: Some("long".parse().unwrap()),
            dry_run: false,
        },
    }
}

/// The parts on disk, and whether they count.
fn staged(world: &World) -> (u32, bool) {
    let db = rusqlite::Connection::open(&world.office.registry_file).unwrap();
    let sql = "SELECT count(*), coalesce(min(part), 1) = 0 FROM import";
    db.query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap()
}

fn registered(office: &Office) -> usize {
    office.find(&Search::first(0).text("LONG-")).matching
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn devices_enroll_while_a_file_is_registered() {
    let world = World::new(&terms(99, &[]));
    world.import(&["SN-AAAA-1", "SN-AAAA-2", "SN-AAAA-3"]).await;
    let enroll = async {
        until(|| registered(&world.office) > 0).await;
        for (seed, serial) in (1..).zip(["SN-AAAA-1", "SN-AAAA-2", "SN-AAAA-3"]) {
            let decision = world.decision(serial, seed).await;
            assert!(matches!(decision, Decision::Granted { .. }), "{decision:?}");
        }
        registered(&world.office)
    };
    let (outcome, then) = tokio::join!(world.order(file()), enroll);
    let Outcome::Imported(view) = outcome else {
        panic!("{outcome:?}")
    };
    assert_eq!((view.registered, view.refused.len()), (ROWS as usize, 1));
    assert_eq!(view.refused[0].name, "ZtdDeviceDuplicated");
    assert!(
        then < ROWS as usize,
        "three devices were answered only after the whole file"
    );
    assert_eq!(staged(&world), (0, false));
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_whole_after_the_next_start_or_not_there() {
    for (accepted, expected) in [(false, 0), (true, ROWS as usize)] {
        let world = World::new(&terms(99, &[]));
        let moment = || match accepted {
            false => staged(&world).0 > 2,
            true => registered(&world.office) > 500,
        };
        tokio::select! {
            biased;
            () = until(moment) => {}
            _ = world.order(file()) => panic!("it ended before it was cut off"),
        }
        world.office.writer.flush().await;
        assert_eq!(staged(&world).1, accepted);
        assert!(registered(&world.office) < ROWS as usize);
        let (_folder, office) = world.restart();
        assert_eq!(registered(&office), expected);
        let lines = store::last_journal_line(&office.registry_file).unwrap();
        let last = lines.map_or(0, |line| Entry::read(&line).unwrap().seq());
        assert_eq!(last, expected as u64, "each row once");
        assert_eq!(office.lock().registry.chain().seq(), last);
        let found = office.find(&Search::first(1).text("LONG-"));
        assert!(found.devices.iter().all(|device| device.tag.is_some()));
    }
}

#[tokio::test]
async fn a_device_that_asks_in_a_loop_does_not_fill_the_journal() {
    let world = World::new(&terms(9, &[]));
    world.import(&["SN-AAAA-1"]).await;
    let first = world.decision("SN-AAAA-1", 1).await;
    assert!(matches!(first, Decision::Granted { .. }));
    let lines = || world.office.lock().registry.chain().seq();
    let before = lines();
    // The same request again: nothing new.
    for _ in 0..50 {
        assert_eq!(world.decision("SN-AAAA-1", 1).await, first);
    }
    assert_eq!(lines(), before);
    // Its own key with a new nonce each time, as a device that restarts.
    let mut refused = 0;
    for nonce in 0..100 {
        match world.ask_anew("SN-AAAA-1", 1, nonce).await {
            Ok(admission) => assert!(matches!(admission.decision, Decision::Granted { .. })),
            Err(Refusal::Busy(_)) => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(refused >= 89, "{refused}");
    assert!(
        lines() - before <= 11 * 3,
        "{} lines more",
        lines() - before
    );
    let counted = world.office.lock().registry.granted_devices();
    assert_eq!(counted, 1, "let in many times, counted once");
}
