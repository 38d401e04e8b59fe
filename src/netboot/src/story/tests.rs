//! The recorder's book-keeping. What is said of whole boots is tested in
//! `tests/failures`, with the real services.

use std::net::Ipv4Addr;

use groundcrew_core::hardware::{MacAddr, SmbiosUuid};
use proptest::prelude::*;

use super::*;

mod verdicts;

fn mac(n: u32) -> MacAddr {
    let [a, b, c, d] = n.to_be_bytes();
    MacAddr([2, 0, a, b, c, d])
}

fn uuid(n: u8) -> SmbiosUuid {
    SmbiosUuid::from_canonical([n; 16])
}

fn card(n: u32) -> Who {
    Who {
        mac: Some(mac(n)),
        ..Who::default()
    }
}

fn address(last: u8) -> Who {
    Who {
        ip: Some(Ipv4Addr::new(10, 77, 0, last)),
        ..Who::default()
    }
}

fn dhcp(message: Message, client: ClientKind, ip: Option<u8>) -> What {
    let reply = match message {
        Message::Discover => ReplyWord::Offer,
        _ => ReplyWord::Ack,
    };
    What::Dhcp(Box::new(Dhcp {
        door: Door::Dhcp,
        message,
        client,
        uefi: Some(true),
        arch: Some(7),
        unsupported: None,
        vendor_class: None,
        user_class: None,
        relay: None,
        server: None,
        wants: None,
        answer: Answer::Sent {
            reply,
            ip: ip.map(|last| Ipv4Addr::new(10, 77, 0, last)),
            file: Some("snponly.efi".to_owned()),
            proxied: false,
        },
    }))
}

fn discover(client: ClientKind) -> What {
    dhcp(Message::Discover, client, Some(50))
}

fn sent(file: &str) -> What {
    What::Tftp(TftpFile {
        file: file.to_owned(),
        step: TftpStep::Sent { bytes: 9, ms: 9 },
    })
}

fn recorder() -> Recorder {
    Recorder::new(Limits::default(), [])
}

#[test]
fn one_device_is_one_story_however_it_is_named() {
    let mut recorder = recorder();
    let named = Who {
        uuid: Some(uuid(7)),
        ..card(1)
    };
    let id = recorder.note(At(1), &named, discover(ClientKind::Pxe));
    assert_eq!(recorder.note(At(2), &address(50), sent("snponly.efi")), id);
    let second_card = Who {
        uuid: Some(uuid(7)),
        serial: Some("S-1".to_owned()),
        ..card(2)
    };
    assert_eq!(
        recorder.note(At(3), &second_card, discover(ClientKind::Ipxe)),
        id
    );
    for name in [
        "02:00:00:00:00:01",
        "S-1",
        "s-1",
        "10.77.0.50",
        &uuid(7).to_string(),
    ] {
        assert_eq!(recorder.named(name), [id], "{name}");
    }
    assert!(recorder.named("S-2").is_empty());
    assert_eq!(recorder.story(id).unwrap().events.len(), 3);
}

#[test]
fn an_address_that_spoke_first_is_joined_when_its_card_is_known() {
    let mut recorder = recorder();
    recorder.note(At(1), &address(9), sent("undionly.kpxe"));
    let who = Who {
        ip: address(9).ip,
        ..card(4)
    };
    let id = recorder.note(At(2), &who, discover(ClientKind::Ipxe));
    assert_eq!(recorder.stories().count(), 1);
    assert_eq!(recorder.story(id).unwrap().events.len(), 2);
}

#[test]
fn a_card_lent_by_a_dock_tells_two_stories() {
    let mut recorder = recorder();
    let with = |n| Who {
        uuid: Some(uuid(n)),
        ..card(1)
    };
    let one = recorder.note(At(1), &with(1), discover(ClientKind::Pxe));
    let two = recorder.note(At(9_000_000), &with(2), discover(ClientKind::Pxe));
    assert_ne!(one, two);
    assert_eq!(recorder.note(At(9_000_001), &card(1), sent("x.efi")), two);
}

