//! Whole transfers against a client written here, over a lossy line, by a clock
//! that the test moves.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;
use tftpd::{OptionType, Packet};

use super::*;
use crate::path::BootPath;
use crate::tftp::parse_request;

const MS: Duration = Duration::from_millis(1);

fn request(block_size: Option<u16>, window: Option<u16>, tsize: bool) -> ReadRequest {
    let path = BootPath::from_tftp("ipxe.efi").unwrap();
    ReadRequest {
        block_size,
        window,
        transfer_size: tsize,
        ..ReadRequest::plain(path)
    }
}

fn limits() -> Limits {
    Limits::default()
}

fn content(size: usize) -> Vec<u8> {
    (0..size)
        .map(|i| (i / 7 + i / 1000 + i % 251) as u8)
        .collect()
}

/// The packets due at `now`, and when to look again; `None` when it is over.
fn drive(
    transfer: &mut Transfer,
    file: &[u8],
    now: Duration,
) -> (Vec<Vec<u8>>, Result<Duration, End>) {
    let mut out = Vec::new();
    loop {
        match transfer.poll(now) {
            Step::Send(packet) => out.push(packet),
            Step::Window(window) => {
                let from = usize::try_from(window.offset).unwrap();
                let mut bytes = Vec::new();
                assert!(window.write(&file[from..from + window.length], &mut bytes));
                let packets: Vec<Vec<u8>> =
                    bytes.chunks(window.segment()).map(<[u8]>::to_vec).collect();
                assert_eq!(packets.len(), usize::from(window.blocks));
                out.extend(packets);
            }
            Step::Wait(until) => return (out, Ok(until)),
            Step::Done(end) => return (out, Err(end)),
        }
    }
}

/// Sends what is due and goes on.
fn settle(transfer: &mut Transfer, file: &[u8], now: Duration) {
    assert!(drive(transfer, file, now).1.is_ok(), "over too soon");
}

fn ack(number: u16) -> Vec<u8> {
    Packet::Ack(number).serialize().unwrap()
}

#[test]
fn the_oack_says_what_was_accepted() {
    let asked = ReadRequest {
        timeout: Some(3),
        ..request(Some(60000), Some(500), true)
    };
    let mut transfer = Transfer::new(&asked, 850_528, &limits(), Duration::ZERO);
    let (packets, _) = drive(&mut transfer, &[], Duration::ZERO);
    let Packet::Oack(options) = Packet::deserialize(&packets[0]).unwrap() else {
        panic!("no OACK")
    };
    let value = |kind| options.iter().find(|o| o.option == kind).map(|o| o.value);
    assert_eq!(value(OptionType::BlockSize), Some(1468));
    assert_eq!(value(OptionType::WindowSize), Some(64));
    assert_eq!(value(OptionType::Timeout), Some(3));
    assert_eq!(value(OptionType::TransferSize), Some(850_528));
}

#[test]
fn without_options_data_comes_at_once_in_512_bytes() {
    let file = content(1024);
    let mut transfer = Transfer::new(&request(None, None, false), 1024, &limits(), Duration::ZERO);
    let (packets, _) = drive(&mut transfer, &file, Duration::ZERO);
    assert_eq!(packets, [[&[0, 3, 0, 1][..], &file[..512]].concat()]);
    transfer.received(&ack(1), MS);
    settle(&mut transfer, &file, MS);
    transfer.received(&ack(2), MS * 2);
    // A file of whole blocks ends with an empty one.
    assert_eq!(drive(&mut transfer, &file, MS * 2).0, [[0, 3, 0, 3]]);
    transfer.received(&ack(3), MS * 3);
    assert_eq!(drive(&mut transfer, &file, MS * 3).1, Err(End::Complete));
    assert_eq!(transfer.progress(), (1024, 1024));
}

#[test]
fn ovmf_asks_for_the_size_and_hangs_up() {
    let mut transfer = Transfer::new(
        &request(Some(1468), Some(4), true),
        850_528,
        &limits(),
        Duration::ZERO,
    );
    settle(&mut transfer, &[], Duration::ZERO);
    transfer.received(b"\0\x05\0\x08User aborted the transfer\0", MS);
    let end = End::PeerError(8, "User aborted the transfer".into());
    assert_eq!(drive(&mut transfer, &[], MS), (vec![], Err(end)));
}

