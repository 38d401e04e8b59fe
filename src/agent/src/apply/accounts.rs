//! `/etc/passwd`, `shadow`, `group` and `gshadow` as text: read, looked up,
//! extended. No effects here. Lines that are not touched stay byte for byte,
//! also those that this code does not understand.

use std::collections::BTreeSet;

use groundcrew_core::bundle::{AccountName, UserStep};

/// First and last number dealt out for people (Debian policy 9.2.2).
const FIRST: u32 = 1000;
const LAST: u32 = 59_999;

/// A file of lines of fields between colons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    lines: Vec<Vec<u8>>,
    ends_with_newline: bool,
}

/// The four files together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Accounts {
    /// `name:x:uid:gid:gecos:home:shell`
    pub passwd: Table,
    /// `name:hash:changed:min:max:warn:inactive:expire:`
    pub shadow: Table,
    /// `name:x:gid:members`
    pub group: Table,
    /// `name:!:administrators:members`; not every system has it.
    pub gshadow: Option<Table>,
}

/// An account as `/etc/passwd` tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The user's number.
    pub uid: u32,
    /// The primary group's number.
    pub gid: u32,
    /// The home folder, absolute.
    pub home: String,
}

/// An account cannot be made as the step says.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    /// The account exists with another number.
    #[error(
        "the user `{name}` exists with uid {found}, not {wanted}: its files would be left behind; leave out `uid`"
    )]
    OtherUid {
        /// The login name.
        name: AccountName,
        /// What it has.
        found: u32,
        /// What the step says.
        wanted: u32,
    },
    /// The number belongs to somebody else.
    #[error("uid {0} is taken on this device: leave out `uid`, or take another")]
    TakenUid(u32),
    /// A supplementary group does not exist.
    #[error(
        "there is no group `{0}` on this device: install what brings it, or make it by a command before this step"
    )]
    NoGroup(AccountName),
    /// The line of an existing account cannot be read.
    #[error("the line of `{0}` in /etc/{1} cannot be read")]
    Unreadable(AccountName, &'static str),
    /// No number is left.
    #[error("no free id from 1000 to 59999")]
    Full,
}

impl Table {
    /// Splits the file into lines.
    pub fn parse(bytes: &[u8]) -> Self {
        let ends_with_newline = bytes.last() == Some(&b'\n');
        let body = bytes.strip_suffix(b"\n").unwrap_or(bytes);
        let lines = if bytes.is_empty() {
            Vec::new()
        } else {
            body.split(|&b| b == b'\n').map(<[u8]>::to_vec).collect()
        };
        Self {
            lines,
            ends_with_newline,
        }
    }

    /// The file again.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = self.lines.join(&b'\n');
        if self.ends_with_newline {
            bytes.push(b'\n');
        }
        bytes
    }

    /// The fields of the first line of `name`.
    pub fn row(&self, name: &str) -> Option<Vec<&[u8]>> {
        self.lines
            .iter()
            .find(|line| first_field(line) == name.as_bytes())
            .map(|line| fields(line))
    }

    /// Every pair of name and number, where `column` counts from 0.
    pub fn numbers(&self, column: usize) -> impl Iterator<Item = (&[u8], u32)> {
        self.lines
            .iter()
            .filter_map(move |line| Some((first_field(line), number(&fields(line), column)?)))
    }

    fn has(&self, name: &str) -> bool {
        self.lines
            .iter()
            .any(|line| first_field(line) == name.as_bytes())
    }

    fn append(&mut self, line: String) {
        self.lines.push(line.into_bytes());
        self.ends_with_newline = true;
    }

    fn set_field(&mut self, name: &str, column: usize, value: &[u8]) {
        let line = self
            .lines
            .iter_mut()
            .find(|line| first_field(line) == name.as_bytes());
        let Some(line) = line else { return };
        let mut row = fields(line);
        if let Some(place) = row.get_mut(column).filter(|place| **place != value) {
            *place = value;
            *line = row.join(&b':');
        }
    }

    /// Adds `member` to a comma-separated field.
    fn add_member(&mut self, name: &str, column: usize, member: &str) {
        let Some(row) = self.row(name) else { return };
        let Some(&members) = row.get(column) else {
            return;
        };
        if members
            .split(|&b| b == b',')
            .any(|m| m == member.as_bytes())
        {
            return;
        }
        let joined = match members {
            [] => member.as_bytes().to_vec(),
            some => [some, b",", member.as_bytes()].concat(),
        };
        self.set_field(name, column, &joined);
    }
}

