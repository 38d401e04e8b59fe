//! The publisher's side of delegations: targets files of delegated roles, taken
//! over by a site beside HQ's own targets. One level deep, as HQ delegates.

use super::check::{not_below, parse, verify};
use super::metadata::{DelegatedRole, MetaFile, TargetFile, Targets};
use super::repo::{Repo, RepoError, RepoFile};
use super::signed::{Authority, Metadata};
use crate::Verified;
use crate::ids::shown;

/// The signatures that count on the file of the role `name`, which `delegator`
/// delegates to.
pub fn delegated_authority<'a>(delegator: &'a Targets, name: &str) -> Option<Authority<'a>> {
    let delegations = delegator.delegations.as_ref()?;
    let role = delegations.roles.iter().find(|role| role.name == name)?;
    Some(Authority {
        keys: &delegations.keys,
        role: &role.keys,
    })
}

/// A delegated role's file under the name that clients ask for.
pub fn delegated_file(name: &str, targets: &Targets, bytes: Vec<u8>) -> RepoFile {
    RepoFile {
        path: format!("{}.{name}.json", targets.version),
        bytes,
    }
}

impl Repo {
    /// Takes over the targets file of a role that HQ's targets delegate to. The
    /// site must sign a snapshot before clients see it.
    pub fn import_delegated(&mut self, name: &str, bytes: &[u8]) -> Result<RepoFile, RepoError> {
        let new = self.delegate(name, bytes)?;
        let known = self.delegated.get(name).map(|old| old.content().version);
        let listed = self.snapshot().and_then(|s| s.meta.get(&file_name(name)));
        let known = known.max(listed.map(|meta| meta.version));
        let found = new.content().version.get();
        not_below(name, found, known.map_or(0, |v| v.get()), "this repository")?;
        let file = delegated_file(name, new.content(), bytes.to_vec());
        self.delegated.insert(name.to_owned(), new);
        Ok(file)
    }

    /// The delegated roles whose files are held.
    pub fn delegated(&self) -> impl Iterator<Item = (&str, &Targets)> {
        let held = self.delegated.iter();
        held.map(|(name, role)| (name.as_str(), role.content()))
    }

    /// What is signed of the target `path`, searched as clients search: HQ's
    /// own list, then the roles that it hands the path to.
    pub fn listed(&self, path: &str) -> Option<&TargetFile> {
        let top = self.targets()?;
        top.targets.get(path).or_else(|| {
            let mut roles = self.roles().filter(|(role, _)| role.covers(path));
            roles.find_map(|(_, held)| held.targets.get(path))
        })
    }

    /// Every path that is listed by whoever may list it.
    pub fn listed_paths(&self) -> impl Iterator<Item = &str> {
        let top = self.targets().into_iter().flat_map(|t| t.targets.keys());
        let handed = self.roles().flat_map(|(role, held)| {
            let paths = held.targets.keys();
            paths.filter(move |path| role.covers(path))
        });
        top.chain(handed).map(String::as_str)
    }

    /// Delegations whose files are held, in the order of searching.
    fn roles(&self) -> impl Iterator<Item = (&DelegatedRole, &Targets)> {
        let delegations = self.targets().and_then(|t| t.delegations.as_ref());
        let roles = delegations.into_iter().flat_map(|d| &d.roles);
        roles.filter_map(|role| Some((role, self.delegated.get(&role.name)?.content())))
    }

    /// What a snapshot is to list of them.
    pub(super) fn delegated_meta(&self) -> impl Iterator<Item = (String, MetaFile)> {
        self.delegated.iter().map(|(name, role)| {
            let meta = MetaFile::of(role.content().version, role.bytes());
            (file_name(name), meta)
        })
    }

    /// Files that the targets held no longer vouch for are forgotten: the
    /// delegation was taken back, or has other keys now.
    pub(super) fn forget_undelegated(&mut self) {
        let held = std::mem::take(&mut self.delegated);
        let still = |(name, role): &(String, Verified<Metadata<Targets>>)| {
            self.delegate(name, role.bytes()).is_ok()
        };
        self.delegated = held.into_iter().filter(still).collect();
    }

    fn delegate(&self, name: &str, bytes: &[u8]) -> Result<Verified<Metadata<Targets>>, RepoError> {
        let top = self.targets().ok_or(RepoError::NoTargets)?;
        let authority =
            delegated_authority(top, name).ok_or_else(|| RepoError::NotDelegated(shown(name)))?;
        let file = parse::<Targets>(name, bytes)?;
        let by = || format!("targets version {}", top.version);
        Ok(verify(name, file, &authority, by)?)
    }
}

/// A role's name in a snapshot.
fn file_name(role: &str) -> String {
    format!("{role}.json")
}
