use super::*;
use crate::encoding::Bytes;
use crate::hardware::identity::Identity;
use crate::hardware::mac::MacAddr;
use crate::hardware::report::{Disk, HardwareReport, Nic, Tpm, TpmAbout};
use crate::hardware::uuid::SmbiosUuid;
use crate::time::UnixTime;
use proptest::prelude::*;

/// A hash that a script of ours did not make.
const FOREIGN: &str = include_str!("../../../../../tests/fixtures/hardware/hwhash-synthetic.b64");

#[test]
fn reads_a_foreign_hash() {
    let hash = HardwareHash::from_text(FOREIGN).unwrap();
    let Record::Tool(tool) = hash.records[0] else {
        panic!("{:?}", hash.records[0]);
    };
    assert_eq!((tool.os.major, tool.os.build), (10, 26100));
    assert_eq!(tool.time().to_string(), "2024-07-22T21:46:40Z");
    assert!(
        hash.records
            .iter()
            .all(|r| !matches!(r, Record::Other { .. }))
    );
    let identity = hash.identity();
    let ek = "sha256:25941aebc9667adbf63172b9d2c067b4599737c869e6bba9f209f0328c28d538";
    assert_eq!(
        identity,
        Identity {
            ek: Some(ek.parse().unwrap()),
            uuid: Some("5f0c7a52-4d1e-4a8b-9c3f-0123456789ab".parse().unwrap()),
            serial: Some("SYNTH-0001".into()),
            manufacturer: Some("Example Corp".into()),
            product: Some("Model One".into()),
            macs: vec![MacAddr([2, 0, 0, 0, 0xa0, 1])],
        }
    );
    assert_eq!(hash.to_text().unwrap(), FOREIGN.trim());
}

#[test]
fn the_end_may_be_cut_or_padded() {
    let whole = FOREIGN.trim();
    let hash = HardwareHash::from_text(whole).unwrap();
    let bare = whole.trim_end_matches('A');
    for text in [
        bare.to_owned(),
        format!("{bare}AAA"),
        format!(" {whole}== "),
        format!("{whole}AAAA"),
    ] {
        assert_eq!(HardwareHash::from_text(&text), Ok(hash.clone()));
    }
    for cut in [1, 2, 3, 50, bare.len() / 2] {
        let text = &bare[..bare.len() - cut];
        assert!(HardwareHash::from_text(text).is_err(), "cut by {cut}");
    }
}

#[test]
fn says_what_is_wrong() {
    let read = HardwareHash::from_text;
    assert_eq!(read("  "), Err(HashError::Empty));
    assert_eq!(read("T0G?"), Err(HashError::Base64 { at: 4 }));
    assert_eq!(read("QUJD"), Err(HashError::Header));
    assert_eq!(read(&"A".repeat(8001)), Err(HashError::TooLong(8001)));
    let mut bytes = vec![b'O', b'A', 0xff, 0xff];
    assert!(matches!(
        HardwareHash::from_bytes(&bytes),
        Err(HashError::CutOff { .. })
    ));
    bytes[2] = 4;
    bytes[3] = 0;
    assert_eq!(
        HardwareHash::from_bytes(&bytes),
        Err(HashError::Trailer { at: 4 })
    );
}

#[test]
fn a_changed_byte_anywhere_is_found() {
    let good = HardwareHash::from_text(FOREIGN)
        .unwrap()
        .to_bytes()
        .unwrap();
    for at in 0..good.len() {
        for bit in [0x01, 0x80] {
            let mut bad = good.clone();
            bad[at] ^= bit;
            assert!(HardwareHash::from_bytes(&bad).is_err(), "byte {at}");
        }
    }
}

