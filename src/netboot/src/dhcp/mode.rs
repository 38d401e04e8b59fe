//! Who gives the addresses here: the modes of `site.toml`, and the watch that
//! listens for other DHCP servers and says which role is played at this moment.
//!
//! A technician cannot change the customer's server and must never disturb it,
//! so `auto` begins silent, plays the ProxyDHCP server as soon as another server
//! is heard, and gives addresses only where it was told to and nobody answered
//! for [`ALONE_AFTER`]. A server heard once is never forgotten while the process
//! runs: one that is down for a moment must not find its network taken.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How long nobody may answer before `auto` gives addresses. A switch port
/// without "portfast" stays deaf for 30 s after the cable is plugged in.
pub const ALONE_AFTER: Duration = Duration::from_secs(45);

/// So many DISCOVERs must have gone out by then: silence after none means nothing.
const PROBES_BEFORE_ALONE: u32 = 4;

/// The most servers remembered; bounds what forged answers can fill.
pub const MAX_OTHERS: usize = 16;

/// `mode` of a `[[network]]` in `site.toml`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Gives addresses, whoever else does. A second server is reported.
    Authoritative,
    /// Never gives addresses; says what to boot beside any other server.
    Proxy,
    /// Finds out. The default.
    Auto {
        /// Give addresses where no other server answers.
        serve_if_alone: bool,
    },
    /// Answers nobody.
    Off,
}

/// What is done at this moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Not known yet who else is here; nobody is answered.
    Listening,
    /// Nobody else was heard and giving addresses is not wanted.
    Silent,
    /// ProxyDHCP: boot files, no addresses.
    Proxy,
    /// Addresses and boot files.
    Authoritative,
    /// Switched off.
    Off,
}

/// By what another server was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It answered our own DISCOVER.
    Answered,
    /// It answered somebody else by broadcast.
    Overheard,
    /// A client chose it: option 54 of a broadcast REQUEST.
    Chosen,
}

/// Something that whoever runs the site should know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// `auto`: another server is here, so this one says only what to boot.
    Beside(Ipv4Addr),
    /// `auto` gave addresses, and another server appeared.
    Yielded(Ipv4Addr),
    /// `auto`: nobody else gives addresses, so this server does.
    Alone,
    /// `auto`: nobody gives addresses, and this server is not to.
    NobodyServes,
    /// `authoritative`, and another server is here: both answer every device.
    Conflict(Ipv4Addr),
    /// `proxy`: this server gives the addresses.
    Found(Ipv4Addr),
}

/// Another DHCP server, as heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Other {
    /// When it was heard last, since the process began.
    pub last: Duration,
    /// By what it was heard last.
    pub evidence: Evidence,
}

/// The watch over one interface. Times are counted from any fixed moment.
#[derive(Debug)]
pub struct Watch {
    mode: Mode,
    me: Ipv4Addr,
    role: Role,
    others: BTreeMap<Ipv4Addr, Other>,
    began: Duration,
    probes: u32,
    next_probe: Duration,
}

/// What is to be done now, and when to ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tick {
    /// Send a DISCOVER, and say so with [`Watch::probe_sent`].
    pub probe: bool,
    /// Say this.
    pub notice: Option<Notice>,
    /// Call [`Watch::tick`] again at this time.
    pub next: Duration,
}

impl Watch {
    /// Begins to listen at `now`; `me` is this server's own identifier.
    pub fn new(mode: Mode, me: Ipv4Addr, now: Duration) -> Self {
        let role = match mode {
            Mode::Authoritative => Role::Authoritative,
            Mode::Proxy => Role::Proxy,
            Mode::Auto { .. } => Role::Listening,
            Mode::Off => Role::Off,
        };
        Self {
            mode,
            me,
            role,
            others: BTreeMap::new(),
            began: now,
            probes: 0,
            next_probe: now,
        }
    }

    /// What is done at this moment.
    pub fn role(&self) -> Role {
        self.role
    }

    /// As `site.toml` says.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Every other server heard.
    pub fn others(&self) -> &BTreeMap<Ipv4Addr, Other> {
        &self.others
    }

