//! The page's HTML: text in, text out. Whatever a device or a person said goes
//! through [`Text`].

use std::fmt::{self, Write as _};

use groundcrew_core::UnixTime;
use groundcrew_registry::search::WAITING;

use super::gate::{News, PageCode, Visitor};
use crate::office::{DeviceView, FoundView};

/// The only stylesheet.
pub const CSS: &str = include_str!("page.css");

/// The only script.
pub const JS: &str = include_str!("page.js");

/// Devices on a page.
pub const ROWS: usize = 50;

/// Whose page it is.
#[derive(Clone, Debug)]
pub struct Whose {
    /// The site's name.
    pub site: String,
    /// The organisation's.
    pub organisation: String,
}

/// What the address says of the page to show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct View {
    /// Text to look for.
    pub text: String,
    /// Only this phase.
    pub phase: String,
    /// Which page, from 0.
    pub page: usize,
}

/// Text with what means something in HTML taken out of it.
pub(super) struct Text<'a>(pub &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                // Marks that turn the direction of text could show another code.
                '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                    f.write_char('?')?;
                }
                c if c.is_control() => f.write_char('?')?,
                c => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

/// The log-in. All that a stranger sees.
pub fn login(whose: &Whose, problem: Option<&str>, name: &str) -> String {
    let body = format!(
        "<main id=\"main\"><form class=\"login\" method=\"post\" action=\"/login\">\n\
         <h2>Log in</h2>\n{problem}\
         <label for=\"name\">Your name</label>\
         <input id=\"name\" name=\"name\" value=\"{name}\" maxlength=\"40\" required autocomplete=\"name\" aria-describedby=\"why\">\
         <p id=\"why\" class=\"soft\">The journal says who approved a device.</p>\
         <label for=\"code\">Set-up code</label>\
         <input id=\"code\" name=\"code\" maxlength=\"12\" required autocomplete=\"one-time-code\" autocapitalize=\"characters\" spellcheck=\"false\" placeholder=\"XXXX-XXXX\" aria-describedby=\"where\">\
         <p id=\"where\" class=\"soft\">It is on the appliance&#39;s console; there, <code>groundcrew page code</code> shows it again.</p>\
         <button class=\"act\">Log in</button></form></main>",
        problem = problem.map(|text| banner(false, text)).unwrap_or_default(),
        name = Text(name),
    );
    document(whose, "Log in", "", "", &body)
}

/// What somebody sees who is logged in.
pub fn devices(
    whose: &Whose,
    visitor: &Visitor,
    view: &View,
    waiting: &FoundView,
    found: &FoundView,
    news: Option<&News>,
) -> String {
    let mut body = format!(
        "<main id=\"main\">\n<p id=\"status\" role=\"status\" class=\"soft\">{}</p>\n{}<div id=\"live\">\n",
        status(found),
        news.map(|news| banner(news.good, &news.text))
            .unwrap_or_default(),
    );
    body.push_str(&lobby(visitor, waiting));
    body.push_str(&list(view, found));
    body.push_str("</div></main>");
    // Whoever has no script gets the news by loading the page again.
    let refresh = "<noscript><meta http-equiv=\"refresh\" content=\"15\"></noscript>";
    document(whose, "Devices", refresh, &log_out(visitor), &body)
}

/// Something that cannot be shown or done, and the way back.
pub fn problem(whose: &Whose, title: &str, text: &str) -> String {
    let body = format!(
        "<main id=\"main\"><h2>{title}</h2>\n{}<p><a href=\"/\">All devices</a></p></main>",
        banner(false, text)
    );
    document(whose, title, "", "", &body)
}

pub(super) fn log_out(visitor: &Visitor) -> String {
    format!(
        "<form method=\"post\" action=\"/logout\">{form}<button id=\"out\">Log out {name}</button></form>",
        form = token(visitor),
        name = Text(&visitor.name),
    )
}

pub(super) fn document(whose: &Whose, title: &str, head: &str, header: &str, body: &str) -> String {
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">{head}\
         <link rel=\"icon\" href=\"data:,\"><title>{title} – {site}</title><style>{CSS}</style></head>\n\
         <body><a class=\"skip\" href=\"#main\">To the devices</a>\
         <header><h1>{site}</h1><p>{organisation}</p>{header}</header>\n{body}\n\
         <footer>groundcrew {version}</footer><script>{JS}</script></body></html>\n",
        site = Text(&whose.site),
        organisation = Text(&whose.organisation),
        version = env!("CARGO_PKG_VERSION"),
    )
}

pub(super) fn banner(good: bool, text: &str) -> String {
    let (class, role) = match good {
        true => ("news", "status"),
        false => ("news bad", "alert"),
    };
    format!("<p class=\"{class}\" role=\"{role}\">{}</p>\n", Text(text))
}

