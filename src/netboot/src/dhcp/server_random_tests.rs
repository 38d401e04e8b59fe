//! Random lives: no address is ever leased twice.

use std::collections::HashMap;

use super::*;

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
/// the address. Gives counts of (ACK, NAK, crashes, exhausted).
fn random_life(seed: u64, steps: usize, pool_last: u8) -> [usize; 4] {
    random_life_on(seed, steps, &subnet(pool_last))
}

fn random_life_on(seed: u64, steps: usize, subnet: &Subnet) -> [usize; 4] {
    let mut dice = Dice(seed);
    let mut bench = Bench::new(110);
    let begin = |rows: &BTreeMap<Ipv4Addr, Lease>| {
        Server::new(subnet.clone(), Some(boot()), rows.values().cloned())
    };
    bench.server = begin(&bench.rows);
    let mut believers: HashMap<u8, Believer> = HashMap::new();
    let mut counts = [0; 4];
    for _ in 0..steps {
        bench.now += [0, 0, 0, 0, 0, 1, 3, 31][dice.roll(8) as usize];
        if dice.roll(150) == 0 {
            bench.server = begin(&bench.rows);
            counts[2] += 1;
        }
        let n = dice.roll(CLIENTS) as u8;
        let believer = believers.entry(n).or_default().clone();
        let who = client(n);
        let bound = believer
            .bound
            .filter(|(_, until)| *until > bench.now)
            .map(|(ip, _)| ip);
        let any = ip(95 + dice.roll(60) as u8);
        let packet = match dice.roll(9) {
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
        let verdict = bench.send(&packet);
        let believer = believers.entry(n).or_default();
        match verdict {
            Verdict::Reply(reply) if reply.kind == ReplyKind::Offer => {
                believer.offered = Some(reply.yiaddr);
            }
            Verdict::Reply(reply) if reply.kind == ReplyKind::Ack => {
                counts[0] += 1;
                *believer = Believer {
                    offered: None,
                    bound: Some((reply.yiaddr, bench.now + LEASE)),
                    last: Some(reply.yiaddr),
                };
                assert!(bench.server.networks()[0].subnet().gives(reply.yiaddr));
                let users = believers.values().filter(|b| {
                    b.bound
                        .is_some_and(|(ip, until)| ip == reply.yiaddr && until > bench.now)
                });
                assert_eq!(
                    users.count(),
                    1,
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
    let counts = random_life(7, 120_000, 122);
    assert!(
        counts.iter().all(|&c| c > 100),
        "ACK, NAK, crash, exhausted: {counts:?}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_address_is_leased_twice(seed in any::<u64>(), pool_last in 103u8..150, reserved in any::<bool>()) {
        let subnet = if reserved { with_reservations(pool_last) } else { subnet(pool_last) };
        random_life_on(seed, 3_000, &subnet);
    }
}
