//! Provision this machine: the appliance on loopback, and the agent against it
//! as on any network.

use std::process::Command;
use std::time::Duration;

use anyhow::Context as _;

use super::service::Service;
use super::terminal::Terminal;
use super::unlock::{self, Kept};
use super::{AGENT, End};
use crate::office;

/// How often is looked whether the device waits or the journal grew.
const EVERY: Duration = Duration::from_millis(200);

/// How it came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Done {
    /// The receipt is on the stick.
    Provisioned,
    /// The agent has said why.
    NotProvisioned,
    /// Somebody ended it.
    End(End),
}

/// Serves, and runs the agent to its end.
pub fn run(terminal: &mut Terminal, kept: &mut Kept) -> anyhow::Result<Done> {
    terminal.say("starting the appliance on this machine ...\n");
    let settings = unlock::site().settings()?.on_loopback();
    let service = Service::start(settings)?;
    let mut agent = Command::new(AGENT)
        .arg("provision")
        .spawn()
        .context("starting the agent")?;
    let status = loop {
        if let Some(status) = agent.try_wait()? {
            break status;
        }
        kept.follow(service.journal_entries())?;
        let_in(&service);
        if !service.is_running() {
            // The agent finds nobody to talk to and says so.
            break agent.wait()?;
        }
        std::thread::sleep(EVERY);
    };
    service.stop()?;
    kept.finish()?;
    Ok(if status.success() {
        Done::Provisioned
    } else {
        Done::NotProvisioned
    })
}

/// The code that a technician compares proves that the device on the other end
/// of a wire is the one in front of them. Here both ends are one machine, and
/// whoever typed the PIN stands before it; rejected devices stay rejected.
fn let_in(service: &Service) {
    for device in service.devices() {
        let Some(code) = device.code.filter(|_| device.state != "rejected") else {
            continue;
        };
        let command = office::Command::Approve {
            device: device.id.clone(),
            code,
        };
        if let Err(error) = service.execute(command) {
            tracing::warn!("{}: {error:#}", device.id);
        }
    }
}
