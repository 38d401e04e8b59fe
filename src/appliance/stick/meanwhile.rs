//! Work that nobody waits for yet.

use std::thread::{self, JoinHandle, Result as Joined, ScopedJoinHandle};

use anyhow::Context as _;

/// What a thread of its own makes meanwhile. Dropped, it is waited for, too: it
/// may have files to take away.
pub struct Meanwhile<T> {
    work: Option<JoinHandle<anyhow::Result<T>>>,
    made: Option<T>,
}

impl<T: Send + 'static> Meanwhile<T> {
    /// Begins with it.
    pub fn begin(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> Self {
        Self {
            work: Some(thread::spawn(work)),
            made: None,
        }
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Those of the work, the first time.
    pub fn get(&mut self) -> anyhow::Result<&T> {
        if let Some(work) = self.work.take() {
            self.made = Some(result(work.join())?);
        }
        self.made.as_ref().context("it could not be made")
    }
}

impl<T> Drop for Meanwhile<T> {
    fn drop(&mut self) {
        if let Some(work) = self.work.take() {
            let _ = work.join();
        }
    }
}

/// What a thread that ends with its scope has made.
///
/// # Errors
/// Those of its work.
pub fn joined<T>(work: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    result(work.join())
}

fn result<T>(joined: Joined<anyhow::Result<T>>) -> anyhow::Result<T> {
    let lost = |_| anyhow::anyhow!("a part of the work ended by a fault; this is a bug");
    joined.map_err(lost)?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_made_once_and_its_error_is_told() {
        let mut made = Meanwhile::begin(|| Ok(7));
        assert_eq!(*made.get().unwrap(), 7);
        assert_eq!(*made.get().unwrap(), 7);
        let mut failed = Meanwhile::<u8>::begin(|| anyhow::bail!("no paper"));
        assert_eq!(failed.get().unwrap_err().to_string(), "no paper");
        assert!(failed.get().is_err());
    }
}
