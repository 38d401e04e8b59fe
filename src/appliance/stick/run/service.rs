//! The appliance as a part of this process: the same `serve` as on any machine,
//! on a thread of its own.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;

use anyhow::Context as _;

use super::unlock;
use crate::office::{Command, DeviceView, Office, Order, Outcome, every_device};
use crate::page::PageCode;
use crate::serve;
use crate::site::Settings;

/// Whom the journal names: whoever typed the PIN.
const BY: &str = "technician with the stick's PIN";

/// A running appliance.
pub struct Service {
    office: Arc<Office>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
    runtime: tokio::runtime::Runtime,
}

impl Service {
    /// Starts it, and returns when every socket is bound.
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (sender, ready) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            serve::run_as(&unlock::site(), &settings, stopped, |office| {
                let _ = sender.send(office);
            })
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()?;
        match ready.recv() {
            Ok(office) => Ok(Self {
                office,
                stop: Some(stop),
                thread: Some(thread),
                runtime,
            }),
            Err(_) => Err(ended(thread)
                .err()
                .context("the appliance ended before it was ready")?),
        }
    }

    /// Whether it still serves.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Where the status page is, and the code that opens it.
    pub fn page(&self) -> anyhow::Result<PageCode> {
        match self.execute(Command::PageCode { renew: false })? {
            Outcome::Page(code) => Ok(code),
            _ => anyhow::bail!("the appliance answers something else; this is a bug"),
        }
    }

    /// Every device.
    pub fn devices(&self) -> Vec<DeviceView> {
        every_device("", None, |command| self.execute(command)).unwrap_or_default()
    }

    /// What is done about addresses at this moment: `listening`, `proxy`, ….
    pub fn role(&self) -> String {
        match self.execute(Command::ShowNet) {
            Ok(Outcome::Net(net)) => net.interfaces.into_iter().next().map(|net| net.role),
            _ => None,
        }
        .unwrap_or_default()
    }

    /// Carries a technician's order out.
    pub fn execute(&self, command: Command) -> anyhow::Result<Outcome> {
        let by = BY.to_owned();
        self.runtime
            .block_on(self.office.execute(Order { by, command }))
    }

    /// Whether the clock is believed.
    pub fn knows_the_time(&self) -> bool {
        self.office.knows_the_time()
    }

    /// How many devices were let in, of those that HQ allows.
    pub fn granted_devices(&self) -> usize {
        self.office.granted_devices()
    }

    /// How far the journal has come.
    pub fn journal_entries(&self) -> u64 {
        self.office.journal_entries()
    }

    /// Ends it; what was decided is on the stick afterwards.
    pub fn stop(mut self) -> anyhow::Result<()> {
        drop(self.stop.take());
        self.thread.take().map_or(Ok(()), ended)
    }
}

fn ended(thread: JoinHandle<anyhow::Result<()>>) -> anyhow::Result<()> {
    thread.join().unwrap_or_else(|_| {
        Err(anyhow::anyhow!(
            "the appliance ended by a fault; this is a bug"
        ))
    })
}
