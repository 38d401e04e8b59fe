//! What is said of made-up stories, with the clock moved by hand.

use super::*;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

/// One device's story, told step by step.
struct Told {
    recorder: Recorder,
    id: StoryId,
    now: u64,
}

impl Told {
    fn new() -> Self {
        let mut recorder = recorder();
        let id = recorder.note(
            At(0),
            &card(1),
            dhcp(Message::Inform, ClientKind::Plain, None),
        );
        Self {
            recorder,
            id,
            now: 0,
        }
    }

    /// So much later, this happens.
    fn then(&mut self, pause: u64, what: What) -> &mut Self {
        self.now += pause;
        self.recorder.note(At(self.now), &card(1), what);
        self
    }

    /// Each of these, a second after the other.
    fn steps(&mut self, steps: impl IntoIterator<Item = What>) -> &mut Self {
        for what in steps {
            self.then(SECOND, what);
        }
        self
    }

    /// Firmware gets an address and is sent its loader.
    fn loads(&mut self, file: &str) -> &mut Self {
        self.steps([
            discover(ClientKind::Pxe),
            dhcp(Message::Request, ClientKind::Pxe, Some(50)),
            sent(file),
        ])
    }

    fn story(&self) -> &Story {
        self.recorder.story(self.id).unwrap()
    }

    /// What is said so much after the last step.
    fn after(&self, pause: u64) -> Diagnosis {
        diagnose(self.story(), At(self.now + pause))
    }

    fn attempts(&self) -> usize {
        attempts(&self.story().events).len()
    }
}

fn phase(name: &str) -> What {
    let phase = name.to_owned();
    What::Agent(AgentStep::Phase { phase })
}

fn renews() -> What {
    dhcp(Message::Request, ClientKind::Plain, Some(50))
}

#[test]
fn years_of_renewals_change_no_verdict() {
    let mut told = Told::new();
    told.loads("snponly.efi");
    let boot = told.now;
    told.then(20 * SECOND, discover(ClientKind::Plain));
    for _ in 0..100 * 48 {
        told.then(30 * MINUTE, renews());
    }
    let said = told.after(SECOND);
    assert_eq!(
        (said.state, said.cause),
        (State::Failed, Some(Cause::SecureBootRefused))
    );
    assert_eq!(said.last, At(boot), "the boot, not the renewal");
    assert!(said.past.is_empty() && told.story().dropped == 0);
    assert!(told.story().events.len() <= 6 && told.story().boots());
    let last = &said.lines.last().unwrap().text;
    assert_eq!(last, "nothing more of this boot for 100 days");
}

#[test]
fn a_provisioned_device_stays_so_when_its_disk_starts() {
    let mut told = Told::new();
    told.loads("snponly.efi")
        .then(MINUTE, What::Agent(AgentStep::Finished))
        .then(MINUTE, discover(ClientKind::Plain));
    assert!(told.after(DAY).notes.is_empty(), "its first start is due");
    told.then(3 * DAY, discover(ClientKind::Plain))
        .then(SECOND, renews());
    let said = told.after(DAY);
    assert_eq!((said.state, said.cause), (State::Done, None));
    assert!(said.notes[0].contains("did not ask to boot"));
    told.then(DAY, discover(ClientKind::Pxe));
    let again = told.after(SECOND);
    assert_eq!((again.state, again.past.len()), (State::Booting, 1));
}

#[test]
fn the_agent_s_own_renewals_are_part_of_its_work() {
    let mut told = Told::new();
    let agent = |message| dhcp(message, ClientKind::Agent, Some(50));
    told.loads("groundcrew.efi")
        .then(2 * MINUTE, agent(Message::Discover))
        .then(SECOND, agent(Message::Request))
        .then(SECOND, phase("apply"));
    for _ in 0..5 {
        told.then(9 * MINUTE, agent(Message::Request))
            .then(SECOND, phase("apply"));
    }
    let said = told.after(MINUTE);
    assert_eq!((told.attempts(), said.cause), (1, None));
    assert_eq!((said.state, said.reached), (State::Booting, Stage::Working));
    assert!(
        said.lines
            .iter()
            .any(|l| l.text.starts_with("the agent asked for an address"))
    );
}

