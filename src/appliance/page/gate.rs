//! Who may see the page: the set-up code, guesses at it, and who is logged in.
//! In memory only: a restart means a new code.

use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};
use groundcrew_core::Digest;
use groundcrew_core::enroll::Code;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::office::Pace;
use crate::site::keys;

/// How long somebody stays logged in.
const STAY: Duration = Duration::from_secs(12 * 3600);

/// People logged in at once; the one that came first makes room.
const PEOPLE: usize = 32;

/// The longest name somebody may go by.
const NAME: usize = 40;

/// What somebody needs to open the page.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PageCode {
    /// Where the page is: on the first network, the one that people sit on.
    pub url: String,
    /// The same page on each further network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further: Vec<PageAddress>,
    /// The set-up code.
    pub code: Code,
    /// SHA-256 of the TLS key, as browsers show it for a certificate's public
    /// key: pairs of hex digits.
    pub key: String,
}

/// The page on one of several networks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PageAddress {
    /// The network's interface.
    pub interface: String,
    /// Where the page is there.
    pub url: String,
}

/// The page's door.
pub struct Gate {
    url: String,
    further: Vec<PageAddress>,
    key: String,
    inner: Mutex<Inner>,
    guesses: Pace,
}

struct Inner {
    code: Code,
    /// Oldest first.
    people: Vec<Person>,
}

struct Person {
    /// Of the token: the list holds nothing that could be used.
    token: Digest,
    name: String,
    until: Instant,
    /// What came of the last form, told once.
    news: Option<News>,
}

/// What came of a form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// Whether it was done.
    pub good: bool,
    /// In words.
    pub text: String,
}

/// Somebody who is logged in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Visitor {
    /// The name they gave.
    pub name: String,
    /// What their forms must carry.
    pub form: String,
    token: Digest,
}

/// Why somebody is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Another code.
    #[error("This is not the set-up code. It is on the appliance's console.")]
    WrongCode,
    /// No name.
    #[error("Please say who you are: the journal names whoever approves a device.")]
    NoName,
    /// Too many guesses.
    #[error("Too many attempts. Wait a minute, then try again.")]
    TooMany,
    /// No random bytes.
    #[error("The appliance cannot make a session at the moment.")]
    NoRandom,
}

impl Gate {
    /// A door with a new code. `key` is the digest of the TLS key.
    pub fn new(url: String, key: &Digest) -> anyhow::Result<Self> {
        let pairs = key.as_bytes().map(|byte| format!("{byte:02X}"));
        Ok(Self {
            url,
            further: Vec::new(),
            key: pairs.join(":"),
            inner: Mutex::new(Inner {
                code: Code::from_bytes(keys::random()?),
                people: Vec::new(),
            }),
            guesses: Pace::of_guesses(),
        })
    }

    /// The page is at these addresses, too.
    #[must_use]
    pub fn also_at(mut self, further: Vec<PageAddress>) -> Self {
        self.further = further;
        self
    }

    /// What somebody needs to open the page.
    pub fn code(&self) -> PageCode {
        PageCode {
            url: self.url.clone(),
            further: self.further.clone(),
            code: self.lock().code,
            key: self.key.clone(),
        }
    }

    /// Makes a new code, and lets everybody out who came in by the old one.
    pub fn renew(&self) -> anyhow::Result<PageCode> {
        let fresh = Inner {
            code: Code::from_bytes(keys::random()?),
            people: Vec::new(),
        };
        *self.lock() = fresh;
        Ok(self.code())
    }

    /// Lets somebody in who types the code; returns the cookie's value.
    pub fn enter(
        &self,
        peer: IpAddr,
        name: &str,
        typed: &str,
        now: Instant,
    ) -> Result<String, Denied> {
        let name: String = name.split_whitespace().collect::<Vec<_>>().join(" ");
        let name: String = name.chars().filter(|c| !c.is_control()).collect();
        if name.is_empty() {
            return Err(Denied::NoName);
        }
        if !self.guesses.admits(peer, now) {
            return Err(Denied::TooMany);
        }
        let token: [u8; 32] = keys::random().map_err(|_| Denied::NoRandom)?;
        let mut inner = self.lock();
        let typed = typed.parse::<Code>().map_err(|_| Denied::WrongCode)?;
        // Digests are compared, so that the time tells nothing of the code.
        if Digest::of(typed.as_bytes()) != Digest::of(inner.code.as_bytes()) {
            return Err(Denied::WrongCode);
        }
        inner.people.retain(|person| person.until > now);
        if inner.people.len() >= PEOPLE {
            inner.people.remove(0);
        }
        inner.people.push(Person {
            token: Digest::of(&token),
            name: name.chars().take(NAME).collect(),
            until: now + STAY,
            news: None,
        });
        Ok(BASE64URL_NOPAD.encode(&token))
    }