#[test]
fn two_machines_with_one_uuid_are_told_apart() {
    let mut recorder = recorder();
    let with = |n| Who {
        uuid: Some(uuid(7)),
        ..card(n)
    };
    for (at, n, xid) in [(1, 1, 10), (2, 2, 20), (3, 1, 10)] {
        recorder.note(At(at), &with(n), discover(ClientKind::Pxe));
        recorder.exchange(At(at), mac(n), Some(uuid(7)), xid);
    }
    let stories = collected(&recorder);
    assert_eq!(stories.len(), 2, "{stories:?}");
    let twins = |story: &Story| {
        let found = story.events.iter().find_map(|event| match event.what {
            What::SameUuid { other, .. } => Some(other),
            _ => None,
        });
        (story.names.macs.clone(), found.unwrap())
    };
    let mut told: Vec<_> = stories.values().map(twins).collect();
    told.sort();
    assert_eq!(told, [(vec![mac(1)], mac(2)), (vec![mac(2)], mac(1))]);
    // After a restart they are still two.
    let mut again = Recorder::new(Limits::default(), stories);
    let first = again.note(At(4), &with(1), sent("a.efi"));
    assert_ne!(again.note(At(5), &with(2), sent("a.efi")), first);
}

#[test]
fn two_cards_of_one_machine_in_turn_are_one_story() {
    let mut recorder = recorder();
    for (at, n, xid) in [
        (1, 1, 10),
        (20_000, 2, 20),
        (40_000, 1, 11),
        (60_000, 2, 21),
    ] {
        let who = Who {
            uuid: Some(uuid(7)),
            ..card(n)
        };
        recorder.note(At(at), &who, discover(ClientKind::Pxe));
        recorder.exchange(At(at), mac(n), Some(uuid(7)), xid);
    }
    assert_eq!(recorder.stories().count(), 1);
}

#[test]
fn what_repeats_is_told_once() {
    let mut recorder = recorder();
    for at in 0..100 {
        recorder.note(At(at * 1000), &card(1), discover(ClientKind::Pxe));
    }
    let id = recorder.named("02:00:00:00:00:01")[0];
    let story = recorder.story(id).unwrap();
    assert_eq!((story.events.len(), story.events[0].times), (1, 100));
    assert_eq!(story.last(), At(99_000));
}

#[test]
fn a_flood_pushes_out_only_its_own() {
    let limits = Limits {
        stories: 50,
        bytes: 1 << 20,
    };
    let mut recorder = Recorder::new(limits, []);
    let who = Who {
        ip: address(9).ip,
        ..card(1)
    };
    let real = recorder.note(At(1), &who, sent("snponly.efi"));
    for n in 100..10_000 {
        recorder.note(At(u64::from(n)), &card(n), discover(ClientKind::Pxe));
    }
    assert!(recorder.story(real).is_some());
    assert_eq!(recorder.stories().count(), 50);
    assert_eq!(recorder.forgotten(), 9_901 - 50);
    let (changed, gone) = recorder.take_changes(usize::MAX);
    assert_eq!((changed.len(), gone.len()), (50, 0), "none was in the file");
}

#[test]
fn what_could_not_be_written_is_taken_again() {
    let limits = Limits {
        stories: 4,
        bytes: 1 << 20,
    };
    let mut recorder = Recorder::new(limits, []);
    let ids = |changes: (Vec<(StoryId, Story)>, Vec<StoryId>)| {
        let changed: Vec<_> = changes.0.iter().map(|(id, _)| *id).collect();
        (changed, changes.1)
    };
    let real = recorder.note(At(1), &card(1), What::Agent(AgentStep::Started));
    for kept in [false, true] {
        let (changed, gone) = ids(recorder.take_changes(9));
        assert_eq!((changed, &gone), (vec![real], &vec![]), "{kept}");
        recorder.written(&gone, kept);
    }
    assert_eq!(ids(recorder.take_changes(9)), (vec![], vec![]));
    // Others push it out while nothing can be written.
    for n in 2..2000 {
        let step = What::Agent(AgentStep::Started);
        recorder.note(At(u64::from(n)), &card(n), step);
        let (changed, gone) = ids(recorder.take_changes(9));
        assert!(
            changed.len() <= 4 && gone.len() <= 1,
            "{changed:?} {gone:?}"
        );
        recorder.written(&gone, false);
    }
    let (changed, gone) = ids(recorder.take_changes(9));
    assert_eq!((changed.len(), &gone), (4, &vec![real]));
    recorder.written(&gone, true);
    assert_eq!(ids(recorder.take_changes(9)), (vec![], vec![]));
}

