//! What a technician sees: pages of at most 80 columns and 24 lines.

use std::cmp::Reverse;
use std::fmt;

use groundcrew_core::UnixTime;
use qrcode::{Color, EcLevel, QrCode};

use super::wire::Wire;
use crate::office::DeviceView;
use crate::page::PageCode;
use crate::site::Settings;

/// Lines of a page; one more is for what is typed.
const ROWS: usize = 23;
const COLUMNS: usize = 80;

/// What the appliance's page is made of.
pub struct View<'a> {
    /// Site, organisation.
    pub settings: &'a Settings,
    /// The network.
    pub wire: &'a Wire,
    /// What is done about addresses.
    pub role: &'a str,
    /// The status page.
    pub door: &'a PageCode,
    /// Every device.
    pub devices: &'a [DeviceView],
    /// What the site may do, where that can be read.
    pub terms: Option<Terms>,
    /// What the technician must know, the most urgent first.
    pub notes: &'a [String],
}

/// What HQ allows the site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Devices that it may let in.
    pub devices: u32,
    /// Those that it has.
    pub used: usize,
    /// Until when.
    pub expires: UnixTime,
}

/// Notes that are shown at once, in lines.
const NOTE_ROWS: usize = 4;

impl View<'_> {
    /// Who it is on the left, its page's QR code on the right, notes and devices
    /// below. `page_of` is told how many pages of devices there are, and says which.
    pub fn lines(&self, page_of: impl FnOnce(usize) -> usize) -> Vec<String> {
        let mut lines = beside(&self.left(), &qr(&self.door.url));
        let notes = self.notes.iter().flat_map(|note| wrapped(note, COLUMNS));
        lines.extend(notes.take(NOTE_ROWS));
        // The devices' title takes one line.
        let room = ROWS.saturating_sub(lines.len() + 1).max(1);
        let devices = in_order(self.devices);
        let pages = devices.len().div_ceil(room).max(1);
        let page = page_of(pages);
        let title = row_of("DEVICE", "STATE", "SERIAL", "CODE OR STEP");
        lines.push(match pages {
            1 => title,
            _ => format!(
                "{title:<62}{:>18}",
                format!("{}/{pages} PgUp PgDn", page + 1)
            ),
        });
        lines.extend(
            devices
                .iter()
                .skip(page * room)
                .take(room)
                .map(|one| row(one)),
        );
        if devices.is_empty() {
            lines.push("nobody yet: start a device from the network".to_owned());
        }
        lines
    }

    fn left(&self) -> Vec<String> {
        let given = if self.wire.leased {
            "given by the network's own DHCP server"
        } else {
            "the site's own; nobody gave one"
        };
        let mut left = vec![
            format!("groundcrew: site {}", self.settings.site),
            self.settings.organisation.clone(),
            String::new(),
            format!("serving {} on {}", self.wire.address, self.wire.interface),
            format!("({given})"),
            String::new(),
            format!("status page   {}", self.door.url),
            format!("set-up code   {}", self.door.code),
            format!("addresses     {}", about_addresses(self.role)),
        ];
        left.extend(self.terms.map(|terms| format!("may let in    {terms}")));
        left.extend([
            String::new(),
            "A device waits? Type the code that it shows,".to_owned(),
            "then Enter.   All devices: the status page.".to_owned(),
        ]);
        left
    }
}

impl fmt::Display for Terms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = u32::try_from(self.used).unwrap_or(u32::MAX);
        let expires = self.expires.to_string();
        let day = expires.split('T').next().unwrap_or_default();
        let left = self.devices.saturating_sub(used);
        write!(f, "{left} of {}, until {day}", self.devices)
    }
}

/// Devices that are at work or about to be.
pub fn under_way(devices: &[DeviceView]) -> Vec<String> {
    let busy = devices.iter().filter(|device| is_under_way(device));
    busy.map(|device| device.id.to_string()).collect()
}

