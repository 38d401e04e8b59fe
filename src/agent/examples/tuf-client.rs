//! The trust client behind the command line that the public
//! theupdateframework/tuf-conformance suite drives (its CLIENT-CLI.md): `init`,
//! `refresh`, `download`. `scripts/conformance` runs the suite with it.
//!
//! What decides is `groundcrew_core::trust::tuf` alone, the very code that runs
//! on devices; here are only files and HTTP.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use groundcrew_core::time::{Now, UnixTime};
use groundcrew_core::trust::tuf::{
    Client, Limits, MinimumVersions, NotFound, Poll, Trusted, percent_encoded,
};

type Outcome<T> = Result<T, Box<dyn Error>>;

const USAGE: &str = "\
usage: tuf-client --metadata-dir DIR init ROOT.json
       tuf-client --metadata-dir DIR --metadata-url URL refresh
       tuf-client --metadata-dir DIR --metadata-url URL --target-name PATH [--target-name PATH...]
                  --target-base-url URL --target-dir DIR download

init trusts ROOT.json; refresh brings the metadata in DIR up to date; download also fetches targets.
Exit status: 0 done, 1 refused or failed, 2 wrong usage.";

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(Usage::Help) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(Usage::Wrong(what)) => {
            eprintln!("tuf-client: {what}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tuf-client: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Outcome<()> {
    let store = Store(arguments.metadata_dir.clone());
    match &arguments.command {
        Command::Init { root } => store.begin(&fs::read(root)?),
        Command::Refresh { metadata_url } => refresh(&store, metadata_url).map(drop),
        Command::Download { metadata_url, from } => {
            let mut client = refresh(&store, metadata_url)?;
            for name in &from.names {
                client.want(name);
                drive(&mut client, &store, metadata_url)?;
                download(&client, name, from)?;
            }
            Ok(())
        }
    }
}

fn refresh(store: &Store, metadata_url: &str) -> Outcome<Client> {
    let clock = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let now = Now::Clock(UnixTime::new(clock));
    let (limits, minimum) = (Limits::default(), MinimumVersions::default());
    let mut client = Client::new(store.load()?, now, limits, minimum)?;
    drive(&mut client, store, metadata_url)?;
    Ok(client)
}

/// Fetches until the client wants nothing more. What it accepted is stored also
/// when a later file is refused.
fn drive(client: &mut Client, store: &Store, metadata_url: &str) -> Outcome<()> {
    let result = feed_all(client, metadata_url);
    store.save(&client.trusted())?;
    result
}

fn feed_all(client: &mut Client, metadata_url: &str) -> Outcome<()> {
    while let Poll::Fetch(file) = client.poll() {
        let answer = fetch(&join(metadata_url, &file.path), file.max_len)?;
        client.feed(answer.as_deref().map_err(|missing| *missing))?;
    }
    Ok(())
}

fn download(client: &Client, name: &str, from: &Downloads) -> Outcome<()> {
    let target = client.target(name);
    let target = target.ok_or_else(|| format!("no target {name:?} is listed"))?;
    let file = from.dir.join(percent_encoded(name));
    if fs::read(&file).is_ok_and(|bytes| target.verify(bytes).is_ok()) {
        return Ok(());
    }
    let path = client.consistent_target_path(name).unwrap_or_default();
    let path: Vec<String> = path.split('/').map(percent_encoded).collect();
    let bytes = fetch(&join(&from.base_url, &path.join("/")), target.length)?;
    let bytes = bytes.map_err(|NotFound| format!("{name:?} is listed, but not there"))?;
    fs::write(file, target.verify(bytes)?.into_inner())?;
    Ok(())
}

/// Reads at most one byte more than `max_len`: enough for the client to see
/// that there are too many.
fn fetch(url: &str, max_len: u64) -> Outcome<Result<Vec<u8>, NotFound>> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .timeout_global(Some(Duration::from_secs(20)))
        .build()
        .into();
    let mut response = agent.get(url).call()?;
    match response.status().as_u16() {
        200 => {
            use std::io::Read as _;
            let mut bytes = Vec::new();
            let reader = response.body_mut().as_reader();
            reader
                .take(max_len.saturating_add(1))
                .read_to_end(&mut bytes)?;
            Ok(Ok(bytes))
        }
        403 | 404 => Ok(Err(NotFound)),
        status => Err(format!("{url}: HTTP status {status}").into()),
    }
}

fn join(base: &str, path: &str) -> String {
    format!("{}/{path}", base.trim_end_matches('/'))
}

/// The metadata folder: `ROLE.json` with no version, as the suite looks for
/// them, and the chain of roots in `initial/`.
struct Store(PathBuf);

const TOP_LEVEL: [&str; 4] = ["root", "timestamp", "snapshot", "targets"];

