//! A disk in memory that fails and crashes when it is told to.

use crate::persist::disk::{Disk, Input, Lock, Output};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};

type Bytes = Arc<Mutex<Content>>;

#[derive(Debug, Default)]
struct Content {
    bytes: Vec<u8>,
    /// So much of it is there after a crash.
    synced: usize,
}

#[derive(Debug, Default)]
struct State {
    names: BTreeMap<String, Bytes>,
    /// As they are after a crash.
    durable: BTreeMap<String, Bytes>,
    steps: usize,
    fails_at: Option<(usize, io::ErrorKind)>,
    fails_on: Option<io::ErrorKind>,
    failed: usize,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Ram(Arc<Mutex<State>>);

#[derive(Debug)]
struct Handle(Ram, Bytes);

impl Ram {
    fn step(&self) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        state.steps += 1;
        let due = state.fails_at.filter(|(at, _)| *at == state.steps).map(|(_, kind)| kind);
        match due.or(state.fails_on) {
            Some(kind) => {
                state.failed += 1;
                Err(kind.into())
            }
            None => Ok(()),
        }
    }

    /// The step after so many more fails.
    pub(super) fn fail_after(&self, steps: usize, kind: io::ErrorKind) {
        let mut state = self.0.lock().unwrap();
        state.fails_at = Some((state.steps + steps + 1, kind));
    }

    /// Every step fails, or none.
    pub(super) fn fail(&self, kind: Option<io::ErrorKind>) {
        self.0.lock().unwrap().fails_on = kind;
    }

    pub(super) fn steps(&self) -> usize {
        self.0.lock().unwrap().steps
    }

    pub(super) fn failed(&self) -> usize {
        self.0.lock().unwrap().failed
    }

    /// The disk as it is after a crash now. What was not synced is there or not, as
    /// `lucky` says.
    pub(super) fn crashed(&self, lucky: bool) -> Self {
        let state = self.0.lock().unwrap();
        let names = if lucky { &state.names } else { &state.durable };
        let copy = |(name, content): (&String, &Bytes)| {
            let content = content.lock().unwrap();
            let bytes = if lucky { content.bytes.clone() } else { content.bytes[..content.synced].to_vec() };
            let synced = bytes.len();
            (name.clone(), Arc::new(Mutex::new(Content { bytes, synced })))
        };
        let names: BTreeMap<_, _> = names.iter().map(copy).collect();
        Self(Arc::new(Mutex::new(State { durable: names.clone(), names, ..State::default() })))
    }

    pub(super) fn files(&self) -> Vec<String> {
        self.0.lock().unwrap().names.keys().cloned().collect()
    }

    pub(super) fn read(&self, name: &str) -> Vec<u8> {
        self.0.lock().unwrap().names[name].lock().unwrap().bytes.clone()
    }

    /// A file that was there before.
    pub(super) fn put(&self, name: &str, bytes: &[u8]) {
        let content = Content { bytes: bytes.to_vec(), synced: bytes.len() };
        self.0.lock().unwrap().names.insert(name.into(), Arc::new(Mutex::new(content)));
    }

    pub(super) fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        change(&mut self.0.lock().unwrap().names[name].lock().unwrap().bytes);
    }

    /// Does any file have these bytes in it?
    pub(super) fn has(&self, part: &[u8]) -> bool {
        self.files().iter().any(|name| self.read(name).windows(part.len()).any(|bytes| bytes == part))
    }

    fn find(&self, name: &str) -> io::Result<Bytes> {
        self.0.lock().unwrap().names.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Ram {
    fn list(&self) -> io::Result<Vec<(String, u64)>> {
        self.step()?;
        let state = self.0.lock().unwrap();
        let file = |(name, content): (&String, &Bytes)| (name.clone(), content.lock().unwrap().bytes.len() as u64);
        Ok(state.names.iter().map(file).collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn Output>> {
        self.step()?;
        if self.find(name).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let content = Bytes::default();
        self.0.lock().unwrap().names.insert(name.into(), content.clone());
        Ok(Box::new(Handle(self.clone(), content)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn Input>> {
        self.step()?;
        Ok(Arc::new(Handle(self.clone(), self.find(name)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let content = self.find(from)?;
        let mut state = self.0.lock().unwrap();
        state.names.remove(from);
        state.names.insert(to.into(), content);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.step()?;
        self.find(name)?;
        self.0.lock().unwrap().names.remove(name);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.step()?;
        let mut state = self.0.lock().unwrap();
        state.durable = state.names.clone();
        Ok(())
    }

    fn lock(&self) -> io::Result<Lock> {
        self.step()?;
        Ok(Lock::none())
    }
}

impl Output for Handle {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let result = self.0.step();
        // A write that fails may have been half done.
        let done = if result.is_err() { bytes.len() / 2 } else { bytes.len() };
        self.1.lock().unwrap().bytes.extend_from_slice(&bytes[..done]);
        result
    }

    fn sync(&mut self) -> io::Result<()> {
        self.0.step()?;
        let mut content = self.1.lock().unwrap();
        content.synced = content.bytes.len();
        Ok(())
    }
}

impl Input for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.1.lock().unwrap().bytes.len() as u64)
    }

    fn read(&self, at: u64, into: &mut [u8]) -> io::Result<()> {
        self.0.step()?;
        let content = self.1.lock().unwrap();
        let from = content.bytes.get(at as usize..).unwrap_or_default();
        let bytes = from.get(..into.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        into.copy_from_slice(bytes);
        Ok(())
    }
}
