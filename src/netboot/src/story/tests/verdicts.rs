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
        why: None,
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
    let said = diagnose(story, At(told.now + MINUTE));
    assert_eq!(said.cause, Some(Cause::ApplianceEnded));
    assert!(said.evidence.unwrap().contains("was restarted"));
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

fn silent(message: Message, client: ClientKind, reason: Silence, server: Option<u8>) -> What {
    let What::Dhcp(mut dhcp) = dhcp(message, client, None) else {
        unreachable!()
    };
    dhcp.server = server.map(|last| Ipv4Addr::new(10, 77, 0, last));
    let text = "not for us".to_owned();
    dhcp.answer = Answer::Silent { reason, text };
    What::Dhcp(dhcp)
}

#[test]
fn ipxe_and_the_agent_are_judged_by_their_own_dhcp() {
    let chosen = |client| silent(Message::Request, client, Silence::OtherServer, Some(2));
    let noted = |client| {
        silent(
            Message::Discover,
            client,
            Silence::NotTheAddressServer,
            None,
        )
    };
    let empty = |client| silent(Message::Discover, client, Silence::PoolEmpty, None);
    let (ipxe, agent) = (ClientKind::Ipxe, ClientKind::Agent);
    let given = |client| dhcp(Message::Request, client, Some(50));
    for (steps, cause) in [
        (vec![discover(ipxe)], Cause::OfferNotHeard),
        (vec![discover(ipxe), given(ipxe)], Cause::HttpUnreachable),
        (vec![discover(ipxe), chosen(ipxe)], Cause::OtherServerTaken),
        (vec![empty(ipxe)], Cause::PoolEmpty),
        (vec![discover(agent)], Cause::OfferNotHeard),
        (vec![discover(agent), given(agent)], Cause::HttpUnreachable),
        // Beside another server that is all right.
        (vec![noted(agent), chosen(agent)], Cause::HttpUnreachable),
        (vec![noted(agent)], Cause::NotServing),
        (vec![empty(agent)], Cause::PoolEmpty),
    ] {
        let mut told = Told::new();
        told.loads("snponly.efi").steps(steps.clone());
        assert_eq!(told.after(DAY).cause, Some(cause), "{steps:?}");
    }
    let mut told = Told::new();
    told.loads("snponly.efi")
        .steps([discover(agent), given(agent)]);
    told.then(SECOND, http("tuf/metadata/timestamp.json", 9, 9, false));
    assert_eq!(told.after(DAY).cause, Some(Cause::HttpsUnreachable));
}

#[test]
fn a_whole_image_may_lack_trust_or_a_driver() {
    let mut told = Told::new();
    told.loads("groundcrew.efi");
    assert_eq!(told.after(50 * SECOND).state, State::Booting);
    assert_eq!(told.after(70 * SECOND).state, State::Failed);
    assert_eq!(told.after(DAY).cause, Some(Cause::ImageNotStarted));
}

#[test]
fn shim_asks_for_its_key_manager_where_it_does_not_know_the_key() {
    for (folder, files, cause) in [
        (
            "mok",
            &["grubx64.efi", "mmx64.efi"][..],
            Cause::KeyNotEnrolled,
        ),
        ("mok", &["grubx64.efi"], Cause::ImageNotStarted),
        ("mok-disk", &["grubx64.efi"], Cause::OwnDiskByOrder),
        ("mok-held", &["grubx64.efi"], Cause::OwnDiskByOrder),
    ] {
        let mut told = Told::new();
        told.loads(&format!("{folder}/shimx64.efi"));
        told.steps(files.iter().map(|file| sent(&format!("{folder}/{file}"))));
        assert_eq!(told.after(DAY).cause, Some(cause), "{files:?}");
    }
}

fn waits() -> What {
    let reason = "nobody compared the code yet".to_owned();
    What::Agent(AgentStep::Waiting { reason })
}

fn says(trouble: groundcrew_core::words::Trouble) -> What {
    What::Says {
        trouble,
        phase: String::new(),
        text: "no".to_owned(),
    }
}

