//! The records of a hardware hash. A record is typed only where writing it
//! again gives the same bytes; every other one stays [`Record::Other`].

use super::graphics::{GraphicsMemory, from_utf16, to_utf16};
use crate::hardware::mac::MacAddr;
use crate::hardware::uuid::SmbiosUuid;
use crate::time::UnixTime;

/// 2000-01-01T00:00:00Z: the zero of a hash's time stamp.
pub const WINDOWS_EPOCH: u64 = 946_684_800;

/// One record. Numbers in the docs are its type and, where fixed, the bytes of
/// its data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record {
    /// 1 (24): which tool made the hash, where and when.
    Tool(Tool),
    /// 2 (12): the processor's shape.
    CpuTopology(CpuTopology),
    /// 5 (21): memory.
    Memory(Memory),
    /// 6 (12): one disk's size.
    DiskSize {
        /// Size in GB.
        gigabytes: u64,
        /// Windows' `STORAGE_BUS_TYPE`: 11 SATA, 17 NVMe.
        bus: u16,
        /// First byte 00 for a solid-state disk, FF for one that turns.
        media: [u8; 2],
    },
    /// 8: one network adapter.
    NetworkAdapter(NetworkAdapter),
    /// 9 (12): one display.
    Display(Display),
    /// 10 (5): chassis.
    Chassis(Chassis),
    /// 11 (42): the id that Windows derives for the machine.
    OfflineDeviceId(OfflineDeviceId),
    /// 12 (16): SMBIOS UUID, stored as in the table.
    Uuid(SmbiosUuid),
    /// 25 (256): the RSA-2048 modulus of the TPM's endorsement key, big-endian.
    EkModulus(Box<[u8; 256]>),
    /// 27 (4): display size.
    DisplaySize(DisplaySize),
    /// 29 (18): memory of a graphics adapter.
    GraphicsMemory(GraphicsMemory),
    /// 30: `maker|name` of a graphics adapter.
    Graphics(String),
    /// 34: kinds of processor cores: (class, cores, threads).
    CoreKinds(Vec<(u8, u16, u16)>),
    /// A text in UTF-8 that ends as its kind does.
    Text(TextKind, String),
    /// Anything else, as it stands.
    Other {
        /// Record type.
        kind: u16,
        /// Its data.
        data: Vec<u8>,
    },
}

/// Four numbers of a Windows version, as in `10.0.26100.1`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToolVersion {
    /// Major version.
    pub major: u16,
    /// Minor version.
    pub minor: u16,
    /// Build.
    pub build: u16,
    /// Revision.
    pub revision: u16,
}

/// Record 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tool {
    /// The tool's build.
    pub tool: ToolVersion,
    /// The build of Windows it ran on.
    pub os: ToolVersion,
    /// When, in seconds since 2000-01-01T00:00:00Z.
    pub seconds: u32,
    /// Time zone in quarter hours; older tools hold a constant 0x78.
    pub zone: i8,
    /// 1 Windows PE, 2 full Windows.
    pub os_type: u8,
    /// 0 x86, 9 x64, 12 ARM64.
    pub architecture: u8,
    /// The format's version: 3 in 2018, later 5, 7, 9.
    pub format: u8,
}

impl Tool {
    /// When the hash was made.
    pub fn time(&self) -> UnixTime {
        UnixTime::new(WINDOWS_EPOCH + u64::from(self.seconds))
    }
}

/// Record 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTopology {
    /// 9 for x64.
    pub architecture: u16,
    /// Sockets in use.
    pub packages: u16,
    /// Cores.
    pub cores: u16,
    /// Logical processors.
    pub threads: u16,
    /// The rest: whether a core has several threads.
    pub flags: [u8; 4],
}

/// Record 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Memory in GiB.
    pub gigabytes: u64,
    /// The most the board takes, in GiB.
    pub most: u64,
    /// Slots.
    pub slots: u16,
    /// Memory arrays.
    pub arrays: u16,
    /// SMBIOS error correction code: 3 none, 6 multi-bit.
    pub ecc: u8,
}

/// Record 8.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkAdapter {
    /// Windows' `NDIS_PHYSICAL_MEDIUM`: 14 Ethernet, 9 Wi-Fi, 10 Bluetooth.
    pub medium: u32,
    /// The permanent address.
    pub mac: MacAddr,
    /// What it hangs on: `PCI`, `BTH`, `USB`.
    pub bus: String,
}

