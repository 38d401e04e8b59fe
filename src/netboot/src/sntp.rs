//! SNTP, the server's side (RFC 4330 section 6, RFC 5905 section 7.3), without
//! a socket and a clock: a request and the time become an answer.
//!
//! A site has no other source of time than the appliance, and the appliance
//! has its clock and a technician. So it says stratum 10, as a lone clock
//! does, and where the time is unknown it says that, never a wrong one.

use std::time::Duration;

/// The port of NTP and SNTP.
pub const PORT: u16 = 123;

/// The length of a message without extensions or a digest. Requests may be
/// longer; answers never are, so that nobody is worth being impersonated.
pub const LENGTH: usize = 48;

/// Seconds from 1900-01-01 to 1970-01-01.
const EPOCH: u64 = 2_208_988_800;

/// Of a clock that no other clock disciplines.
const STRATUM: u8 = 10;

/// 2^-20 s: what the system's clock resolves.
const PRECISION: i8 = -20;

/// One second as NTP's 16.16: a person set this clock, or a battery kept it.
const ROOT_DISPERSION: [u8; 4] = [0, 1, 0, 0];

/// 127.127.1.1, as lone clocks name themselves.
const REFERENCE: [u8; 4] = [127, 127, 1, 1];

/// "Not synchronized for the first time yet" (RFC 5905 section 7.4).
const UNKNOWN: [u8; 4] = *b"INIT";

/// Time since 1970, to the nanosecond.
pub type SinceEpoch = Duration;

/// What a client sent, of which only this matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    version: u8,
    poll: u8,
    transmit: [u8; 8],
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// Shorter than any message.
    #[error("shorter than {LENGTH} bytes")]
    Short,
    /// No client asks so: an answer, a broadcast, a control message.
    #[error("mode {0} is no client's")]
    Mode(u8),
    /// A version without this format.
    #[error("version {0} is none of 1 to 4")]
    Version(u8),
}

impl Request {
    /// Reads a packet. Answers are never answered, so two servers cannot be
    /// made to talk to each other.
    pub fn parse(packet: &[u8]) -> Result<Self, Unanswered> {
        let head = packet.first_chunk::<LENGTH>().ok_or(Unanswered::Short)?;
        let [flags, _, poll, ..] = *head;
        let [.., a, b, c, d, e, f, g, h] = *head;
        let (version, mode) = (flags >> 3 & 7, flags & 7);
        if mode != 3 {
            return Err(Unanswered::Mode(mode));
        }
        if !(1..=4).contains(&version) {
            return Err(Unanswered::Version(version));
        }
        Ok(Self {
            version,
            poll,
            transmit: [a, b, c, d, e, f, g, h],
        })
    }

    /// The answer: `received` is when the request came and `sent` when this
    /// goes out; none where the time is not known.
    pub fn answer(&self, times: Option<(SinceEpoch, SinceEpoch)>) -> [u8; LENGTH] {
        let mut out = [0; LENGTH];
        // LI 3: not synchronized.
        let (leap, stratum, reference) = match times {
            Some(_) => (0, STRATUM, REFERENCE),
            None => (3, 0, UNKNOWN),
        };
        let head = [
            leap << 6 | self.version << 3 | 4,
            stratum,
            self.poll,
            PRECISION.cast_unsigned(),
        ];
        put(&mut out, 0, &head);
        put(&mut out, 12, &reference);
        put(&mut out, 24, &self.transmit);
        // Without a known time all other timestamps stay 0 (RFC 4330).
        if let Some((received, sent)) = times {
            put(&mut out, 8, &ROOT_DISPERSION);
            put(
                &mut out,
                16,
                &timestamp(Duration::from_secs(received.as_secs())),
            );
            put(&mut out, 32, &timestamp(received));
            put(&mut out, 40, &timestamp(sent));
        }
        out
    }
}

fn put(out: &mut [u8; LENGTH], at: usize, bytes: &[u8]) {
    for (place, byte) in out.iter_mut().skip(at).zip(bytes) {
        *place = *byte;
    }
}

/// 32 bits of seconds since 1900 and 32 of fraction. The seconds go round in
/// 2036; clients tell the era by their own clock (RFC 4330 section 3).
fn timestamp(time: SinceEpoch) -> [u8; 8] {
    let seconds = time.as_secs().wrapping_add(EPOCH) & 0xffff_ffff;
    let fraction = (u64::from(time.subsec_nanos()) << 32) / 1_000_000_000;
    (seconds << 32 | fraction).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(version: u8, mode: u8) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = version << 3 | mode;
        packet[2] = 6;
        packet[40..].copy_from_slice(b"transmit");
        packet
    }

    // 2026-11-23T10:00:00.5Z is 4004416800.5 seconds after 1900.
    const TIME: Duration = Duration::from_millis(1_795_428_000_500);

    #[test]
    fn a_known_time_is_told() {
        let answer = Request::parse(&request(4, 3))
            .unwrap()
            .answer(Some((TIME, TIME)));
        assert_eq!(answer[..4], [4 << 3 | 4, 10, 6, 0xec]);
        assert_eq!(
            &answer[24..32],
            b"transmit",
            "what it sent comes back as origin"
        );
        let seconds = 4_004_416_800u32.to_be_bytes();
        assert_eq!(answer[32..36], seconds);
        assert_eq!(answer[36..40], [0x80, 0, 0, 0], "half a second");
        assert_eq!(answer[16..24], [&seconds[..], &[0; 4]].concat()[..]);
    }

    #[test]
    fn an_unknown_time_is_said_to_be_unknown() {
        let answer = Request::parse(&request(3, 3)).unwrap().answer(None);
        assert_eq!(answer[0] >> 6, 3, "LI: not synchronized");
        assert_eq!((answer[0] >> 3 & 7, answer[1]), (3, 0));
        assert_eq!(&answer[12..16], b"INIT");
        assert!(answer[16..24].iter().chain(&answer[32..]).all(|b| *b == 0));
    }

    #[test]
    fn only_clients_are_answered() {
        for (version, mode) in [(4, 4), (4, 5), (2, 6), (2, 7), (4, 1), (4, 0)] {
            let refused = Request::parse(&request(version, mode));
            assert_eq!(refused, Err(Unanswered::Mode(mode)));
        }
        assert_eq!(Request::parse(&request(7, 3)), Err(Unanswered::Version(7)));
        assert_eq!(Request::parse(&[0x1b; 47]), Err(Unanswered::Short));
        // A client's digest behind the message changes nothing.
        let long = [&request(4, 3)[..], &[7; 20]].concat();
        assert!(Request::parse(&long).is_ok());
    }

    #[test]
    fn the_seconds_go_round_in_2036_and_on() {
        let at = |seconds| timestamp(Duration::from_secs(seconds));
        assert_eq!(at(2_085_978_495), [0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0]);
        assert_eq!(at(2_085_978_496), [0; 8], "2036-02-07T06:28:16Z");
        assert_eq!(at(2_147_483_648)[..4], 61_505_152u32.to_be_bytes(), "2038");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_answered_by_no_more_than_it_was(packet in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(request) = Request::parse(&packet) {
                let answer = request.answer(Some((TIME, TIME)));
                prop_assert!(answer.len() <= packet.len());
                prop_assert_eq!(Request::parse(&answer), Err(Unanswered::Mode(4)));
            }
        }
    }
}
