//! The steps `user` and `hostname`: the system's account files, home folders,
//! keys and names.

use groundcrew_core::bundle::{AccountName, UserStep};
use rustix::fs::FileType;

use super::accounts::{Account, Accounts, Table};
use super::files::{Body, place_file};
use super::owners::MAX_FILE;
use super::{ApplyError, Context, hosts};
use crate::root::{Folder, FsError, Ids, Meta, meta};

/// Most files copied from `/etc/skel`, in one folder of it.
const MAX_SKEL: usize = 256;
/// Largest file copied from `/etc/skel`, bytes.
const MAX_SKEL_FILE: u64 = 1 << 20;
/// Deepest folder copied from `/etc/skel`.
const MAX_SKEL_DEPTH: usize = 8;

/// Makes an account so. True where something is, or would be, changed.
pub fn user(context: &mut Context<'_>, step: &UserStep) -> Result<bool, ApplyError> {
    let (account, accounts_changed) = accounts(context, step)?;
    let ids = Ids {
        uid: account.uid,
        gid: account.gid,
    };
    let home_changed = home(context, &account, ids)?;
    let keys_changed = keys(context, step, &account, ids)?;
    let sudo_changed = step.sudo && sudo(context, &step.name)?;
    Ok(accounts_changed || home_changed || keys_changed || sudo_changed)
}

/// Names the system.
pub fn hostname(context: &mut Context<'_>, name: &str) -> Result<bool, ApplyError> {
    let line = format!("{name}\n").into_bytes();
    let named = edit(context, "hostname", 0o644, |_| line)?;
    let listed = edit(context, "hosts", 0o644, |found| {
        hosts::with_hostname(found.unwrap_or(b"127.0.0.1\tlocalhost\n"), name)
    })?;
    Ok(named || listed)
}

/// Replaces the content of a file in `/etc`, keeping its mode and owner.
fn edit(
    context: &mut Context<'_>,
    name: &str,
    mode: u32,
    change: impl FnOnce(Option<&[u8]>) -> Vec<u8>,
) -> Result<bool, ApplyError> {
    let ids = context.owners()?.root();
    let Some(etc) = context.folder("etc", ids)? else {
        return Ok(true);
    };
    let found = etc.read(name, MAX_FILE)?;
    let wanted = change(found.as_ref().map(|(bytes, _)| bytes.as_slice()));
    if found.as_ref().is_some_and(|(bytes, _)| *bytes == wanted) {
        return Ok(false);
    }
    if !context.planning() {
        let meta = found.map_or(Meta { mode, ids }, |(_, meta)| meta);
        etc.write(name, meta, &wanted)?;
    }
    Ok(true)
}

fn accounts(context: &mut Context<'_>, step: &UserStep) -> Result<(Account, bool), ApplyError> {
    let missing = |file| ApplyError::NoAccounts(file);
    let etc = context.root.folder("etc")?.ok_or(missing("passwd"))?;
    let read = |file: &'static str| -> Result<Option<(Table, Meta)>, FsError> {
        Ok(etc
            .read(file, MAX_FILE)?
            .map(|(bytes, meta)| (Table::parse(&bytes), meta)))
    };
    let (passwd, passwd_meta) = read("passwd")?.ok_or(missing("passwd"))?;
    let (shadow, shadow_meta) = read("shadow")?.ok_or(missing("shadow"))?;
    let (group, group_meta) = read("group")?.ok_or(missing("group"))?;
    let gshadow = read("gshadow")?;
    let gshadow_meta = gshadow.as_ref().map(|(_, meta)| *meta);
    let before = Accounts {
        passwd,
        shadow,
        group,
        gshadow: gshadow.map(|(table, _)| table),
    };
    let mut after = before.clone();
    let account = after.ensure(step)?;
    let changed = before != after;
    if changed && !context.planning() {
        // a name appears in passwd last, so that it is never there half
        replace(&etc, "group", group_meta, &before.group, &after.group)?;
        if let (Some(meta), Some(old), Some(new)) = (gshadow_meta, &before.gshadow, &after.gshadow)
        {
            replace(&etc, "gshadow", meta, old, new)?;
        }
        replace(&etc, "shadow", shadow_meta, &before.shadow, &after.shadow)?;
        replace(&etc, "passwd", passwd_meta, &before.passwd, &after.passwd)?;
        context.forget_owners();
    }
    Ok((account, changed))
}

