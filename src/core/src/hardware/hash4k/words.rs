//! A hardware hash in words, for people: what each record is, what it says, and
//! in what two hashes differ.

use super::record::{IdSource, Record, TextKind, Tool};
use super::{HardwareHash, NetworkAdapter};
use crate::digest::Digest;

/// The most bytes of an unknown record that are shown.
const SHOWN: usize = 32;

/// What two hashes say differently of one thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// Record type.
    pub kind: u16,
    /// The record's name.
    pub name: &'static str,
    /// What only the first says.
    pub first: Option<String>,
    /// What only the second says.
    pub second: Option<String>,
}

impl HardwareHash {
    /// What only one of two hashes says, by record type. Records of one type
    /// (disks, adapters) may stand in another order in each.
    pub fn differences(&self, other: &Self) -> Vec<Difference> {
        let mut kinds: Vec<u16> = self
            .records
            .iter()
            .chain(&other.records)
            .map(Record::kind)
            .collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
            .into_iter()
            .flat_map(|kind| differences_of(kind, self, other))
            .collect()
    }
}

fn differences_of(kind: u16, first: &HardwareHash, second: &HardwareHash) -> Vec<Difference> {
    let of = |hash: &HardwareHash| -> Vec<Record> {
        hash.records
            .iter()
            .filter(|record| record.kind() == kind)
            .cloned()
            .collect()
    };
    let (mut only_first, mut only_second) = (of(first), of(second));
    let name = only_first
        .first()
        .or(only_second.first())
        .map_or("", Record::name);
    only_first.retain(
        |record| match only_second.iter().position(|other| other == record) {
            Some(same) => {
                only_second.remove(same);
                false
            }
            None => true,
        },
    );
    let mut second = only_second.iter().map(Record::words);
    let mut differences: Vec<Difference> = only_first
        .iter()
        .map(|record| Difference {
            kind,
            name,
            first: Some(record.words()),
            second: second.next(),
        })
        .collect();
    differences.extend(second.map(|words| Difference {
        kind,
        name,
        first: None,
        second: Some(words),
    }));
    differences
}

impl Record {
    /// What the record is.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Tool(_) => "Made by",
            Self::CpuTopology(_) => "Processor shape",
            Self::Memory(_) => "Memory",
            Self::DiskSize { .. } => "Disk size",
            Self::NetworkAdapter(_) => "Network adapter",
            Self::Display(_) => "Display",
            Self::Chassis(_) => "Chassis",
            Self::OfflineDeviceId(_) => "Offline device id",
            Self::Uuid(_) => "System UUID",
            Self::EkModulus(_) => "TPM key (EK)",
            Self::DisplaySize(_) => "Display size",
            Self::GraphicsMemory(_) => "Graphics memory",
            Self::Graphics(_) => "Graphics",
            Self::CoreKinds(_) => "Processor cores",
            Self::Text(kind, _) => kind.name(),
            Self::Other { .. } => "Not known",
        }
    }

    /// What the record says, on one line.
    pub fn words(&self) -> String {
        match self {
            Self::Tool(tool) => tool.words(),
            Self::CpuTopology(c) => format!(
                "{}, {}, {}, {}",
                count(c.packages, "package"),
                count(c.cores, "core"),
                count(c.threads, "thread"),
                architecture(c.architecture)
            ),
            Self::Memory(m) => format!(
                "{} GiB of at most {} GiB, {} in {}, {}",
                m.gigabytes,
                m.most,
                count(m.slots, "slot"),
                count(m.arrays, "array"),
                error_correction(m.ecc)
            ),
            Self::DiskSize {
                gigabytes,
                bus,
                media,
            } => {
                format!(
                    "{gigabytes} GB, {}, {}",
                    storage_bus(*bus),
                    rotation(*media)
                )
            }
            Self::NetworkAdapter(adapter) => adapter.words(),
            Self::Display(d) if d.pixels == (u16::MAX, u16::MAX) => "none".to_owned(),
            Self::Display(d) => {
                let built_in = if d.connector == 0x8000_0000 {
                    ", built in"
                } else {
                    ""
                };
                let (mm, px) = (d.millimetres, d.pixels);
                format!("{}x{} pixels, {}x{} mm{built_in}", px.0, px.1, mm.0, mm.1)
            }
            Self::Chassis(c) => {
                let role = power_role(c.role);
                format!("SMBIOS type {} ({}), role {role}", c.kind, chassis(c.kind))
            }
            Self::OfflineDeviceId(id) => {
                let source = match id.source {
                    IdSource::Tpm => "from the TPM".to_owned(),
                    IdSource::Uefi => "from a UEFI variable".to_owned(),
                    IdSource::Registry => {
                        "from Windows' registry, lost when it is installed anew:".to_owned()
                    }
                    IdSource::Other(other) => format!("from source {other}"),
                };
                format!("{source} {}", Digest::from_bytes(id.id).hex())
            }
            Self::Uuid(uuid) => uuid.to_string(),
            Self::EkModulus(modulus) => {
                format!(
                    "RSA-2048, SHA-256 of its modulus {}",
                    Digest::of(modulus.as_slice()).hex()
                )
            }
            Self::DisplaySize(size) if (size.width, size.height) == (u16::MAX, u16::MAX) => {
                "none".to_owned()
            }
            Self::DisplaySize(size) => format!("{}x{} cm", size.width, size.height),
            Self::GraphicsMemory(memory) => match (memory.video, memory.system) {
                (0, 0) => "none of its own".to_owned(),
                (video, system) => {
                    format!("{video} of its own, {system} set aside (the unit is not known)")
                }
            },
            Self::Graphics(name) => words_of(name),
            Self::CoreKinds(kinds) => {
                let kinds = kinds.iter().map(|(class, cores, threads)| {
                    let (cores, threads) = (count(*cores, "core"), count(*threads, "thread"));
                    format!("class {class}: {cores}, {threads}")
                });
                kinds.collect::<Vec<_>>().join("; ")
            }
            Self::Text(TextKind::TpmVersion, text) => {
                words_of(tpm(text).as_deref().unwrap_or(text))
            }
            Self::Text(_, text) => words_of(text),
            Self::Other { data, .. } => hex(data),
        }
    }
}