/// Record 9: sizes in mm and pixels; all FF where there is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Display {
    /// Width and height in mm.
    pub millimetres: (u16, u16),
    /// Width and height in pixels.
    pub pixels: (u16, u16),
    /// Connector; 0x8000_0000 is a built-in panel.
    pub connector: u32,
}

/// Record 10.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chassis {
    /// SMBIOS chassis type.
    pub kind: u8,
    /// Windows' `POWER_PLATFORM_ROLE`.
    pub role: u8,
    /// Not understood.
    pub rest: [u8; 3],
}

/// Where an offline device id comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdSource {
    /// SHA-256 of the modulus in record 25.
    Tpm,
    /// A UEFI variable.
    Uefi,
    /// The registry of that Windows: it does not survive a new installation.
    Registry,
    /// Another number.
    Other(u8),
}

/// Record 11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OfflineDeviceId {
    /// Where it comes from.
    pub source: IdSource,
    /// Not understood: 0 with a TPM, 1 seen without.
    pub flag: u8,
    /// The id.
    pub id: [u8; 32],
}

/// Record 27, in cm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DisplaySize {
    /// Width.
    pub width: u16,
    /// Height.
    pub height: u16,
}

/// What a text record holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TextKind {
    /// 3: processor vendor.
    CpuVendor,
    /// 4 (48): processor brand string.
    CpuBrand,
    /// 7: `serial|model|` of one disk.
    Disk,
    /// 13: TPM version, maker and firmware in one line.
    TpmVersion,
    /// 14: system serial number.
    Serial,
    /// 15: firmware vendor.
    BiosVendor,
    /// 16: system manufacturer.
    Manufacturer,
    /// 17: system product name.
    Product,
    /// 18: SKU number.
    Sku,
    /// 19: family.
    Family,
    /// 20: baseboard manufacturer.
    BoardManufacturer,
    /// 21: baseboard product.
    BoardProduct,
    /// 22: baseboard version.
    BoardVersion,
    /// 23: system version.
    SystemVersion,
    /// 24: product key id (PKID), 13 digits.
    ProductKeyId,
    /// 26: product key part number.
    ProductKeyPart,
    /// 28: `serial|model|` of the system disk.
    SystemDisk,
    /// 36: languages, time zone and keyboards (Windows PE).
    Locale,
}

/// How a text ends in its record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// Where the record does.
    None,
    /// With one NUL.
    Nul,
    /// With NULs up to this many bytes.
    Fixed(usize),
}

const TEXTS: [(u16, TextKind, Ending); 18] = [
    (3, TextKind::CpuVendor, Ending::Nul), // "GenuineIntel" and a NUL
    (4, TextKind::CpuBrand, Ending::Fixed(48)),
    (7, TextKind::Disk, Ending::None),
    (13, TextKind::TpmVersion, Ending::Nul),
    (14, TextKind::Serial, Ending::Nul),
    (15, TextKind::BiosVendor, Ending::Nul),
    (16, TextKind::Manufacturer, Ending::Nul),
    (17, TextKind::Product, Ending::Nul),
    (18, TextKind::Sku, Ending::Nul),
    (19, TextKind::Family, Ending::Nul),
    (20, TextKind::BoardManufacturer, Ending::Nul),
    (21, TextKind::BoardProduct, Ending::Nul),
    (22, TextKind::BoardVersion, Ending::Nul),
    (23, TextKind::SystemVersion, Ending::Nul),
    (24, TextKind::ProductKeyId, Ending::Nul),
    (26, TextKind::ProductKeyPart, Ending::Nul),
    (28, TextKind::SystemDisk, Ending::Nul),
    (36, TextKind::Locale, Ending::Nul),
];

impl Record {
    /// Reads one record's data. Never fails: what does not fit its type, or
    /// would not be written back byte for byte, is [`Record::Other`].
    pub fn read(kind: u16, data: &[u8]) -> Self {
        read_typed(kind, data)
            .filter(|record| record.kind() == kind && record.data() == data)
            .unwrap_or_else(|| Self::Other {
                kind,
                data: data.to_vec(),
            })
    }

    /// The record's type.
    pub fn kind(&self) -> u16 {
        match self {
            Self::Tool(_) => 1,
            Self::CpuTopology(_) => 2,
            Self::Memory(_) => 5,
            Self::DiskSize { .. } => 6,
            Self::NetworkAdapter(_) => 8,
            Self::Display(_) => 9,
            Self::Chassis(_) => 10,
            Self::OfflineDeviceId(_) => 11,
            Self::Uuid(_) => 12,
            Self::EkModulus(_) => 25,
            Self::DisplaySize(_) => 27,
            Self::GraphicsMemory(_) => 29,
            Self::Graphics(_) => 30,
            Self::CoreKinds(_) => 34,
            Self::Text(text, _) => text.row().0,
            Self::Other { kind, .. } => *kind,
        }
    }