#[test]
fn old_last_words_count_until_it_got_further() {
    use groundcrew_core::words::Trouble;
    let mut told = Told::new();
    told.loads("snponly.efi")
        .steps([says(Trouble::Clock), What::Agent(AgentStep::Started)]);
    assert_eq!(told.after(SECOND).cause, Some(Cause::ClockUnknown));
    told.then(SECOND, waits());
    assert_eq!(told.after(SECOND).state, State::Waiting);
    told.then(SECOND, says(Trouble::HttpsUnreachable));
    assert_eq!(told.after(SECOND).cause, Some(Cause::HttpsUnreachable));
    told.then(SECOND, phase("download"));
    assert_eq!(told.after(SECOND).state, State::Booting);
}

#[test]
fn who_waits_is_told_so_while_it_is_heard() {
    let uuid = uuid(7);
    let other = mac(2);
    let mut told = Told::new();
    told.loads("snponly.efi")
        .steps([What::SameUuid { uuid, other }]);
    assert_eq!(told.after(SECOND).cause, Some(Cause::DuplicateUuid));
    for _ in 0..20 {
        told.then(25 * SECOND, waits());
    }
    let said = told.after(80 * SECOND);
    assert_eq!((said.state, said.notes.len()), (State::Waiting, 1));
    let said = told.after(2 * MINUTE);
    assert_eq!(said.cause, Some(Cause::AgentWentSilent));
    assert!(said.evidence.unwrap().contains("was waiting"));
    // Who is switched off while it waits has failed at nothing.
    for _ in 0..4 {
        told.loads("snponly.efi").then(SECOND, waits());
    }
    told.then(SECOND, discover(ClientKind::Pxe));
    assert_eq!(hold(told.story(), Asks::ByText), None);
    assert_eq!(told.after(SECOND).past[1].cause, Some(Cause::Waiting));
}

#[test]
fn a_conflict_that_was_overcome_is_no_cause() {
    let (ip, user) = (Ipv4Addr::new(10, 77, 0, 50), mac(9));
    let mut told = Told::new();
    told.steps([discover(ClientKind::Pxe), What::Conflict { ip, user }]);
    assert_eq!(told.after(DAY).cause, Some(Cause::AddressConflict));
    told.steps([
        discover(ClientKind::Pxe),
        dhcp(Message::Request, ClientKind::Pxe, Some(51)),
    ]);
    assert_eq!(told.after(DAY).cause, Some(Cause::LoaderNotAskedFor));
}

#[test]
fn what_the_appliance_ended_is_not_blamed_on_cables() {
    let end = |end: &crate::tftp::End| TftpStep::ended(end, 5, 9, 1);
    let refused = |status| {
        What::Http(HttpFile {
            path: "boot/vmlinuz".to_owned(),
            status,
            sent: 0,
            size: 0,
            ms: 0,
            open: false,
            why: None,
        })
    };
    let stopped = crate::tftp::End::Aborted("the appliance stops".to_owned());
    let why = "mode netascii is not served: ask for octet".to_owned();
    for (what, cause, shows) in [
        (
            tftp("snponly.efi", end(&stopped)),
            Cause::ApplianceEnded,
            "the appliance stops",
        ),
        (
            tftp("snponly.efi", end(&crate::tftp::End::TooLong)),
            Cause::ApplianceEnded,
            "took too long",
        ),
        (
            tftp("a file", TftpStep::Refused { why }),
            Cause::ApplianceEnded,
            "netascii",
        ),
        (
            tftp("snponly.efi", TftpStep::Busy),
            Cause::TransfersFull,
            "not begun",
        ),
        (refused(500), Cause::ApplianceEnded, "HTTP 500"),
        (refused(404), Cause::BootImageMissing, "not there"),
    ] {
        let mut told = Told::new();
        told.steps([
            discover(ClientKind::Pxe),
            dhcp(Message::Request, ClientKind::Pxe, Some(50)),
            what,
        ]);
        let said = told.after(DAY);
        assert_eq!(said.cause, Some(cause), "{shows}");
        assert!(said.evidence.unwrap().contains(shows), "{shows}");
    }
}