    /// Who brings this cookie.
    pub fn visitor(&self, cookie: &str, now: Instant) -> Option<Visitor> {
        let token: [u8; 32] = BASE64URL_NOPAD
            .decode(cookie.as_bytes())
            .ok()?
            .try_into()
            .ok()?;
        let digest = Digest::of(&token);
        let inner = self.lock();
        let person = inner.people.iter().find(|person| person.token == digest)?;
        let label: &[u8] = b"groundcrew page form";
        (person.until > now).then(|| Visitor {
            name: person.name.clone(),
            form: HEXLOWER.encode(Digest::of_parts(&[label, &token]).as_bytes()),
            token: digest,
        })
    }

    /// Keeps what came of a visitor's form until the page is shown again.
    pub fn tell(&self, visitor: &Visitor, news: News) {
        let mut inner = self.lock();
        let mut people = inner.people.iter_mut();
        if let Some(person) = people.find(|person| person.token == visitor.token) {
            person.news = Some(news);
        }
    }

    /// What came of a visitor's last form, once.
    pub fn news(&self, visitor: &Visitor) -> Option<News> {
        let mut inner = self.lock();
        let mut people = inner.people.iter_mut();
        people
            .find(|person| person.token == visitor.token)?
            .news
            .take()
    }

    /// Lets a visitor out.
    pub fn leave(&self, visitor: &Visitor) {
        self.lock()
            .people
            .retain(|person| person.token != visitor.token);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Every change under the lock is complete at once.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate::new("https://10.0.0.1/".into(), &Digest::of(b"key")).unwrap()
    }

    fn peer(last: u8) -> IpAddr {
        [10, 0, 0, last].into()
    }

    #[test]
    fn only_the_code_opens_and_only_for_a_while() {
        let (gate, now) = (gate(), Instant::now());
        let code = gate.code().code.to_string();
        let enter = |name: &str, code: &str| gate.enter(peer(1), name, code, now);
        assert_eq!(enter(" \t", &code), Err(Denied::NoName));
        assert_eq!(enter("desk", "not a code"), Err(Denied::WrongCode));
        let mut wrong = *gate.code().code.as_bytes();
        wrong[4] ^= 1;
        let wrong = Code::from_bytes(wrong).to_string();
        assert_eq!(enter("desk", &wrong), Err(Denied::WrongCode));
        let cookie = enter("  front \n desk ", &code.to_lowercase()).unwrap();
        let visitor = gate.visitor(&cookie, now).unwrap();
        assert_eq!(visitor.name, "front desk");
        assert!(!visitor.form.contains(&cookie) && visitor.form.len() == 64);
        assert_eq!(gate.visitor(&cookie, now + STAY), None, "it ends by itself");
        assert_eq!(gate.visitor("", now), None);
        gate.leave(&visitor);
        assert_eq!(gate.visitor(&cookie, now), None);
    }

    #[test]
    fn a_new_code_lets_everybody_out() {
        let (gate, now) = (gate(), Instant::now());
        let old = gate.code().code.to_string();
        let cookie = gate.enter(peer(1), "desk", &old, now).unwrap();
        let fresh = gate.renew().unwrap().code.to_string();
        assert_ne!(fresh, old);
        assert_eq!(gate.visitor(&cookie, now), None);
        assert_eq!(
            gate.enter(peer(1), "desk", &old, now),
            Err(Denied::WrongCode)
        );
    }

    #[test]
    fn guesses_are_few_and_shut_nobody_else_out() {
        let (gate, now) = (gate(), Instant::now());
        let guess = |last, now| gate.enter(peer(last), "x", "AAAA-AAAA", now);
        let tried = (0..1000)
            .filter(|_| guess(1, now) != Err(Denied::TooMany))
            .count();
        assert!(tried <= 5, "{tried}");
        let code = gate.code().code.to_string();
        assert!(gate.enter(peer(2), "desk", &code, now).is_ok());
        let later = now + Duration::from_secs(60);
        assert_eq!(guess(1, later), Err(Denied::WrongCode));
    }

    #[test]
    fn the_number_of_people_is_bounded_and_news_are_told_once() {
        let (gate, now) = (gate(), Instant::now());
        let code = gate.code().code.to_string();
        let enter = |last| gate.enter(peer(last), "desk", &code, now).unwrap();
        let first = enter(1);
        let cookies: Vec<String> = (2..=33).map(enter).collect();
        assert_eq!(gate.visitor(&first, now), None);
        let visitor = gate.visitor(&cookies[0], now).unwrap();
        let news = News {
            good: true,
            text: "done".into(),
        };
        gate.tell(&visitor, news.clone());
        assert_eq!(gate.news(&visitor), Some(news));
        assert_eq!(gate.news(&visitor), None);
    }
}
