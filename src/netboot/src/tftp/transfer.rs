//! One transfer: what to send next, and what an ACK means.
//!
//! Blocks are counted from 1 in 64 bits; on the wire the number is their low 16
//! bits, so it rolls over to 0 (what iPXE, GRUB and OVMF expect). Everything up
//! to `acked` has arrived; a window is `acked + 1 ..= sent`.

use std::time::Duration;

use tftpd::{OptionType, Packet, TransferOption};

use super::request::ReadRequest;
use super::{Limits, error_packet};

/// Block number and opcode before the data.
const HEADER: usize = 4;
/// The shortest retransmission timeout; loaders under emulation take that long
/// to write a window out.
const MIN_TIMEOUT: Duration = Duration::from_millis(200);
/// The longest wait between two retransmissions.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// A read transfer under way. `now` is a [`Duration`] since any fixed start.
#[derive(Debug, Clone)]
pub struct Transfer {
    size: u64,
    block_size: u16,
    window: u16,
    /// OACK to be acknowledged before data, if options were asked.
    oack: Option<Vec<u8>>,
    acked: u64,
    sent: u64,
    state: State,
    timer: Timer,
    retries: u8,
    ends_at: Duration,
    /// Once per window an ACK of what came before it means "its first block is lost".
    gap_answered: bool,
    /// Packets or windows sent again.
    repeats: u32,
}

#[derive(Debug, Clone)]
enum State {
    /// Something is due: the OACK, or the window behind `acked`.
    Due,
    /// Sent; waits for an ACK.
    Waiting,
    /// One last packet, then over.
    Failing(Vec<u8>, End),
    Over(End),
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this packet, then poll again.
    Send(Vec<u8>),
    /// Send these blocks, then poll again.
    Window(Window),
    /// Receive until then, then poll again.
    Wait(Duration),
    /// The transfer is over.
    Done(End),
}

/// How a transfer ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The last block was acknowledged.
    Complete,
    /// The peer sent ERROR with this code and text. After an OACK this is how
    /// OVMF learns a size: no fault.
    PeerError(u16, String),
    /// No ACK in spite of all retransmissions.
    Silence,
    /// [`Limits::lifetime`] is over.
    TooLong,
    /// The caller gave up and said why, see [`Transfer::abort`].
    Aborted(String),
}

/// A run of DATA packets over one stretch of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// How many bytes of the file it holds, at most window times block size.
    pub length: usize,
    /// How many packets.
    pub blocks: u16,
    first: u64,
    block_size: u16,
}

impl Window {
    /// Appends the packets to `out`: all of [`Window::segment`] bytes but the
    /// last, ready for one send with UDP segmentation offload. `data` is the
    /// file's `length` bytes at `offset`; `false` if it is not that long.
    pub fn write(&self, data: &[u8], out: &mut Vec<u8>) -> bool {
        if data.len() != self.length {
            return false;
        }
        let block_size = usize::from(self.block_size);
        for index in 0..usize::from(self.blocks) {
            let rest = data.get(index * block_size..).unwrap_or_default();
            out.extend([0, 3]);
            out.extend(((self.first + index as u64) as u16).to_be_bytes());
            out.extend(rest.iter().take(block_size));
        }
        true
    }

    /// The size of every packet but the last, in bytes.
    pub fn segment(&self) -> usize {
        HEADER + usize::from(self.block_size)
    }
}

impl Transfer {
    /// Begins the transfer of a file of `size` bytes.
    pub fn new(request: &ReadRequest, size: u64, limits: &Limits, now: Duration) -> Self {
        let block_size = request
            .block_size
            .map(|b| b.min(limits.block_size.max(512)));
        let window = request.window.map(|w| w.min(limits.window.max(1)));
        let oack = oack(request, size, block_size, window);
        let longest = request
            .timeout
            .map_or(limits.timeout, |t| Duration::from_secs(t.into()));
        Self {
            size,
            block_size: block_size.unwrap_or(512),
            window: window.unwrap_or(1),
            oack,
            acked: 0,
            sent: 0,
            state: State::Due,
            timer: Timer::new(longest, now),
            retries: limits.retries,
            ends_at: now.saturating_add(limits.lifetime),
            gap_answered: false,
            repeats: 0,
        }
    }

