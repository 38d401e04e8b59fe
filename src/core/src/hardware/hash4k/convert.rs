//! Between a hardware hash and what the rest of the house speaks.

use super::record::{
    CpuTopology, IdSource, Memory, NetworkAdapter, OfflineDeviceId, Record, TextKind, Tool,
    ToolVersion, WINDOWS_EPOCH,
};
use super::{CONTAINER, HardwareHash, HashError};
use crate::digest::Digest;
use crate::hardware::identity::{Identity, clean};
use crate::hardware::report::{Disk, HardwareReport, Nic, Tpm};
use crate::time::UnixTime;

/// `NDIS_PHYSICAL_MEDIUM` of Ethernet.
const ETHERNET: u32 = 14;

/// `POWER_PLATFORM_ROLE`, `STORAGE_BUS_TYPE` and the like: "unknown".
const UNKNOWN: u16 = 0;

impl HardwareHash {
    /// The first text of a kind, cleaned; missing strings are `None`.
    pub fn text(&self, kind: TextKind) -> Option<String> {
        self.records.iter().find_map(|record| match record {
            Record::Text(found, value) if *found == kind => clean(value),
            _ => None,
        })
    }

    /// What tells the machine from others.
    pub fn identity(&self) -> Identity {
        let mut identity = Identity {
            ek: self.ek(),
            uuid: self.records.iter().find_map(|record| match record {
                Record::Uuid(uuid) if !blank(uuid.canonical()) => Some(*uuid),
                _ => None,
            }),
            serial: self.text(TextKind::Serial),
            manufacturer: self.text(TextKind::Manufacturer),
            product: self.text(TextKind::Product),
            macs: Vec::new(),
        };
        identity.set_macs(self.records.iter().filter_map(|record| match record {
            Record::NetworkAdapter(adapter) if adapter.bus != "USB" => Some(adapter.mac),
            _ => None,
        }));
        identity
    }

    /// SHA-256 of the endorsement key's modulus: computed where the modulus is
    /// there, else the offline device id where its source is the TPM.
    fn ek(&self) -> Option<Digest> {
        let modulus = self.records.iter().find_map(|record| match record {
            Record::EkModulus(modulus) => Some(Digest::of(modulus.as_slice())),
            _ => None,
        });
        modulus.or_else(|| {
            self.records.iter().find_map(|record| match record {
                Record::OfflineDeviceId(OfflineDeviceId {
                    source: IdSource::Tpm,
                    id,
                    ..
                }) => Some(Digest::from_bytes(*id)),
                _ => None,
            })
        })
    }

    /// Builds a hash from a report, with the records that a report can fill.
    /// Disks and NICs that no longer fit are left out, the last ones first.
    /// `at`: when it is made.
    pub fn from_report(report: &HardwareReport, at: UnixTime) -> Result<Self, HashError> {
        let mut records = vec![tool(report, at), cpu_topology(report)];
        records.push(Record::Memory(Memory {
            gigabytes: report.memory_mib.div_ceil(1024),
            most: report.memory_mib.div_ceil(1024),
            slots: 0,
            arrays: 0,
            ecc: 2, // SMBIOS: unknown
        }));
        records.extend(texts(report));
        records.extend(report.smbios.uuid.map(Record::Uuid));
        let modulus = report.tpm.as_ref().and_then(|tpm| tpm.modulus);
        records.extend(modulus.map(|modulus| Record::EkModulus(Box::new(modulus.0))));
        records.extend(offline_device_id(report));
        let mut hash = Self { records };
        let fixed = report.disks.iter().filter(|disk| !disk.removable);
        let parts = report.nics.iter().map(|nic| vec![adapter(nic)]);
        for part in parts.chain(fixed.map(disk)) {
            let room = hash.size() + part.iter().map(|r| r.data().len() + 4).sum::<usize>();
            if room <= CONTAINER {
                hash.records.extend(part);
            }
        }
        hash.to_bytes().map(|_| hash)
    }

    /// Bytes up to the end of the checksum.
    fn size(&self) -> usize {
        let records: usize = self.records.iter().map(|r| r.data().len() + 4).sum();
        4 + records + 36
    }
}

fn blank(bytes: &[u8; 16]) -> bool {
    *bytes == [0; 16] || *bytes == [0xff; 16]
}