fn fields(line: &[u8]) -> Vec<&[u8]> {
    line.split(|&b| b == b':').collect()
}

fn first_field(line: &[u8]) -> &[u8] {
    line.split(|&b| b == b':').next().unwrap_or_default()
}

fn number(row: &[&[u8]], column: usize) -> Option<u32> {
    std::str::from_utf8(row.get(column)?).ok()?.parse().ok()
}

impl Accounts {
    /// The account of `name`, where it exists.
    pub fn account(&self, name: &AccountName) -> Result<Option<Account>, AccountError> {
        let Some(row) = self.passwd.row(name.as_str()) else {
            return Ok(None);
        };
        let unreadable = || AccountError::Unreadable(name.clone(), "passwd");
        let home = row
            .get(5)
            .and_then(|home| std::str::from_utf8(home).ok())
            .filter(|home| home.starts_with('/'));
        Ok(Some(Account {
            uid: number(&row, 2).ok_or_else(unreadable)?,
            gid: number(&row, 3).ok_or_else(unreadable)?,
            home: home.ok_or_else(unreadable)?.to_owned(),
        }))
    }

    /// Makes the account what the step says. What the step does not mention of
    /// an existing account stays. Run twice, the second time changes nothing.
    pub fn ensure(&mut self, step: &UserStep) -> Result<Account, AccountError> {
        let account = match self.account(&step.name)? {
            Some(found) => self.adjust(step, found)?,
            None => self.create(step)?,
        };
        if !self.shadow.has(step.name.as_str()) {
            // locked: no password fits; the empty date of change turns ageing off
            self.shadow
                .append(format!("{}:!*::0:99999:7:::", step.name));
        }
        self.join_groups(step)?;
        Ok(account)
    }

    fn adjust(&mut self, step: &UserStep, found: Account) -> Result<Account, AccountError> {
        let name = step.name.as_str();
        if let Some(uid) = step.uid.filter(|uid| uid.number() != found.uid) {
            return Err(AccountError::OtherUid {
                name: step.name.clone(),
                found: found.uid,
                wanted: uid.number(),
            });
        }
        let columns = [
            (4, step.gecos.as_ref().map(|gecos| gecos.as_str())),
            (5, step.home.as_ref().map(|home| home.as_str())),
            (6, step.shell.as_ref().map(|shell| shell.as_str())),
        ];
        for (column, value) in columns {
            if let Some(value) = value {
                self.passwd.set_field(name, column, value.as_bytes());
            }
        }
        let home = step
            .home
            .as_ref()
            .map_or(found.home, |home| home.as_str().to_owned());
        Ok(Account { home, ..found })
    }

