//! Targets of delegated roles: the pre-order depth-first search of
//! specification 5.6.7, pausing wherever a role's file must be fetched.

use std::collections::{BTreeMap, BTreeSet};

use super::check::by;
use super::client::{Client, Poll};
use super::error::TufError;
use super::metadata::{DelegatedRole, TargetFile, Targets};
use super::signed::{Authority, Metadata};
use crate::Verified;
use crate::ids::shown;

/// Searches of one client: the roles loaded so far, the search under way, and
/// what earlier ones found.
#[derive(Clone, Debug, Default)]
pub(super) struct Search {
    /// Each role as verified for one delegator. A role that two others
    /// delegate to is verified for each: their keys may differ.
    loaded: Vec<Loaded>,
    found: BTreeMap<String, TargetFile>,
    current: Option<Current>,
}

#[derive(Clone, Debug)]
struct Loaded {
    name: String,
    parent: Parent,
    role: Verified<Metadata<Targets>>,
}

/// Who delegates: the top-level targets, or a loaded role.
type Parent = Option<usize>;

#[derive(Clone, Debug)]
struct Current {
    path: String,
    /// Roles still to visit, the next one last.
    stack: Vec<(String, Parent)>,
    visited: BTreeSet<String>,
}

impl Client {
    /// Begins to look for the target `path`; then poll and feed until done,
    /// and ask [`Client::target`]. Without delegations nothing is fetched. An
    /// earlier search that is not over is given up.
    pub fn want(&mut self, path: &str) {
        self.search.current = None;
        let top = self.targets.as_ref().filter(|_| self.is_current());
        let Some(top) = top else { return };
        if self.target(path).is_some() {
            return;
        }
        let mut current = Current {
            path: path.to_owned(),
            stack: Vec::new(),
            visited: BTreeSet::new(),
        };
        push_children(&mut current, top.content(), None);
        self.search.current = Some(current);
        self.advance();
    }

    pub(super) fn found(&self, path: &str) -> Option<&TargetFile> {
        self.search.found.get(path)
    }

    pub(super) fn poll_search(&self) -> Poll {
        let next = self.search.current.as_ref().and_then(|c| c.stack.last());
        let Some((name, _)) = next else {
            return Poll::Done;
        };
        match self.listed(name) {
            Ok(meta) => self.file(name, meta, self.limits.targets),
            Err(_) => Poll::Done,
        }
    }

    pub(super) fn search_role(&self) -> String {
        let next = self.search.current.as_ref().and_then(|c| c.stack.last());
        next.map(|(name, _)| shown(name)).unwrap_or_default()
    }

    pub(super) fn feed_search(&mut self, bytes: &[u8]) -> Result<(), TufError> {
        let next = self.search.current.as_ref().and_then(|c| c.stack.last());
        let (name, parent) = next.cloned().ok_or(TufError::NotAsked)?;
        let role = self.delegate(&name, parent, bytes)?;
        self.stored.delegated.insert(name.clone(), bytes.to_vec());
        self.search.loaded.push(Loaded { name, parent, role });
        self.advance();
        Ok(())
    }

    /// Visits roles that are loaded or stored, up to one that must be fetched.
    fn advance(&mut self) {
        while let Some(mut current) = self.search.current.take() {
            let Some((name, parent)) = current.stack.last().cloned() else {
                return;
            };
            // 5.6.7.1: each role once, and not more than the limit.
            if current.visited.contains(&name) {
                current.stack.pop();
                self.search.current = Some(current);
                continue;
            }
            let limit = usize::try_from(self.limits.delegations).unwrap_or(usize::MAX);
            // A role that the snapshot does not list ends the search, as one
            // that cannot be downloaded does.
            if current.visited.len() >= limit || self.listed(&name).is_err() {
                return;
            }
            let Some(index) = self.load(&name, parent) else {
                self.search.current = Some(current);
                return;
            };
            current.stack.pop();
            current.visited.insert(name);
            let Some(loaded) = self.search.loaded.get(index) else {
                return;
            };
            let targets = loaded.role.content();
            if let Some(target) = targets.targets.get(&current.path) {
                self.search.found.insert(current.path, target.clone());
                return;
            }
            push_children(&mut current, targets, Some(index));
            self.search.current = Some(current);
        }
    }

    /// The role as verified for this delegator, from memory or from the disk.
    fn load(&mut self, name: &str, parent: Parent) -> Option<usize> {
        let known = |l: &Loaded| l.name == name && l.parent == parent;
        if let Some(index) = self.search.loaded.iter().position(known) {
            return Some(index);
        }
        let role = self
            .delegate(name, parent, self.stored.delegated.get(name)?)
            .ok()?;
        let name = name.to_owned();
        self.search.loaded.push(Loaded { name, parent, role });
        self.search.loaded.len().checked_sub(1)
    }

    fn delegate(
        &self,
        name: &str,
        parent: Parent,
        bytes: &[u8],
    ) -> Result<Verified<Metadata<Targets>>, TufError> {
        let (parent_name, targets) = match parent {
            None => ("targets", self.targets()),
            Some(index) => match self.search.loaded.get(index) {
                Some(loaded) => (loaded.name.as_str(), Some(loaded.role.content())),
                None => ("", None),
            },
        };
        let targets = targets.ok_or(TufError::NotAsked)?;
        let delegations = targets.delegations.as_ref().ok_or(TufError::NotAsked)?;
        let mut roles = delegations.roles.iter();
        let role = roles.find(|r| r.name == name).ok_or(TufError::NotAsked)?;
        let authority = Authority {
            keys: &delegations.keys,
            role: &role.keys,
        };
        self.checked_delegate(name, bytes, &authority, || by(parent_name, targets))
    }
}

/// 5.6.7.2: the delegations that cover the path, the first one on top. After a
/// terminating one, neither later ones nor those of other roles are asked.
fn push_children(current: &mut Current, targets: &Targets, parent: Parent) {
    let roles = targets.delegations.iter().flat_map(|d| &d.roles);
    let mut children = Vec::new();
    for role in roles.filter(|role: &&DelegatedRole| role.covers(&current.path)) {
        children.push((role.name.clone(), parent));
        if role.terminating {
            current.stack.clear();
            break;
        }
    }
    current.stack.extend(children.into_iter().rev());
}