fn tool(report: &HardwareReport, at: UnixTime) -> Record {
    let version = ToolVersion {
        major: 10,
        minor: 0,
        build: 26100,
        revision: 1,
    };
    let seconds = at.seconds().saturating_sub(WINDOWS_EPOCH);
    Record::Tool(Tool {
        tool: version,
        os: version,
        seconds: u32::try_from(seconds).unwrap_or(u32::MAX),
        zone: 0,
        os_type: 2,
        architecture: report.cpu.arch.windows(),
        format: 9,
    })
}

fn cpu_topology(report: &HardwareReport) -> Record {
    let threads = u16::try_from(report.cpu.threads).unwrap_or(u16::MAX);
    Record::CpuTopology(CpuTopology {
        architecture: u16::from(report.cpu.arch.windows()),
        packages: 1,
        cores: threads,
        threads,
        flags: [0; 4],
    })
}

fn texts(report: &HardwareReport) -> Vec<Record> {
    let s = &report.smbios;
    // 48 bytes with the final NUL, as the processor itself gives it.
    let brand = report.cpu.model.chars().filter(char::is_ascii).take(47);
    let brand = Some(brand.collect::<String>());
    let tpm = report.tpm.as_ref();
    let tpm = tpm.map(tpm_text);
    [
        (TextKind::CpuBrand, &brand),
        (TextKind::TpmVersion, &tpm),
        (TextKind::Serial, &s.serial),
        (TextKind::BiosVendor, &s.bios_vendor),
        (TextKind::Manufacturer, &s.manufacturer),
        (TextKind::Product, &s.product),
        (TextKind::Sku, &s.sku),
        (TextKind::Family, &s.family),
        (TextKind::BoardManufacturer, &s.board_manufacturer),
        (TextKind::BoardProduct, &s.board_product),
        (TextKind::SystemVersion, &s.product_version),
    ]
    .into_iter()
    .filter_map(|(kind, text)| Some(Record::Text(kind, clean(text.as_deref()?)?)))
    .collect()
}

/// As Windows' tool writes it; the maker's name has four letters there.
fn tpm_text(tpm: &Tpm) -> String {
    let about = tpm.about.as_ref().map(|about| {
        let (whole, part) = (about.revision / 100, about.revision % 100);
        let [first, second] = about.firmware;
        format!(
            " -Level:{}-Revision:{whole}.{part:02}-VendorID:'{:4}'-Firmware:{first}.{second}",
            about.level, about.maker
        )
    });
    let about = about.unwrap_or_else(|| " -Level:0".to_owned());
    format!("TPM-Version:{}.0{about}", tpm.version)
}

fn offline_device_id(report: &HardwareReport) -> Option<Record> {
    let ek = report.tpm.as_ref()?.ek?;
    Some(Record::OfflineDeviceId(OfflineDeviceId {
        source: IdSource::Tpm,
        flag: 0,
        id: *ek.as_bytes(),
    }))
}

fn adapter(nic: &Nic) -> Record {
    // Windows knows no bus `virtio`; such a NIC hangs on PCI.
    let usb = nic.bus.as_deref() == Some("usb");
    Record::NetworkAdapter(NetworkAdapter {
        medium: ETHERNET,
        mac: nic.mac,
        bus: if usb { "USB" } else { "PCI" }.to_owned(),
    })
}

/// Windows knows an NVMe disk by its namespace's id instead of its serial
/// number: groups of four hex digits, as `8CE3_8E05_00C9_751C.`
fn windows_id(disk: &Disk) -> Option<String> {
    let id = disk.nguid.as_ref().or(disk.eui.as_ref())?.to_uppercase();
    let groups = id.as_bytes().chunks(4).map(String::from_utf8_lossy);
    let groups: Vec<_> = groups.collect();
    Some(format!("{}.", groups.join("_")))
}

fn disk(disk: &Disk) -> Vec<Record> {
    let name = |text: &Option<String>| {
        let text = text.as_deref().and_then(clean).unwrap_or_default();
        text.replace('|', " ")
    };
    let serial = windows_id(disk).unwrap_or_else(|| name(&disk.serial));
    let id = format!("{serial}|{}|", name(&disk.model));
    let size = Record::DiskSize {
        gigabytes: disk.size / 1_000_000_000,
        bus: UNKNOWN,
        media: [0, 1],
    };
    vec![size, Record::Text(TextKind::Disk, id)]
}
