use super::*;
use crate::state::Limits;
use groundcrew_core::UnixTime;
use proptest::prelude::*;

macro_rules! fixture {
    ($name:literal) => {
        include_bytes!(concat!("../../../../tests/fixtures/hardware/", $name)).as_slice()
    };
}

fn registry() -> Registry {
    Registry::new("hq".parse().unwrap(), Limits::default())
}

fn import(registry: &Registry, bytes: &[u8]) -> Result<ImportPlan, ImportError> {
    let mut next = registry.devices().len() as u64;
    let mut entropy = || {
        next += 1;
        let [.., a, b, c, d, e] = next.to_be_bytes();
        [a, b, c, d, e]
    };
    plan(registry, bytes, "devices.csv", &mut entropy, &mut |_| {})
}

fn registrations(plan: &ImportPlan) -> Vec<Registration> {
    let registration = |change: &'_ Change| match &change.event {
        Event::Registered { registration } => Some((**registration).clone()),
        _ => None,
    };
    plan.changes.iter().filter_map(registration).collect()
}

/// (line, name of the fault or `ok`)
fn outcomes(plan: &ImportPlan) -> Vec<(u64, &'static str)> {
    let name = |verdict: &RowVerdict| match &verdict.outcome {
        Outcome::Refused(fault) => fault.name(),
        _ => "ok",
    };
    plan.verdicts.iter().map(|v| (v.line, name(v))).collect()
}

#[test]
fn reads_utf_16_as_windows_writes_it_and_an_empty_serial() {
    let plan = import(&registry(), fixture!("info.utf16le.csv")).unwrap();
    assert_eq!(outcomes(&plan), [(2, "ok"), (3, "ok")]);
    let [first, second] = &registrations(&plan)[..] else {
        panic!("two rows");
    };
    assert_eq!(first.identity.serial.as_deref(), Some("SYNTH-0010"));
    assert!(first.identity.uuid.is_some() && first.hash.is_some());
    assert_eq!(second.identity.serial, None);
    assert!(second.identity.ek.is_some());
    let big = import(&registry(), fixture!("info.utf16be.csv")).unwrap();
    assert_eq!(registrations(&big)[0].identity, first.identity);
}

#[test]
fn reads_intune_s_columns_in_utf_8_and_ansi() {
    let plan = import(&registry(), fixture!("intune.utf8bom.csv")).unwrap();
    let [first, second] = &registrations(&plan)[..] else {
        panic!("two rows");
    };
    assert_eq!(first.tag.as_ref().unwrap().as_str(), "Büro");
    assert_eq!(second.user.as_deref(), Some("user@example.org"));
    assert_eq!(second.identity.serial.as_deref(), Some("SYNTH-0011"));
    let ansi = import(&registry(), fixture!("intune.ansi.csv")).unwrap();
    let tag = registrations(&ansi)[0].tag.clone();
    assert_eq!(tag.unwrap().as_str(), "Büro €");
}

#[test]
fn reads_tuples_with_and_without_a_header() {
    let plan = import(&registry(), fixture!("partner.csv")).unwrap();
    let [first, second] = &registrations(&plan)[..] else {
        panic!("two rows");
    };
    assert_eq!(first.identity.product.as_deref(), Some("Model, Two"));
    assert_eq!(second.product_id.as_deref(), Some("1234567890123"));
    let plan = import(&registry(), fixture!("preparation.csv")).unwrap();
    assert_eq!(plan.shape, Shape::Preparation);
    assert_eq!(outcomes(&plan), [(1, "ok"), (2, "ok")]);
    let second = &registrations(&plan)[1];
    assert_eq!(second.identity.serial.as_deref(), Some("SYNTH-0031"));
    assert_eq!(
        second.identity.manufacturer.as_deref(),
        Some("Example Corp")
    );
}

#[test]
fn every_row_has_its_verdict() {
    let plan = import(&registry(), fixture!("faults.csv")).unwrap();
    assert_eq!(
        outcomes(&plan),
        [
            (2, "ok"),
            (3, "ZtdDeviceDuplicated"),
            (4, "InvalidZtdHardwareHash"),
            (5, "SerialNumberMismatch"),
            (6, "NoUsableIdentity"),
            (8, "ok"),
            (9, "InvalidRow"),
        ]
    );
    assert_eq!(plan.accepted(), 2);
    let reasons: Vec<String> = plan
        .verdicts
        .iter()
        .filter_map(|v| match &v.outcome {
            Outcome::Refused(fault) => Some(fault.to_string()),
            _ => None,
        })
        .collect();
    assert_eq!(reasons[0], "the same device as in line 2");
    assert!(reasons[1].contains("checksum"), "{}", reasons[1]);
    assert!(
        reasons[3].contains("known placeholder (glpi"),
        "{}",
        reasons[3]
    );
}

#[test]
fn what_is_imported_is_already_assigned() {
    let mut registry = registry();
    let plan = import(&registry, fixture!("intune.utf8bom.csv")).unwrap();
    registry
        .record(UnixTime::new(1_800_000_000), plan.changes)
        .unwrap();
    let again = import(&registry, fixture!("info.utf16le.csv")).unwrap();
    assert_eq!(
        outcomes(&again),
        [(2, "ZtdDeviceAlreadyAssigned"), (3, "ok")]
    );
    let Outcome::Refused(fault) = &again.verdicts[0].outcome else {
        panic!("{:?}", again.verdicts[0]);
    };
    let text = fault.to_string();
    assert!(
        text.contains("hq-") && text.contains("(registered)"),
        "{text}"
    );
}

