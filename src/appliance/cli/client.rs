//! Where commands go: to the appliance that serves the site, or, where none
//! does, straight to the site's folder.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::{Context as _, bail};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::office::{Command, FileTerms, Import, Office, Order, Outcome, Part, Progress};
use crate::serve::control::{FileOrder, Told, Upload};
use crate::site::Site;
use crate::store::Store;

/// Carries `command` out at `site`.
pub fn execute(site: &Site, command: Command) -> anyhow::Result<Outcome> {
    connect(site)?.execute(command)
}

/// A way to carry out several commands: the site's folder is opened once.
pub struct Link {
    site: Site,
    /// Where no appliance serves the site.
    offline: Option<(tokio::runtime::Runtime, Office)>,
}

/// Finds out whether an appliance serves `site`.
pub fn connect(site: &Site) -> anyhow::Result<Link> {
    let offline = match UnixStream::connect(site.control_socket()) {
        Ok(_) => None,
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) =>
        {
            Some(open(site)?)
        }
        Err(error) => return Err(unreachable_socket(site, error)),
    };
    Ok(Link {
        site: site.clone(),
        offline,
    })
}

impl Link {
    /// Carries `command` out.
    pub fn execute(&self, command: Command) -> anyhow::Result<Outcome> {
        let order = Order {
            by: technician(),
            command,
        };
        match &self.offline {
            Some((runtime, office)) => runtime.block_on(office.execute(order)),
            None => {
                let stream = UnixStream::connect(self.site.control_socket())
                    .map_err(|error| unreachable_socket(&self.site, error))?;
                let mut there = Conversation::new(stream)?;
                there.say(&order)?;
                there.hear()
            }
        }
    }
}

/// A file on its way to be registered: all of it counts once it is
/// [finished](Uploading::finish), and nothing before.
pub enum Uploading<'a> {
    /// By this process.
    Here(&'a tokio::runtime::Runtime, Box<Import<'a>>),
    /// By the appliance.
    There(Conversation),
}

impl Link {
    /// Begins to register a file.
    pub fn import(&self, terms: FileTerms) -> anyhow::Result<Uploading<'_>> {
        let by = technician();
        if let Some((runtime, office)) = &self.offline {
            let import = office.import_file(terms, by)?;
            return Ok(Uploading::Here(runtime, Box::new(import)));
        }
        let stream = UnixStream::connect(self.site.control_socket())
            .map_err(|error| unreachable_socket(&self.site, error))?;
        let mut there = Conversation::new(stream)?;
        let import = terms;
        there.say(&FileOrder { by, import })?;
        match there.told()? {
            Told::Go => Ok(Uploading::There(there)),
            other => bail!("the appliance said something else: {other:?}"),
        }
    }
}

impl Uploading<'_> {
    /// Brings some rows.
    pub fn add(&mut self, part: Part) -> anyhow::Result<Progress> {
        match self {
            Self::Here(runtime, import) => runtime.block_on(import.add(part)),
            Self::There(there) => {
                there.say(&Upload::Part(part))?;
                match there.told()? {
                    Told::Progress(progress) => Ok(progress),
                    other => bail!("the appliance said something else: {other:?}"),
                }
            }
        }
    }

    /// Registers what was brought. `each` hears what became of it, part by part.
    pub fn finish(self, mut each: impl FnMut(Progress)) -> anyhow::Result<()> {
        match self {
            Self::Here(runtime, import) => runtime.block_on(async {
                let mut registering = import.accept().await?;
                while let Some(progress) = registering.next().await? {
                    each(progress);
                }
                Ok(())
            }),
            Self::There(mut there) => {
                there.say(&Upload::End)?;
                loop {
                    match there.told().context(
                        "the appliance may have registered the file: `device list` tells, and importing it again does no harm",
                    )? {
                        Told::Progress(progress) => each(progress),
                        Told::Over => return Ok(()),
                        Told::Go => {}
                    }
                }
            }
        }
    }
}

/// Lines to and from the appliance.
pub struct Conversation {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Conversation {
    fn new(stream: UnixStream) -> std::io::Result<Self> {
        let reader = BufReader::new(stream.try_clone()?);
        Ok(Self {
            reader,
            writer: stream,
        })
    }

    fn say(&mut self, what: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(what)?;
        line.push(b'\n');
        // Where the appliance hung up, it said why before.
        match self.writer.write_all(&line) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn hear<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut answer = String::new();
        self.reader.read_line(&mut answer)?;
        let result: Result<T, String> = serde_json::from_str(&answer)
            .context("the appliance ended before it answered; see its log")?;
        result.map_err(anyhow::Error::msg)
    }

    fn told(&mut self) -> anyhow::Result<Told> {
        self.hear()
    }
}

fn unreachable_socket(site: &Site, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!(
        "the appliance's control socket {} (run this as the user it runs as)",
        site.control_socket().display()
    ))
}

fn open(site: &Site) -> anyhow::Result<(tokio::runtime::Runtime, Office)> {
    let settings = site.settings()?;
    let store = Store::open(&site.registry_file())?;
    let office = Office::open(site, &settings, store)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()?;
    Ok((runtime, office))
}

/// Whom the journal names for a change: the person behind `sudo`, or the user.
fn technician() -> String {
    let uid = nix::unistd::getuid();
    let name = |uid| {
        nix::unistd::User::from_uid(uid)
            .ok()
            .flatten()
            .map(|user| user.name)
    };
    std::env::var("SUDO_USER")
        .ok()
        .or_else(|| name(uid))
        .unwrap_or_else(|| format!("uid {uid}"))
}
