//! The directory, as far as the cache needs one: so that a test can have a disk that
//! fails at any step.

use std::fmt::Debug;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Names are of files of the one directory.
pub(super) trait Disk: Send + Sync + Debug {
    /// Files and how long they are. Nothing but plain files.
    fn list(&self) -> io::Result<Vec<(String, u64)>>;
    /// A new file, for this user alone.
    fn create(&self, name: &str) -> io::Result<Box<dyn Output>>;
    fn open(&self, name: &str) -> io::Result<Arc<dyn Input>>;
    /// In the place of what was there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// What was created, renamed and removed is so after a crash.
    fn sync(&self) -> io::Result<()>;
    /// This process alone writes here.
    fn lock(&self) -> io::Result<Lock>;
}

/// A file that grows.
pub(super) trait Output: Send + Debug {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// What was written is so after a crash.
    fn sync(&mut self) -> io::Result<()>;
}

/// A file that is read.
pub(super) trait Input: Send + Sync + Debug {
    fn len(&self) -> io::Result<u64>;
    /// Fills `into` with what stands at `at`.
    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()>;
}

/// Held as long as it lives.
#[derive(Debug)]
#[expect(dead_code, reason = "the lock ends with the file")]
pub(super) struct Lock(Option<File>);

impl Lock {
    #[cfg(test)]
    pub(super) fn none() -> Self {
        Self(None)
    }
}

/// A directory of ours within the one that the operator named: the format's version
/// is its name, so that an older or newer program finds its own files as it left them.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(named: &Path, version: u16) -> Self {
        Self(named.join(format!("v{version}")))
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Disk for Folder {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let (true, Some(name)) = (entry.file_type()?.is_file(), entry.file_name().to_str()) {
                // Another process may have removed it since.
                files.extend(entry.metadata().ok().map(|meta| (name.to_owned(), meta.len())));
            }
        }
        Ok(files)
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.at(name))?;
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Input>> {
        Ok(Arc::new(File::open(self.at(name))?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.at(from), self.at(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.at(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.0)?.sync_all()
    }

    fn lock(&self) -> io::Result<Lock> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)?;
        if let Some(parent) = self.0.parent() {
            // That may belong to somebody else.
            let _ = File::open(parent).and_then(|parent| parent.sync_all());
        }
        if fs::metadata(&self.0)?.permissions().mode() & 0o077 != 0 {
            fs::set_permissions(&self.0, fs::Permissions::from_mode(0o700))?;
        }
        let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(self.at("lock"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Lock(Some(lock))),
            Err(TryLockError::Error(error)) => Err(error),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::ResourceBusy, "another process writes there"))
            }
        }
    }
}

impl Output for File {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write_all(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_all()
    }
}

impl Input for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.read_exact_at(into, at)
    }
}