#[test]
fn a_file_that_is_something_else_says_what_is_right() {
    let read = |bytes: &[u8]| import(&registry(), bytes).unwrap_err().to_string();
    assert_eq!(read(b""), "the file has no rows");
    assert!(read(b"a,b\n1,2\n").contains("Device Serial Number"));
    assert!(read(b"Device Serial Number,Colour\n").contains("`Colour` is not known"));
    assert!(read(b"Hardware Hash,hardware hash\n").contains("twice"));
}

#[test]
fn what_spreadsheets_do_to_files_is_read_or_named() {
    let read = |bytes: &[u8]| import(&registry(), bytes).unwrap();
    for file in [
        &b"Device Serial Number;Windows Product ID;Hardware Hash;Group Tag\r\nSYNTH-0001;;;Kiosk\r\n;;;\r\n"[..],
        b"Device Serial Number\tGroup Tag\nSYNTH-0001\tKiosk\n\t\n",
    ] {
        let plan = read(file);
        assert_eq!(outcomes(&plan), [(2, "ok")]);
        let [registration] = &registrations(&plan)[..] else {
            panic!("one row");
        };
        assert_eq!(registration.identity.serial.as_deref(), Some("SYNTH-0001"));
        assert_eq!(registration.tag.as_ref().unwrap().as_str(), "Kiosk");
    }
    for serial in ["8.12346E+11", "\"8,12346E+11\"", "1E+10"] {
        let file = format!("Device Serial Number,Group Tag\n{serial},\n");
        assert_eq!(
            outcomes(&read(file.as_bytes())),
            [(2, "InvalidSerialNumber")]
        );
    }
    for serial in ["8.1E+", "PE+12", "12E34", "1.2.3E+1"] {
        let file = format!("Device Serial Number,Group Tag\n{serial}00,\n");
        assert_eq!(
            outcomes(&read(file.as_bytes()))[0].1 == "InvalidSerialNumber",
            serial == "8.1E+"
        );
    }
}

#[test]
fn a_row_that_stands_twice_is_named_in_every_part() {
    let mut registry = registry();
    let rows = |lines: &[(u64, &str)]| -> Vec<(u64, Registration)> {
        let csv: String = lines
            .iter()
            .map(|(_, serial)| format!("Example Corp,One,{serial}\n"))
            .collect();
        let read = Rows::new(csv.as_bytes(), "x").unwrap();
        let content = read.map(|row| row.unwrap().content.unwrap());
        lines.iter().map(|(line, _)| *line).zip(content).collect()
    };
    let mut importer = Importer::default();
    let mut next = 0u8;
    let mut entropy = || {
        next += 1;
        [0, 0, 0, 0, next]
    };
    let first = rows(&[(1, "SYNTH-1"), (2, "SYNTH-2"), (3, "SYNTH-1")]);
    let plan = importer.plan(&registry, first, &mut entropy).unwrap();
    registry
        .record(UnixTime::new(1_800_000_000), plan.changes)
        .unwrap();
    importer.recorded();
    let second = rows(&[(4, "SYNTH-3"), (5, "SYNTH-2")]);
    let more = importer.plan(&registry, second, &mut entropy).unwrap();
    let duplicates: Vec<(u64, String)> = plan
        .outcomes
        .into_iter()
        .chain(more.outcomes)
        .filter_map(|(line, outcome)| match outcome {
            Outcome::Refused(fault) => Some((line, fault.to_string())),
            _ => None,
        })
        .collect();
    assert_eq!(
        duplicates,
        [
            (3, "the same device as in line 1".to_owned()),
            (5, "the same device as in line 2".to_owned())
        ]
    );
}

#[test]
fn a_quote_that_is_never_closed_does_not_hide_rows() {
    let plan = import(
        &registry(),
        b"Device Serial Number,Group Tag\nSYNTH-1,\n\"SYNTH-2,\nSYNTH-3,\n",
    )
    .unwrap();
    assert_eq!(outcomes(&plan), [(2, "ok"), (3, "InvalidRow")]);
    let Outcome::Refused(fault) = &plan.verdicts[1].outcome else {
        panic!("it is refused")
    };
    assert!(fault.to_string().contains("2 line(s) after it"), "{fault}");
}

#[test]
fn other_people_s_columns_are_passed_over_where_that_is_asked_for() {
    let file = &b"Serial number,Manufacturer,Model,Group tag,Profile status,Purchase order\nSYNTH-1,Example Corp,One,Kiosk,Assigned,77\n"[..];
    assert!(Rows::new(file, "x").is_err());
    let rows = Rows::passing_over(file, "x").unwrap();
    let names: Vec<&str> = rows.columns().collect();
    assert_eq!(
        names[3..],
        ["Group Tag", "Profile status", "Purchase order"]
    );
    let row = rows.map(Result::unwrap).next().unwrap();
    assert_eq!(row.content.unwrap().tag.unwrap().as_str(), "Kiosk");
}

#[test]
fn lines_are_counted_as_editors_count_them() {
    let csv = b"Device Serial Number,Device model,Manufacturer name\r\n\r\n\r\nSYNTH-1,\"two\r\nlines\",\r\n\rSYNTH-2,m,\nSYNTH-3,m,";
    let plan = import(&registry(), csv).unwrap();
    let lines: Vec<u64> = plan.verdicts.iter().map(|v| v.line).collect();
    assert_eq!(lines, [4, 7, 8]);
}

proptest! {
    #[test]
    fn any_bytes_never_panic(
        header in prop_oneof![Just(&b"Device Serial Number,Hardware Hash,Group Tag\n"[..]), Just(&b""[..]), Just(&b"\xff\xfe"[..])],
        bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b','), Just(b'\n'), Just(b'"')], 0..300),
    ) {
        let _ = import(&registry(), &[header, &bytes].concat());
    }
}