    fn create(&mut self, step: &UserStep) -> Result<Account, AccountError> {
        let name = step.name.as_str();
        let uids: BTreeSet<u32> = self.passwd.numbers(2).map(|(_, uid)| uid).collect();
        let gids: BTreeSet<u32> = self.group.numbers(2).map(|(_, gid)| gid).collect();
        // a group of this name alone: left by a run that was cut short
        let own = self.group.row(name).and_then(|row| number(&row, 2));
        let fresh = |id: &u32| !uids.contains(id) && (!gids.contains(id) || own == Some(*id));
        let uid = match step.uid {
            Some(uid) if uids.contains(&uid.number()) => {
                return Err(AccountError::TakenUid(uid.number()));
            }
            Some(uid) => uid.number(),
            None => own
                .filter(|id| (FIRST..=LAST).contains(id) && fresh(id))
                .or_else(|| (FIRST..=LAST).find(fresh))
                .ok_or(AccountError::Full)?,
        };
        let gid = self.own_group(step, uid, &gids)?;
        let gecos = step.gecos.as_ref().map_or("", |gecos| gecos.as_str());
        let home = step
            .home
            .as_ref()
            .map_or(format!("/home/{name}"), |home| home.as_str().to_owned());
        let shell = step
            .shell
            .as_ref()
            .map_or("/bin/bash", |shell| shell.as_str());
        self.passwd
            .append(format!("{name}:x:{uid}:{gid}:{gecos}:{home}:{shell}"));
        Ok(Account { uid, gid, home })
    }

    /// The group of the same name, made where it is missing.
    fn own_group(
        &mut self,
        step: &UserStep,
        uid: u32,
        gids: &BTreeSet<u32>,
    ) -> Result<u32, AccountError> {
        let name = step.name.as_str();
        let gid = match self.group.row(name) {
            Some(row) => number(&row, 2)
                .ok_or_else(|| AccountError::Unreadable(step.name.clone(), "group"))?,
            None => {
                let free = |id: &u32| !gids.contains(id);
                let gid = Some(uid)
                    .filter(free)
                    .or_else(|| (FIRST..=LAST).find(free))
                    .ok_or(AccountError::Full)?;
                self.group.append(format!("{name}:x:{gid}:"));
                gid
            }
        };
        if let Some(gshadow) = self.gshadow.as_mut().filter(|table| !table.has(name)) {
            gshadow.append(format!("{name}:!::"));
        }
        Ok(gid)
    }

