//! The page of one device: what is known of it, why it is taken for itself, and
//! what it said last. HTML as pure text, like [`super::render`].

use std::fmt::Write as _;

use super::gate::{News, Visitor};
use super::render::{Text, Whose, banner, card, document, in_words, log_out, phase_of};
use crate::flight::StoryView;
use crate::office::{DeviceView, ExplainView};

/// The last bytes of a device's log that are shown.
const LOG: usize = 16 * 1024;

/// The last lines of its story that are shown.
const LINES: usize = 60;

/// All that is shown of one device.
pub struct Known {
    /// Itself.
    pub device: DeviceView,
    /// Who it is, and why.
    pub explained: Option<ExplainView>,
    /// How it booted last.
    pub story: Option<StoryView>,
    /// What its agent said last.
    pub log: Option<String>,
}

/// One device.
pub fn device(whose: &Whose, visitor: &Visitor, known: &Known, news: Option<&News>) -> String {
    let device = &known.device;
    let id = Text(device.id.as_str());
    let phase = phase_of(device);
    let mut body = format!(
        "<main id=\"main\">\n<p><a href=\"/\">All devices</a></p>\n\
         <p id=\"status\" role=\"status\" class=\"quiet\">{id} is {phase}.</p>\n{}<div id=\"live\">\n\
         <h2 class=\"name\">{id} <span class=\"phase {phase}\">{phase}</span></h2>\n",
        news.map(|news| banner(news.good, &news.text))
            .unwrap_or_default(),
        phase = Text(phase),
    );
    if device.code.is_some() {
        body.push_str("<p class=\"soft\">Approve it only if its own screen shows the same code.</p>\n<ul class=\"wait\">\n");
        card(&mut body, visitor, device);
        body.push_str("</ul>\n");
    }
    fields(&mut body, &about(device));
    if let Some(story) = &known.story {
        happened(&mut body, story);
    }
    if let Some(explained) = &known.explained {
        why(&mut body, explained);
    }
    if let Some(log) = &known.log {
        let _ = writeln!(
            body,
            "<h2 id=\"said\">What it said last</h2>\n<pre tabindex=\"0\" role=\"region\" aria-labelledby=\"said\">{}</pre>",
            lines(tail(log))
        );
    }
    body.push_str("</div></main>");
    let refresh = "<noscript><meta http-equiv=\"refresh\" content=\"15\"></noscript>";
    document(whose, device.id.as_str(), refresh, &log_out(visitor), &body)
}

fn about(device: &DeviceView) -> Vec<(&'static str, String)> {
    let since = device.since.map(in_words);
    let macs = (!device.macs.is_empty()).then(|| device.macs.join(", "));
    let rows = [
        ("Since (UTC)", since),
        ("Because", device.reason.clone()),
        ("Doing", device.progress.clone()),
        ("Manufacturer", device.manufacturer.clone()),
        ("Model", device.model.clone()),
        ("Serial number", device.serial.clone()),
        ("UUID", device.uuid.clone()),
        ("MAC addresses", macs),
        ("Tag", device.tag.as_ref().map(ToString::to_string)),
        ("Profile", device.profile.as_ref().map(ToString::to_string)),
        ("Bundle", device.bundle.clone()),
    ];
    rows.into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn fields(out: &mut String, rows: &[(&str, String)]) {
    out.push_str("<dl>\n");
    for (name, value) in rows {
        let _ = writeln!(out, "<dt>{name}</dt><dd>{}</dd>", Text(value));
    }
    out.push_str("</dl>\n");
}

fn happened(out: &mut String, story: &StoryView) {
    let diagnosis = &story.diagnosis;
    out.push_str("<h2>How it booted last</h2>\n");
    let said = [
        ("Cause", &diagnosis.likely),
        ("Cure", &diagnosis.cure),
        ("Seen in", &diagnosis.evidence),
    ];
    let said: Vec<(&str, String)> = said
        .into_iter()
        .filter_map(|(name, value)| Some((name, value.clone()?)))
        .collect();
    if !said.is_empty() {
        fields(out, &said);
    }
    out.push_str("<ol class=\"story\">\n");
    let skip = diagnosis.lines.len().saturating_sub(LINES);
    for line in diagnosis.lines.iter().skip(skip) {
        let clock = line.at.clock();
        let short = clock.split('.').next().unwrap_or(&clock);
        let _ = writeln!(
            out,
            "<li><time datetime=\"{at}\">{short}</time> <span>{text}</span></li>",
            at = Text(&line.at.to_string()),
            short = Text(short),
            text = Text(&line.text)
        );
    }
    out.push_str("</ol>\n");
}

fn why(out: &mut String, explained: &ExplainView) {
    let mut verdict = explained.verdict.clone();
    if let Some(first) = verdict.get(..1).map(str::to_uppercase) {
        verdict.replace_range(..1, &first);
    }
    let _ = writeln!(
        out,
        "<h2 id=\"why\">How it is known</h2>\n<p>{}.</p>\n\
         <table role=\"table\" aria-labelledby=\"why\"><thead role=\"rowgroup\"><tr role=\"row\">\
         <th role=\"columnheader\" scope=\"col\">What</th><th role=\"columnheader\" scope=\"col\">Finding</th>\
         <th role=\"columnheader\" scope=\"col\">It says</th><th role=\"columnheader\" scope=\"col\">Known</th></tr></thead><tbody role=\"rowgroup\">",
        Text(verdict.trim_end_matches('.'))
    );
    for field in &explained.fields {
        let value = |text: &Option<String>| Text(text.as_deref().unwrap_or("")).to_string();
        let known = match field.finding == "agrees" {
            true => String::new(),
            false => value(&field.known),
        };
        let _ = writeln!(
            out,
            "<tr role=\"row\"><td role=\"cell\">{}</td><td role=\"cell\">{}</td><td role=\"cell\" data-name=\"It says\">{}</td><td role=\"cell\" data-name=\"Known\">{known}</td></tr>",
            Text(&field.field),
            Text(&field.finding),
            value(&field.seen),
        );
    }
    out.push_str("</tbody></table>\n");
}

/// The end of a log, from the beginning of a line.
fn tail(log: &str) -> &str {
    let Some(from) = log.len().checked_sub(LOG) else {
        return log;
    };
    let from = (from..log.len()).find(|at| log.is_char_boundary(*at));
    let rest = from.and_then(|from| log.get(from..)).unwrap_or_default();
    rest.split_once('\n').map_or(rest, |(_, rest)| rest)
}

fn lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| Text(line).to_string()).collect();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_begins_with_a_line() {
        assert_eq!(tail("a\nb"), "a\nb");
        let long = format!("{}\nlast", "ä".repeat(LOG));
        assert_eq!(tail(&long), "last");
        assert_eq!(lines("a\u{1b}[2J\n<b>"), "a?[2J\n&lt;b&gt;");
    }
}
