//! `groundcrew hash …`: what a 4K hardware hash says, without Windows.

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use groundcrew_core::hardware::hash4k::{Difference, HardwareHash, Record};
use groundcrew_core::hardware::{Identity, IdentityDigest};
use groundcrew_registry::import::{self, Rows};
use serde::Serialize;

use super::table;

/// `groundcrew hash`.
#[derive(Debug, Subcommand)]
pub enum HashCommand {
    /// Explain a hardware hash, or every row of a CSV file
    #[command(after_help = "\
Examples:
  groundcrew hash show AutopilotHWID.csv
  groundcrew-agent report --csv | groundcrew hash show -

FILE is a CSV file of any shape that `device import` takes, OA3.xml, or the bare hash. Exit status 1
where a hash is damaged.")]
    Show(HashShowArgs),
    /// Say in what two hardware hashes differ
    #[command(after_help = "\
Example:
  groundcrew hash diff before.csv after.csv

Each file holds one hash. Exit status 0 where both say the same, 1 where they differ.")]
    Diff(HashDiffArgs),
}

/// `groundcrew hash show`.
#[derive(Debug, Args)]
pub struct HashShowArgs {
    /// The file; `-` is standard input
    pub file: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// `groundcrew hash diff`.
#[derive(Debug, Args)]
pub struct HashDiffArgs {
    /// One file with one hash
    pub a: PathBuf,
    /// Another one
    pub b: PathBuf,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// The most bytes that are read of a file: 100,000 hashes are 420 MB, and those
/// are not for reading.
const MAX_FILE: u64 = 64 * 1024 * 1024;

pub fn run(command: HashCommand) -> anyhow::Result<ExitCode> {
    match command {
        HashCommand::Show(args) => show(&args),
        HashCommand::Diff(args) => diff(&args),
    }
}

/// A hash of a file, or why there is none.
struct Found {
    /// The line in the CSV file it stands in.
    line: Option<u64>,
    hash: Result<HardwareHash, String>,
}

fn show(args: &HashShowArgs) -> anyhow::Result<ExitCode> {
    let found = read(&args.file)?;
    if args.json {
        let views: Vec<View> = found.iter().map(View::new).collect();
        println!("{}", serde_json::to_string_pretty(&views)?);
    } else {
        let many = found.len() > 1;
        for (number, one) in found.iter().enumerate() {
            if number > 0 {
                println!();
            }
            if let Some(line) = one.line.filter(|_| many) {
                println!("line {line}:");
            }
            match &one.hash {
                Ok(hash) => print!("{}", describe(hash, table::terminal_width(80))),
                Err(reason) => println!("{reason}"),
            }
        }
    }
    let bad = found.iter().any(|one| one.hash.is_err());
    Ok(ExitCode::from(u8::from(bad)))
}

fn describe(hash: &HardwareHash, width: usize) -> String {
    let mut rows: Vec<(String, String)> = hash
        .records
        .iter()
        .map(|record| {
            (
                format!("{:>3} {}", record.kind(), record.name()),
                record.words(),
            )
        })
        .collect();
    rows.push((
        "    Checksum".to_owned(),
        format!(
            "good: all of its {} records are as they were made",
            hash.records.len()
        ),
    ));
    rows.push((
        "    Identity digest".to_owned(),
        hash.identity().digest().to_string(),
    ));
    table::fields(&rows, width)
}

/// A hash for scripts.
#[derive(Serialize)]
struct View {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<IdentityDigest>,
    records: Vec<RecordView>,
}

#[derive(Serialize)]
struct RecordView {
    kind: u16,
    name: &'static str,
    value: String,
    /// The record's data in hex.
    data: String,
}

impl View {
    fn new(found: &Found) -> Self {
        let hash = found.hash.as_ref().ok();
        let record = |record: &Record| RecordView {
            kind: record.kind(),
            name: record.name(),
            value: record.words(),
            data: data_encoding::HEXLOWER.encode(&record.data()),
        };
        Self {
            line: found.line,
            fault: found.hash.as_ref().err().cloned(),
            identity: hash.map(HardwareHash::identity),
            digest: hash.map(|hash| hash.identity().digest()),
            records: hash
                .map(|hash| hash.records.iter().map(record).collect())
                .unwrap_or_default(),
        }
    }
}

fn diff(args: &HashDiffArgs) -> anyhow::Result<ExitCode> {
    let (a, b) = (only(&args.a)?, only(&args.b)?);
    let differences = a.differences(&b);
    if args.json {
        let view: Vec<_> = differences
            .iter()
            .map(|d| serde_json::json!({ "kind": d.kind, "name": d.name, "a": d.first, "b": d.second }))
            .collect();
        println!("{}", serde_json::to_string_pretty(&view)?);
    } else if differences.is_empty() {
        println!("Both say the same ({} records).", a.records.len());
    } else {
        print!("{}", differing(&differences, table::terminal_width(80)));
        let same = a.identity().digest() == b.identity().digest();
        println!(
            "Identity digest: {}",
            if same { "the same" } else { "differs" }
        );
    }
    Ok(ExitCode::from(u8::from(!differences.is_empty())))
}

fn differing(differences: &[Difference], width: usize) -> String {
    let side = |name: &str, sign: char, words: &Option<String>| {
        words
            .as_ref()
            .map(|words| (format!("{name:<17} {sign}"), words.clone()))
    };
    let rows: Vec<(String, String)> = differences
        .iter()
        .flat_map(|d| {
            [
                side(d.name, 'A', &d.first),
                side(if d.first.is_some() { "" } else { d.name }, 'B', &d.second),
            ]
        })
        .flatten()
        .collect();
    table::fields(&rows, width)
}

/// The one hash of a file.
fn only(path: &Path) -> anyhow::Result<HardwareHash> {
    let mut found = read(path)?;
    let name = path.display();
    match (found.pop(), found.len()) {
        (Some(one), 0) => one
            .hash
            .map_err(|reason| anyhow::anyhow!("{name}: {reason}")),
        (_, more) => bail!("{name} holds {} hashes; give a file with one", more + 1),
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<Found>> {
    let context = || format!("reading {}", path.display());
    let mut bytes = Vec::new();
    let reader: Box<dyn std::io::Read> = match path.to_str() {
        Some("-") => Box::new(std::io::stdin()),
        _ => Box::new(File::open(path).with_context(context)?),
    };
    reader
        .take(MAX_FILE + 1)
        .read_to_end(&mut bytes)
        .with_context(context)?;
    if bytes.len() as u64 > MAX_FILE {
        bail!(
            "{} is larger than 64 MiB: cut out the rows you want to see",
            path.display()
        );
    }
    hashes(&bytes).with_context(|| path.display().to_string())
}

fn hashes(bytes: &[u8]) -> anyhow::Result<Vec<Found>> {
    let found = |hash: Result<_, groundcrew_core::hardware::hash4k::HashError>| {
        vec![Found {
            line: None,
            hash: hash.map_err(|error| error.to_string()),
        }]
    };
    if bytes.starts_with(b"OA") && bytes.contains(&0) {
        return Ok(found(HardwareHash::from_bytes(bytes)));
    }
    let text = import::to_utf8(bytes)?;
    // oa3tool's report: <Key>…<HardwareHash>T0E…</HardwareHash>…</Key>.
    let element = text
        .split_once("<HardwareHash>")
        .and_then(|(_, rest)| rest.split_once("</HardwareHash>"));
    let bare = element.map_or(text.trim(), |(inside, _)| inside.trim());
    if element.is_some() || !bare.contains([',', '\n']) {
        return Ok(found(HardwareHash::from_text(bare)));
    }
    let mut all = Vec::new();
    for row in Rows::passing_over(bytes, "")? {
        let row = row?;
        let hash = match (row.hash, row.content) {
            (Some(hash), _) => Ok(hash),
            (None, Err(fault)) => Err(fault.to_string()),
            (None, Ok(_)) => Err("the row has no hardware hash".to_owned()),
        };
        all.push(Found {
            line: Some(row.line),
            hash,
        });
    }
    if all.is_empty() {
        bail!("the file has a header and no rows");
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundcrew_core::hardware::hash4k::TextKind;

    fn hash(serial: &str) -> HardwareHash {
        HardwareHash {
            records: vec![
                Record::Text(TextKind::Serial, serial.into()),
                Record::Other {
                    kind: 35,
                    data: vec![1; 100],
                },
            ],
        }
    }

    #[test]
    fn every_form_a_hash_comes_in_is_read() {
        let hash = hash("SYNTH-0001");
        let text = hash.to_text().unwrap();
        let csv = format!(
            "Device Serial Number,Windows Product ID,Hardware Hash\r\nSYNTH-0001,,{text}\r\n"
        );
        let utf16: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain(csv.encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        let xml =
            format!("<?xml version=\"1.0\"?>\n<Key><HardwareHash>{text}</HardwareHash></Key>\n");
        let forms = [
            text.clone().into_bytes(),
            format!("{text}\r\n").into_bytes(),
            hash.to_bytes().unwrap(),
            csv.into_bytes(),
            utf16,
            xml.into_bytes(),
        ];
        for (number, bytes) in forms.iter().enumerate() {
            let found = hashes(bytes).unwrap();
            assert_eq!(found.len(), 1, "form {number}");
            assert_eq!(found[0].hash.as_ref().unwrap(), &hash, "form {number}");
        }
        assert!(hashes(b"T0Enonsense").unwrap()[0].hash.is_err());
        assert!(hashes(b"a,b\nc,d\n").is_err(), "no CSV that is known");
    }

    #[test]
    fn tables_fit_80_columns() {
        let (a, b) = (hash("SYNTH-0001"), hash(&"x".repeat(120)));
        let all = format!("{}{}", describe(&b, 80), differing(&a.differences(&b), 80));
        assert!(all.lines().all(|line| line.chars().count() <= 80), "{all}");
        assert!(
            all.contains("Serial number     A") && all.contains(" 35 Not known"),
            "{all}"
        );
    }
}