#[test]
fn long_words_of_strangers_are_cut_and_weighed() {
    let limits = Limits {
        stories: 2048,
        bytes: 500_000,
    };
    let mut recorder = Recorder::new(limits, []);
    for n in 0..1000 {
        let (code, text) = (
            "malformed".to_owned(),
            format!("{n}{}", "\u{1b}x".repeat(100_000)),
        );
        let step = What::Agent(AgentStep::Refused { code, text });
        recorder.note(At(n), &card(n as u32 % 50), step);
    }
    let mut held = 0;
    for (_, story) in recorder.stories() {
        for event in &story.events {
            let What::Agent(AgentStep::Refused { text, .. }) = &event.what else {
                continue;
            };
            assert!(text.len() <= 600 && !text.contains('\u{1b}'));
            held += text.len();
        }
    }
    assert!(held > 100_000 && held < limits.bytes, "{held}");
    assert!(recorder.forgotten() > 0);
}

#[test]
fn a_full_recorder_sees_a_device_begin() {
    let limits = Limits {
        stories: 40,
        bytes: 1 << 20,
    };
    let mut recorder = Recorder::new(limits, []);
    for n in 100..200 {
        recorder.note(At(u64::from(n)), &card(n), What::Agent(AgentStep::Started));
    }
    let new = recorder.note(At(1000), &card(1), discover(ClientKind::Pxe));
    for at in 1001..1008 {
        recorder.note(At(at), &card(1), discover(ClientKind::Ipxe));
        recorder.note(At(at), &card(199), What::Agent(AgentStep::Started));
    }
    assert_eq!(recorder.story(new).map(|story| story.events.len()), Some(2));
}

#[test]
fn names_that_strangers_make_up_do_not_stay() {
    let limits = Limits {
        stories: 20,
        bytes: 1 << 20,
    };
    let mut recorder = Recorder::new(limits, []);
    for n in 0..5000 {
        let who = Who {
            uuid: Some(uuid(7)),
            serial: Some(format!("MADE-UP-{n}")),
            mac: Some(mac(n)),
            ip: address(n as u8).ip,
            ..Who::default()
        };
        recorder.note(At(u64::from(n)), &who, discover(ClientKind::Pxe));
    }
    assert!(recorder.names() < 20 * 20, "{}", recorder.names());
    // A name of a story that was forgotten is free again.
    let who = Who {
        serial: Some("MADE-UP-3".to_owned()),
        ..Who::default()
    };
    let id = recorder.note(At(9000), &who, discover(ClientKind::Pxe));
    assert!(recorder.story(id).is_some());
}

#[test]
fn attempts_begin_with_the_firmware() {
    let mut recorder = recorder();
    let boot = [
        discover(ClientKind::Pxe),
        dhcp(Message::Request, ClientKind::Pxe, Some(50)),
        sent("snponly.efi"),
        discover(ClientKind::Ipxe),
        dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
        What::Text(BootText {
            told: Order::Agent,
            why: String::new(),
        }),
    ];
    let mut at = 0;
    for _ in 0..3 {
        for what in &boot {
            at += 1000;
            recorder.note(At(at), &card(1), what.clone());
        }
    }
    let id = recorder.named("02:00:00:00:00:01")[0];
    let found = attempts(&recorder.story(id).unwrap().events);
    let reached: Vec<_> = found.iter().map(|a| (a.end - a.first, a.reached)).collect();
    assert_eq!(reached, [(6, Stage::Told); 3]);
}