    fn join_groups(&mut self, step: &UserStep) -> Result<(), AccountError> {
        let sudo = step.sudo.then(|| "sudo".parse().ok()).flatten();
        for group in step.groups.iter().chain(sudo.as_ref()) {
            if !self.group.has(group.as_str()) {
                return Err(AccountError::NoGroup(group.clone()));
            }
            self.group.add_member(group.as_str(), 3, step.name.as_str());
            if let Some(gshadow) = &mut self.gshadow {
                gshadow.add_member(group.as_str(), 3, step.name.as_str());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use groundcrew_core::bundle::{Action, Source};
    use proptest::prelude::*;

    fn step(keys: &str) -> UserStep {
        let text =
            format!("name = \"b\"\nversion = \"1\"\n[[step]]\nname = \"s\"\n[step.user]\n{keys}");
        let source = Source::parse("f", &text).unwrap();
        match source.steps.into_iter().next().unwrap().action {
            Action::User(step) => step,
            other => panic!("{other:?}"),
        }
    }

    fn debian() -> Accounts {
        Accounts {
            passwd: Table::parse(
                b"root:x:0:0:root:/root:/bin/bash\nold:x:1000:1000:Old,,,:/home/old:/bin/sh\n",
            ),
            shadow: Table::parse(b"root:*:19000:0:99999:7:::\nold:$y$x:19000:0:99999:7:::\n"),
            group: Table::parse(b"root:x:0:\nsudo:x:27:old\nadm:x:4:\nold:x:1000:\n"),
            gshadow: Some(Table::parse(b"root:*::\nsudo:*::old\nadm:*::\nold:!::\n")),
        }
    }

    fn text(table: &Table) -> String {
        String::from_utf8(table.to_bytes()).unwrap()
    }

    #[test]
    fn a_new_account_is_locked_and_in_its_groups() {
        let mut all = debian();
        let wish = step("name = \"crew\"\ngecos = \"The crew\"\ngroups = [\"adm\"]\nsudo = true");
        let account = all.ensure(&wish).unwrap();
        assert_eq!(
            account,
            Account {
                uid: 1001,
                gid: 1001,
                home: "/home/crew".into()
            }
        );
        assert!(text(&all.passwd).ends_with("\ncrew:x:1001:1001:The crew:/home/crew:/bin/bash\n"));
        assert!(text(&all.shadow).ends_with("\ncrew:!*::0:99999:7:::\n"));
        assert_eq!(
            text(&all.group),
            "root:x:0:\nsudo:x:27:old,crew\nadm:x:4:crew\nold:x:1000:\ncrew:x:1001:\n"
        );
        assert_eq!(
            text(all.gshadow.as_ref().unwrap()),
            "root:*::\nsudo:*::old,crew\nadm:*::crew\nold:!::\ncrew:!::\n"
        );
        let once = all.clone();
        all.ensure(&wish).unwrap();
        assert_eq!(all, once);
    }

    #[test]
    fn an_existing_account_keeps_what_is_not_mentioned() {
        let mut all = debian();
        all.ensure(&step("name = \"old\"\nshell = \"/bin/bash\""))
            .unwrap();
        assert!(text(&all.passwd).contains("old:x:1000:1000:Old,,,:/home/old:/bin/bash\n"));
        assert_eq!(all.shadow, debian().shadow);
        let root = all.ensure(&step("name = \"root\"")).unwrap();
        assert_eq!((root.uid, root.home.as_str()), (0, "/root"));
    }

    #[test]
    fn what_cannot_be_is_said() {
        for (keys, why) in [
            (
                "name = \"old\"\nuid = 1001",
                "exists with uid 1000, not 1001",
            ),
            ("name = \"new\"\nuid = 1000", "uid 1000 is taken"),
            ("name = \"new\"\ngroups = [\"docker\"]", "no group `docker`"),
        ] {
            let told = debian().ensure(&step(keys)).unwrap_err().to_string();
            assert!(told.contains(why), "{told}");
        }
        let mut broken = debian();
        broken.passwd = Table::parse(b"old:x:1000\n");
        assert!(broken.ensure(&step("name = \"old\"")).is_err());
    }

    #[test]
    fn an_interrupted_run_is_completed() {
        let mut whole = debian();
        let wish = step("name = \"crew\"\ngroups = [\"adm\"]");
        whole.ensure(&wish).unwrap();
        let mut partly = Accounts {
            group: whole.group.clone(),
            ..debian()
        };
        partly.ensure(&wish).unwrap();
        assert_eq!(
            (&partly.passwd, &partly.group),
            (&whole.passwd, &whole.group)
        );
    }

    proptest! {
        #[test]
        fn untouched_bytes_stay(bytes in proptest::collection::vec(prop_oneof![Just(b':'), Just(b'\n'), any::<u8>()], 0..300)) {
            prop_assert_eq!(Table::parse(&bytes).to_bytes(), bytes);
        }

        #[test]
        fn strange_lines_survive_an_added_account(lines in proptest::collection::vec("[a-z+#: ,0-9é-]{0,30}", 0..12)) {
            let foreign = lines.join("\n");
            let table = Table::parse(foreign.as_bytes());
            let mut all = Accounts { passwd: table.clone(), shadow: table.clone(), group: table.clone(), gshadow: Some(table) };
            let wish = step("name = \"zz_new\"");
            if all.ensure(&wish).is_ok() {
                for table in [&all.passwd, &all.shadow, &all.group] {
                    prop_assert!(text(table).starts_with(&foreign));
                    prop_assert!(text(table).ends_with('\n'));
                }
                let once = all.clone();
                all.ensure(&wish).unwrap();
                prop_assert_eq!(all, once);
            }
        }

        #[test]
        fn new_numbers_are_nobodys(taken in proptest::collection::btree_set(1000u32..1010, 0..10)) {
            let rows: String = taken.iter().map(|id| format!("u{id}:x:{id}:{id}::/:/\n")).collect();
            let mut all = debian();
            all.passwd = Table::parse(rows.as_bytes());
            let account = all.ensure(&step("name = \"crew\"")).unwrap();
            prop_assert!(!taken.contains(&account.uid) && account.uid != 0);
        }
    }
}