    /// A server that gives addresses was noticed.
    pub fn heard(&mut self, server: Ipv4Addr, evidence: Evidence, now: Duration) -> Option<Notice> {
        if server == self.me || server.is_unspecified() || self.mode == Mode::Off {
            return None;
        }
        let new = self.remember(server, evidence, now);
        match (self.mode, self.role) {
            (Mode::Auto { .. }, Role::Listening | Role::Silent) => {
                self.role = Role::Proxy;
                Some(Notice::Beside(server))
            }
            (Mode::Auto { .. }, Role::Authoritative) => {
                self.role = Role::Proxy;
                Some(Notice::Yielded(server))
            }
            (Mode::Authoritative, _) if new => Some(Notice::Conflict(server)),
            (Mode::Proxy, _) if new => Some(Notice::Found(server)),
            _ => None,
        }
    }

    /// True if it was not known. The one silent for longest makes room.
    fn remember(&mut self, server: Ipv4Addr, evidence: Evidence, now: Duration) -> bool {
        let other = Other {
            last: now,
            evidence,
        };
        let new = self.others.insert(server, other).is_none();
        if self.others.len() > MAX_OTHERS {
            let oldest = self.others.iter().min_by_key(|(_, other)| other.last);
            if let Some(oldest) = oldest.map(|(&server, _)| server) {
                self.others.remove(&oldest);
            }
        }
        new
    }

    /// What the passing of time asks for.
    pub fn tick(&mut self, now: Duration) -> Tick {
        if self.mode == Mode::Off {
            let next = now + Duration::from_secs(3600);
            return Tick {
                probe: false,
                notice: None,
                next,
            };
        }
        let notice = self.decide(now);
        let probe = now >= self.next_probe;
        if probe {
            self.next_probe = now + self.pause(now);
        }
        let decision = self.began + ALONE_AFTER;
        let next = if self.role == Role::Listening && decision > now {
            self.next_probe.min(decision)
        } else {
            self.next_probe
        };
        Tick {
            probe,
            notice,
            next,
        }
    }

    /// A DISCOVER went out. One that could not be sent is not counted, so an
    /// interface without a cable never makes this server believe it is alone.
    pub fn probe_sent(&mut self) {
        self.probes = self.probes.saturating_add(1);
    }

    fn decide(&mut self, now: Duration) -> Option<Notice> {
        let Mode::Auto { serve_if_alone } = self.mode else {
            return None;
        };
        let listened = now.saturating_sub(self.began) >= ALONE_AFTER;
        if self.role != Role::Listening || !listened || self.probes < PROBES_BEFORE_ALONE {
            return None;
        }
        if serve_if_alone {
            self.role = Role::Authoritative;
            Some(Notice::Alone)
        } else {
            self.role = Role::Silent;
            Some(Notice::NobodyServes)
        }
    }

    /// Every few seconds while it matters, then now and then.
    fn pause(&self, now: Duration) -> Duration {
        let seconds = match self.role {
            Role::Listening if now.saturating_sub(self.began) < Duration::from_secs(12) => 3,
            Role::Listening => 8,
            Role::Silent => 30,
            Role::Authoritative if self.mode != Mode::Authoritative => 30,
            Role::Authoritative | Role::Proxy | Role::Off => 300,
        };
        Duration::from_secs(seconds)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Authoritative => "authoritative",
            Self::Proxy => "proxy",
            Self::Auto { .. } => "auto",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Listening => "listening",
            Self::Silent => "silent",
            Self::Proxy => "proxy",
            Self::Authoritative => "authoritative",
            Self::Off => "off",
        })
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Answered => "it answered our DISCOVER",
            Self::Overheard => "it answered somebody by broadcast",
            Self::Chosen => "a client chose it",
        })
    }
}

