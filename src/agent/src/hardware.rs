//! Reads the hardware report from the running kernel. Everything may be
//! missing: a plain VM has no SMBIOS, a board no TPM.

use std::fs;
use std::path::Path;

use groundcrew_core::hardware::report::{
    Arch, Cpu, Disk, Firmware, HardwareReport, Nic, Smbios, Tpm,
};
use groundcrew_core::hardware::{MacAddr, smbios};

use crate::console::wrapped;
use crate::net::netlink::Netlink;
use crate::tpm;

/// Kernel names of block devices that are no hardware, or no disk.
const NOT_DISKS: [&str; 9] = [
    "loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd", "mtdblock",
];

/// What this machine says of itself.
pub fn gather() -> HardwareReport {
    let sys = Path::new("/sys");
    let mut report = gather_from(sys, Path::new("/proc"));
    let links = Netlink::open().and_then(|mut netlink| netlink.links());
    for link in links.unwrap_or_default() {
        if let Some(nic) = report.nics.iter_mut().find(|nic| nic.name == link.name) {
            nic.mac = link.permanent.unwrap_or(link.mac);
        }
    }
    if let Some(tpm) = report.tpm.as_mut().filter(|tpm| tpm.version == 2) {
        tpm::ask(Path::new("/dev/tpmrm0"), tpm);
    }
    report
}

/// The same from other trees than `/sys` and `/proc`; MAC addresses are the
/// current ones.
pub fn gather_from(sys: &Path, proc: &Path) -> HardwareReport {
    HardwareReport {
        smbios: smbios_tables(sys).unwrap_or_else(|| device_tree(sys)),
        nics: nics(sys),
        disks: disks(sys),
        cpu: cpu(proc),
        memory_mib: memory_mib(proc),
        tpm: tpm(sys),
        firmware: firmware(sys),
    }
}

fn smbios_tables(sys: &Path) -> Option<Smbios> {
    let dir = sys.join("firmware/dmi/tables");
    let entry = fs::read(dir.join("smbios_entry_point")).ok()?;
    let table = fs::read(dir.join("DMI")).ok()?;
    smbios::parse(&entry, &table).ok()
}

/// Boards without SMBIOS (most on ARM) tell model and serial number in their
/// device tree; the maker is the vendor part of `compatible`, as in
/// `raspberrypi,4-model-b` (Devicetree Specification, 2.3.1).
fn device_tree(sys: &Path) -> Smbios {
    let dir = sys.join("firmware/devicetree/base");
    let compatible = text(dir.join("compatible"));
    Smbios {
        manufacturer: compatible.and_then(|all| Some(all.split_once(',')?.0.to_owned())),
        product: text(dir.join("model")),
        serial: text(dir.join("serial-number")),
        ..Smbios::default()
    }
}

/// A short text file, trimmed; empty is none.
fn text(path: impl AsRef<Path>) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!text.is_empty()).then(|| text.chars().take(128).collect())
}

/// Entries of a directory in the kernel's order (`sda`, `sdb`, …, `sdaa`).
fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_by(|a, b| (a.len(), a).cmp(&(b.len(), b)));
    names
}

/// The last component of what a link in sysfs points to.
fn link_name(path: &Path) -> Option<String> {
    let target = fs::read_link(path).ok()?;
    Some(target.file_name()?.to_str()?.to_owned())
}

fn nics(sys: &Path) -> Vec<Nic> {
    let class = sys.join("class/net");
    let nic = |name: String| {
        let dir = class.join(&name);
        let device = dir.join("device");
        // A device behind it, and Ethernet (1).
        if !device.exists() || text(dir.join("type")).as_deref() != Some("1") {
            return None;
        }
        let mac: MacAddr = text(dir.join("address"))?.parse().ok()?;
        Some(Nic {
            mac,
            driver: link_name(&device.join("driver")),
            bus: link_name(&device.join("subsystem")),
            name,
        })
    };
    names(&class).into_iter().filter_map(nic).collect()
}

/// Whether a kernel name is one of a disk.
pub fn is_disk(name: &str) -> bool {
    let pseudo = NOT_DISKS.iter().any(|prefix| name.starts_with(prefix));
    // eMMC boot and RPMB areas are no disks to install on.
    let emmc_area = name.starts_with("mmcblk") && (name.contains("boot") || name.contains("rpmb"));
    !pseudo && !emmc_area
}