impl Tool {
    fn words(&self) -> String {
        let place = match self.os_type {
            1 => "in Windows PE",
            2 => "in Windows",
            _ => "in an unknown system",
        };
        let (tool, os) = (self.tool, self.os);
        format!(
            "tool {}.{}.{}.{} {place} {}.{}.{}.{}, {}, format {}, at {}",
            tool.major,
            tool.minor,
            tool.build,
            tool.revision,
            os.major,
            os.minor,
            os.build,
            os.revision,
            architecture(self.architecture.into()),
            self.format,
            self.time()
        )
    }
}

impl NetworkAdapter {
    fn words(&self) -> String {
        let medium = match self.medium {
            14 => "Ethernet".to_owned(),
            9 => "Wi-Fi".to_owned(),
            10 => "Bluetooth".to_owned(),
            other => format!("medium {other}"),
        };
        format!("{} {medium} on {}", self.mac, crate::ids::shown(&self.bus))
    }
}

impl TextKind {
    /// What the text is.
    pub const fn name(self) -> &'static str {
        match self {
            Self::CpuVendor => "Processor maker",
            Self::CpuBrand => "Processor",
            Self::Disk => "Disk",
            Self::TpmVersion => "TPM",
            Self::Serial => "Serial number",
            Self::BiosVendor => "Firmware maker",
            Self::Manufacturer => "Manufacturer",
            Self::Product => "Model",
            Self::Sku => "SKU number",
            Self::Family => "Family",
            Self::BoardManufacturer => "Board maker",
            Self::BoardProduct => "Board",
            Self::BoardVersion => "Board version",
            Self::SystemVersion => "System version",
            Self::ProductKeyId => "Product key id",
            Self::ProductKeyPart => "Product key part",
            Self::SystemDisk => "System disk",
            Self::Locale => "Languages",
        }
    }
}

/// Foreign text for a terminal.
fn words_of(text: &str) -> String {
    crate::hardware::identity::clean(text).unwrap_or_else(|| "none".to_owned())
}

/// `TPM-Version:2.0 -Level:0-Revision:1.64-VendorID:'IBM '-Firmware:5.14` as a
/// person says it; none where it is of another form.
fn tpm(text: &str) -> Option<String> {
    let (version, rest) = text.strip_prefix("TPM-Version:")?.split_once(" -Level:")?;
    let (_, rest) = rest.split_once("-Revision:")?;
    let (revision, rest) = rest.split_once("-VendorID:'")?;
    let (maker, firmware) = rest.split_once("'-Firmware:")?;
    let maker = maker.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    Some(format!(
        "{version}, revision {revision}, by {maker}, firmware {firmware}"
    ))
}

fn count(number: u16, what: &str) -> String {
    let s = if number == 1 { "" } else { "s" };
    format!("{number} {what}{s}")
}

fn architecture(number: u16) -> String {
    match number {
        0 => "x86".to_owned(),
        9 => "x64".to_owned(),
        12 => "ARM64".to_owned(),
        other => format!("architecture {other}"),
    }
}

/// SMBIOS type 16, error correction.
fn error_correction(code: u8) -> String {
    match code {
        2 => "error correction unknown".to_owned(),
        3 => "no error correction".to_owned(),
        5 => "single-bit error correction".to_owned(),
        6 => "multi-bit error correction".to_owned(),
        other => format!("error correction {other}"),
    }
}

/// Windows' `STORAGE_BUS_TYPE`.
fn storage_bus(bus: u16) -> String {
    match bus {
        0 => "bus unknown".to_owned(),
        1 => "SCSI".to_owned(),
        3 => "ATA".to_owned(),
        7 => "USB".to_owned(),
        8 => "RAID".to_owned(),
        10 => "SAS".to_owned(),
        11 => "SATA".to_owned(),
        12 => "SD".to_owned(),
        13 => "MMC".to_owned(),
        17 => "NVMe".to_owned(),
        19 => "UFS".to_owned(),
        other => format!("bus {other}"),
    }
}