#[test]
fn a_neighbour_that_never_asks_to_boot_has_not_failed() {
    let mut told = Told::new();
    told.steps([discover(ClientKind::Plain), renews()]);
    let said = told.after(DAY);
    assert_eq!(
        (said.state, said.cause),
        (State::Idle, Some(Cause::OwnDiskByFirmware))
    );
    assert!(!told.story().boots());
}

fn asks_text(told: Order) -> What {
    let why = String::new();
    What::Text(BootText { told, why })
}

fn http(path: &str, sent: u64, size: u64, open: bool) -> What {
    What::Http(HttpFile {
        path: path.to_owned(),
        status: 200,
        sent,
        size,
        ms: 1,
        open,
    })
}

fn tftp(file: &str, step: TftpStep) -> What {
    let file = file.to_owned();
    What::Tftp(TftpFile { file, step })
}

fn begun(size: u64) -> TftpStep {
    TftpStep::Begun {
        size,
        block: 1468,
        window: 1,
        options: true,
    }
}

#[test]
fn a_file_on_its_way_is_no_failure_however_slow() {
    let mut told = Told::new();
    told.steps([
        discover(ClientKind::Ipxe),
        dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
        asks_text(Order::Agent),
        http("boot/vmlinuz", 0, 9000, true),
    ]);
    let said = told.after(20 * MINUTE);
    assert_eq!((said.state, said.cause), (State::Booting, None));
    told.then(20 * MINUTE, http("boot/vmlinuz", 9000, 9000, false));
    assert_eq!(told.after(50 * SECOND).cause, None);
    told.then(SECOND, http("boot/initrd.img", 0, 9000, true));
    assert_eq!(told.after(50 * MINUTE).state, State::Booting);
    // Its end was lost: nobody waits for ever.
    assert_eq!(told.after(DAY).cause, Some(Cause::AgentNeverHeard));
    told.then(MINUTE, http("boot/initrd.img", 10, 9000, false));
    assert_eq!(told.after(SECOND).cause, Some(Cause::TransferCut));

    let mut told = Told::new();
    told.loads("shimx64.efi")
        .then(SECOND, tftp("grubx64.efi", begun(9000)));
    assert_eq!(told.after(20 * MINUTE).state, State::Booting);
    let silent = TftpStep::Silent { sent: 5, size: 9 };
    told.then(MINUTE, tftp("grubx64.efi", silent));
    assert_eq!(told.after(SECOND).cause, Some(Cause::TransferCut));
}

#[test]
fn a_transfer_ends_with_the_process_that_noted_it() {
    let mut told = Told::new();
    told.steps([
        discover(ClientKind::Ipxe),
        dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
        asks_text(Order::Agent),
        http("boot/vmlinuz", 0, 9000, true),
    ]);
    let again = Recorder::new(Limits::default(), collected(&told.recorder));
    let story = again.story(told.id).unwrap();
    assert!(diagnose(story, At(told.now + MINUTE)).cause.is_some());
    let twice = Recorder::new(Limits::default(), collected(&again));
    assert_eq!(twice.story(told.id), Some(story), "once");
}

#[test]
fn an_agent_at_work_is_silent_only_when_it_reports_no_more() {
    let mut told = Told::new();
    told.loads("snponly.efi");
    for _ in 0..360 {
        told.then(10 * SECOND, phase("apply"));
    }
    let said = told.after(9 * MINUTE);
    assert_eq!((said.state, said.cause), (State::Booting, None));
    assert_eq!(told.story().events.len(), 5);
    let last = &said.lines.last().unwrap().text;
    assert_eq!(last, "the agent is at `apply` (for 59 min)");
    assert_eq!(told.after(11 * MINUTE).cause, Some(Cause::AgentWentSilent));
}