    /// The record's data, without type and length.
    pub fn data(&self) -> Vec<u8> {
        match self {
            Self::Tool(tool) => tool.data(),
            Self::CpuTopology(c) => {
                let numbers = [c.architecture, c.packages, c.cores, c.threads];
                [&words(&numbers)[..], &c.flags].concat()
            }
            Self::Memory(m) => {
                let sizes = [m.gigabytes.to_le_bytes(), m.most.to_le_bytes()].concat();
                [sizes, words(&[m.slots, m.arrays]), vec![m.ecc]].concat()
            }
            Self::DiskSize {
                gigabytes,
                bus,
                media,
            } => [&gigabytes.to_le_bytes()[..], &bus.to_le_bytes(), media].concat(),
            Self::NetworkAdapter(adapter) => adapter.data(),
            Self::Display(d) => {
                let (mm, px) = (d.millimetres, d.pixels);
                let sizes = words(&[mm.0, mm.1, px.0, px.1]);
                [&sizes[..], &d.connector.to_le_bytes()].concat()
            }
            Self::Chassis(c) => [&[c.kind, c.role][..], &c.rest].concat(),
            Self::OfflineDeviceId(id) => id.data(),
            Self::Uuid(uuid) => uuid.little_endian().to_vec(),
            Self::EkModulus(modulus) => modulus.to_vec(),
            Self::DisplaySize(size) => words(&[size.width, size.height]),
            Self::GraphicsMemory(memory) => memory.data(),
            Self::Graphics(name) => to_utf16(name),
            Self::CoreKinds(kinds) => core_kinds(kinds),
            Self::Text(text, value) => text.data(value),
            Self::Other { data, .. } => data.clone(),
        }
    }
}

fn read_typed(kind: u16, data: &[u8]) -> Option<Record> {
    let mut r = Reader(data);
    Some(match kind {
        1 => Record::Tool(Tool::read(&mut r)?),
        2 => Record::CpuTopology(CpuTopology {
            architecture: r.u16()?,
            packages: r.u16()?,
            cores: r.u16()?,
            threads: r.u16()?,
            flags: r.array()?,
        }),
        5 => Record::Memory(Memory {
            gigabytes: r.array().map(u64::from_le_bytes)?,
            most: r.array().map(u64::from_le_bytes)?,
            slots: r.u16()?,
            arrays: r.u16()?,
            ecc: r.u8()?,
        }),
        6 => Record::DiskSize {
            gigabytes: r.array().map(u64::from_le_bytes)?,
            bus: r.u16()?,
            media: r.array()?,
        },
        8 => Record::NetworkAdapter(NetworkAdapter::read(&mut r)?),
        9 => Record::Display(Display {
            millimetres: (r.u16()?, r.u16()?),
            pixels: (r.u16()?, r.u16()?),
            connector: r.array().map(u32::from_le_bytes)?,
        }),
        10 => Record::Chassis(Chassis {
            kind: r.u8()?,
            role: r.u8()?,
            rest: r.array()?,
        }),
        11 => Record::OfflineDeviceId(OfflineDeviceId::read(&mut r)?),
        12 => Record::Uuid(SmbiosUuid::from_little_endian(r.array()?)),
        25 => Record::EkModulus(Box::new(r.array()?)),
        27 => Record::DisplaySize(DisplaySize {
            width: r.u16()?,
            height: r.u16()?,
        }),
        29 => Record::GraphicsMemory(GraphicsMemory::read(data)?),
        30 => Record::Graphics(from_utf16(data)?),
        34 => Record::CoreKinds(read_core_kinds(&mut r)?),
        _ => TextKind::read(kind, data)?,
    })
}

impl Tool {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            tool: ToolVersion::read(r)?,
            os: ToolVersion::read(r)?,
            seconds: r.array().map(u32::from_le_bytes)?,
            zone: r.array().map(i8::from_le_bytes)?,
            os_type: r.u8()?,
            architecture: r.u8()?,
            format: r.u8()?,
        })
    }

    fn data(&self) -> Vec<u8> {
        let zone = self.zone.to_le_bytes()[0];
        let tail = [zone, self.os_type, self.architecture, self.format];
        [
            self.tool.data(),
            self.os.data(),
            self.seconds.to_le_bytes().to_vec(),
            tail.to_vec(),
        ]
        .concat()
    }
}