fn token(visitor: &Visitor) -> String {
    format!(
        "<input type=\"hidden\" name=\"form\" value=\"{}\">",
        visitor.form
    )
}

fn status(found: &FoundView) -> String {
    let all: usize = found.counts.values().sum();
    let devices = if all == 1 { "device" } else { "devices" };
    match found.counts.get(WAITING).copied().unwrap_or(0) {
        0 => format!("{all} {devices}. None waits for you."),
        1 => format!("{all} {devices}. 1 waits for you."),
        n => format!("{all} {devices}. {n} wait for you."),
    }
}

fn lobby(visitor: &Visitor, waiting: &FoundView) -> String {
    if waiting.devices.is_empty() {
        return String::new();
    }
    let mut out = "<h2>Waiting for you</h2>\n<p class=\"soft\">Approve a device only if its own screen shows the same code.</p>\n<ul class=\"wait\">\n".to_owned();
    for device in &waiting.devices {
        card(&mut out, visitor, device);
    }
    out.push_str("</ul>\n");
    if waiting.matching > waiting.devices.len() {
        let more = waiting.matching - waiting.devices.len();
        let _ = writeln!(
            out,
            "<p><a href=\"/?phase={WAITING}\">{more} more wait</a></p>"
        );
    }
    out
}

pub(super) fn card(out: &mut String, visitor: &Visitor, device: &DeviceView) {
    let Some(code) = device.code else { return };
    let id = device.id.as_str();
    let _ = writeln!(
        out,
        "<li><h3>{what}</h3><p class=\"code\" aria-label=\"Code {spelt}\">{code}</p>\
         <p><a href=\"/device/{id}\">{id}</a></p><p class=\"soft\">{reason}</p><div class=\"do\">\
         <form method=\"post\" action=\"/device/{id}/approve\">{form}<input type=\"hidden\" name=\"code\" value=\"{code}\">\
         <button class=\"act\" id=\"a-{id}\" aria-label=\"Approve {id}\">Approve</button></form>\
         <details><summary class=\"no\" id=\"s-{id}\">Reject…</summary>\
         <form method=\"post\" action=\"/device/{id}/reject\">{form}<label for=\"r-{id}\">Why (its screen shows it)</label>\
         <input id=\"r-{id}\" name=\"reason\" maxlength=\"200\" required>\
         <div class=\"do\"><button class=\"no\" aria-label=\"Reject {id}\">Reject</button></div></form></details></div></li>",
        what = machine(device),
        spelt = code
            .to_string()
            .chars()
            .map(|c| format!("{c} "))
            .collect::<String>()
            .trim_end(),
        reason = Text(device.reason.as_deref().unwrap_or_default()),
        form = token(visitor),
    );
}

/// Maker, model and, below, the serial number, as far as they are known.
fn machine(device: &DeviceView) -> String {
    let model = [&device.manufacturer, &device.model];
    let model: Vec<&str> = model.into_iter().flatten().map(String::as_str).collect();
    match (model.join(" "), &device.serial) {
        (model, None) if model.is_empty() => "A machine that says nothing of itself".to_owned(),
        (model, None) => Text(&model).to_string(),
        (model, Some(serial)) => format!(
            "{}<span class=\"serial\">serial {}</span>",
            Text(&model),
            Text(serial)
        ),
    }
}

fn list(view: &View, found: &FoundView) -> String {
    let all: usize = found.counts.values().sum();
    if all == 0 {
        return "<h2>Devices</h2>\n<p>No device is known yet. Switch one on: it boots from the network and waits here.</p>\n".to_owned();
    }
    let mut out = "<h2 id=\"all\">Devices</h2>\n<ul class=\"counts\">".to_owned();
    let chips = std::iter::once(("", "all", all)).chain(
        groundcrew_registry::Phase::NAMES
            .into_iter()
            .filter_map(|name| Some((name, name, *found.counts.get(name)?))),
    );
    for (phase, name, count) in chips {
        let here = if view.phase == phase {
            " aria-current=\"true\""
        } else {
            ""
        };
        let to = address(&View {
            phase: phase.to_owned(),
            page: 0,
            ..view.clone()
        });
        let _ = write!(out, "<li><a href=\"{to}\"{here}>{name} {count}</a></li>");
    }
    let _ = write!(
        out,
        "</ul>\n<form class=\"find\" role=\"search\"><input type=\"search\" id=\"q\" name=\"q\" value=\"{}\" maxlength=\"100\" aria-label=\"Find a device\" placeholder=\"Serial, model, tag, MAC…\">{}<button id=\"find\">Find</button></form>\n",
        Text(&view.text),
        if view.phase.is_empty() {
            String::new()
        } else {
            format!(
                "<input type=\"hidden\" name=\"phase\" value=\"{}\">",
                Text(&view.phase)
            )
        },
    );
    if found.devices.is_empty() {
        out.push_str("<p>No device fits.</p>\n");
        return out;
    }
    out.push_str(
        "<table role=\"table\" aria-labelledby=\"all\"><thead role=\"rowgroup\"><tr role=\"row\">",
    );
    for name in ["Device", "Phase", "Machine", "What", "Since (UTC)"] {
        let _ = write!(out, "<th role=\"columnheader\" scope=\"col\">{name}</th>");
    }
    out.push_str("</tr></thead><tbody role=\"rowgroup\">\n");
    for device in &found.devices {
        row(&mut out, device);
    }
    out.push_str("</tbody></table>\n");
    pages(&mut out, view, found);
    out
}

