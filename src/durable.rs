//! Files that are there whole or not at all.
//!
//! Owns: writing beside the final name, private to this user, flushing, and renaming; taking the bytes of a file away.
//! Must not know: what is in a file. After a crash the final name holds the old file or the new one; what was being
//! written has a name that nobody reads and is removed by the next attempt.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::crash;

/// Ends the name of a file that is being written.
const UNFINISHED: &str = ".unfinished";
/// Bytes read or written at a time.
const CHUNK: usize = 1 << 20;

/// A file in the making.
pub struct Draft {
    path: PathBuf,
    target: PathBuf,
    file: File,
}

impl Draft {
    /// An empty file beside `target`. What an earlier attempt left there is overwritten and removed.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn new(target: &Path) -> io::Result<Self> {
        let path = unfinished(target);
        destroy(&path)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        Ok(Self { path, target: target.to_owned(), file })
    }

    /// Where it is being written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Flushes it and gives it its name, in place of what has that name now.
    ///
    /// # Errors
    /// What the operating system refused; then the name is as it was.
    pub fn finish(self) -> io::Result<()> {
        self.file.sync_all()?;
        crash::point("durable.before-rename");
        std::fs::rename(&self.path, &self.target)?;
        sync_parent(&self.target)?;
        crash::point("durable.after-rename");
        Ok(())
    }

    /// Removes it.
    ///
    /// # Errors
    /// What the operating system refused.
    pub fn discard(self) -> io::Result<()> {
        destroy(&self.path)
    }
}

/// Whether a name is that of an unfinished file, or of what a database keeps beside one.
pub fn is_unfinished(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.contains(UNFINISHED))
}

/// The name under which a file is written before it has its own.
pub fn unfinished(target: &Path) -> PathBuf {
    let mut name = target.file_name().unwrap_or_default().to_owned();
    name.push(UNFINISHED);
    target.with_file_name(name)
}

/// Makes a directory that only this user may enter, and those above it.
///
/// # Errors
/// What the operating system refused.
pub fn private_dir(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    sync_parent(path)
}

/// Overwrites a file with zeros to its whole length, flushes it and removes it. A file that is not there is no error.
///
/// # Errors
/// What the operating system refused.
pub fn destroy(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let zeros = vec![0; CHUNK];
    let mut left = file.metadata()?.len();
    while left > 0 {
        let now = left.min(CHUNK as u64);
        file.write_all(&zeros[..now as usize])?;
        left -= now;
    }
    file.sync_all()?;
    std::fs::remove_file(path)?;
    sync_parent(path)
}

/// Length and SHA-256 of a file.
///
/// # Errors
/// What the operating system refused.
pub fn measure(path: &Path) -> io::Result<(u64, [u8; 32])> {
    let mut file = File::open(path)?;
    let (mut digest, mut length, mut chunk) = (Sha256::new(), 0, vec![0; CHUNK]);
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            return Ok((length, digest.finalize().into()));
        }
        digest.update(&chunk[..read]);
        length += read as u64;
    }
}

/// Makes names in a file's directory durable.
///
/// # Errors
/// What the operating system refused.
pub fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_draft_is_private_and_replaces_only_when_it_is_finished() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("x");
        std::fs::write(&target, "old").unwrap();
        let mut draft = Draft::new(&target).unwrap();
        draft.file().write_all(b"new").unwrap();
        assert!(is_unfinished(draft.path()));
        assert_eq!(std::fs::read(&target).unwrap(), b"old");
        drop(draft);
        let mut draft = Draft::new(&target).unwrap();
        assert_eq!(draft.file().metadata().unwrap().len(), 0, "nothing of the first attempt");
        draft.file().write_all(b"newer").unwrap();
        draft.finish().unwrap();
        assert_eq!(std::fs::read(&target).unwrap(), b"newer");
        assert_eq!(std::fs::metadata(&target).unwrap().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(measure(&target).unwrap().0, 5);
        destroy(&target).unwrap();
        destroy(&target).unwrap();
        assert!(!target.exists());
    }
}