impl ToolVersion {
    /// Stored as minor, major, revision, build.
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let (minor, major, revision, build) = (r.u16()?, r.u16()?, r.u16()?, r.u16()?);
        Some(Self {
            major,
            minor,
            build,
            revision,
        })
    }

    fn data(&self) -> Vec<u8> {
        words(&[self.minor, self.major, self.revision, self.build])
    }
}

impl NetworkAdapter {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        let medium = r.array().map(u32::from_le_bytes)?;
        let mac = MacAddr(r.array()?);
        let length = r.array().map(u32::from_le_bytes)?;
        let bus = from_utf16(r.take(usize::try_from(length).ok()?)?)?;
        let bus = bus.strip_suffix('\0')?.to_owned();
        Some(Self { medium, mac, bus })
    }

    fn data(&self) -> Vec<u8> {
        let bus = to_utf16(&format!("{}\0", self.bus));
        let length = u32::try_from(bus.len()).unwrap_or(u32::MAX);
        [
            &self.medium.to_le_bytes()[..],
            &self.mac.0,
            &length.to_le_bytes(),
            &bus,
        ]
        .concat()
    }
}

impl OfflineDeviceId {
    fn read(r: &mut Reader<'_>) -> Option<Self> {
        r.array::<4>().filter(|zero| *zero == [0; 4])?;
        let source = match r.u8()? {
            1 => IdSource::Tpm,
            2 => IdSource::Uefi,
            3 => IdSource::Registry,
            other => IdSource::Other(other),
        };
        let flag = r.u8()?;
        r.array::<4>().filter(|n| u32::from_le_bytes(*n) == 32)?;
        let id = r.array()?;
        Some(Self { source, flag, id })
    }

    fn data(&self) -> Vec<u8> {
        let source = match self.source {
            IdSource::Tpm => 1,
            IdSource::Uefi => 2,
            IdSource::Registry => 3,
            IdSource::Other(other) => other,
        };
        let head = [0, 0, 0, 0, source, self.flag, 32, 0, 0, 0];
        [&head[..], &self.id].concat()
    }
}

impl TextKind {
    fn row(self) -> (u16, Self, Ending) {
        // Every kind has its row; a test walks them.
        let row = TEXTS.iter().find(|row| row.1 == self);
        row.copied().unwrap_or((0, self, Ending::None))
    }

    fn read(kind: u16, data: &[u8]) -> Option<Record> {
        let (_, text, _) = TEXTS.iter().find(|row| row.0 == kind)?;
        let value = std::str::from_utf8(data).ok()?.trim_end_matches('\0');
        Some(Record::Text(*text, value.to_owned()))
    }

    fn data(self, value: &str) -> Vec<u8> {
        let mut data = value.as_bytes().to_vec();
        match self.row().2 {
            Ending::None => {}
            Ending::Nul => data.push(0),
            Ending::Fixed(length) => data.resize(length, 0),
        }
        data
    }
}

fn read_core_kinds(r: &mut Reader<'_>) -> Option<Vec<(u8, u16, u16)>> {
    let count = r.u8()?;
    (0..count)
        .map(|_| Some((r.u8()?, r.u16()?, r.u16()?)))
        .collect()
}

fn core_kinds(kinds: &[(u8, u16, u16)]) -> Vec<u8> {
    let mut data = vec![u8::try_from(kinds.len()).unwrap_or(u8::MAX)];
    for (class, cores, threads) in kinds {
        data.push(*class);
        data.extend(words(&[*cores, *threads]));
    }
    data
}

fn words(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

/// Takes fields off the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(length)?;
        self.0 = tail;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_kind_has_one_row() {
        for (number, kind, _) in TEXTS {
            assert_eq!(kind.row().0, number);
            let read = Record::read(number, &kind.data("Example"));
            assert_eq!(read, Record::Text(kind, "Example".into()));
        }
    }

    #[test]
    fn what_would_not_be_written_back_stays_as_it_is() {
        for (kind, data) in [
            (14, &b"no NUL"[..]),
            (14, b"two NULs\0\0"),
            (14, b"\xff\0"),
            (12, b"short"),
            (34, &[2, 1, 0, 0, 0, 0]),
            (8, &[0; 14]),
            (29, &[0; 17]),
            (30, b"odd"),
            (30, b"\x00\xd8"),
            (999, b"?"),
        ] {
            let data = data.to_vec();
            assert_eq!(Record::read(kind, &data), Record::Other { kind, data });
        }
    }
}
