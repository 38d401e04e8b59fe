//! `groundcrew device import` and `export`: registrations from CSV files and back.
//!
//! The file is read here, row by row, and only what its rows say goes to the
//! appliance: hashes in small batches, registrations in one order, so that all
//! of a file is registered or nothing.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use groundcrew_core::ids::shown;
use groundcrew_registry::export;
use groundcrew_registry::import::{Fault, MAX_ROWS, REFUSED, Rows};

use super::client::{self, Link};
use super::site_arg::SiteArg;
use crate::durable::{self, Access};
use crate::office::{Blob, Command, ImportRow, ImportView, Outcome, RefusedRow};
use crate::site::Site;

/// Hashes that travel in one order.
const BATCH: usize = 500;

/// `groundcrew device import`.
#[derive(Debug, Args)]
pub struct DeviceImportArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// The CSV file
    pub file: PathBuf,
    /// Say what would happen and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// A tag for rows that bring none
    #[arg(long, value_name = "TAG")]
    pub tag: Option<groundcrew_registry::device::Tag>,
    /// Write the rows that are refused to a CSV file, each with its reason, to
    /// mend them and import that file
    #[arg(long, value_name = "FILE")]
    pub rejects: Option<PathBuf>,
    /// Verdicts as JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew device export`.