    /// What to do at `now`. Call it again after each [`Step::Send`] and [`Step::Window`].
    pub fn poll(&mut self, now: Duration) -> Step {
        match &self.state {
            State::Over(end) => return Step::Done(end.clone()),
            State::Failing(packet, end) => {
                let packet = packet.clone();
                self.state = State::Over(end.clone());
                return Step::Send(packet);
            }
            State::Due | State::Waiting => (),
        }
        if now >= self.ends_at {
            return self.fail("the transfer took too long", End::TooLong, now);
        }
        if matches!(self.state, State::Waiting) {
            if now < self.timer.due {
                return Step::Wait(self.timer.due.min(self.ends_at));
            }
            if self.timer.retried >= self.retries {
                return self.fail("no acknowledgement", End::Silence, now);
            }
            self.timer.back_off();
            self.repeats = self.repeats.saturating_add(1);
        }
        self.send(now)
    }

    /// Takes a packet that came from the peer's address and port. Anything that
    /// does not fit the transfer is dropped.
    pub fn received(&mut self, packet: &[u8], now: Duration) {
        if matches!(self.state, State::Over(_) | State::Failing(..)) {
            return;
        }
        match packet {
            // Not by tftpd: it refuses codes it does not know, but any ERROR ends it.
            [0, 5, rest @ ..] => self.state = State::Over(peer_error(rest)),
            _ => {
                if let Ok(Packet::Ack(number)) = Packet::deserialize(packet) {
                    self.acknowledged(number, now);
                }
            }
        }
    }

    /// The client repeated its request: if nothing has arrived yet, what was sent
    /// was lost, and it is sent again at once.
    pub fn repeated(&mut self) {
        if matches!(self.state, State::Waiting) && self.acked == 0 && !self.gap_answered {
            self.gap_answered = true;
            self.repeats = self.repeats.saturating_add(1);
            self.state = State::Due;
        }
    }

    /// Ends the transfer because the file cannot be read any more or the
    /// appliance stops; the peer is told `message`.
    pub fn abort(&mut self, message: &str) {
        if !matches!(self.state, State::Over(_)) {
            let packet = error_packet(tftpd::ErrorCode::NotDefined, message);
            self.state = State::Failing(packet, End::Aborted(message.to_owned()));
        }
    }

    /// Bytes acknowledged, and bytes in all.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.acked
                .saturating_mul(u64::from(self.block_size))
                .min(self.size),
            self.size,
        )
    }

    /// How often something was sent again: after silence, or because the peer
    /// said that the beginning of a window is missing.
    pub fn repeats(&self) -> u32 {
        self.repeats
    }

    /// The peer acknowledged a block, so there is one.
    pub fn is_answered(&self) -> bool {
        self.acked > 0
    }

    /// The block size and window in use.
    pub fn negotiated(&self) -> (u16, u16) {
        (self.block_size, self.window)
    }

    /// The last block is the first one that is not full; it may be empty.
    fn last_block(&self) -> u64 {
        self.size / u64::from(self.block_size) + 1
    }

    fn send(&mut self, now: Duration) -> Step {
        self.state = State::Waiting;
        self.timer.start(now);
        if let Some(oack) = &self.oack {
            return Step::Send(oack.clone());
        }
        let block_size = u64::from(self.block_size);
        let first = self.acked + 1;
        self.sent = (self.acked + u64::from(self.window)).min(self.last_block());
        let offset = self.acked * block_size;
        let end = self.size.min(self.sent * block_size);
        Step::Window(Window {
            offset,
            length: usize::try_from(end - offset).unwrap_or(usize::MAX),
            blocks: u16::try_from(self.sent - self.acked).unwrap_or(u16::MAX),
            first,
            block_size: self.block_size,
        })
    }

    fn acknowledged(&mut self, number: u16, now: Duration) {
        if self.oack.is_some() {
            if number == 0 {
                self.oack = None;
                self.advance(now);
            }
            return;
        }
        // How far the number lies behind `acked`, rollover included. A window is
        // at most 65535 blocks, so one number means one block.
        let step = u64::from(number.wrapping_sub(self.acked as u16));
        if step == 0 {
            self.gap(now);
        } else if self.acked + step <= self.sent {
            self.acked += step;
            self.advance(now);
        }
    }

    /// Something new arrived.
    fn advance(&mut self, now: Duration) {
        self.timer.measure(now);
        self.gap_answered = false;
        self.state = if self.acked == self.last_block() {
            State::Over(End::Complete)
        } else {
            State::Due
        };
    }

    /// An ACK of what had arrived before this window. With window 1 it is a
    /// repeat, and answering it would double every packet from here on (the
    /// Sorcerer's Apprentice, RFC 1123 §4.2.3.1). In a window it also says that
    /// its first block is lost (RFC 7440 §4); believed once per window, and only
    /// when a round trip has passed since the window was sent: a repeat of the
    /// last ACK comes sooner.
    fn gap(&mut self, now: Duration) {
        let believable = self.window > 1 && !self.gap_answered && self.sent > self.acked;
        if matches!(self.state, State::Waiting) && believable && self.timer.round_trip_passed(now) {
            self.gap_answered = true;
            self.timer.spoil();
            self.repeats = self.repeats.saturating_add(1);
            self.state = State::Due;
        }
    }

    fn fail(&mut self, message: &str, end: End, now: Duration) -> Step {
        self.state = State::Failing(error_packet(tftpd::ErrorCode::NotDefined, message), end);
        self.poll(now)
    }
}

