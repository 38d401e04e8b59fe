//! What a technician sees: pages of at most 80 columns and 24 lines.

use qrcode::{Color, EcLevel, QrCode};

use super::appliance::Wire;
use crate::office::DeviceView;
use crate::page::PageCode;
use crate::site::Settings;

const ROWS: usize = 23;

/// The appliance's page: who it is on the left, its page's QR code on the
/// right, devices below.
pub fn appliance(
    settings: &Settings,
    wire: &Wire,
    role: &str,
    door: &PageCode,
    devices: &[DeviceView],
) -> Vec<String> {
    let given = if wire.leased {
        "given by the network's own DHCP server"
    } else {
        "the site's own; nobody gave one"
    };
    let left = [
        format!("groundcrew: site {}", settings.site),
        settings.organisation.clone(),
        String::new(),
        format!("serving {} on {}", wire.address, wire.interface),
        format!("({given})"),
        String::new(),
        format!("status page   {}", door.url),
        format!("set-up code   {}", door.code),
        format!("addresses     {}", about_addresses(role)),
        String::new(),
        "a: approve a device by its code".to_owned(),
        "q: end and switch off".to_owned(),
    ];
    let mut page = beside(&left, &qr(&door.url));
    page.push(String::new());
    page.push(format!(
        "{:<18} {:<14} {:<16} {}",
        "DEVICE", "STATE", "SERIAL", "CODE OR PROGRESS"
    ));
    // One line for how many more there are, one for a warning.
    let room = ROWS.saturating_sub(page.len() + 2);
    page.extend(devices.iter().take(room).map(row));
    match devices.len().saturating_sub(room) {
        0 if devices.is_empty() => {
            page.push("nobody yet: start a device from the network".to_owned());
        }
        0 => {}
        more => page.push(format!(
            "and {more} more: `groundcrew device list` shows all"
        )),
    }
    page
}

/// Who gives addresses to devices. The silence at the beginning is long: a switch
/// port may be deaf for half a minute after plugging in.
fn about_addresses(role: &str) -> &str {
    match role {
        "listening" => "listening for another server first, 45 s",
        "authoritative" => "given by this stick",
        "proxy" => "given by the network's own server",
        other => other,
    }
}

fn row(device: &DeviceView) -> String {
    let code = device
        .code
        .as_ref()
        .map(|code| format!("waits for approval, code {code}"));
    let last = code
        .or_else(|| device.progress.clone())
        .or_else(|| device.reason.clone());
    let serial = device.serial.as_deref().unwrap_or("-");
    format!(
        "{:<18} {:<14} {:<16} {}",
        device.id.to_string(),
        device.state,
        groundcrew_core::ids::shown(serial),
        groundcrew_core::ids::shown(&last.unwrap_or_default())
    )
}

/// The pages of the check: the agent's table on as many as it needs, what the
/// network said, and the QR code. Each with a title, and a last line with keys.
pub fn check(report: &str, network: &[String], code: &str) -> Vec<Vec<String>> {
    let report: Vec<String> = report.lines().map(str::to_owned).collect();
    let code: Vec<String> = code.lines().map(str::to_owned).collect();
    let mut parts: Vec<(&str, &[String])> = report
        .chunks(ROWS - 3)
        .map(|part| ("hardware", part))
        .collect();
    parts.push(("network", network));
    parts.push(("for a phone's camera", &code));
    let of = parts.len();
    (1..)
        .zip(parts)
        .map(|(number, (about, lines))| {
            let title = format!("groundcrew: check this machine ({number} of {of}: {about})");
            let mut page = vec![title];
            // A large code needs every line there is.
            match lines.len() + 2 {
                needed if needed > ROWS => page.clear(),
                needed if needed < ROWS => page.push(String::new()),
                _ => {}
            }
            page.extend(lines.iter().take(ROWS - 1).cloned());
            page.extend((page.len() + 2 <= ROWS).then(String::new));
            page.push("Enter: next page   r: start again   q: switch off".to_owned());
            page
        })
        .collect()
}

/// Two blocks of lines, side by side.
fn beside(left: &[String], right: &[String]) -> Vec<String> {
    let width = 80_usize.saturating_sub(right.first().map_or(0, |line| line.chars().count()) + 1);
    let empty = String::new();
    let line = |at: usize| {
        let left: String = left.get(at).unwrap_or(&empty).chars().take(width).collect();
        let right = right.get(at).unwrap_or(&empty);
        format!("{left:<width$}{right}").trim_end().to_owned()
    };
    (0..left.len().max(right.len())).map(line).collect()
}