#[test]
fn three_failures_of_one_kind_hold_and_a_word_releases() {
    let mut recorder = recorder();
    let fails = |recorder: &mut Recorder, at: &mut u64| {
        for what in [
            discover(ClientKind::Ipxe),
            dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
            What::Text(BootText {
                told: Order::Agent,
                why: String::new(),
            }),
            What::Http(HttpFile {
                path: "boot/vmlinuz".to_owned(),
                status: 404,
                sent: 0,
                size: 0,
                ms: 0,
                open: false,
                why: None,
            }),
        ] {
            *at += 1000;
            recorder.note(At(*at), &card(1), what);
        }
    };
    let starts = |recorder: &mut Recorder, at: u64| {
        recorder.note(At(at), &card(1), discover(ClientKind::Ipxe));
        let request = dhcp(Message::Request, ClientKind::Ipxe, Some(50));
        recorder.note(At(at), &card(1), request);
    };
    let asks = |recorder: &Recorder, id| hold(recorder.story(id).unwrap(), Asks::ByText);
    let mut at = 0;
    let id = recorder.note(At(0), &card(1), discover(ClientKind::Plain));
    for round in 0..3 {
        starts(&mut recorder, at);
        assert_eq!(asks(&recorder, id), None, "round {round}");
        fails(&mut recorder, &mut at);
    }
    assert!(is_held(recorder.story(id).unwrap()));
    // Its next start asks, is held, and stays so, long after what it was held for
    // was dropped from its story.
    for round in 0..100 {
        at += 10_000;
        starts(&mut recorder, at);
        let held = asks(&recorder, id).unwrap();
        assert_eq!(
            (held.cause, held.times),
            (Cause::BootImageMissing, 3),
            "{round}"
        );
        let why = format!("What: {}.", held.cause.short());
        recorder.note(At(at), &card(1), text(Order::Held, &why));
        assert!(asks(&recorder, id).is_some(), "a loader may ask twice");
    }
    assert!(recorder.story(id).unwrap().dropped > 0);
    recorder.note_in(At(at), id, What::Released);
    assert!(!is_held(recorder.story(id).unwrap()));
    fails(&mut recorder, &mut at);
    assert!(!is_held(recorder.story(id).unwrap()));
}

#[test]
fn what_a_device_got_past_is_no_reason_to_hold_it() {
    let missing = What::Tftp(TftpFile {
        file: "snponly.efi".into(),
        step: TftpStep::Missing,
    });
    for (what, cause, by_dhcp) in [
        (missing, Cause::LoaderMissing, false),
        (sent("groundcrew.efi"), Cause::ImageNotStarted, true),
    ] {
        let mut recorder = recorder();
        let mut at = 0;
        for _ in 0..3 {
            for event in [
                discover(ClientKind::Pxe),
                dhcp(Message::Request, ClientKind::Pxe, Some(50)),
                what.clone(),
            ] {
                at += 1000;
                recorder.note(At(at), &card(1), event);
            }
        }
        let id = recorder.named("02:00:00:00:00:01")[0];
        let story = recorder.story(id).unwrap();
        assert_eq!(diagnose(story, At(at + 600_000)).cause, Some(cause));
        // A whole image that does not start is told by DHCP, at the first packet
        // of the next start; a loader that asks has started.
        assert_eq!(hold(story, Asks::ByDhcp).is_some(), by_dhcp, "{cause:?}");
        at += 1000;
        recorder.note(At(at), &card(1), discover(ClientKind::Pxe));
        let story = recorder.story(id).unwrap();
        assert_eq!(hold(story, Asks::ByDhcp).is_some(), by_dhcp, "{cause:?}");
        assert_eq!(hold(story, Asks::ByText), None, "{cause:?}");
    }
}

#[test]
fn asking_twice_is_not_failing_twice() {
    let mut recorder = recorder();
    let boot = [
        discover(ClientKind::Pxe),
        dhcp(Message::Request, ClientKind::Pxe, Some(50)),
        text(Order::Agent, ""),
    ];
    let mut id = 0;
    for round in 0..3 {
        for (step, what) in boot.iter().enumerate() {
            id = recorder.note(At(round * 9000 + step as u64), &card(1), what.clone());
        }
    }
    // GRUB looks whether its text is there, and then reads it: the third start is under way.
    assert_eq!(hold(recorder.story(id).unwrap(), Asks::ByText), None);
}

fn text(told: Order, why: &str) -> What {
    let why = why.to_owned();
    What::Text(BootText { told, why })
}

#[test]
fn a_failure_is_told_though_the_device_was_sent_home_since() {
    let mut recorder = recorder();
    let reason = "no installed system found; looked at sda".to_owned();
    let why = "it could not be provisioned".to_owned();
    let told = Order::OwnDisk;
    for (at, what) in [
        discover(ClientKind::Ipxe),
        dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
        What::Agent(AgentStep::Failed { reason }),
        discover(ClientKind::Ipxe),
        dhcp(Message::Request, ClientKind::Ipxe, Some(50)),
        What::Text(BootText { told, why }),
    ]
    .into_iter()
    .enumerate()
    {
        recorder.note(At(at as u64 * 1000), &card(1), what);
    }
    let id = recorder.named("02:00:00:00:00:01")[0];
    let told = diagnose(recorder.story(id).unwrap(), At(9_000_000));
    assert_eq!(
        (told.state, told.cause),
        (State::Failed, Some(Cause::NoSystem))
    );
    assert_eq!((told.lines.len(), told.last), (6, At(5000)));
}