/// A time for people; whoever writes it says that it is UTC.
pub(super) fn in_words(time: UnixTime) -> String {
    time.to_string().replace('T', " ").replace('Z', "")
}

/// The word for where a device stands.
pub(super) fn phase_of(device: &DeviceView) -> &str {
    match device.code {
        Some(_) => WAITING,
        None => &device.state,
    }
}

fn row(out: &mut String, device: &DeviceView) {
    let phase = phase_of(device);
    let what = device
        .progress
        .as_ref()
        .or(device.reason.as_ref())
        .or(device.bundle.as_ref());
    let done = device.step.filter(|[_, all]| *all > 0).map_or_else(String::new, |[done, all]| {
        format!("<progress value=\"{done}\" max=\"{all}\" aria-label=\"{done} of {all}\"></progress>")
    });
    let since = device.since.map_or_else(String::new, |since| {
        format!("<time datetime=\"{since}\">{}</time>", in_words(since))
    });
    let _ = writeln!(
        out,
        "<tr role=\"row\"><td role=\"cell\"><a href=\"/device/{id}\">{id}</a></td><td role=\"cell\"><span class=\"phase {phase}\">{phase}</span></td>\
         <td role=\"cell\">{machine}</td><td role=\"cell\">{done}{what}</td><td role=\"cell\">{since}</td></tr>",
        id = Text(device.id.as_str()),
        phase = Text(phase),
        machine = machine(device),
        what = Text(what.map_or("", String::as_str)),
    );
}

fn pages(out: &mut String, view: &View, found: &FoundView) {
    if found.matching <= ROWS {
        return;
    }
    let first = view.page * ROWS;
    let to = |page| {
        address(&View {
            page,
            ..view.clone()
        })
    };
    out.push_str("<nav class=\"pages\" aria-label=\"Pages\">");
    if let Some(before) = view.page.checked_sub(1) {
        let _ = write!(out, "<a rel=\"prev\" href=\"{}\">Back</a>", to(before));
    }
    let _ = write!(
        out,
        "<span>{} to {} of {}</span>",
        first + 1,
        first + found.devices.len(),
        found.matching
    );
    if first + found.devices.len() < found.matching {
        let _ = write!(
            out,
            "<a rel=\"next\" href=\"{}\">Next</a>",
            to(view.page + 1)
        );
    }
    out.push_str("</nav>\n");
}

/// The address of a view, ready for an attribute.
fn address(view: &View) -> String {
    let mut parts = Vec::new();
    if !view.phase.is_empty() {
        parts.push(format!("phase={}", encoded(&view.phase)));
    }
    if !view.text.is_empty() {
        parts.push(format!("q={}", encoded(&view.text)));
    }
    if view.page > 0 {
        parts.push(format!("page={}", view.page));
    }
    match parts.is_empty() {
        true => "/".to_owned(),
        false => format!("/?{}", parts.join("&amp;")),
    }
}

/// Percent-encoding of everything but what is never special (RFC 3986, 2.3).
fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut out, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(char::from(byte));
            }
            byte => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
        out
    })
}

/// What `serve` and `groundcrew page code` say.
pub fn invitation(code: &PageCode) -> String {
    let key = code.key.split_at_checked(47).unwrap_or((&code.key, ""));
    let mut out = format!("status page  {}\n", code.url);
    for other in &code.further {
        let _ = writeln!(out, "  on {:<9} {}", other.interface, other.url);
    }
    let _ = write!(
        out,
        "set-up code  {}\n\nBrowsers warn once, because no certificate authority vouches for this site.\nThe key is this appliance's if the browser shows for its public key, SHA-256:\n  {}\n  {}\n",
        code.code,
        key.0,
        key.1.trim_start_matches(':'),
    );
    out
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