fn replace(
    etc: &Folder<'_>,
    name: &str,
    meta: Meta,
    before: &Table,
    after: &Table,
) -> Result<(), FsError> {
    if before == after {
        Ok(())
    } else {
        etc.write(name, meta, &after.to_bytes())
    }
}

/// Makes the home folder where it is missing, from `/etc/skel`; one that is
/// there is left as it is.
fn home(context: &mut Context<'_>, account: &Account, ids: Ids) -> Result<bool, ApplyError> {
    let path = account.home.trim_matches('/');
    let Some((parent, name)) = path
        .rsplit_once('/')
        .or(Some(("", path)))
        .filter(|(_, name)| !name.is_empty())
    else {
        return Ok(false);
    };
    let root_ids = context.owners()?.root();
    let Some(folder) = context.folder(parent, root_ids)? else {
        return Ok(true);
    };
    if context.root.folder(path)?.is_some() {
        return Ok(false);
    }
    if context.planning() {
        return Ok(true);
    }
    let temporary = format!(".{name}.groundcrew-tmp");
    folder.remove_all(&temporary)?;
    let made = folder.new_folder(&temporary, 0o700, Some(ids))?;
    let copied = match context.root.folder("etc/skel")? {
        Some(skel) => copy_skel(&skel, &made, ids, MAX_SKEL_DEPTH),
        None => Ok(()),
    };
    if let Err(err) = copied.and_then(|()| folder.rename(&temporary, name)) {
        let _ = folder.remove_all(&temporary);
        return Err(err.into());
    }
    Ok(true)
}

fn copy_skel(from: &Folder<'_>, to: &Folder<'_>, ids: Ids, depth: usize) -> Result<(), FsError> {
    for name in from.names(MAX_SKEL)? {
        let Some(stat) = from.look(&name)? else {
            continue;
        };
        let wanted = Meta { ids, ..meta(&stat) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                if let Some((bytes, _)) = from.read(&name, MAX_SKEL_FILE)? {
                    to.write(&name, wanted, &bytes)?;
                }
            }
            FileType::Directory if depth > 0 => {
                let inner = to.new_folder(&name, wanted.mode, Some(ids))?;
                copy_skel(&from.folder(&name)?, &inner, ids, depth - 1)?;
            }
            FileType::Symlink => {
                let target = from
                    .link_target(&name)?
                    .and_then(|target| String::from_utf8(target).ok());
                if let Some(target) = target {
                    to.symlink(&name, &target, ids)?;
                }
            }
            _ => {}
        }
    }
    Ok(())
}

/// Writes `~/.ssh/authorized_keys`. Nothing in the home folder is followed:
/// whoever owned it could have put a link there.
fn keys(
    context: &mut Context<'_>,
    step: &UserStep,
    account: &Account,
    ids: Ids,
) -> Result<bool, ApplyError> {
    if step.ssh_authorized_keys.is_empty() {
        return Ok(false);
    }
    let Some(home) = context.root.folder(account.home.trim_matches('/'))? else {
        return Ok(true);
    };
    let content: String = step
        .ssh_authorized_keys
        .iter()
        .map(|key| format!("{key}\n"))
        .collect();
    let (folder_meta, file_meta) = (Meta { mode: 0o700, ids }, Meta { mode: 0o600, ids });
    let ssh = match home.look(".ssh")? {
        Some(stat) if meta(&stat) == folder_meta => home.folder(".ssh")?,
        _ if context.planning() => return Ok(true),
        Some(_) => {
            let ssh = home.folder(".ssh")?;
            ssh.set_meta(folder_meta)?;
            ssh
        }
        None => home.new_folder(".ssh", 0o700, Some(ids))?,
    };
    let body = Body::Bytes(content.as_bytes());
    place_file(context, &ssh, "authorized_keys", file_meta, body)
}

/// Lets `sudo` ask for no password: the account has none.
fn sudo(context: &mut Context<'_>, name: &AccountName) -> Result<bool, ApplyError> {
    let ids = context.owners()?.root();
    let Some(folder) = context.folder("etc/sudoers.d", ids)? else {
        return Ok(true);
    };
    let file = format!("groundcrew-{name}");
    let content = format!("{name} ALL=(ALL:ALL) NOPASSWD: ALL\n").into_bytes();
    let wanted = Meta { mode: 0o440, ids };
    place_file(context, &folder, &file, wanted, Body::Bytes(&content))
}