impl Notice {
    /// It asks somebody to do something.
    pub fn is_warning(&self) -> bool {
        !matches!(self, Self::Beside(_) | Self::Found(_))
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Beside(server) => write!(
                f,
                "the DHCP server {server} gives addresses here, so this appliance only says what to boot (ProxyDHCP)"
            ),
            Self::Yielded(server) => write!(
                f,
                "the DHCP server {server} appeared: this appliance GIVES NO MORE ADDRESSES and only says what to boot (ProxyDHCP). Addresses it gave end with their leases"
            ),
            Self::Alone => write!(
                f,
                "no other DHCP server answered for {} s, so this appliance gives addresses (serve_if_alone)",
                ALONE_AFTER.as_secs()
            ),
            Self::NobodyServes => write!(
                f,
                "no DHCP server answered for {} s and this appliance is not told to give addresses: devices get none. Set `mode = \"authoritative\"` in site.toml, or `serve_if_alone = true` with a pool, if this network is the appliance's own",
                ALONE_AFTER.as_secs()
            ),
            Self::Conflict(server) => write!(
                f,
                "ANOTHER DHCP SERVER, {server}, answers on this network: two servers fight over every device. Switch it off, or set `mode = \"proxy\"` in site.toml"
            ),
            Self::Found(server) => write!(f, "the DHCP server {server} gives the addresses here"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ME: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// Lets time pass as the appliance does; the notices with their times.
    fn pass(watch: &mut Watch, from: u64, to: u64) -> Vec<(u64, Notice)> {
        let (mut now, mut notices) = (at(from), Vec::new());
        while now <= at(to) {
            let tick = watch.tick(now);
            if tick.probe {
                watch.probe_sent();
            }
            notices.extend(tick.notice.map(|n| (now.as_secs(), n)));
            assert!(tick.next > now, "a tick that never ends");
            now = tick.next;
        }
        notices
    }

    #[test]
    fn auto_is_silent_until_it_knows() {
        let mut watch = Watch::new(
            Mode::Auto {
                serve_if_alone: false,
            },
            ME,
            at(0),
        );
        assert_eq!(pass(&mut watch, 0, 44), []);
        assert_eq!(watch.role(), Role::Listening);
        assert_eq!(pass(&mut watch, 45, 600), [(45, Notice::NobodyServes)]);
        assert_eq!(watch.role(), Role::Silent);
        let notice = watch.heard(OTHER, Evidence::Answered, at(601));
        assert_eq!(
            (notice, watch.role()),
            (Some(Notice::Beside(OTHER)), Role::Proxy)
        );
    }

    #[test]
    fn auto_serves_alone_only_where_told_and_yields_at_once_and_for_good() {
        let mut watch = Watch::new(
            Mode::Auto {
                serve_if_alone: true,
            },
            ME,
            at(100),
        );
        assert_eq!(pass(&mut watch, 100, 160), [(145, Notice::Alone)]);
        assert_eq!(watch.role(), Role::Authoritative);
        assert_eq!(
            watch.heard(ME, Evidence::Answered, at(161)),
            None,
            "that is this server"
        );
        let notice = watch.heard(OTHER, Evidence::Chosen, at(162));
        assert_eq!(
            (notice, watch.role()),
            (Some(Notice::Yielded(OTHER)), Role::Proxy)
        );
        assert_eq!(pass(&mut watch, 163, 100_000), []);
        assert_eq!(watch.role(), Role::Proxy);
    }

    #[test]
    fn silence_after_no_question_means_nothing() {
        let mut watch = Watch::new(
            Mode::Auto {
                serve_if_alone: true,
            },
            ME,
            at(0),
        );
        for second in 0..200 {
            watch.tick(at(second));
        }
        assert_eq!(watch.role(), Role::Listening);
    }

    #[test]
    fn written_modes_stay_and_speak_once() {
        let mut watch = Watch::new(Mode::Authoritative, ME, at(0));
        assert_eq!(
            watch.heard(OTHER, Evidence::Chosen, at(1)),
            Some(Notice::Conflict(OTHER))
        );
        assert_eq!(watch.heard(OTHER, Evidence::Chosen, at(2)), None);
        assert_eq!(watch.role(), Role::Authoritative);
        let mut off = Watch::new(Mode::Off, ME, at(0));
        assert!(!off.tick(at(0)).probe);
        assert_eq!(off.heard(OTHER, Evidence::Chosen, at(1)), None);
    }

    proptest! {
        /// Whatever is heard when: addresses are never given without the word
        /// for it, nor after another server was heard, and memory is bounded.
        #[test]
        fn auto_never_disturbs(
            serve_if_alone in any::<bool>(),
            steps in proptest::collection::vec((0u64..40, any::<Option<u8>>(), any::<bool>()), 1..80),
        ) {
            let mut watch = Watch::new(Mode::Auto { serve_if_alone }, ME, at(0));
            let (mut now, mut other_heard, mut sent) = (0, false, 0);
            for (pause, heard, cable) in steps {
                now += pause;
                if watch.tick(at(now)).probe && cable {
                    watch.probe_sent();
                    sent += 1;
                }
                if let Some(n) = heard.filter(|n| *n > 40) {
                    watch.heard(Ipv4Addr::new(10, 77, 0, n), Evidence::Overheard, at(now));
                    other_heard = true;
                }
                let gives = watch.role() == Role::Authoritative;
                prop_assert!(!gives || (serve_if_alone && !other_heard && now >= 45 && sent >= 4));
                prop_assert!(!other_heard || watch.role() == Role::Proxy);
                prop_assert!(watch.others().len() <= MAX_OTHERS);
            }
        }
    }
}