#[test]
fn words_for_technicians_fit_their_places() {
    for cause in Cause::ALL {
        assert!(cause.short().chars().count() <= 36, "{cause:?}");
        for text in [cause.likely(), cause.cure()] {
            assert!(text.ends_with('.') && text.len() > 20, "{cause:?}: {text}");
        }
    }
}

#[test]
fn a_capture_has_a_frame_for_each_packet() {
    let packet = |by_device| Packet {
        at: At(1_500),
        from: "10.77.0.1:67".parse().unwrap(),
        to: "255.255.255.255:68".parse().unwrap(),
        mac: Some(mac(1)),
        by_device,
        payload: vec![7; 300],
    };
    let file = pcap::file(&[packet(true), packet(false)]);
    assert_eq!(file.len(), 24 + 2 * (16 + 42 + 300));
    assert_eq!(file[..4], [0xd4, 0xc3, 0xb2, 0xa1]);
    assert_eq!(file[24..32], [1, 0, 0, 0, 0x20, 0xa1, 7, 0]);
    assert_eq!(file[40..46], [0xff; 6]);
    assert_eq!(file[46..52], mac(1).0);
}

proptest! {
    /// Whatever is recorded of whomever: bounds hold, every story can be told,
    /// and it is the same after it was written and read.
    #[test]
    fn any_story_can_be_told(steps in proptest::collection::vec((0u8..14, 0u32..5, 0u8..4, 0u64..400_000), 1..300)) {
        let limits = Limits { stories: 4, bytes: 60_000 };
        let mut recorder = Recorder::new(limits, []);
        let mut at = 0;
        for (sort, n, m, pause) in steps {
            at += pause;
            let who = Who {
                mac: (m != 3).then(|| mac(n)),
                ip: (m >= 2).then(|| Ipv4Addr::new(10, 77, 0, n as u8)),
                uuid: (m == 1).then(|| uuid(m)),
                ..Who::default()
            };
            let size = 1000;
            let what = match sort {
                0 => discover(ClientKind::Pxe),
                1 => dhcp(Message::Request, ClientKind::HttpBoot, Some(n as u8)),
                2 => discover(ClientKind::Plain),
                3 => dhcp(Message::Request, ClientKind::Ipxe, None),
                4 => sent("vmlinuz"),
                5 => sent("undionly.kpxe"),
                6 => What::Conflict { ip: Ipv4Addr::LOCALHOST, user: mac(9) },
                7 => What::Tftp(TftpFile { file: "a.efi".into(), step: TftpStep::Silent { sent: 5, size } }),
                8 => What::Http(HttpFile { path: "boot/initrd.img".into(), status: 200, sent: size, size, ms: 1, open: n == 3, why: None }),
                9 => What::Text(BootText { told: Order::Held, why: "x".into() }),
                10 => What::Agent(AgentStep::Started),
                11 => What::Agent(AgentStep::Finished),
                12 => What::Released,
                _ => What::Says { trouble: groundcrew_core::words::Trouble::Clock, phase: String::new(), text: "t".into() },
            };
            recorder.note(At(at), &who, what);
            if m == 1 {
                recorder.exchange(At(at), mac(n), who.uuid, n);
            }
        }
        prop_assert!(recorder.stories().count() <= 4);
        for (id, story) in recorder.stories() {
            for asks in [Asks::ByText, Asks::ByDhcp] {
                prop_assert_eq!(recorder.held(id, asks), hold(story, asks));
            }
            prop_assert!(story.events.len() <= MAX_EVENTS);
            let told = diagnose(story, At(at + 1_000_000));
            prop_assert_eq!(told.lines.is_empty(), story.events.is_empty());
            let _ = (hold(story, Asks::ByText), hold(story, Asks::ByDhcp), is_held(story));
            let text = serde_json::to_string(story).unwrap();
            let again: Story = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(story, &again);
        }
    }
}