#[derive(Debug, Args)]
pub struct DeviceExportArgs {
    #[command(flatten)]
    /// The site
    pub site: SiteArg,
    /// Folder to write `devices-001.csv`, … into, 500 rows each; without it one
    /// file goes to standard output
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

pub fn import(args: &DeviceImportArgs) -> anyhow::Result<ExitCode> {
    let name = args.file.display().to_string();
    let link = client::connect(&Site::at(&args.site.dir))?;
    let mut read = read(&args.file, &link, args.dry_run)?;
    let command = Command::Import {
        rows: read.rows,
        tag: args.tag.clone(),
        dry_run: args.dry_run,
    };
    let Outcome::Imported(mut view) = link.execute(command)? else {
        bail!("the appliance answered something else");
    };
    view.refused.append(&mut read.refused);
    view.refused.sort_by_key(|row| row.line);
    if let Some(path) = args.rejects.as_ref().filter(|_| !view.refused.is_empty()) {
        let file = rejects(&args.file, &view.refused)?;
        durable::create(path, &file, Access::Public)
            .with_context(|| format!("writing {} (it must not exist yet)", path.display()))?;
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else {
        print!("{}", verdicts(&view, &name));
        if let Some(path) = args.rejects.as_ref().filter(|_| !view.refused.is_empty()) {
            println!(
                "The refused rows are in {}: mend them and import that file.",
                path.display()
            );
        }
    }
    Ok(ExitCode::from(u8::from(!view.refused.is_empty())))
}

/// What the rows of a file say.
struct Content {
    rows: Vec<ImportRow>,
    refused: Vec<RefusedRow>,
}

fn read(path: &Path, link: &Link, dry_run: bool) -> anyhow::Result<Content> {
    let context = || format!("reading {}", path.display());
    let file = File::open(path).with_context(context)?;
    let bar = Bar::new(file.metadata().map_or(0, |meta| meta.len()));
    let source = path
        .file_name()
        .map_or_else(String::new, |name| shown(&name.to_string_lossy()));
    let (mut rows, mut refused, mut hashes) = (Vec::new(), Vec::new(), Vec::new());
    let mut counted = Counted { file, bar };
    for row in Rows::new(std::io::BufReader::new(&mut counted), &source).with_context(context)? {
        let row = row.with_context(context)?;
        if rows.len() as u64 >= MAX_ROWS {
            bail!("{} has more than {MAX_ROWS} rows: split it", path.display());
        }
        match row.content {
            Ok(registration) => {
                if let Some(hash) = row.hash.filter(|_| !dry_run) {
                    hashes.push(Blob(trimmed(hash.to_bytes()?)));
                }
                rows.push(ImportRow {
                    line: row.line,
                    registration,
                });
            }
            Err(fault) => refused.push(RefusedRow::new(row.line, &Fault::Row(fault))),
        }
        if hashes.len() == BATCH {
            link.execute(Command::KeepHashes(std::mem::take(&mut hashes)))?;
        }
    }
    if !hashes.is_empty() {
        link.execute(Command::KeepHashes(hashes))?;
    }
    counted.bar.end();
    Ok(Content { rows, refused })
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    let used = bytes
        .iter()
        .rposition(|byte| *byte != 0)
        .map_or(0, |last| last + 1);
    bytes.truncate(used);
    bytes
}

/// The refused rows as they stand in the file, and the reason behind each. The
/// importer passes that column over.
fn rejects(path: &Path, refused: &[RefusedRow]) -> anyhow::Result<Vec<u8>> {
    let rows = Rows::new(std::io::BufReader::new(File::open(path)?), "")?;
    let mut columns: Vec<String> = rows
        .columns()
        .filter(|name| *name != REFUSED)
        .map(str::to_owned)
        .collect();
    let place = rows.columns().position(|name| name == REFUSED);
    let width = columns.len();
    columns.push(REFUSED.to_owned());
    let mut out = csv_line(&columns);
    let lines: BTreeSet<u64> = refused.iter().map(|row| row.line).collect();
    let mut reasons = refused.iter();
    for row in rows {
        let row = row?;
        if !lines.contains(&row.line) {
            continue;
        }
        let mut fields = row.fields;
        if let Some(place) = place.filter(|place| *place < fields.len()) {
            fields.remove(place);
        }
        // A row with a field too many keeps it: whoever mends it must see it.
        fields.resize(fields.len().max(width), String::new());
        let reason = reasons.find(|reason| reason.line == row.line);
        fields.push(
            reason
                .map(|r| format!("{}: {}", r.name, r.reason))
                .unwrap_or_default(),
        );
        out.push_str(&csv_line(&fields));
    }
    Ok(out.into_bytes())
}

fn csv_line(fields: &[String]) -> String {
    let quoted = |field: &String| match field.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.clone(),
    };
    let mut line = fields.iter().map(quoted).collect::<Vec<_>>().join(",");
    line.push_str("\r\n");
    line
}

fn verdicts(view: &ImportView, file: &str) -> String {
    let mut out = String::new();
    for row in &view.refused {
        out.push_str(&format!(
            "{file}:{}: {}: {}\n",
            row.line, row.name, row.reason
        ));
    }
    let verb = if view.dry_run {
        "would be registered (nothing was changed)"
    } else {
        "registered"
    };
    out.push_str(&format!(
        "{} {verb}, {} refused\n",
        view.registered,
        view.refused.len()
    ));
    out
}

/// Counts what is read.
struct Counted {
    file: File,
    bar: Bar,
}

impl Read for &mut Counted {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.file.read(buffer)?;
        self.bar.advance(read as u64);
        Ok(read)
    }
}

/// How far a long file is read, on one line of a terminal.
struct Bar {
    total: u64,
    done: u64,
    shown: Option<Instant>,
}

/// Files below that are read before anybody could look.
const LONG: u64 = 4 * 1024 * 1024;

impl Bar {
    fn new(total: u64) -> Self {
        let wanted = total >= LONG && std::io::stderr().is_terminal();
        Self {
            total,
            done: 0,
            shown: wanted.then(Instant::now),
        }
    }

    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        if self
            .shown
            .is_some_and(|shown| shown.elapsed() > Duration::from_millis(100))
        {
            self.shown = Some(Instant::now());
            let _ = write!(std::io::stderr(), "\r{}", drawn(self.done, self.total));
        }
    }

    fn end(&self) {
        if self.shown.is_some() {
            let _ = writeln!(std::io::stderr(), "\r{}", drawn(self.total, self.total));
        }
    }
}