const fn rotation(media: [u8; 2]) -> &'static str {
    match media[0] {
        0 => "solid state",
        0xff => "rotating",
        _ => "kind unknown",
    }
}

/// SMBIOS type 3, the types that occur (DSP0134, 7.4.1).
const fn chassis(kind: u8) -> &'static str {
    match kind {
        1 => "other",
        3 => "desktop",
        4 => "low-profile desktop",
        6 => "mini tower",
        7 => "tower",
        8 => "portable",
        9 => "laptop",
        10 => "notebook",
        11 => "hand-held",
        13 => "all in one",
        14 => "sub-notebook",
        17 => "main server chassis",
        23 => "rack mount",
        30 => "tablet",
        31 => "convertible",
        32 => "detachable",
        33 => "IoT gateway",
        35 => "mini PC",
        36 => "stick PC",
        _ => "unknown",
    }
}

/// Windows' `POWER_PLATFORM_ROLE`.
const fn power_role(role: u8) -> &'static str {
    match role {
        1 => "desktop",
        2 => "mobile",
        3 => "workstation",
        4 => "enterprise server",
        5 => "small-office server",
        6 => "appliance",
        7 => "performance server",
        8 => "slate",
        _ => "unknown",
    }
}

fn hex(data: &[u8]) -> String {
    let shown = data.get(..SHOWN).unwrap_or(data);
    let digits = data_encoding::HEXLOWER.encode(shown);
    let more = if data.len() > SHOWN { "…" } else { "" };
    format!("{} bytes: {digits}{more}", data.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hardware::MacAddr;

    fn adapter(last: u8) -> Record {
        Record::NetworkAdapter(NetworkAdapter {
            medium: 14,
            mac: MacAddr([2, 0, 0, 0, 0, last]),
            bus: "PCI".into(),
        })
    }

    fn hash(records: &[Record]) -> HardwareHash {
        HardwareHash {
            records: records.to_vec(),
        }
    }

    #[test]
    fn order_is_no_difference_and_one_more_is() {
        let serial = |text: &str| Record::Text(TextKind::Serial, text.into());
        let a = hash(&[serial("A"), adapter(1), adapter(2)]);
        let b = hash(&[adapter(2), adapter(1), serial("A")]);
        assert_eq!(a.differences(&b), []);
        let b = hash(&[serial("B"), adapter(2), adapter(2), adapter(1)]);
        let found = a.differences(&b);
        assert_eq!(found.len(), 2);
        assert_eq!(
            (
                found[0].kind,
                found[0].first.as_deref(),
                found[0].second.as_deref()
            ),
            (8, None, Some("02:00:00:00:00:02 Ethernet on PCI"))
        );
        assert_eq!(
            (
                found[1].name,
                found[1].first.as_deref(),
                found[1].second.as_deref()
            ),
            ("Serial number", Some("A"), Some("B"))
        );
        let empty = hash(&[]);
        assert_eq!(a.differences(&empty).len(), 3);
    }

    #[test]
    fn what_is_written_for_machines_is_said_in_words() {
        let words = |kind, text: &str| Record::Text(kind, text.into()).words();
        let tpm = "TPM-Version:2.0 -Level:0-Revision:1.64-VendorID:'IBM '-Firmware:538513443.1";
        assert_eq!(
            words(TextKind::TpmVersion, tpm),
            "2.0, revision 1.64, by IBM, firmware 538513443.1"
        );
        assert_eq!(words(TextKind::TpmVersion, "something"), "something");
        let none = super::super::DisplaySize {
            width: u16::MAX,
            height: u16::MAX,
        };
        assert_eq!(Record::DisplaySize(none).words(), "none");
        let card = Record::read(30, &super::super::graphics::to_utf16("Maker|Card One"));
        assert_eq!(
            (card.name(), &*card.words()),
            ("Graphics", "Maker|Card One")
        );
        let memory = Record::read(29, &[&[8, 0, 0, 0][..], &[0; 14]].concat());
        assert_eq!(
            memory.words(),
            "8 of its own, 0 set aside (the unit is not known)"
        );
    }

    #[test]
    fn foreign_text_cannot_steer_a_terminal() {
        let record = Record::Text(TextKind::Serial, "a\u{1b}[2J\nb".into());
        assert!(!record.words().contains(char::is_control));
        let record = Record::Other {
            kind: 35,
            data: vec![0xab; 40],
        };
        assert!(record.words().starts_with("40 bytes: abab") && record.words().ends_with('…'));
    }

    #[test]
    fn the_bus_of_an_adapter_is_foreign_text_too() {
        let mut record = adapter(1);
        if let Record::NetworkAdapter(adapter) = &mut record {
            adapter.bus = "P\u{1b}CI".into();
        }
        assert!(!record.words().contains(char::is_control));
    }
}
