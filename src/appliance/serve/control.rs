//! The control socket: commands reach a running appliance through a file in
//! the site's folder that only its owner may use. One line of JSON each way.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::Shutdown;
use crate::office::{Office, Order, Outcome};

/// The longest order: a CSV file of 100,000 hardware hashes, in base64.
pub const MAX_ORDER: u64 = 768 * 1024 * 1024;

/// An order that is not complete by then is dropped.
const ORDER_WITHIN: Duration = Duration::from_secs(60);

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

async fn converse(stream: UnixStream, office: &Office) -> anyhow::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = Vec::new();
    let mut reader = BufReader::new(reader.take(MAX_ORDER));
    tokio::time::timeout(ORDER_WITHIN, reader.read_until(b'\n', &mut line)).await??;
    let result: Result<Outcome, String> = match serde_json::from_slice::<Order>(&line) {
        Ok(order) => office
            .execute(order)
            .await
            .map_err(|error| format!("{error:#}")),
        Err(error) => Err(format!(
            "the appliance does not understand the order; is it of another version? {error}"
        )),
    };
    let mut answer = serde_json::to_vec(&result)?;
    answer.push(b'\n');
    writer.write_all(&answer).await?;
    Ok(())
}