fn drawn(done: u64, total: u64) -> String {
    let done = done.min(total);
    let part = done * 40 / total.max(1);
    let bar = "#".repeat(usize::try_from(part).unwrap_or(40));
    format!(
        "[{bar:<40}] {:>3}% of {} MiB",
        done * 100 / total.max(1),
        total >> 20
    )
}

pub fn export(args: &DeviceExportArgs) -> anyhow::Result<ExitCode> {
    let link = client::connect(&Site::at(&args.site.dir))?;
    if let Some(dir) = &args.out {
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
    }
    let (mut after, mut rows, mut files, mut left_out) = (None, Vec::new(), 0, 0);
    let mut total = 0;
    loop {
        let Outcome::Exported(page) = link.execute(Command::Export {
            after: after.take(),
        })?
        else {
            bail!("the appliance answered something else");
        };
        for (device, reason) in &page.left_out {
            eprintln!("{device} is left out: {reason}");
        }
        left_out += page.left_out.len();
        rows.extend(page.rows);
        after = page.last;
        while rows.len() >= export::ROWS || (after.is_none() && !rows.is_empty()) {
            let rest = rows.split_off(rows.len().min(export::ROWS));
            let bytes = export::file(&rows);
            files += 1;
            total += rows.len();
            match &args.out {
                Some(dir) => {
                    let path = dir.join(format!("devices-{files:03}.csv"));
                    durable::create(&path, &bytes, Access::Public).with_context(|| {
                        format!("writing {} (it must not exist yet)", path.display())
                    })?;
                }
                None if !rest.is_empty() || files > 1 || after.is_some() => {
                    bail!(
                        "more than {} devices: Intune takes that many in one file. Give --out DIR",
                        export::ROWS
                    )
                }
                None => std::io::stdout().write_all(&bytes)?,
            }
            rows = rest;
        }
        if after.is_none() {
            break;
        }
    }
    if args.out.is_some() || total == 0 {
        eprintln!("{total} devices in {files} file(s), {left_out} left out");
    }
    Ok(ExitCode::from(u8::from(left_out > 0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_rows_come_back_as_they_are_with_their_reason() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.csv");
        std::fs::write(&path, "Device model,Device Serial Number,Manufacturer name\nOne,S-1,X\n\"T,wo\",S-2,X\nThree,S-3,X,more\n").unwrap();
        let refused = [
            RefusedRow {
                line: 3,
                name: "N".into(),
                reason: "a, b".into(),
            },
            RefusedRow {
                line: 4,
                name: "M".into(),
                reason: "c".into(),
            },
        ];
        let file = String::from_utf8(rejects(&path, &refused).unwrap()).unwrap();
        assert_eq!(
            file,
            "Device model,Device Serial Number,Manufacturer name,Refused\r\n\"T,wo\",S-2,X,\"N: a, b\"\r\nThree,S-3,X,more,M: c\r\n"
        );
        // What comes back is read again, reasons passed over.
        std::fs::write(&path, file.replace(",more", "")).unwrap();
        let again: Vec<_> = Rows::new(File::open(&path).unwrap(), "")
            .unwrap()
            .map(Result::unwrap)
            .collect();
        assert!(again.iter().all(|row| row.content.is_ok()), "{again:?}");
        let file = String::from_utf8(
            rejects(
                &path,
                &[RefusedRow {
                    line: 2,
                    name: "N".into(),
                    reason: "d".into(),
                }],
            )
            .unwrap(),
        )
        .unwrap();
        assert!(file.ends_with("X,N: d\r\n"), "one reason, the last: {file}");
    }

    #[test]
    fn a_bar_is_one_line() {
        assert_eq!(
            drawn(0, 400 << 20),
            format!("[{}]   0% of 400 MiB", " ".repeat(40))
        );
        assert_eq!(
            drawn(9 << 30, 400 << 20),
            format!("[{}] 100% of 400 MiB", "#".repeat(40))
        );
    }
}
