//! Random lives, with crashes before and after the commit, lost replies, and ARP
//! before addresses are taken from silent clients: no address is ever leased twice.

use std::collections::HashMap;

use super::*;
use crate::dhcp::MessageKind;

/// What a random client believes and does.
#[derive(Default, Clone)]
struct Believer {
    offered: Option<Ipv4Addr>,
    /// The address it uses, and until when.
    bound: Option<(Ipv4Addr, u64)>,
    /// The address it had last.
    last: Option<Ipv4Addr>,
}

/// A small generator: proptest's own values for 100,000 steps cost more than the steps.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

const CLIENTS: u64 = 40;

/// Runs `steps` random steps with `pool_last` as the pool's end, so with more
/// or fewer addresses than clients; checks after each ACK that nobody else uses
/// the address. Gives counts of (ACK, NAK, crashes, exhausted, taken from silent).
fn random_life(seed: u64, steps: usize, pool_last: u8) -> [usize; 5] {
    random_life_on(seed, steps, &subnet(pool_last))
}

fn random_life_on(seed: u64, steps: usize, subnet: &Subnet) -> [usize; 5] {
    let mut dice = Dice(seed);
    let mut bench = Bench::new(110);
    let begin = |rows: &BTreeMap<Ipv4Addr, Lease>| {
        Server::new(subnet.clone(), Some(boot()), rows.values().cloned()).probed()
    };
    bench.server = begin(&bench.rows);
    let mut believers: HashMap<u8, Believer> = HashMap::new();
    let mut counts = [0; 5];
    for _ in 0..steps {
        bench.now += [0, 0, 0, 0, 0, 1, 3, 31][dice.roll(8) as usize];
        if dice.roll(600) == 0 {
            bench.server = begin(&bench.rows);
            counts[2] += 1;
        }
        // One in five does not exist: it takes an address and is never heard again.
        let invented = dice.roll(5) == 0;
        let n = (if invented {
            CLIENTS + dice.roll(200)
        } else {
            dice.roll(CLIENTS)
        }) as u8;
        let believer = believers.entry(n).or_default().clone();
        let who = client(n);
        let bound = believer
            .bound
            .filter(|(_, until)| *until > bench.now)
            .map(|(ip, _)| ip);
        let any = ip(95 + dice.roll(60) as u8);
        let action = if invented {
            dice.roll(2) * 3
        } else {
            dice.roll(9)
        };
        let packet = match action {
            0..=2 => who,
            3 | 4 => match believer.offered {
                Some(offered) => selecting(&who, offered),
                None => selecting(&who, any),
            },
            5 => bound.map_or(who.clone(), |ip| renewing(&who, ip)),
            6 => init_reboot(&who, believer.last.unwrap_or(any)),
            7 => bound.map_or_else(|| release(&who, any), |ip| release(&who, ip)),
            _ => bound.map_or_else(
                || decline(&who, any),
                |ip| {
                    if dice.roll(8) == 0 {
                        decline(&who, ip)
                    } else {
                        renewing(&who, ip)
                    }
                },
            ),
        };
        // Who gives an address back does not use it, whatever becomes of the packet.
        let request = Request::parse(&packet.bytes()).unwrap();
        if matches!(request.kind, MessageKind::Release | MessageKind::Decline) {
            believers.entry(n).or_default().bound = None;
        }
        let fate = dice.roll(300);
        if fate < 12 {
            // Nobody is answered. Who asks anew has no address any more.
            let renews = request.kind == MessageKind::Request && !request.ciaddr.is_unspecified();
            let believer = believers.entry(n).or_default();
            believer.bound = believer.bound.filter(|_| renews);
        }
        match fate {
            // Killed before the commit: memory had moved.
            0 => {
                bench.server.handle(&request, UnixTime::new(bench.now));
                bench.server = begin(&bench.rows);
                counts[2] += 1;
                continue;
            }
            // Killed after the commit, before the reply.
            1 => {
                bench.send(&packet);
                bench.server = begin(&bench.rows);
                counts[2] += 1;
                continue;
            }
            _ => (),
        }
        let verdict = bench.send(&packet);
        if let Verdict::Reply(reply) = &verdict
            && reply.held
        {
            let ip = reply.yiaddr;
            // ARP takes its time; one in four waits so long that others ask before.
            let waits = dice.roll(4) == 0;
            let uses = |b: &Believer| {
                b.bound
                    .is_some_and(|(at, until)| at == ip && until > bench.now)
            };
            if waits {
                continue;
            }
            if let Some((user, _)) = believers.iter().find(|(_, b)| uses(b)) {
                let mac = groundcrew_core::hardware::MacAddr([0x52, 0x54, 0, 0, 0, *user]);
                let rows = bench.server.conflict(ip, mac, UnixTime::new(bench.now));
                assert_eq!(rows, [], "it holds the address by right");
                continue;
            }
            assert!(bench.server.nobody_at(ip));
            counts[4] += 1;
        }
        // The reply is lost.
        if (2..12).contains(&fate) {
            continue;
        }
        let believer = believers.entry(n).or_default();
        match verdict {
            Verdict::Reply(reply) if reply.kind == ReplyKind::Offer => {
                believer.offered = Some(reply.yiaddr);
            }
            Verdict::Reply(reply) if reply.kind == ReplyKind::Ack => {
                counts[0] += 1;
                *believer = Believer {
                    offered: None,
                    bound: (!invented).then_some((reply.yiaddr, bench.now + LEASE)),
                    last: Some(reply.yiaddr),
                };
                assert!(bench.server.networks()[0].subnet().gives(reply.yiaddr));
                let users = believers.values().filter(|b| {
                    b.bound
                        .is_some_and(|(ip, until)| ip == reply.yiaddr && until > bench.now)
                });
                assert_eq!(
                    users.count(),
                    usize::from(!invented),
                    "{} is leased twice at {}",
                    reply.yiaddr,
                    bench.now
                );
                assert!(
                    bench
                        .rows
                        .get(&reply.yiaddr)
                        .is_some_and(|row| row.holds(UnixTime::new(bench.now))),
                    "an ACK without its row"
                );
            }
            Verdict::Reply(_) => {
                counts[1] += 1;
                *believer = Believer {
                    last: believer.last,
                    ..Believer::default()
                };
            }
            Verdict::Noted(_) => {
                *believer = Believer {
                    last: believer.last,
                    ..Believer::default()
                }
            }
            Verdict::Ignored(Ignored::PoolExhausted { .. }) => counts[3] += 1,
            Verdict::Ignored(_) => (),
        }
        if dice.roll(50) == 0 {
            let memory: BTreeMap<Ipv4Addr, Lease> =
                bench.server.leases().map(|l| (l.ip, l.clone())).collect();
            assert_eq!(memory, bench.rows, "rows and memory differ");
        }
        assert!(bench.server.offers() <= bench.server.pool_size() + 3);
    }
    counts
}

#[test]
fn no_address_is_leased_twice_in_a_long_life() {
    // Five million take two minutes.
    let full = std::env::var_os("GROUNDCREW_FULL").is_some();
    let steps = if full { 5_000_000 } else { 100_000 };
    let counts = random_life(7, steps, 122);
    eprintln!("{steps} steps; ACK, NAK, crash, exhausted, taken from silent: {counts:?}");
    assert!(
        counts.iter().all(|&c| c > 100),
        "ACK, NAK, crash, exhausted, taken: {counts:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn no_address_is_leased_twice(seed in any::<u64>(), pool_last in 103u8..150, reserved in any::<bool>()) {
        let subnet = if reserved { with_reservations(pool_last) } else { subnet(pool_last) };
        random_life_on(seed, 3_000, &subnet);
    }
}