#[test]
fn a_lost_oack_comes_again_and_silence_ends_it() {
    let mut transfer = Transfer::new(
        &request(Some(1468), None, false),
        10,
        &limits(),
        Duration::ZERO,
    );
    let (mut now, mut sent, mut waits) = (Duration::ZERO, 0, Vec::new());
    let end = loop {
        let (packets, next) = drive(&mut transfer, &[0; 10], now);
        sent += packets.len();
        match next {
            Ok(until) => waits.push(until - now),
            Err(end) => break end,
        }
        now += *waits.last().unwrap();
    };
    assert_eq!(end, End::Silence);
    // The OACK, 12 times again, and an ERROR.
    assert_eq!(sent, 1 + 12 + 1);
    assert_eq!(waits[..4], [1, 2, 4, 5].map(Duration::from_secs));
    assert!(now < Duration::from_secs(60));
}

#[test]
fn a_repeated_ack_is_not_answered() {
    let file = content(5000);
    let mut transfer = Transfer::new(&request(None, None, false), 5000, &limits(), Duration::ZERO);
    settle(&mut transfer, &file, Duration::ZERO);
    transfer.received(&ack(1), MS);
    assert_eq!(drive(&mut transfer, &file, MS).0.len(), 1);
    for _ in 0..3 {
        transfer.received(&ack(1), MS * 50);
        assert_eq!(drive(&mut transfer, &file, MS * 50).0.len(), 0);
    }
    // Numbers of blocks never sent, and packets of other kinds, change nothing.
    for stray in [
        ack(3),
        ack(700),
        b"\0\x03\0\x01x".to_vec(),
        vec![],
        vec![0, 4, 0],
    ] {
        transfer.received(&stray, MS * 60);
        assert_eq!(drive(&mut transfer, &file, MS * 60).0.len(), 0, "{stray:?}");
    }
}

#[test]
fn a_window_goes_on_behind_what_arrived() {
    let file = content(20_000);
    let mut transfer = Transfer::new(
        &request(Some(1000), Some(8), false),
        20_000,
        &limits(),
        Duration::ZERO,
    );
    settle(&mut transfer, &file, Duration::ZERO);
    transfer.received(&ack(0), MS);
    assert_eq!(drive(&mut transfer, &file, MS).0.len(), 8);
    // Block 4 was lost: the client acknowledges 3, and gets 4 to 11.
    transfer.received(&ack(3), MS * 2);
    let (packets, _) = drive(&mut transfer, &file, MS * 2);
    assert_eq!((packets.len(), packets[0][3], packets[7][3]), (8, 4, 11));
    // Block 4 was lost again: the same ACK once more, a round trip later.
    transfer.received(&ack(3), MS * 4);
    assert_eq!(drive(&mut transfer, &file, MS * 4).0.len(), 8);
    transfer.received(&ack(3), MS * 5);
    assert_eq!(
        drive(&mut transfer, &file, MS * 5).0.len(),
        0,
        "believed once per window"
    );
}

#[test]
fn a_repeated_request_brings_the_first_answer_again() {
    let mut transfer = Transfer::new(
        &request(Some(1468), None, false),
        10,
        &limits(),
        Duration::ZERO,
    );
    let (first, _) = drive(&mut transfer, &[0; 10], Duration::ZERO);
    transfer.repeated();
    assert_eq!(drive(&mut transfer, &[0; 10], MS).0, first);
    transfer.repeated();
    assert_eq!(
        drive(&mut transfer, &[0; 10], MS).0.len(),
        0,
        "once; then the timer"
    );
}

#[test]
fn an_aborted_or_endless_transfer_tells_the_peer() {
    let mut transfer = Transfer::new(&request(None, None, false), 10, &limits(), Duration::ZERO);
    settle(&mut transfer, &[0; 10], Duration::ZERO);
    let mut endless = transfer.clone();
    transfer.abort("the appliance stops");
    assert_eq!(
        drive(&mut transfer, &[], MS),
        (
            vec![b"\0\x05\0\0the appliance stops\0".to_vec()],
            Err(End::Aborted("the appliance stops".into()))
        )
    );
    let (packets, end) = drive(&mut endless, &[], limits().lifetime);
    assert_eq!((packets[0][1], end), (5, Err(End::TooLong)));
}

#[test]
fn block_numbers_roll_over_to_zero() {
    let blocks = 70_000usize;
    let file = content(blocks * 8 + 3);
    let mut transfer = Transfer::new(
        &request(Some(8), Some(64), false),
        file.len() as u64,
        &limits(),
        Duration::ZERO,
    );
    let mut line = Line::perfect();
    assert_eq!(line.run(&mut transfer, &file, 8, 64), (file, End::Complete));
}

/// A client after RFC 1350 and 7440, and the line between.
struct Line {
    /// Per packet: lose it, send it twice, or hold it back behind the next one.
    fates: VecDeque<u8>,
    client_timeout: Duration,
}

impl Line {
    fn perfect() -> Self {
        Self {
            fates: VecDeque::new(),
            client_timeout: MS * 700,
        }
    }

