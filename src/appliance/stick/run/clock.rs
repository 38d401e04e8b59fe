//! What time it is, settled before anything is signed. A stick goes from machine
//! to machine, and believes every one's clock: a laptop that is weeks ahead would
//! hold all that come after it. And nobody can type a command on a stick.

use groundcrew_core::UnixTime;

use super::terminal::Terminal;
use crate::clock;
use crate::site::Site;
use crate::site::time::{self, Standing};

/// A clock that is so many seconds after the stick's last time at most is not asked about.
const DAY: u64 = 86_400;

/// Why the technician has to be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doubt {
    /// The clock stands before what is past.
    Behind,
    /// It stands more than a day after what is past, which may be right.
    Ahead,
    /// Everything that HQ signed has ended by then.
    Beyond,
}

/// What was typed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// It is so late.
    Time(UnixTime),
    /// Nothing that answers the question.
    Nothing,
}

/// Compares the machine's clock with what the stick knows, and asks until it is settled.
pub fn settle(terminal: &mut Terminal, site: &Site) -> anyhow::Result<()> {
    loop {
        let now = clock::read();
        let standing = time::standing(site, now)?;
        let Some(doubt) = doubt(&standing) else {
            terminal.say(&both(&standing));
            return Ok(());
        };
        terminal.page(&question(&standing, doubt));
        let typed = terminal.line(prompt(doubt));
        let said = match answer(&typed, doubt, &standing) {
            Answer::Time(time) => match time::decide(site, time, clock::read(), clock::set) {
                Ok(()) => continue,
                Err(error) => format!("{error:#}"),
            },
            Answer::Nothing => "This is no answer to the question.".to_owned(),
        };
        terminal.say(&format!("{said}\nEnter asks again."));
        terminal.line("");
    }
}

/// The last time that the stick knows of.
fn last(standing: &Standing) -> (UnixTime, &'static str) {
    let floor = standing.floor();
    floor.map_or((UnixTime::new(0), "nothing"), |proof| {
        (proof.time, proof.by)
    })
}

fn doubt(standing: &Standing) -> Option<Doubt> {
    let (last, _) = last(standing);
    if standing.clock < last {
        return Some(Doubt::Behind);
    }
    // Too late for HQ's signatures, or not to be believed for another reason.
    if !standing.credible {
        return Some(Doubt::Beyond);
    }
    (standing.clock.since(last) > DAY).then_some(Doubt::Ahead)
}

fn both(standing: &Standing) -> String {
    let (last, by) = last(standing);
    format!(
        "This machine says       {}\nThe stick's last time   {} ({by})\n",
        spelled(standing.clock),
        spelled(last)
    )
}

fn question(standing: &Standing, doubt: Doubt) -> Vec<String> {
    let (last, _) = last(standing);
    let apart = apart(standing.clock, last);
    let (title, about) = match doubt {
        Doubt::Behind => (
            format!("THIS MACHINE'S CLOCK IS BEHIND, by {apart}."),
            "With a time that is past nothing can be signed and nobody let in. Either this \
             clock is wrong, or that of a machine in which the stick was before was ahead: \
             the stick cannot go back behind its last time. \n\
             Enter alone: go on with the stick's last time. \n\
             Or type date and time."
                .to_owned(),
        ),
        Doubt::Ahead => (
            format!("IS THIS MACHINE'S CLOCK RIGHT? It is {apart} after the stick's last time."),
            "A wrong time that is accepted now holds the stick on every machine that comes \
             after this one. \n\
             If the clock is right: type yes, then Enter. \n\
             If it is wrong: type date and time."
                .to_owned(),
        ),
        Doubt::Beyond => {
            let until = standing.vouched_until.map(spelled).unwrap_or_default();
            (
                "THIS MACHINE'S CLOCK IS AHEAD, OR THE STICK IS TOO OLD.".to_owned(),
                format!(
                    "What HQ signed ends at {until}: after that nothing is signed and \
                     nobody let in. \n\
                     If the clock is wrong: type date and time. \n\
                     If it is right: switch off, and bring the stick up to date with \
                     `groundcrew stick sync` first."
                ),
            )
        }
    };
    let mut page = vec![title, String::new()];
    page.extend(both(standing).lines().map(str::to_owned));
    page.push(String::new());
    let parts = about.split('\n');
    page.extend(parts.flat_map(|part| super::screens::wrapped(part, 78)));
    page.extend([
        String::new(),
        "Date and time are typed in UTC, 2026-11-29 21:40, or as your watch shows them".to_owned(),
        "with the zone, 2026-11-29 23:40 +2. The machine's own clock is not changed.".to_owned(),
        String::new(),
    ]);
    page
}

