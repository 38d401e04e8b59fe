use super::*;
use groundcrew_core::UnixTime;
use groundcrew_core::hardware::MacAddr;
use groundcrew_netboot::dhcp::{ClientKey, LeaseState};

fn lease(last: u8, expires: u64) -> Lease {
    let mac = MacAddr([2, 0, 0, 0, 0, last]);
    Lease {
        ip: std::net::Ipv4Addr::new(10, 77, 0, last),
        key: ClientKey::Mac(mac),
        mac,
        uuid: None,
        hostname: Some("h".into()),
        expires_at: UnixTime::new(expires),
        state: LeaseState::Bound,
    }
}

fn journal(seq: u64) -> Change {
    Change::Journal {
        seq,
        line: format!("{{\"seq\":{seq}}}"),
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    Store::create(&path).unwrap();
    let writer = Store::open(&path).unwrap().start().unwrap();
    let place = writer.place().unwrap();
    place
        .write(vec![
            journal(1),
            Change::PutLease(lease(7, 100)),
            Change::PutLease(lease(8, 100)),
        ])
        .done()
        .await;
    writer
        .place()
        .unwrap()
        .write(vec![
            Change::PutLease(lease(7, 200)),
            Change::DropLease(lease(8, 0).ip),
        ])
        .done()
        .await;
    // A second connection sees only what is committed, as a restart would.
    let db = Connection::open(&path).unwrap();
    assert_eq!(
        lines(|each| schema::each_journal_line(&db, 0, each)),
        ["{\"seq\":1}"]
    );
    assert_eq!(schema::leases(&db).unwrap(), [lease(7, 200)]);
}

#[test]
fn a_site_is_worked_on_by_one_process() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    Store::create(&path).unwrap();
    let first = Store::open(&path).unwrap();
    assert!(
        Store::open(&path)
            .err()
            .unwrap()
            .to_string()
            .contains("another groundcrew")
    );
    drop(first);
    assert!(Store::open(&path).is_ok());
    assert!(Store::create(&path).is_err(), "never replaced");
}

#[test]
fn a_batch_is_written_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    Store::create(&path).unwrap();
    let mut store = Store::open(&path).unwrap();
    store.write(&[journal(1)]).unwrap();
    assert!(
        store
            .write(&[Change::PutLease(lease(9, 1)), journal(1)])
            .is_err(),
        "a line is never replaced"
    );
    assert_eq!(lines(|each| store.journal_after(0, each)).len(), 1);
    assert!(store.leases().unwrap().is_empty());
}

#[test]
fn a_later_form_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    Store::create(&path).unwrap();
    Connection::open(&path)
        .unwrap()
        .pragma_update(None, "user_version", 99)
        .unwrap();
    assert!(format!("{:#}", Store::open(&path).err().unwrap()).contains("later groundcrew"));
}

fn count(path: &Path) -> usize {
    let store = Store::open(path).unwrap();
    lines(|each| store.journal_after(0, each)).len()
}

type Each<'a> = &'a mut dyn FnMut(&str) -> anyhow::Result<()>;

fn lines(read: impl FnOnce(Each<'_>) -> anyhow::Result<()>) -> Vec<String> {
    let mut lines = Vec::new();
    read(&mut |line| {
        lines.push(line.to_owned());
        Ok(())
    })
    .unwrap();
    lines
}

#[tokio::test]
async fn room_for_the_log_is_made_once_and_holds_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("registry.db");
    let log = folder.path().join("registry.db-wal");
    Store::create(&path).unwrap();
    let mut store = Store::open(&path).unwrap();
    store.write(&[journal(1)]).unwrap();
    store.make_room();
    assert_eq!(
        lines(|each| store.journal_after(0, each)).len(),
        1,
        "the log was emptied into the registry"
    );
    let size = || std::fs::metadata(&log).unwrap().len();
    assert_eq!(size(), wal::ROOM as u64);
    // As a power cut would leave it: zeros, and nobody who wrote there.
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("registry.db");
    std::fs::copy(&path, &copied).unwrap();
    std::fs::copy(&log, copy.path().join("registry.db-wal")).unwrap();
    assert_eq!(count(&copied), 1);
    let writer = store.start().unwrap();
    for seq in 2..50 {
        writer
            .place()
            .unwrap()
            .write(vec![journal(seq)])
            .done()
            .await;
    }
    assert_eq!(size(), wal::ROOM as u64, "it did not grow");
    // The same with lines in it that no checkpoint moved.
    let copy = tempfile::tempdir().unwrap();
    let copied = copy.path().join("registry.db");
    std::fs::copy(&path, &copied).unwrap();
    std::fs::copy(&log, copy.path().join("registry.db-wal")).unwrap();
    assert_eq!(count(&copied), 49);
}