    fn carry(&mut self, packets: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
        let mut out: Vec<Vec<u8>> = Vec::new();
        let mut held: Option<Vec<u8>> = None;
        for packet in packets {
            match self.fates.pop_front().unwrap_or(255) {
                0..20 => continue,
                20..30 => out.extend([packet.clone(), packet]),
                30..40 if held.is_none() => {
                    held = Some(packet);
                    continue;
                }
                _ => out.push(packet),
            }
            out.extend(held.take());
        }
        out.extend(held);
        out
    }

    /// Runs to the end; gives what the client wrote.
    fn run(
        &mut self,
        transfer: &mut Transfer,
        file: &[u8],
        block_size: usize,
        window: u64,
    ) -> (Vec<u8>, End) {
        let (mut now, mut client_heard) = (Duration::ZERO, Duration::ZERO);
        let (mut written, mut next, mut in_window) = (Vec::new(), 1u64, 0);
        let mut last_ack: Option<Vec<u8>> = None;
        for _ in 0..1_000_000 {
            let (packets, next_look) = drive(transfer, file, now);
            let until = match next_look {
                Ok(until) => until,
                Err(end) => return (written, end),
            };
            let arrived = self.carry(packets);
            now += MS / 2;
            let mut answers = Vec::new();
            let mut gap_told = BTreeSet::new();
            for packet in &arrived {
                client_heard = now;
                match Packet::deserialize(packet).unwrap() {
                    Packet::Oack(_) if next == 1 => answers.push(ack(0)),
                    Packet::Data { block_num, data } if block_num == next as u16 => {
                        let last = data.len() < block_size;
                        written.extend(data);
                        next += 1;
                        in_window += 1;
                        if last || in_window == window {
                            in_window = 0;
                            answers.push(ack((next - 1) as u16));
                        }
                    }
                    // Out of order: say once what is there, expect a new window.
                    Packet::Data { .. } => {
                        in_window = 0;
                        if gap_told.insert(next) {
                            answers.push(ack((next - 1) as u16));
                        }
                    }
                    _ => (),
                }
            }
            if let Some(answer) = answers.last() {
                last_ack = Some(answer.clone());
            } else if now.saturating_sub(client_heard) >= self.client_timeout {
                client_heard = now;
                answers.extend(last_ack.clone());
            }
            let answers = self.carry(answers);
            now += MS / 2;
            let heard = !answers.is_empty();
            for answer in answers {
                transfer.received(&answer, now);
            }
            if !heard {
                now = now.max(until.min(client_heard + self.client_timeout));
            }
        }
        panic!("no end after a million rounds");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_byte_arrives_over_a_lossy_line(
        size in 0usize..60_000,
        block_size in prop_oneof![Just(None), (8u16..2000).prop_map(Some)],
        window in prop_oneof![Just(None), (1u16..80).prop_map(Some)],
        tsize in any::<bool>(),
        fates in proptest::collection::vec(any::<u8>(), 0..2000),
    ) {
        let file = content(size);
        let mut transfer = Transfer::new(&request(block_size, window, tsize), size as u64, &limits(), Duration::ZERO);
        let (block, window) = transfer.negotiated();
        let mut line = Line { fates: fates.into(), client_timeout: MS * 700 };
        let (written, end) = line.run(&mut transfer, &file, block.into(), window.into());
        prop_assert_eq!(&written, &file);
        // The client may be gone before its last ACK arrives.
        prop_assert!(matches!(end, End::Complete | End::Silence), "{:?}", end);
    }

    #[test]
    fn hostile_packets_never_panic_nor_ask_for_much(
        packets in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..60),
        ask in proptest::collection::vec(any::<u8>(), 0..80),
        size in any::<u64>(),
    ) {
        let mut raw = b"\0\x01x\0octet\0blksize\x0065464\0windowsize\x0065535\0".to_vec();
        raw.extend(ask);
        let request = parse_request(&raw).unwrap_or(request(Some(65464), Some(65535), true));
        let size = size % (1 << 40);
        let mut transfer = Transfer::new(&request, size, &limits(), Duration::ZERO);
        let mut now = Duration::ZERO;
        for mut packet in packets {
            for _ in 0..4 {
                match transfer.poll(now) {
                    Step::Window(window) => {
                        prop_assert!(window.length <= 64 * 1468);
                        prop_assert!(window.offset + window.length as u64 <= size);
                    }
                    Step::Wait(until) => prop_assert!(until > now),
                    Step::Send(packet) => prop_assert!(packet.len() < 200),
                    Step::Done(_) => break,
                }
            }
            if packet.len() > 3 && packet[0] % 2 == 0 {
                packet[..3].copy_from_slice(&[0, 4, 0]);
            }
            transfer.received(&packet, now);
            now += MS * 300;
        }
    }
}