fn is_under_way(device: &DeviceView) -> bool {
    matches!(device.state.as_str(), "approved" | "provisioning")
}

/// Whoever waits for the technician, whoever is under way, what went wrong, and
/// then what happened last.
fn in_order(devices: &[DeviceView]) -> Vec<&DeviceView> {
    let rank = |device: &DeviceView| match device.state.as_str() {
        "rejected" => 3,
        _ if device.code.is_some() => 0,
        _ if is_under_way(device) => 1,
        "failed" | "held" => 2,
        _ => 3,
    };
    let mut devices: Vec<&DeviceView> = devices.iter().collect();
    devices.sort_by_key(|device| (rank(device), Reverse(device.since)));
    devices
}

/// Who gives addresses to devices. The silence at the beginning is long: a switch
/// port may be deaf for half a minute after plugging in.
fn about_addresses(role: &str) -> &str {
    match role {
        "listening" => "listening first, for 45 s",
        "authoritative" => "given by this stick",
        "proxy" => "given by the network's own server",
        other => other,
    }
}

/// The code stands where no serial number can push it off the screen.
fn row(device: &DeviceView) -> String {
    let code = device.code.as_ref().map(|code| format!("code {code}"));
    let last = code
        .or_else(|| device.progress.clone())
        .or_else(|| device.reason.clone());
    row_of(
        device.id.as_str(),
        &device.state,
        &groundcrew_core::ids::shown(device.serial.as_deref().unwrap_or("-")),
        &groundcrew_core::ids::shown(&last.unwrap_or_default()),
    )
}

fn row_of(id: &str, state: &str, serial: &str, last: &str) -> String {
    let (id, state, serial) = (ending(id, 14), ending(state, 12), ending(serial, 20));
    let row = format!("{id:<14} {state:<12} {serial:<20} {last}");
    row.trim_end().to_owned()
}

/// The end of a name, which tells it from others of its kind.
fn ending(text: &str, width: usize) -> String {
    let length = text.chars().count();
    if length <= width {
        return text.to_owned();
    }
    let rest = text.chars().skip(length + 1 - width);
    std::iter::once('~').chain(rest).collect()
}

/// Lines of whole words.
pub fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

