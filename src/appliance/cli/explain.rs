//! `groundcrew device explain` and `groundcrew profile which`: why the site
//! decides as it does.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use groundcrew_core::DeviceId;
use groundcrew_core::hardware::identity::clean;
use groundcrew_core::hardware::{HardwareReport, Identity};
use groundcrew_registry::import::Rows;

use super::client::Link;
use super::site_arg::SiteArg;
use super::{client, table};
use crate::office::{Command, ExplainView, Outcome, ProfileView};
use crate::site::Site;

/// `groundcrew device explain`.
#[derive(Debug, Args)]
pub struct DeviceExplainArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// A device's id, or a row of a CSV file as FILE.csv:LINE (or FILE.csv for all)
    #[arg(required_unless_present = "report")]
    pub target: Option<String>,
    /// What `groundcrew-agent report --json` printed on the machine
    #[arg(long, value_name = "FILE", conflicts_with = "target")]
    pub report: Option<PathBuf>,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew profile`.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// Say which profile a device gets, and why that one
    #[command(after_help = "\
Example:
  groundcrew profile which hq-7k2m9qx4")]
    Which(DeviceProfileArgs),
}

/// `groundcrew profile which`.
#[derive(Debug, Args)]
pub struct DeviceProfileArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The device's id
    pub id: DeviceId,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The most rows that are explained at once.
const MAX_ROWS: usize = 10_000;

pub fn explain(args: &DeviceExplainArgs) -> anyhow::Result<ExitCode> {
    let (heads, command) = match (&args.report, args.target.as_deref()) {
        (Some(path), _) => (
            Vec::new(),
            Command::ExplainIdentities(vec![of_report(path)?]),
        ),
        (None, Some(target)) => match target.parse::<DeviceId>() {
            Ok(id) => (Vec::new(), Command::ExplainDevice(id)),
            Err(error) => {
                let (lines, identities) = of_rows(target, &error.to_string())?;
                (lines, Command::ExplainIdentities(identities))
            }
        },
        (None, None) => bail!("give a device's id, a CSV file or --report"),
    };
    let views = ask(&client::connect(&Site::at(&args.site.dir))?, command)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&views)?);
        return Ok(ExitCode::SUCCESS);
    }
    for (number, view) in views.iter().enumerate() {
        if let Some(line) = heads.get(number).filter(|_| heads.len() > 1) {
            println!("{}line {line}:", if number > 0 { "\n" } else { "" });
        }
        print!("{}", words(view, table::terminal_width(80)));
    }
    Ok(ExitCode::SUCCESS)
}

/// Identities that travel in one order.
const BATCH: usize = 500;

fn ask(link: &Link, command: Command) -> anyhow::Result<Vec<ExplainView>> {
    let orders = match command {
        Command::ExplainIdentities(all) => all
            .chunks(BATCH)
            .map(|some| Command::ExplainIdentities(some.to_vec()))
            .collect(),
        other => vec![other],
    };
    let mut views = Vec::new();
    for order in orders {
        let Outcome::Explained(more) = link.execute(order)? else {
            bail!("the appliance answered something else");
        };
        views.extend(more);
    }
    Ok(views)
}

fn of_report(path: &Path) -> anyhow::Result<Identity> {
    let context = || format!("reading {}", path.display());
    let bytes = std::fs::read(path).with_context(context)?;
    let report: HardwareReport = serde_json::from_slice(&bytes)
        .context("this is not what `groundcrew-agent report --json` prints")
        .with_context(context)?;
    report.check_size().with_context(context)?;
    Ok(Identity::from(&report))
}

/// The identities of a file's rows, and their lines.
fn of_rows(target: &str, no_id: &str) -> anyhow::Result<(Vec<u64>, Vec<Identity>)> {
    let split = target
        .rsplit_once(':')
        .and_then(|(file, line)| Some((file, line.parse::<u64>().ok()?)));
    let (file, wanted) = split.map_or((target, None), |(file, line)| (file, Some(line)));
    if !Path::new(file).exists() {
        bail!("{no_id}, and there is no file {file}");
    }
    let rows = Rows::passing_over(std::io::BufReader::new(std::fs::File::open(file)?), "")
        .with_context(|| file.to_owned())?;
    let (mut lines, mut identities) = (Vec::new(), Vec::new());
    for row in rows {
        let row = row.with_context(|| file.to_owned())?;
        if wanted.is_some_and(|wanted| wanted != row.line) {
            continue;
        }
        match row.content {
            Ok(registration) => {
                lines.push(row.line);
                identities.push(registration.identity);
            }
            Err(fault) if wanted.is_some() => bail!("{file}:{}: {fault}", row.line),
            Err(fault) => eprintln!("{file}:{}: {fault}", row.line),
        }
        if identities.len() > MAX_ROWS {
            bail!("{file} has more than {MAX_ROWS} rows: name one as {file}:LINE");
        }
    }
    match wanted.filter(|_| identities.is_empty()) {
        Some(line) => bail!("{file} has no row that begins at line {line}"),
        None => Ok((lines, identities)),
    }
}

fn words(view: &ExplainView, width: usize) -> String {
    let mut verdict = view.verdict.clone();
    if let Some(first) = verdict.get(..1).map(str::to_uppercase) {
        verdict.replace_range(..1, &first);
    }
    let mut rows = vec![("Verdict", verdict)];
    for field in &view.fields {
        let said = |text: &Option<String>| {
            text.as_deref()
                .and_then(clean)
                .unwrap_or_else(|| "-".to_owned())
        };
        let mut text = field.finding.clone();
        match (&field.seen, &field.known) {
            (None, None) => {}
            (Some(_), Some(_)) if field.finding == "agrees" => {
                text.push_str(&format!(": {}", said(&field.seen)));
            }
            _ => text.push_str(&format!(
                " | it says {} | known {}",
                said(&field.seen),
                said(&field.known)
            )),
        }
        rows.push((field.field.as_str(), text));
    }
    rows.push(("Digest", view.digest.to_string()));
    table::fields(&rows, width)
}

pub fn profile(command: ProfileCommand) -> anyhow::Result<ExitCode> {
    let ProfileCommand::Which(args) = command;
    let command = Command::WhichProfile(args.id);
    let Outcome::Profile(view) = client::execute(&Site::at(&args.site.dir), command)? else {
        bail!("the appliance answered something else");
    };
    if args.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!("{}", ways(&view, table::terminal_width(80)));
    }
    Ok(ExitCode::from(u8::from(view.profile.is_none())))
}

fn ways(view: &ProfileView, width: usize) -> String {
    let mut out = match &view.profile {
        Some(profile) => format!(
            "{} gets the profile {profile}. Looked for, the strongest first:\n",
            view.device
        ),
        None => format!(
            "No profile takes {}: give one its tag or `default = true`. Looked for:\n",
            view.device
        ),
    };
    let mut decided = false;
    let rows: Vec<(&str, String)> = view
        .ways
        .iter()
        .map(|(way, profile)| {
            let what = match profile {
                None => "no profile".to_owned(),
                Some(profile) if decided => format!("{profile}, but an earlier one decides"),
                Some(profile) => format!("{profile}: decides"),
            };
            decided |= profile.is_some();
            (way.as_str(), what)
        })
        .collect();
    out.push_str(&table::fields(&rows, width));
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::office::FindingView;

    fn view() -> ExplainView {
        let field =
            |field: &str, seen: Option<&str>, known: Option<&str>, finding: &str| FindingView {
                field: field.into(),
                seen: seen.map(Into::into),
                known: known.map(Into::into),
                finding: finding.into(),
            };
        ExplainView {
            device: None,
            verdict: "no device that this site knows".into(),
            digest: Identity::default().digest(),
            fields: vec![
                field(
                    "Serial number",
                    Some("0123456789"),
                    None,
                    "junk: a known placeholder (a source of some length, from somewhere)",
                ),
                field("UUID", Some("a"), Some("b"), "differs"),
                field("Model", Some("One\u{1b}[2J"), Some("ONE"), "agrees"),
                field("TPM key (EK)", None, None, "the machine does not say"),
            ],
        }
    }

    #[test]
    fn an_explanation_fits_80_columns_and_cannot_steer_the_terminal() {
        let text = words(&view(), 80);
        assert!(
            text.lines().all(|line| line.chars().count() <= 80),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
        assert!(text.contains("differs | it says a | known b"), "{text}");
        assert!(
            text.contains("Verdict        No device that this site knows"),
            "{text}"
        );
    }

    #[test]
    fn the_first_way_decides() {
        let name = |text: &str| Some(text.parse().unwrap());
        let mut view = ProfileView {
            device: "hq-7k2m9qx4".parse().unwrap(),
            profile: name("kiosk"),
            ways: vec![
                ("device hq-7k2m9qx4".into(), None),
                ("tag `kiosk`".into(), name("kiosk")),
                (
                    "every other device (default = true)".into(),
                    name("standard"),
                ),
            ],
        };
        let text = ways(&view, 80);
        assert!(
            text.contains("tag `kiosk`")
                && text.contains("kiosk: decides")
                && text.contains("standard, but an earlier"),
            "{text}"
        );
        view.profile = None;
        assert!(ways(&view, 80).starts_with("No profile takes"));
    }
}