fn disks(sys: &Path) -> Vec<Disk> {
    let block = sys.join("block");
    let disk = |name: String| {
        let dir = block.join(&name);
        let size = text(dir.join("size"))?
            .parse::<u64>()
            .ok()?
            .checked_mul(512)?;
        let hidden = text(dir.join("hidden")).as_deref() == Some("1");
        if !is_disk(&name) || size == 0 || hidden {
            return None;
        }
        let device = dir.join("device");
        Some(Disk {
            size,
            model: text(device.join("model")).or_else(|| text(device.join("name"))),
            serial: text(dir.join("serial"))
                .or_else(|| text(device.join("serial")))
                .or_else(|| scsi_serial(&device.join("vpd_pg80"))),
            wwid: text(dir.join("wwid")).or_else(|| text(device.join("wwid"))),
            eui: hex_id(&dir.join("eui"), 16),
            nguid: hex_id(&dir.join("nguid"), 32),
            removable: text(dir.join("removable")).as_deref() == Some("1"),
            name,
        })
    };
    names(&block).into_iter().filter_map(disk).collect()
}

/// An id of `digits` hex digits, which the kernel groups by blanks or dashes;
/// nothing but zeros is none.
fn hex_id(path: &Path, digits: usize) -> Option<String> {
    let mut id = text(path)?;
    id.retain(|c| c != ' ' && c != '-');
    let good = id.len() == digits && id.bytes().all(|b| b.is_ascii_hexdigit());
    (good && id.bytes().any(|b| b != b'0')).then_some(id)
}

/// SCSI's unit serial number page: four bytes of header, then text.
fn scsi_serial(path: &Path) -> Option<String> {
    let page = fs::read(path).ok()?;
    let serial = String::from_utf8_lossy(page.get(4..)?).into_owned();
    let serial = serial.trim_matches(|c: char| c.is_whitespace() || c == '\0');
    (!serial.is_empty()).then(|| serial.chars().take(128).collect())
}

fn cpu(proc: &Path) -> Cpu {
    let info = fs::read_to_string(proc.join("cpuinfo")).unwrap_or_default();
    let field = |line: &str, key: &str| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    };
    // ARM kernels name no processor there, some name the board.
    let named = |key| info.lines().find_map(|line| field(line, key));
    let part = || {
        let (maker, part) = (named("CPU implementer")?, named("CPU part")?);
        Some(format!("ARM maker {maker} part {part}"))
    };
    let model = named("model name")
        .or_else(|| named("Hardware"))
        .or_else(part);
    let threads = info
        .lines()
        .filter(|line| field(line, "processor").is_some());
    Cpu {
        model: model.unwrap_or_default(),
        threads: u32::try_from(threads.count()).unwrap_or(u32::MAX),
        arch: Arch::HERE,
    }
}

fn memory_mib(proc: &Path) -> u64 {
    let info = fs::read_to_string(proc.join("meminfo")).unwrap_or_default();
    let total = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or_default() / 1024
}

fn tpm(sys: &Path) -> Option<Tpm> {
    let dir = sys.join("class/tpm/tpm0");
    dir.exists().then(|| Tpm {
        version: text(dir.join("tpm_version_major"))
            .and_then(|v| v.parse().ok())
            .unwrap_or(1),
        ..Tpm::default()
    })
}