#[test]
fn a_tpm_and_an_nvme_disk_are_written_as_windows_does() {
    let mut tpm = Tpm {
        version: 2,
        about: Some(TpmAbout {
            level: 0,
            revision: 164,
            firmware: [538_513_443, 1_455_670],
            ..TpmAbout::default()
        }),
        ..Tpm::default()
    };
    tpm.set_ek(Bytes([0xa5; 256]));
    if let Some(about) = &mut tpm.about {
        about.set_maker(*b"IBM\0");
    }
    let disk = |eui: Option<&str>, nguid: Option<&str>| Disk {
        name: "nvme0n1".into(),
        size: 512_000_000_000,
        model: Some("Example NVMe".into()),
        serial: Some("S1".into()),
        wwid: None,
        eui: eui.map(Into::into),
        nguid: nguid.map(Into::into),
        removable: false,
    };
    let nguid = "e8238fa6bf530001001b448b4a3d5a8a";
    let report = HardwareReport {
        tpm: Some(tpm.clone()),
        disks: vec![
            disk(Some("8ce38e0500c9751c"), None),
            disk(None, Some(nguid)),
            disk(None, None),
        ],
        ..HardwareReport::default()
    };
    let at = UnixTime::new(1_800_000_000);
    let hash = HardwareHash::from_report(&report, at).unwrap();
    let text = hash.text(TextKind::TpmVersion).unwrap();
    // As a published hash of a QEMU guest with swtpm says it.
    assert_eq!(
        text,
        "TPM-Version:2.0 -Level:0-Revision:1.64-VendorID:'IBM '-Firmware:538513443.1455670"
    );
    let disks: Vec<String> = hash
        .records
        .iter()
        .filter_map(|record| match record {
            Record::Text(TextKind::Disk, text) => Some(text.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(
        disks,
        [
            "8CE3_8E05_00C9_751C.|Example NVMe|",
            "E823_8FA6_BF53_0001_001B_448B_4A3D_5A8A.|Example NVMe|",
            "S1|Example NVMe|"
        ]
    );
    assert_eq!(hash.identity().ek, tpm.ek);
    assert!(
        hash.records
            .contains(&Record::EkModulus(Box::new([0xa5; 256])))
    );
    let read = HardwareHash::from_text(&hash.to_text().unwrap()).unwrap();
    assert_eq!(read, hash);
}

#[test]
fn a_report_becomes_a_hash_of_the_same_identity() {
    let mut report = HardwareReport::default();
    report.smbios.uuid = Some(SmbiosUuid::from_canonical([7; 16]));
    report.smbios.serial = Some("SYNTH-0002".into());
    report.smbios.manufacturer = Some("Example Corp".into());
    report.smbios.product = Some("Model Two".into());
    report.tpm = Some(Tpm {
        version: 2,
        ek: Some(Digest::of(b"modulus")),
        ..Tpm::default()
    });
    report.nics = (0..20)
        .map(|n| Nic {
            name: format!("eth{n}"),
            mac: MacAddr([2, 0, 0, 0, 0, n]),
            driver: None,
            bus: Some("pci".into()),
        })
        .collect();
    report.disks = vec![
        Disk {
            name: "sda".into(),
            size: 512_000_000_000,
            model: Some("Example|Disk".into()),
            serial: Some("D".repeat(120)),
            wwid: None,
            eui: None,
            nguid: None,
            removable: false,
        };
        32
    ];
    let at = UnixTime::new(1_800_000_000);
    let hash = HardwareHash::from_report(&report, at).unwrap();
    let read = HardwareHash::from_text(&hash.to_text().unwrap()).unwrap();
    assert_eq!(read, hash);
    assert_eq!(read.identity(), Identity::from(&report));
    let Record::Tool(tool) = read.records[0] else {
        panic!("no tool record");
    };
    assert_eq!(tool.time(), at);
}

fn any_record() -> impl Strategy<Value = Record> {
    let raw = (0u16..40, proptest::collection::vec(any::<u8>(), 0..60));
    let text = (
        prop_oneof![Just(14u16), Just(16), Just(4), Just(7)],
        "[ -~]{0,40}",
    )
        .prop_map(|(kind, text)| {
            let mut data = text.into_bytes();
            match kind {
                4 => data.resize(48, 0),
                7 => {}
                _ => data.push(0),
            }
            (kind, data)
        });
    let sized = prop_oneof![
        (Just(1u16), proptest::collection::vec(any::<u8>(), 24)),
        (Just(5), proptest::collection::vec(any::<u8>(), 21)),
        (Just(12), proptest::collection::vec(any::<u8>(), 16)),
        (Just(25), proptest::collection::vec(any::<u8>(), 256)),
    ];
    prop_oneof![raw, text, sized].prop_map(|(kind, data)| Record::read(kind, &data))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn reads_what_it_writes(records in proptest::collection::vec(any_record(), 0..10)) {
        let hash = HardwareHash { records };
        if let Ok(text) = hash.to_text() {
            prop_assert_eq!(text.len(), TEXT);
            prop_assert_eq!(HardwareHash::from_text(&text).unwrap(), hash);
        }
    }

    #[test]
    fn writes_what_it_reads(records in proptest::collection::vec(
        (any::<u16>(), proptest::collection::vec(any::<u8>(), 0..80)), 0..10,
    )) {
        let mut bytes = b"OA\0\0".to_vec();
        for (kind, data) in &records {
            bytes.extend(kind.to_le_bytes());
            bytes.extend((data.len() as u16 + 4).to_le_bytes());
            bytes.extend(data);
        }
        let total = bytes.len() as u16;
        bytes[2..4].copy_from_slice(&total.to_le_bytes());
        let sum = Digest::of(&bytes);
        bytes.extend(TRAILER);
        bytes.extend(sum.as_bytes());
        bytes.resize(CONTAINER, 0);
        let hash = HardwareHash::from_bytes(&bytes).unwrap();
        prop_assert_eq!(hash.to_bytes().unwrap(), bytes);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        tail in proptest::collection::vec(any::<u8>(), 0..200), honest in any::<bool>(),
    ) {
        // With a right checksum, so that the records are reached too.
        let mut bytes = [b"OA\0\0", tail.as_slice()].concat();
        if honest {
            let total = bytes.len() as u16;
            bytes[2..4].copy_from_slice(&total.to_le_bytes());
            let sum = Digest::of(&bytes);
            bytes.extend(TRAILER);
            bytes.extend(sum.as_bytes());
        }
        if let Ok(hash) = HardwareHash::from_bytes(&bytes) {
            let _ = hash.identity();
        }
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,60}", tail in "[A-Za-z0-9+/=]{0,200}") {
        let _ = HardwareHash::from_text(&text);
        let _ = HardwareHash::from_text(&format!("T0E{tail}"));
    }
}

#[test]
fn an_arm_machine_s_hash_says_so() {
    let mut report = HardwareReport::default();
    report.smbios.serial = Some("SYNTH-1".into());
    report.cpu.arch = crate::hardware::report::Arch::Arm64;
    let hash = HardwareHash::from_report(&report, UnixTime::new(1_800_000_000)).unwrap();
    let topology = |record: &Record| match record {
        Record::CpuTopology(topology) => Some(topology.architecture),
        _ => None,
    };
    assert_eq!(hash.records.iter().find_map(topology), Some(12));
    let json = serde_json::to_string(&report.cpu).unwrap();
    assert!(json.contains(r#""arch":"arm64""#), "{json}");
}
