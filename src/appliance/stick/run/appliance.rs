//! Be the appliance: the network on the cable is brought up and served, and
//! the screen shows who comes.

use std::time::{Duration, Instant};

use anyhow::bail;

use super::input::{Input, Wish};
use super::medium::Stick;
use super::provision::Done;
use super::screens::{self, Terms, View};
use super::service::Service;
use super::terminal::Terminal;
use super::unlock::{self, Kept};
use super::wire::{Coming, Network};
use super::{End, medium};
use crate::office::{self, DeviceView, Outcome};
use crate::page::PageCode;
use crate::site::{Settings, charter};
use groundcrew_core::enroll::Code;
use groundcrew_core::trust::charter::Charter;

const EVERY: Duration = Duration::from_millis(500);
/// It was settled at the start: HQ's signatures ended meanwhile, or the clock fell back.
const CLOCK: &str = "THE CLOCK IS NOT BELIEVED any more: nothing is signed and nobody is let in. End \
    with q and start again: the stick asks for date and time.";

/// What is served at this moment.
struct Served {
    settings: Settings,
    service: Service,
    door: PageCode,
    /// What HQ allows; where it cannot be read, devices are told so themselves.
    charter: Option<Charter>,
}

impl Served {
    fn start(network: &Network) -> anyhow::Result<Self> {
        let wire = &network.wire;
        let settings = unlock::site().settings()?;
        let settings = settings.on_network(&wire.interface, wire.address, wire.leased);
        let service = Service::start(settings.clone())?;
        let door = service.page()?;
        tracing::info!("serving {} s after the kernel started", uptime());
        Ok(Self {
            charter: charter::read(&unlock::site(), &settings.site).ok(),
            settings,
            service,
            door,
        })
    }

    fn terms(&self) -> Option<Terms> {
        let charter = self.charter.as_ref()?;
        Some(Terms {
            devices: charter.devices,
            used: self.service.granted_devices(),
            expires: charter.expires,
        })
    }
}

/// Serves until somebody ends it, or the stick is gone.
pub fn run(
    terminal: &mut Terminal,
    stick: &Stick,
    kept: &mut Kept,
    coming: Coming,
) -> anyhow::Result<Done> {
    let Some(mut network) = bring_up(terminal, stick, coming)? else {
        return Ok(Done::End(End::PowerOff));
    };
    let began = Instant::now();
    let mut served = Served::start(&network)?;
    let mut input = Input::default();
    let (mut shown, mut prompted) = (Vec::new(), String::new());
    loop {
        if !stick.is_there() {
            return Ok(Done::End(End::Pulled));
        }
        kept.follow(served.service.journal_entries())?;
        if !served.service.is_running() {
            served.service.stop()?;
            bail!("the appliance ended by itself; this is a bug");
        }
        let role = served.service.role();
        if network.tend(&role, began.elapsed())? {
            terminal.say("\nthe network gave an address; serving goes on there ...\n");
            served.service.stop()?;
            served = Served::start(&network)?;
            continue;
        }
        let devices = served.service.devices();
        let page = page(&served, &network, &role, &devices, &mut input);
        let prompt = input.prompt();
        if page != shown {
            terminal.page(&page);
        }
        if page != shown || prompt != prompted {
            terminal.prompt(&prompt);
        }
        (shown, prompted) = (page, prompt);
        match keys(terminal, &mut input) {
            Some(Wish::End) => break,
            Some(Wish::Approve(code)) => input.say(approve(&served.service, code)),
            None => {}
        }
    }
    terminal.say("\nending ...\n");
    served.service.stop()?;
    kept.finish()?;
    Ok(Done::End(End::PowerOff))
}

/// Waits for the network, which may need a cable first; nothing where somebody ends it.
fn bring_up(
    terminal: &mut Terminal,
    stick: &Stick,
    mut coming: Coming,
) -> anyhow::Result<Option<Network>> {
    let mut why = None;
    loop {
        terminal.page(&screens::no_network_yet(why.as_deref()));
        while !coming.is_there() {
            if !stick.is_there() {
                bail!("the stick was pulled");
            }
            if matches!(terminal.key(EVERY), Some(b'q' | b'Q')) {
                return Ok(None);
            }
        }
        match coming.wait() {
            Ok(up) => return Ok(Some(Network::new(up))),
            Err(error) => why = Some(format!("{error:#}")),
        }
        coming = Coming::begin()?;
    }
}

fn page(
    served: &Served,
    network: &Network,
    role: &str,
    devices: &[DeviceView],
    input: &mut Input,
) -> Vec<String> {
    let free = medium::free_bytes().ok();
    let mut notes = Vec::new();
    notes.extend(input.said(&screens::under_way(devices)));
    notes.extend((!served.service.knows_the_time()).then(|| CLOCK.to_owned()));
    notes.extend(network.note(role));
    notes.extend(free.and_then(medium::nearly_full));
    let view = View {
        settings: &served.settings,
        wire: &network.wire,
        role,
        door: &served.door,
        devices,
        terms: served.terms(),
        notes: &notes,
    };
    view.lines(|pages| input.page_of(pages))
}

/// What was typed within a while: keys that came together are one change of the screen.
fn keys(terminal: &mut Terminal, input: &mut Input) -> Option<Wish> {
    let mut key = terminal.key(EVERY)?;
    loop {
        if let Some(wish) = input.press(key) {
            return Some(wish);
        }
        key = terminal.key(Duration::ZERO)?;
    }
}

/// Seconds since the kernel started, as it counts them itself.
fn uptime() -> String {
    let text = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// The code is typed as the device's screen shows it: so it was compared.
fn approve(service: &Service, code: Code) -> String {
    // Asked anew: what is on the screen may be older than the device's own screen.
    let devices = service.devices();
    let waiting = devices.iter().find(|device| device.code == Some(code));
    let Some(device) = waiting else {
        return format!("No device waits with the code {code}.");
    };
    let device = device.id.clone();
    match service.execute(office::Command::Approve { device, code }) {
        Ok(Outcome::Done(line)) => line,
        Ok(_) => "approved".to_owned(),
        Err(error) => format!("{error:#}"),
    }
}
