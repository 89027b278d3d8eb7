//! The streams that stand, for those who look in.

use crate::group::{GroupKey, Rule};
use crate::session::server::{Listing, NameReport, ServerSession, TypeReport};
use crate::xds::{Moment, TypeUrl, Variant};
use dashmap::DashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Every stream of every sidecar. Handing out clones, it holds nobody up.
#[derive(Debug, Default)]
pub struct Clients {
    streams: DashMap<u64, Arc<Client>>,
    next: AtomicU64,
}

/// One stream.
#[derive(Debug)]
pub struct Client {
    /// Counts streams of this process.
    pub stream: u64,
    pub peer: Arc<str>,
    /// What the peer's certificate proves.
    pub identity: Option<Arc<str>>,
    /// `ads`, or the type of a service of one type.
    pub service: &'static str,
    pub variant: Variant,
    pub opened: Moment,
    known: Mutex<Option<Known>>,
    private: Mutex<Option<GroupKey>>,
    session: Arc<Mutex<ServerSession>>,
    waiting: AtomicUsize,
}

/// What is known of a client since it named its node.
#[derive(Clone, Debug)]
pub struct Known {
    pub node: Arc<str>,
    pub user_agent: Arc<str>,
    pub group: GroupKey,
    pub rule: Rule,
    /// The field of the rule that the node lacks.
    pub unmatched: Option<Arc<str>>,
}

impl Clients {
    /// All of them, in the order in which they came.
    pub fn all(&self) -> Vec<Arc<Client>> {
        let mut all: Vec<_> = self.streams.iter().map(|entry| entry.value().clone()).collect();
        all.sort_unstable_by_key(|client| client.stream);
        all
    }

    /// Those of one node id.
    pub fn of_node(&self, node: &str) -> Vec<Arc<Client>> {
        let mut all = self.all();
        all.retain(|client| client.known().is_some_and(|known| &*known.node == node));
        all
    }

    pub fn len(&self) -> usize {
        self.streams.len()
    }

    pub fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn enter(self: &Arc<Self>, make: impl FnOnce(u64) -> Client) -> Entered {
        let client = Arc::new(make(self.next.fetch_add(1, Ordering::Relaxed)));
        self.streams.insert(client.stream, client.clone());
        Entered { clients: self.clone(), client }
    }
}

impl Client {
    pub(super) fn new(
        stream: u64,
        peer: Arc<str>,
        identity: Option<Arc<str>>,
        service: &'static str,
        variant: Variant,
        opened: Moment,
        session: Arc<Mutex<ServerSession>>,
    ) -> Self {
        let (known, private, waiting) = Default::default();
        Self { stream, peer, identity, service, variant, opened, known, private, session, waiting }
    }

    /// `None` until the first request came.
    pub fn known(&self) -> Option<Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Bytes that the client does not take.
    pub fn waiting_bytes(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Every type it asked for.
    pub fn types(&self, now: Moment) -> Vec<TypeReport> {
        self.session().report(now)
    }

    /// Every type with its resources, to be read without the session.
    pub fn listings(&self, now: Moment) -> Vec<Listing> {
        self.session().listings(now)
    }

    /// One name; `None` where the type was never asked for.
    pub fn explain(&self, now: Moment, type_url: &TypeUrl, name: &str) -> Option<NameReport> {
        self.session().explain(now, type_url, name)
    }

    /// The group of this stream alone, where it has one.
    pub fn private(&self) -> Option<GroupKey> {
        self.private.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set_private(&self, key: Option<GroupKey>) {
        *self.private.lock().unwrap_or_else(PoisonError::into_inner) = key;
    }

    pub(super) fn learn(&self, known: Known) {
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    pub(super) fn set_waiting(&self, bytes: usize) {
        self.waiting.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn session(&self) -> MutexGuard<'_, ServerSession> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a stream listed until it is dropped.
#[derive(Debug)]
pub(super) struct Entered {
    clients: Arc<Clients>,
    pub(super) client: Arc<Client>,
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.clients.streams.remove(&self.client.stream);
    }
}