impl Store {
    fn begin(&self, root: &[u8]) -> Outcome<()> {
        fs::create_dir_all(self.0.join("initial"))?;
        fs::write(self.0.join("initial/root.json"), root)?;
        fs::write(self.0.join("root.json"), root)?;
        Ok(())
    }

    fn load(&self) -> Outcome<Trusted> {
        let read = |name: &str| fs::read(self.0.join(name)).ok();
        let root = read("initial/root.json").ok_or("nothing is trusted yet: run `init` first")?;
        let chain = (0..).map_while(|number| read(&newer_root(number)));
        let mut trusted = Trusted {
            root,
            newer_roots: chain.collect(),
            timestamp: read("timestamp.json"),
            snapshot: read("snapshot.json"),
            targets: read("targets.json"),
            ..Trusted::default()
        };
        for entry in fs::read_dir(&self.0)? {
            let name = entry?.file_name().into_string().unwrap_or_default();
            let Some(role) = name.strip_suffix(".json") else {
                continue;
            };
            let role = percent_decoded(role);
            if let Some(role) = role.filter(|role| !TOP_LEVEL.contains(&role.as_str())) {
                trusted
                    .delegated
                    .extend(read(&name).map(|bytes| (role, bytes)));
            }
        }
        Ok(trusted)
    }

    fn save(&self, trusted: &Trusted) -> Outcome<()> {
        for (number, root) in trusted.newer_roots.iter().enumerate() {
            fs::write(self.0.join(newer_root(number)), root)?;
        }
        let root = trusted.newer_roots.last().unwrap_or(&trusted.root);
        fs::write(self.0.join("root.json"), root)?;
        for (role, bytes) in [
            ("timestamp", &trusted.timestamp),
            ("snapshot", &trusted.snapshot),
            ("targets", &trusted.targets),
        ] {
            let path = self.0.join(format!("{role}.json"));
            match bytes {
                Some(bytes) => fs::write(path, bytes)?,
                None if path.exists() => fs::remove_file(path)?,
                None => {}
            }
        }
        for (role, bytes) in &trusted.delegated {
            fs::write(
                self.0.join(format!("{}.json", percent_encoded(role))),
                bytes,
            )?;
        }
        Ok(())
    }
}

fn newer_root(number: usize) -> String {
    format!("initial/newer.{number}.json")
}

/// The reverse of [`percent_encoded`]; `None` for what it never writes.
fn percent_decoded(name: &str) -> Option<String> {
    let mut parts = name.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(part.get(..2)?, 16).ok()?);
        bytes.extend_from_slice(part.get(2..)?.as_bytes());
    }
    String::from_utf8(bytes).ok()
}

struct Arguments {
    metadata_dir: PathBuf,
    command: Command,
}

enum Command {
    Init {
        root: PathBuf,
    },
    Refresh {
        metadata_url: String,
    },
    Download {
        metadata_url: String,
        from: Downloads,
    },
}

struct Downloads {
    names: Vec<String>,
    base_url: String,
    dir: PathBuf,
}

enum Usage {
    Help,
    Wrong(String),
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Self, Usage> {
        let mut options: Vec<(String, String)> = Vec::new();
        let mut plain = Vec::new();
        while let Some(word) = words.next() {
            match word.strip_prefix("--") {
                Some("help") => return Err(Usage::Help),
                Some(name) => {
                    let value = words.next();
                    let value =
                        value.ok_or_else(|| Usage::Wrong(format!("{word} needs a value")))?;
                    options.push((name.to_owned(), value));
                }
                None => plain.push(word),
            }
        }
        let all = |name: &str| {
            let named = options.iter().filter(|(found, _)| found == name);
            named.map(|(_, value)| value.clone()).collect::<Vec<_>>()
        };
        let one = |name: &str| {
            let value = all(name).pop();
            value.ok_or_else(|| Usage::Wrong(format!("--{name} is missing")))
        };
        let plain: Vec<&str> = plain.iter().map(String::as_str).collect();
        let command = match plain.as_slice() {
            ["init", root] => Command::Init {
                root: Path::new(root).to_owned(),
            },
            ["refresh"] => Command::Refresh {
                metadata_url: one("metadata-url")?,
            },
            ["download"] => Command::Download {
                metadata_url: one("metadata-url")?,
                from: Downloads {
                    names: all("target-name"),
                    base_url: one("target-base-url")?,
                    dir: one("target-dir")?.into(),
                },
            },
            _ => {
                return Err(Usage::Wrong(
                    "one of init, refresh, download is needed".to_owned(),
                ));
            }
        };
        Ok(Self {
            metadata_dir: one("metadata-dir")?.into(),
            command,
        })
    }
}
