//! `groundcrew check`: what would keep this site from working on this machine,
//! found before a device is switched on, each finding with its cure.

mod files;
mod machine;
mod wire;

pub use wire::servers_on;

use std::fmt::Write as _;

use serde::Serialize;

use crate::site::Site;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Good,
    /// It works, but somebody should look.
    Warning,
    /// Devices cannot be provisioned until it is mended.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// How much it matters.
    pub level: Level,
    /// What was looked at, such as `port 69/udp`.
    pub what: String,
    /// What was found.
    pub found: String,
    /// What to do about it; empty where there is nothing to do.
    pub cure: String,
}

impl Finding {
    fn good(what: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            level: Level::Good,
            what: what.into(),
            found: found.into(),
            cure: String::new(),
        }
    }

    fn warning(what: impl Into<String>, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Warning,
            what: what.into(),
            found: found.into(),
            cure: cure.into(),
        }
    }

    fn problem(what: impl Into<String>, found: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            level: Level::Problem,
            what: what.into(),
            found: found.into(),
            cure: cure.into(),
        }
    }
}

/// What to look at beyond files and sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Ask the network whether another DHCP server answers (three seconds).
    Ask,
    /// Send nothing.
    Quiet,
}

/// Looks at everything. The findings come in the order of looking.
pub fn run(site: &Site, wire: Wire) -> Vec<Finding> {
    let settings = match site.settings() {
        Ok(settings) => settings,
        Err(error) => {
            let cure =
                "mend site.toml as the message says; config/site.toml is an annotated sample";
            return vec![Finding::problem("site.toml", format!("{error:#}"), cure)];
        }
    };
    let found = format!("site {} of {}", settings.site, settings.organisation);
    let mut findings = vec![Finding::good("site.toml", found)];
    findings.extend(files::look(site, &settings));
    let running = machine::served_now(site);
    findings.extend(machine::look(site, &settings, running));
    if wire == Wire::Ask {
        findings.extend(settings.networks.iter().map(wire::ask));
    }
    findings
}

/// The findings as text, 80 columns wide.
pub fn render(findings: &[Finding]) -> String {
    let mut out = String::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Good => "  ok     ",
            Level::Warning => "  look   ",
            Level::Problem => "  MEND   ",
        };
        let text = wrapped(&format!("{}: {}", finding.what, finding.found), 70, 9);
        let _ = writeln!(out, "{mark}{text}");
        if !finding.cure.is_empty() {
            let _ = writeln!(out, "         -> {}", wrapped(&finding.cure, 67, 12));
        }
    }
    let problems = findings
        .iter()
        .filter(|f| f.level == Level::Problem)
        .count();
    let warnings = findings
        .iter()
        .filter(|f| f.level == Level::Warning)
        .count();
    let _ = match (problems, warnings) {
        (0, 0) => writeln!(out, "Everything is as it should be."),
        (0, warnings) => writeln!(out, "It will work; {warnings} to look at."),
        (problems, _) => writeln!(out, "{problems} to mend before devices can be provisioned."),
    };
    out
}

/// Words in lines of `width`, every line but the first indented.
fn wrapped(text: &str, width: usize, indent: usize) -> String {
    let mut lines: Vec<String> = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        // Carets under a line of a file must keep their place.
        if paragraph.chars().count() <= width || paragraph.contains('|') {
            lines.push(paragraph.to_owned());
            continue;
        }
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        lines.push(line);
    }
    lines.join(&format!("\n{}", " ".repeat(indent)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_fits_the_screen_and_carries_its_cure() {
        let long = "words ".repeat(40);
        let text = render(&[
            Finding::good("site.toml", "site hq"),
            Finding::problem("port 69/udp", long.trim(), long.trim()),
        ]);
        assert!(text.lines().all(|line| line.len() <= 80), "{text}");
        assert!(text.contains("MEND") && text.contains("->") && text.contains("1 to mend"));
    }
}