fn firmware(sys: &Path) -> Firmware {
    let efi = sys.join("firmware/efi");
    if !efi.exists() {
        return Firmware::Bios;
    }
    // Four bytes of attributes, then the variable: one byte.
    let variable = efi.join("efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    let secure_boot = fs::read(variable).is_ok_and(|bytes| bytes.get(4) == Some(&1));
    Firmware::Uefi { secure_boot }
}

/// `MAKER MODEL serial=…`, for one line.
pub fn summary(report: &HardwareReport) -> String {
    let smbios = &report.smbios;
    let or =
        |value: &Option<String>, other: &str| value.clone().unwrap_or_else(|| other.to_owned());
    let maker = or(&smbios.manufacturer, "unknown-maker");
    let product = or(&smbios.product, "unknown-model");
    format!("{maker} {product} serial={}", or(&smbios.serial, "none"))
}

/// The report as a table of at most 80 columns.
pub fn table(report: &HardwareReport) -> String {
    let mut rows: Vec<(&str, String)> = Vec::new();
    let smbios = &report.smbios;
    let strings = [
        ("Maker", &smbios.manufacturer),
        ("Model", &smbios.product),
        ("Version", &smbios.product_version),
        ("SKU", &smbios.sku),
        ("Serial", &smbios.serial),
        ("Board", &smbios.board_product),
        ("Board serial", &smbios.board_serial),
        ("Asset tag", &smbios.asset_tag),
        ("Firmware", &smbios.bios_version),
    ];
    for (name, value) in strings {
        rows.push((name, value.clone().unwrap_or_else(|| "-".into())));
    }
    rows.push((
        "UUID",
        smbios
            .uuid
            .map_or_else(|| "-".into(), |uuid| uuid.to_string()),
    ));
    let boot = match report.firmware {
        // A board with a device tree has none.
        Firmware::Bios if smbios.version.is_none() => "not UEFI".into(),
        Firmware::Bios => "BIOS".into(),
        Firmware::Uefi { secure_boot } => {
            format!(
                "UEFI, Secure Boot {}",
                if secure_boot { "on" } else { "off" }
            )
        }
    };
    rows.push(("Boot", boot));
    let tpm = report.tpm.as_ref();
    rows.push(("TPM", tpm.map_or_else(|| "none".into(), tpm_row)));
    if let Some(ek) = tpm.and_then(|tpm| tpm.ek) {
        rows.push(("TPM key (EK)", ek.to_string()));
    }
    rows.push((
        "Processor",
        format!("{} ({} threads)", report.cpu.model, report.cpu.threads),
    ));
    rows.push(("Memory", format!("{} MiB", report.memory_mib)));
    rows.extend(report.nics.iter().map(|nic| ("Network", nic_row(nic))));
    rows.extend(report.disks.iter().map(|disk| ("Disk", disk_row(disk))));
    let row = |(name, value): &(&str, String)| {
        // Names that devices give themselves go to somebody's terminal.
        let plain: String = value
            .chars()
            .map(|c| if c.is_control() { '?' } else { c })
            .collect();
        let lines = wrapped(&plain, 80 - 14);
        let indented = lines.join(&format!("\n{:14}", ""));
        format!("{name:<13} {indented}\n")
    };
    rows.iter().map(row).collect()
}

fn tpm_row(tpm: &Tpm) -> String {
    let Some(about) = &tpm.about else {
        return format!("{}.x", tpm.version);
    };
    let [first, second] = about.firmware;
    format!(
        "{}.0 revision {}.{:02}, {}, firmware {first}.{second}",
        tpm.version,
        about.revision / 100,
        about.revision % 100,
        about.maker
    )
}

fn nic_row(nic: &Nic) -> String {
    let driver = nic.driver.as_deref().unwrap_or("no driver");
    format!(
        "{} {} {driver} ({})",
        nic.name,
        nic.mac,
        nic.bus.as_deref().unwrap_or("-")
    )
}

fn disk_row(disk: &Disk) -> String {
    let gib = disk.size.div_ceil(1 << 30);
    let model = disk.model.as_deref().unwrap_or("-");
    let serial = disk.serial.as_deref().unwrap_or("-");
    let removable = if disk.removable { ", removable" } else { "" };
    format!("{} {gib} GiB {model} serial {serial}{removable}", disk.name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn write(root: &Path, name: &str, content: impl AsRef<[u8]>) {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    fn machine() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        write(
            root,
            "proc/cpuinfo",
            "processor\t: 0\nmodel name\t: QEMU CPU\nprocessor\t: 1\n",
        );
        write(
            root,
            "proc/meminfo",
            "MemTotal:         504321 kB\nMemFree: 1 kB\n",
        );
        write(root, "sys/class/net/eth0/address", "52:54:00:12:34:56\n");
        write(root, "sys/class/net/eth0/type", "1\n");
        fs::create_dir_all(root.join("sys/class/net/eth0/device")).unwrap();
        symlink(
            "../../bus/virtio/drivers/virtio_net",
            root.join("sys/class/net/eth0/device/driver"),
        )
        .unwrap();
        symlink(
            "../../bus/virtio",
            root.join("sys/class/net/eth0/device/subsystem"),
        )
        .unwrap();
        write(root, "sys/class/net/lo/address", "00:00:00:00:00:00\n");
        for (name, size) in [
            ("sdb", "8"),
            ("sda", "2097152"),
            ("loop0", "100"),
            ("sdc", "0"),
        ] {
            write(root, &format!("sys/block/{name}/size"), size);
            write(root, &format!("sys/block/{name}/removable"), "0\n");
        }
        write(root, "sys/block/sda/device/model", "QEMU HARDDISK   \n");
        write(
            root,
            "sys/block/sda/device/vpd_pg80",
            b"\0\x80\0\x07QM00001\0",
        );
        write(root, "sys/block/sda/device/wwid", "t10.ATA QEMU\n");
        write(root, "sys/block/sda/eui", "8c e3 8e 05 00 c9 75 1c\n");
        let zeros = "00000000-0000-0000-0000-000000000000\n";
        write(root, "sys/block/sda/nguid", zeros);
        write(
            root,
            "sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c",
            [6, 0, 0, 0, 1],
        );
        write(root, "sys/class/tpm/tpm0/tpm_version_major", "2\n");
        dir
    }

    #[test]
    fn reads_sysfs() {
        let dir = machine();
        let report = gather_from(&dir.path().join("sys"), &dir.path().join("proc"));
        assert_eq!(
            (report.cpu.model.as_str(), report.cpu.threads),
            ("QEMU CPU", 2)
        );
        assert_eq!(report.memory_mib, 492);
        assert_eq!(report.nics.len(), 1);
        assert_eq!(report.nics[0].driver.as_deref(), Some("virtio_net"));
        assert_eq!(report.nics[0].bus.as_deref(), Some("virtio"));
        let names: Vec<_> = report.disks.iter().map(|disk| disk.name.as_str()).collect();
        assert_eq!(names, ["sda", "sdb"]);
        assert_eq!(report.disks[0].serial.as_deref(), Some("QM00001"));
        assert_eq!(report.disks[0].model.as_deref(), Some("QEMU HARDDISK"));
        assert_eq!(report.disks[0].eui.as_deref(), Some("8ce38e0500c9751c"));
        assert_eq!(report.disks[0].nguid, None);
        assert_eq!(report.firmware, Firmware::Uefi { secure_boot: true });
        assert_eq!(
            report.tpm,
            Some(Tpm {
                version: 2,
                ..Tpm::default()
            })
        );
        assert_eq!(report.smbios, Smbios::default());
        assert!(
            table(&report)
                .lines()
                .all(|line| line.chars().count() <= 80)
        );
    }

    #[test]
    fn a_board_without_smbios_reports_its_device_tree() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        let base = "sys/firmware/devicetree/base";
        write(root, &format!("{base}/model"), "Example Board 4\0");
        write(root, &format!("{base}/serial-number"), "10000000abcdef01\0");
        write(
            root,
            &format!("{base}/compatible"),
            "example,board-4\0example,soc\0",
        );
        let info =
            "processor\t: 0\nBogoMIPS\t: 108.00\nCPU implementer\t: 0x41\nCPU part\t: 0xd08\n";
        write(root, "proc/cpuinfo", info);
        let report = gather_from(&root.join("sys"), &root.join("proc"));
        assert_eq!(
            summary(&report),
            "example Example Board 4 serial=10000000abcdef01"
        );
        assert_eq!((report.cpu.threads, report.smbios.version), (1, None));
        assert_eq!(report.cpu.model, "ARM maker 0x41 part 0xd08");
        let table = table(&report);
        assert!(table.contains("Boot          not UEFI\n"), "{table}");
    }

    #[test]
    fn a_machine_with_nothing_still_reports() {
        let dir = tempfile::tempdir().unwrap();
        let report = gather_from(dir.path(), dir.path());
        assert_eq!(report, HardwareReport::default());
        assert_eq!(summary(&report), "unknown-maker unknown-model serial=none");
    }

    #[test]
    fn a_device_cannot_write_escape_sequences_to_a_terminal() {
        let mut report = HardwareReport::default();
        report.smbios.serial = Some("\x1b]0;owned\x07".into());
        let shown = table(&report);
        assert!(shown.contains("?]0;owned?"), "{shown}");
        assert!(!shown.contains(['\x1b', '\x07']));
    }
}
