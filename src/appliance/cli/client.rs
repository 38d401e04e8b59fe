//! Where commands go: to the appliance that serves the site, or, where none
//! does, straight to the site's folder.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::net::UnixStream;

use anyhow::Context as _;

use crate::office::{Command, Office, Order, Outcome};
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
                over_socket(stream, &order)
            }
        }
    }
}

fn unreachable_socket(site: &Site, error: std::io::Error) -> anyhow::Error {
    anyhow::Error::new(error).context(format!(
        "the appliance's control socket {} (run this as the user it runs as)",
        site.control_socket().display()
    ))
}

fn over_socket(mut stream: UnixStream, order: &Order) -> anyhow::Result<Outcome> {
    let mut line = serde_json::to_vec(order)?;
    line.push(b'\n');
    stream.write_all(&line)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    let result: Result<Outcome, String> = serde_json::from_str(&answer)
        .context("the appliance ended before it answered; see its log")?;
    result.map_err(anyhow::Error::msg)
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