/// While there is no network to serve.
pub fn no_network_yet(why: Option<&str>) -> Vec<String> {
    let mut page = vec![
        "groundcrew: bringing the wired network up ...".to_owned(),
        String::new(),
        "Put the network cable into this machine, if it is not in. A switch port may".to_owned(),
        "take half a minute. This goes on by itself as soon as there is a network.".to_owned(),
        String::new(),
    ];
    if let Some(why) = why {
        let why = groundcrew_core::ids::shown(why);
        page.extend(wrapped(&format!("NOT YET: {why}"), COLUMNS));
        page.push("It is being tried again.".to_owned());
        page.push(String::new());
    }
    page.push("q: switch off".to_owned());
    page
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

    fn device(number: usize, state: &str) -> DeviceView {
        DeviceView {
            id: format!("hq-7k2m9q{}{}", number / 8 % 8, number % 8)
                .parse()
                .unwrap(),
            state: state.into(),
            since: Some(UnixTime::new(1_800_000_000 + number as u64)),
            code: None,
            reason: None,
            manufacturer: None,
            model: None,
            serial: Some("S\u{1b}[31m-0123456789-20".into()),
            uuid: None,
            macs: Vec::new(),
            tag: None,
            profile: None,
            bundle: None,
            step: None,
            progress: Some("apply 3/9: ".to_owned() + &"long ".repeat(40)),
        }
    }

    fn waiting(number: usize, code: &str) -> DeviceView {
        DeviceView {
            code: Some(code.parse().unwrap()),
            serial: Some("PF3ABCDE0123456789XY".into()),
            ..device(number, "waiting")
        }
    }

    /// The page as a screen of 80 x 24 shows it, its last line left to the prompt.
    fn screen(role: &str, devices: &[DeviceView], notes: &[String], page: usize) -> Vec<String> {
        let text = include_str!("../../../../config/site.toml");
        let settings = crate::site::settings::parse("site.toml", text).unwrap();
        let wire = Wire {
            interface: "enp0s31f6".into(),
            mac: "52:54:00:77:00:01".into(),
            address: "10.77.0.1/24".parse().unwrap(),
            leased: true,
        };
        let door = PageCode {
            url: "https://192.168.100.200/".into(),
            further: Vec::new(),
            code: "K7QF-2M9X".parse().unwrap(),
            key: String::new(),
        };
        let view = View {
            settings: &settings,
            wire: &wire,
            role,
            door: &door,
            devices,
            terms: Some(Terms {
                devices: 20,
                used: 13,
                expires: "2027-01-31T12:00:00Z".parse().unwrap(),
            }),
            notes,
        };
        let lines = view.lines(|pages| page.min(pages - 1));
        assert!(lines.len() <= ROWS, "{} lines", lines.len());
        let cut = |line: &String| line.chars().take(80).collect();
        lines.iter().map(cut).collect()
    }

    #[test]
    fn the_appliance_s_page_fits_a_small_screen() {
        for count in [0, 1, 200] {
            let devices: Vec<_> = (0..count).map(|n| device(n, "provisioning")).collect();
            let shown = screen("listening", &devices, &[], 0).join("\n");
            assert!(shown.contains("serving 10.77.0.1/24") && shown.contains("K7QF-2M9X"));
            assert!(shown.contains("7 of 20, until 2027-01-31"));
            assert!(
                !shown.contains('\u{1b}'),
                "what a device says is no command"
            );
            assert!(shown.contains("addresses     listening first, for 45 s"));
            assert_eq!(shown.contains("nobody yet"), count == 0);
            assert_eq!(shown.contains("PgDn"), count == 200);
        }
    }

    #[test]
    fn a_code_is_whole_after_the_cut_and_comes_first() {
        let mut devices: Vec<_> = (0..20).map(|n| device(n, "registered")).collect();
        devices.push(device(21, "provisioning"));
        devices.push(device(22, "failed"));
        devices.push(waiting(30, "Q7QF-2M9X"));
        let mut shown = screen("proxy", &devices, &[], 0);
        let title = shown.iter().position(|line| line.starts_with("DEVICE"));
        let rows = shown.split_off(title.unwrap() + 1);
        assert!(rows.len() >= 5, "{rows:#?}");
        assert!(
            rows[0].contains("PF3ABCDE0123456789XY code Q7QF-2M9X"),
            "{}",
            rows[0]
        );
        let states: Vec<_> = rows
            .iter()
            .map(|row| row.split_whitespace().nth(1))
            .collect();
        let wanted = ["waiting", "provisioning", "failed", "registered"].map(Some);
        assert_eq!(states[..4], wanted);
        assert!(
            rows[3].starts_with("hq-7k2m9q23"),
            "the newest: {}",
            rows[3]
        );
        // Every device stands on some page.
        let all: String = (0..9)
            .flat_map(|page| screen("proxy", &devices, &[], page))
            .collect();
        assert!((0..20).all(|n| all.contains(device(n, "").id.as_str())));
    }

    #[test]
    fn names_keep_their_ends_and_notes_leave_room_for_devices() {
        assert_eq!(ending("warehouse-north-7k2m9qx4", 14), "~orth-7k2m9qx4");
        let note = "The stick is nearly full, and these are words that fill a line. ".repeat(9);
        let devices = [waiting(1, "G307-RPVW")];
        let shown = screen("proxy", &devices, &[note], 0).join("\n");
        assert!(shown.contains("nearly full") && shown.contains("code G307-RPVW"));
        assert_eq!(
            under_way(&[device(1, "provisioned"), device(2, "approved")]).len(),
            1
        );
        assert!(wrapped("", 80).concat().is_empty());
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