const fn prompt(doubt: Doubt) -> &'static str {
    match doubt {
        Doubt::Behind => "Enter, or date and time: ",
        Doubt::Ahead => "yes, or date and time: ",
        Doubt::Beyond => "Date and time: ",
    }
}

fn answer(typed: &str, doubt: Doubt, standing: &Standing) -> Answer {
    let typed = typed.trim();
    match doubt {
        Doubt::Behind if typed.is_empty() => Answer::Time(last(standing).0),
        Doubt::Ahead if typed.eq_ignore_ascii_case("yes") => Answer::Time(standing.clock),
        _ => time::spoken(typed).map_or(Answer::Nothing, Answer::Time),
    }
}

/// `2026-11-29 21:40:02 UTC`.
fn spelled(time: UnixTime) -> String {
    time.to_string().replace('T', " ").replace('Z', " UTC")
}

/// How far two times are apart, roughly.
fn apart(one: UnixTime, other: UnixTime) -> String {
    match one.since(other).max(other.since(one)) {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} minutes", seconds / 60),
        seconds @ 7200..172_800 => format!("{} hours", seconds / 3600),
        seconds => format!("{} days", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::site::time::Proof;

    fn at(text: &str) -> UnixTime {
        text.parse().unwrap()
    }

    /// The stick's last time is 20:00; HQ vouches until the year's end.
    fn standing(clock: &str) -> Standing {
        let clock = at(clock);
        let proofs = vec![Proof {
            time: at("2026-11-29T20:00:00Z"),
            by: "the journal's last entry",
        }];
        let mut standing = Standing {
            clock,
            proofs,
            vouched_until: Some(at("2026-12-31T00:00:00Z")),
            credible: false,
        };
        standing.credible = standing.trouble().is_none();
        standing
    }

    #[test]
    fn behind_far_ahead_and_beyond_are_asked_about() {
        for (clock, wanted) in [
            ("2026-11-29T18:00:00Z", Some(Doubt::Behind)),
            ("1980-01-01T00:00:00Z", Some(Doubt::Behind)),
            ("2026-11-29T20:00:00Z", None),
            ("2026-11-30T20:00:00Z", None),
            ("2026-11-30T20:00:01Z", Some(Doubt::Ahead)),
            ("2026-12-20T20:00:01Z", Some(Doubt::Ahead)),
            ("2026-12-31T00:00:00Z", Some(Doubt::Beyond)),
            ("2040-01-01T00:00:00Z", Some(Doubt::Beyond)),
        ] {
            assert_eq!(doubt(&standing(clock)), wanted, "{clock}");
        }
    }

    #[test]
    fn every_question_fits_the_screen_and_shows_both_times() {
        for clock in [
            "1980-01-01T00:00:00Z",
            "2026-12-20T20:00:00Z",
            "2040-01-01T00:00:00Z",
        ] {
            let standing = standing(clock);
            let page = question(&standing, doubt(&standing).unwrap());
            assert!(page.len() < 24, "{page:#?}");
            assert!(page.iter().all(|line| line.len() <= 80), "{page:#?}");
            let page = page.join("\n");
            assert!(page.contains("2026-11-29 20:00:00 UTC (the journal's last entry)"));
            assert!(page.contains(&spelled(at(clock))) && page.contains("date and time"));
        }
    }

    #[test]
    fn what_is_typed_says_what_time_it_is() {
        let (behind, ahead) = (
            standing("1980-01-01T00:00:00Z"),
            standing("2026-12-20T20:00:00Z"),
        );
        let typed = |text| Answer::Time(at(text));
        assert_eq!(
            answer("", Doubt::Behind, &behind),
            typed("2026-11-29T20:00:00Z")
        );
        assert_eq!(
            answer("2026-11-29 21:40", Doubt::Behind, &behind),
            typed("2026-11-29T21:40:00Z")
        );
        assert_eq!(answer("yes", Doubt::Behind, &behind), Answer::Nothing);
        assert_eq!(
            answer("YES ", Doubt::Ahead, &ahead),
            Answer::Time(ahead.clock)
        );
        for nothing in ["", "y", "tomorrow"] {
            assert_eq!(answer(nothing, Doubt::Ahead, &ahead), Answer::Nothing);
            assert_eq!(answer(nothing, Doubt::Beyond, &ahead), Answer::Nothing);
        }
        assert_eq!(
            answer("2026-11-30 01:40 +2", Doubt::Ahead, &ahead),
            typed("2026-11-29T23:40:00Z")
        );
    }

    #[test]
    fn times_are_told_apart_in_words() {
        let base = at("2026-11-29T20:00:00Z");
        let of = |seconds| apart(base.plus(seconds), base);
        assert_eq!(
            [5, 600, 7200, 21 * DAY].map(of),
            ["5 s", "10 minutes", "2 hours", "21 days"]
        );
    }
}
