//! The control socket: commands reach a running appliance through a file in
//! the site's folder that only its owner may use. One line of JSON each way,
//! except for files of many rows, which come in parts:
//!
//! ```text
//! {"by": …, "import": FileTerms}     Go
//! Upload::Part                       Progress   (each is in the store by then)
//! Upload::End                        Progress, Progress, … Over
//! ```
//! Whoever goes away before `End` has changed nothing.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader, Take};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};

use super::Shutdown;
use crate::office::{FileTerms, Office, Order, Outcome, Part, Progress, Registering};

/// The longest line: a part of a file whose rows bring hashes of full length.
pub const MAX_LINE: u64 = 4 * 1024 * 1024;

/// A line that is not complete by then is dropped, and an answer that is not read.
const WITHIN: Duration = Duration::from_secs(60);

/// The order to register a file, whose rows follow.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileOrder {
    /// Who asks, as the journal names them.
    pub by: String,
    /// How.
    pub import: FileTerms,
}

/// What follows a [`FileOrder`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Upload {
    /// Some rows.
    Part(Part),
    /// That was the file: it counts.
    End,
}

/// What the appliance says of a file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Told {
    /// It may come.
    Go,
    /// What became of some rows.
    Progress(Progress),
    /// All of it is registered.
    Over,
}

/// Binds the socket. The site's lock is held by now, so a socket that lies
/// there is a dead process's.
pub fn bind(path: &Path) -> anyhow::Result<UnixListener> {
    let context = || format!("cannot make the control socket {}", path.display());
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(context);
        }
        _ => {}
    }
    let listener = UnixListener::bind(path).with_context(context)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Carries out orders until told to stop.
pub async fn run(listener: UnixListener, office: Arc<Office>, mut stop: Shutdown) {
    loop {
        let accepted = tokio::select! {
            () = stop.ordered() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                let office = Arc::clone(&office);
                tokio::spawn(async move {
                    if let Err(error) = converse(stream, &office).await {
                        tracing::debug!("control socket: {error:#}");
                    }
                });
            }
            Err(error) => {
                // Out of descriptors: what frees some needs a moment.
                tracing::warn!("control socket: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// One client's lines, in and out.
struct Lines {
    reader: BufReader<Take<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        let (reader, writer) = stream.into_split();
        let reader = BufReader::new(reader.take(MAX_LINE));
        Self { reader, writer }
    }

    /// The next line; none where the client went away.
    async fn next(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        self.reader.get_mut().set_limit(MAX_LINE);
        let mut line = Vec::new();
        let read = self.reader.read_until(b'\n', &mut line);
        tokio::time::timeout(WITHIN, read).await??;
        match line.last() {
            None => Ok(None),
            Some(b'\n') => Ok(Some(line)),
            Some(_) => bail!("a line was cut off, or is longer than {MAX_LINE} bytes"),
        }
    }

    async fn say(&mut self, answer: &impl Serialize) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(answer)?;
        line.push(b'\n');
        tokio::time::timeout(WITHIN, self.writer.write_all(&line)).await??;
        Ok(())
    }
}

async fn converse(stream: UnixStream, office: &Office) -> anyhow::Result<()> {
    let mut lines = Lines::new(stream);
    let Some(line) = lines.next().await? else {
        return Ok(());
    };
    if let Ok(order) = serde_json::from_slice::<FileOrder>(&line) {
        let told = match file(&mut lines, office, order).await {
            Ok(()) => Ok(Told::Over),
            Err(error) => Err(format!("{error:#}")),
        };
        return lines.say(&told).await;
    }
    let result: Result<Outcome, String> = match serde_json::from_slice::<Order>(&line) {
        Ok(order) => office
            .execute(order)
            .await
            .map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!(
            "the appliance does not understand the order; is it of another version? {error}"
        )),
    };
    lines.say(&result).await
}

/// Takes a file in and registers it.
async fn file(lines: &mut Lines, office: &Office, order: FileOrder) -> anyhow::Result<()> {
    let mut import = office.import_file(order.import, order.by)?;
    lines.say(&Ok::<_, String>(Told::Go)).await?;
    loop {
        let line = lines.next().await?;
        let line = line.context("the file ended before its end was told")?;
        match serde_json::from_slice(&line).context("not a part of a file")? {
            Upload::End => break,
            Upload::Part(part) => {
                let progress = import.add(part).await?;
                let told = Ok::<_, String>(Told::Progress(progress));
                lines.say(&told).await?;
            }
        }
    }
    register(lines, import.accept().await?).await
}

/// The file counts, whether or not anybody is there to hear of it.
async fn register(lines: &mut Lines, mut registering: Registering<'_>) -> anyhow::Result<()> {
    let mut heard = true;
    while let Some(progress) = registering.next().await? {
        let told = Ok::<_, String>(Told::Progress(progress));
        heard = heard && lines.say(&told).await.is_ok();
    }
    Ok(())
}
