//! The hardware report in the forms that other tools read: an Autopilot CSV row
//! and a QR code.

use groundcrew_core::UnixTime;
use groundcrew_core::hardware::hash4k::{HardwareHash, HashError};
use groundcrew_core::hardware::{HardwareReport, Identity};
use qrcode::{EcLevel, QrCode, render::unicode::Dense1x2};

/// The columns of Get-WindowsAutopilotInfo, as Intune wants them to the letter.
const HEADER: &str = "Device Serial Number,Windows Product ID,Hardware Hash";

/// Lines of a terminal of 24, less one for the prompt.
const LINES: usize = 23;

/// Characters of a terminal.
const COLUMNS: usize = 80;

/// A CSV file with one row: serial number and 4K hardware hash. Intune takes no
/// quotes, so a serial number that would need them stays in the hash alone.
pub fn csv(report: &HardwareReport, at: UnixTime) -> Result<String, HashError> {
    let hash = HardwareHash::from_report(report, at)?.to_text()?;
    let serial = Identity::from(report).serial.unwrap_or_default();
    let plain = serial.is_ascii() && !serial.contains([',', '"']);
    let serial = if plain { serial.as_str() } else { "" };
    Ok(format!("{HEADER}\r\n{serial},,{hash}\r\n"))
}

/// A QR code for a screen of 80 columns and 24 lines, white on black. It says
/// `manufacturer,model,serial`, which `groundcrew device import` reads as it is;
/// where firmware tells no serial number, what else names the machine.
pub fn qr(report: &HardwareReport) -> Option<String> {
    said(report).iter().find_map(|text| {
        let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
        // The standard asks for four modules of margin; two are read by every
        // phone, and leave room for the text.
        let side = code.width() + 4;
        if side.div_ceil(2) + 1 > LINES || side > COLUMNS {
            return None;
        }
        let blocks = code
            .render::<Dense1x2>()
            .quiet_zone(false)
            .dark_color(Dense1x2::Light)
            .light_color(Dense1x2::Dark)
            .build();
        Some(format!("{}{text}\n", framed(&blocks, code.width())))
    })
}

/// What the code may say, the best first: what is too long is left out.
fn said(report: &HardwareReport) -> Vec<String> {
    let identity = Identity::from(report);
    let plain = |text: &Option<String>| text.clone().unwrap_or_default().replace([',', '"'], " ");
    let tuple = identity.serial.is_some().then(|| {
        let (maker, model) = (plain(&identity.manufacturer), plain(&identity.product));
        format!("{maker},{model},{}", plain(&identity.serial))
    });
    let serial = identity
        .serial
        .as_ref()
        .map(|serial| format!("serial {serial}"));
    let uuid = identity.uuid.map(|uuid| format!("uuid {uuid}"));
    let mac = identity.macs.first().map(|mac| format!("mac {mac}"));
    [
        tuple,
        serial,
        uuid,
        mac,
        Some("this machine tells nothing of itself".to_owned()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A light margin of two modules around blocks of two modules' height. The
/// number of modules is odd: below the last line, half a line is free, which
/// the renderer leaves dark and the margin needs light.
fn framed(blocks: &str, width: usize) -> String {
    let edge = "█".repeat(width + 4);
    let mut out = format!("{edge}\n");
    let last = blocks.lines().count().saturating_sub(1);
    for (number, line) in blocks.lines().enumerate() {
        let line = if number == last {
            line.replace('▀', "█").replace(' ', "▄")
        } else {
            line.to_owned()
        };
        out.push_str(&format!("██{line}██\n"));
    }
    out.push_str(&format!("{edge}\n"));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundcrew_core::hardware::MacAddr;
    use groundcrew_core::hardware::report::Nic;

    fn report(serial: Option<&str>) -> HardwareReport {
        let mut report = HardwareReport::default();
        report.smbios.manufacturer = Some("Example Corp".into());
        report.smbios.product = Some("Model, One".into());
        report.smbios.serial = serial.map(Into::into);
        report.nics.push(Nic {
            name: "eth0".into(),
            mac: MacAddr([2, 0, 0, 0, 0, 7]),
            driver: None,
            bus: Some("pci".into()),
        });
        report
    }

    #[test]
    fn the_csv_row_holds_a_hash_that_says_the_same() {
        for serial in [Some("SYNTH-0001"), Some("A,\"B"), None] {
            let report = report(serial);
            let text = csv(&report, UnixTime::new(1_800_000_000)).unwrap();
            let mut lines = text.split("\r\n");
            assert_eq!(lines.next(), Some(HEADER));
            let row: Vec<&str> = lines.next().unwrap().split(',').collect();
            assert_eq!(row.len(), 3, "{text}");
            assert_eq!(row[2].len(), 4000);
            let hash = HardwareHash::from_text(row[2]).unwrap();
            assert_eq!(hash.identity(), Identity::from(&report));
            assert!(row[0].is_empty() || Some(row[0]) == serial);
        }
    }

    #[test]
    fn the_code_fits_a_terminal_whatever_the_machine_says() {
        let long = "x".repeat(128);
        for serial in [Some("SYNTH-0001"), Some(long.as_str()), None] {
            let text = qr(&report(serial)).unwrap();
            assert!(text.lines().count() < 24, "{}", text.lines().count());
            assert!(text.lines().all(|line| line.chars().count() <= 80));
        }
        assert!(
            qr(&report(Some("S-1")))
                .unwrap()
                .ends_with("Example Corp,Model  One,S-1\n")
        );
        assert!(
            qr(&report(None))
                .unwrap()
                .ends_with("mac 02:00:00:00:00:07\n")
        );
        assert!(qr(&HardwareReport::default()).is_some(), "no DMI, no NIC");
    }

    #[test]
    fn the_blocks_are_the_code_with_a_light_margin() {
        let text = qr(&report(Some("SYNTH-0001"))).unwrap();
        let said = "Example Corp,Model  One,SYNTH-0001";
        let code = QrCode::with_error_correction_level(said, EcLevel::L).unwrap();
        let rows: Vec<Vec<bool>> = text
            .lines()
            .filter(|line| line.starts_with('█'))
            .flat_map(|line| {
                let half = |lit: [char; 2]| line.chars().map(|c| lit.contains(&c)).collect();
                [half(['█', '▀']), half(['█', '▄'])]
            })
            .collect();
        let inside = 2..code.width() + 2;
        for (y, row) in rows.iter().enumerate() {
            assert_eq!(row.len(), code.width() + 4);
            for (x, light) in row.iter().enumerate() {
                let dark = inside.contains(&x)
                    && inside.contains(&y)
                    && code[(x - 2, y - 2)] == qrcode::Color::Dark;
                assert_eq!(*light, !dark, "module {x},{y}");
            }
        }
        assert!(rows.len() >= code.width() + 4);
    }
}