/// The options accepted, in the client's terms; `None` if it asked for none
/// (RFC 2347: then data follows at once).
fn oack(
    request: &ReadRequest,
    size: u64,
    block_size: Option<u16>,
    window: Option<u16>,
) -> Option<Vec<u8>> {
    let values = [
        (OptionType::BlockSize, block_size.map(u64::from)),
        (
            OptionType::TransferSize,
            request.transfer_size.then_some(size),
        ),
        (OptionType::Timeout, request.timeout.map(u64::from)),
        (OptionType::WindowSize, window.map(u64::from)),
    ];
    let accepted = values.into_iter().filter_map(|(option, value)| {
        Some(TransferOption {
            option,
            value: value?,
        })
    });
    let options: Vec<TransferOption> = accepted.collect();
    if options.is_empty() {
        None
    } else {
        Packet::Oack(options).serialize().ok()
    }
}

fn peer_error(rest: &[u8]) -> End {
    let (code, text) = match rest {
        [high, low, text @ ..] => (u16::from_be_bytes([*high, *low]), text),
        _ => (0, rest),
    };
    let text: Vec<u8> = text
        .iter()
        .copied()
        .take_while(|b| *b != 0)
        .take(128)
        .collect();
    let text = String::from_utf8_lossy(&text)
        .chars()
        .filter(|c| !c.is_control())
        .collect();
    End::PeerError(code, text)
}

/// When to send again: four times the round trip measured, doubled with each
/// retransmission (Karn: a retransmitted packet measures nothing).
#[derive(Debug, Clone)]
struct Timer {
    longest: Duration,
    round_trip: Option<Duration>,
    started: Duration,
    due: Duration,
    retried: u8,
    clean: bool,
}

impl Timer {
    fn new(longest: Duration, now: Duration) -> Self {
        Self {
            longest,
            round_trip: None,
            started: now,
            due: now,
            retried: 0,
            clean: true,
        }
    }

    fn start(&mut self, now: Duration) {
        let base = match self.round_trip {
            Some(trip) => (trip * 4).clamp(MIN_TIMEOUT, self.longest.max(MIN_TIMEOUT)),
            None => self.longest.max(MIN_TIMEOUT),
        };
        let doubled = base.saturating_mul(1 << self.retried.min(10));
        self.started = now;
        self.due = now.saturating_add(doubled.min(MAX_BACKOFF.max(base)));
    }

    fn back_off(&mut self) {
        self.retried = self.retried.saturating_add(1);
        self.clean = false;
    }

    fn spoil(&mut self) {
        self.clean = false;
    }

    fn measure(&mut self, now: Duration) {
        if self.clean {
            let trip = now.saturating_sub(self.started);
            // The mean of old and new follows a slow client without forgetting at once.
            self.round_trip = Some(self.round_trip.map_or(trip, |known| (known + trip) / 2));
        }
        self.retried = 0;
        self.clean = true;
    }

    fn round_trip_passed(&self, now: Duration) -> bool {
        let trip = self.round_trip.unwrap_or(Duration::ZERO);
        now.saturating_sub(self.started) * 2 >= trip
    }
}

#[cfg(test)]
#[path = "transfer_tests.rs"]
mod tests;
