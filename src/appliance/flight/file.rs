//! Stories on disk: a small database of its own, written in batches. Losing the
//! last seconds of it costs nobody anything, so nothing waits for its sync.

use std::path::{Path, PathBuf};

use groundcrew_netboot::story::{Story, StoryId};
use rusqlite::{Connection, params};

const TABLE: &str = "
CREATE TABLE IF NOT EXISTS story (
  id   INTEGER PRIMARY KEY,
  body TEXT NOT NULL          -- JSON
) STRICT;
";

/// The file, open; or not, and then stories live in memory only.
pub struct StoryFile {
    db: Option<Connection>,
}

impl StoryFile {
    /// Opens `path`, or makes it, and reads what is there. One that is damaged
    /// is put aside under another name.
    pub fn open(path: &Path) -> (Self, Vec<(StoryId, Story)>) {
        match read(path) {
            Ok((db, stories)) => (Self { db: Some(db) }, stories),
            Err(error) => {
                tracing::warn!(
                    "{} cannot be used and is put aside: {error}",
                    path.display()
                );
                let aside: PathBuf = path.with_extension("broken");
                let moved = std::fs::rename(path, &aside);
                let db = moved.ok().and_then(|()| read(path).ok()).map(|(db, _)| db);
                (Self { db }, Vec::new())
            }
        }
    }

    /// Puts changed stories in place of what was kept, and forgets others.
    pub fn write(
        &mut self,
        changed: &[(StoryId, Story)],
        gone: &[StoryId],
    ) -> rusqlite::Result<()> {
        let Some(db) = &mut self.db else {
            return Ok(());
        };
        let transaction = db.transaction()?;
        {
            let mut put = transaction
                .prepare_cached("INSERT OR REPLACE INTO story (id, body) VALUES (?1, ?2)")?;
            let mut drop = transaction.prepare_cached("DELETE FROM story WHERE id = ?1")?;
            for id in gone {
                drop.execute(params![number(*id)])?;
            }
            for (id, story) in changed {
                let body = serde_json::to_string(story)
                    .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
                put.execute(params![number(*id), body])?;
            }
        }
        transaction.commit()
    }
}

#[cfg(test)]
impl StoryFile {
    /// Takes nothing more, as on a full disk.
    pub fn refuse(&self, on: bool) {
        let db = self.db.as_ref().unwrap();
        db.pragma_update(None, "query_only", on).unwrap();
    }
}

fn number(id: StoryId) -> i64 {
    i64::try_from(id).unwrap_or(i64::MAX)
}

fn read(path: &Path) -> rusqlite::Result<(Connection, Vec<(StoryId, Story)>)> {
    let db = Connection::open(path)?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "NORMAL")?;
    db.execute_batch(TABLE)?;
    let mut stories = Vec::new();
    {
        let mut statement = db.prepare("SELECT id, body FROM story")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let (id, body): (i64, String) = (row.get(0)?, row.get(1)?);
            // A story of another version is not worth failing for.
            if let (Ok(id), Ok(story)) = (StoryId::try_from(id), serde_json::from_str(&body)) {
                stories.push((id, story));
            }
        }
    }
    Ok((db, stories))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_come_back_and_rubbish_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("flight.db");
        let mut story = Story::default();
        story.names.serial = Some("SYNTH-1".to_owned());
        let (mut file, none) = StoryFile::open(&path);
        assert!(none.is_empty());
        file.write(&[(7, story.clone()), (8, story.clone())], &[])
            .unwrap();
        file.write(&[], &[8]).unwrap();
        drop(file);
        assert_eq!(StoryFile::open(&path).1, [(7, story)]);
        std::fs::write(&path, vec![7; 5000]).unwrap();
        let _ = std::fs::remove_file(folder.path().join("flight.db-wal"));
        let (mut file, none) = StoryFile::open(&path);
        assert!(none.is_empty() && folder.path().join("flight.broken").exists());
        file.write(&[(1, Story::default())], &[]).unwrap();
    }
}