/// A QR code in half blocks, light modules drawn: two modules a character high.
fn qr(text: &str) -> Vec<String> {
    let Ok(code) = QrCode::with_error_correction_level(text, EcLevel::L) else {
        return Vec::new();
    };
    let width = code.width();
    let colors = code.to_colors();
    // Two light modules all around; every reader that was tried takes that.
    let light = |x: usize, y: usize| {
        let inside = (2..width + 2).contains(&x) && (2..width + 2).contains(&y);
        !inside || colors.get((y - 2) * width + x - 2) == Some(&Color::Light)
    };
    (0..width + 4)
        .step_by(2)
        .map(|y| {
            (0..width + 4)
                .map(|x| match (light(x, y), light(x, y + 1)) {
                    (true, true) => '█',
                    (true, false) => '▀',
                    (false, true) => '▄',
                    (false, false) => ' ',
                })
                .collect()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(_: u32) -> DeviceView {
        DeviceView {
            id: "hq-7k2m9qx4".parse().unwrap(),
            state: "provisioning".into(),
            since: None,
            code: None,
            reason: None,
            manufacturer: None,
            model: None,
            serial: Some("S\u{1b}[31m".into()),
            uuid: None,
            macs: Vec::new(),
            tag: None,
            profile: None,
            bundle: None,
            step: None,
            progress: Some("apply 3/9: ".to_owned() + &"long ".repeat(40)),
        }
    }

    #[test]
    fn the_appliance_s_page_fits_a_small_screen() {
        let text = include_str!("../../../../config/site.toml");
        let settings = crate::site::settings::parse("site.toml", text).unwrap();
        let wire = Wire {
            interface: "enp0s31f6".into(),
            mac: "52:54:00:77:00:01".into(),
            address: "10.77.0.1/24".parse().unwrap(),
            leased: true,
        };
        let door = PageCode {
            url: "https://10.77.0.1/".into(),
            further: Vec::new(),
            code: "K7QF-2M9X".parse().unwrap(),
            key: String::new(),
        };
        for count in [0, 1, 200] {
            let devices: Vec<_> = (0..count).map(device).collect();
            let page = appliance(&settings, &wire, "listening", &door, &devices);
            assert!(page.len() <= 24, "{count}: {} lines", page.len());
            let shown = page.join("\n");
            assert!(shown.contains("serving 10.77.0.1/24") && shown.contains("K7QF-2M9X"));
            assert!(
                !shown.contains('\u{1b}'),
                "what a device says is no command"
            );
            assert!(shown.contains("addresses     listening for another server first, 45 s"));
            assert_eq!(shown.contains("nobody yet"), count == 0);
        }
    }

    #[test]
    fn the_check_s_pages_fit_and_leave_nothing_out() {
        let report: String = (0..45).map(|n| format!("Network       eth{n}\n")).collect();
        let network = vec!["eth0: link is up".to_owned()];
        for height in [10, 21] {
            let pages = check(&report, &network, &"code\n".repeat(height));
            assert_eq!(pages.len(), 5);
            assert!(pages.iter().all(|page| page.len() <= ROWS), "{pages:?}");
            let all = pages.concat();
            let count = |text: &str| all.iter().filter(|line| line.contains(text)).count();
            assert_eq!((count("Network  "), count("code")), (45, height));
            assert_eq!((count("of 5"), count("q: switch off")), (5, 5));
        }
        // The largest code that the agent makes.
        let pages = check("Maker  M\n", &network, &"code\n".repeat(22));
        let large = pages.last().unwrap();
        let codes = large.iter().filter(|line| *line == "code").count();
        assert_eq!((codes, large.len()), (22, ROWS));
        for page in &pages {
            assert!(page.last().unwrap().contains("q: switch off"), "{page:?}");
        }
    }

    #[test]
    fn a_qr_code_is_square_and_has_its_corners() {
        let lines = qr("http://10.77.0.1/");
        assert!(lines.len() <= 17, "{}", lines.len());
        let width = lines[0].chars().count();
        assert_eq!(lines.len(), width.div_ceil(2));
        assert!(lines.iter().all(|line| line.chars().count() == width));
        // The finder's dark corner begins behind two light modules.
        assert!(lines[1].starts_with("██ "), "{}", lines[1]);
    }
}
