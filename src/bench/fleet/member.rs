//! One sidecar of a fleet, as a value: who it is, what it asked for, and up to
//! which change it came. It keeps no resources, and names only where it must ask
//! for them again.
//!
//! Handlers: [`open`](Member::open), [`receive`](Member::receive); both tell the
//! requests to send.

use super::tally::Tally;
use super::{Asks, Shared, Terms};
use crate::bench::mesh::{Family, class_name};
use crate::bench::scan::{Head, Piece, ScanError};
use crate::bench::sidecar;
use crate::bench::stock::OWN;
use crate::xds::Variant;
use crate::xds::wire::Writer;
use bytes::Bytes;
use std::sync::Arc;

/// Names as fields of a request, shared by all who ask for the same.
pub(super) type Names = Arc<[u8]>;
/// Names and versions held, shared likewise.
pub(super) type Pairs = Arc<[Pair]>;
pub(super) type Pair = (Box<[u8]>, Box<[u8]>);

/// Of a node.
const EXTENSIONS: u32 = 9;
/// The field of names, in requests of both variants.
const NAMES: u32 = 3;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) number: u32,
    pub(super) class: u32,
    /// Changes are waited for until it has them.
    pub(super) counts: bool,
    /// Has had everything it asked for.
    pub(super) complete: bool,
    /// … and that was counted.
    pub(super) told: bool,
    /// Was sent something since it was set last.
    pub(super) answered: bool,
    types: [Held; Family::ALL.len()],
}

#[derive(Debug, Default)]
struct Held {
    asked: bool,
    /// Everything that there was at first has come.
    synced: bool,
    received: u32,
    names: Option<Names>,
    /// Until it is synced: names as they come in.
    collected: Vec<u8>,
    pairs: Vec<Pair>,
    /// After that: what was held then, and what came since.
    base: Option<Pairs>,
    since: Vec<Pair>,
    /// SotW: of the last response.
    label: Box<[u8]>,
    /// The newest change of which it has all, the newest of which it has some,
    /// and how much of that.
    done: u32,
    current: u32,
    seen: u32,
}

impl Member {
    pub(super) fn new(number: u32, class: u32, counts: bool) -> Self {
        Self { number, class, counts, complete: false, told: false, answered: false, types: Default::default() }
    }

    fn node(&self, terms: &Terms) -> Bytes {
        let workload = class_name(self.class);
        // An Outpost that runs already knows the nodes of the benchmark before.
        let run = terms.shape.as_ref().filter(|shape| shape.base > 0).map(|shape| format!("-{}", shape.base));
        let node = sidecar::node(&format!("{workload}-{:05}{}", self.number, run.unwrap_or_default()), &workload);
        if terms.node_bytes == 0 {
            return node;
        }
        let mut out = Writer::with_capacity(node.len() + terms.node_bytes as usize + 128);
        out.raw(&node);
        let mut number = 0;
        while out.len() < terms.node_bytes as usize {
            number += 1;
            out.message(EXTENSIONS, |out| {
                out.string(1, &format!("envoy.extensions.of.the.benchmark.number.{number:04}"));
                out.string(2, "envoy.filters.http");
            });
        }
        out.finish()
    }

    /// It rejects whatever changes.
    pub(super) fn rejects(&self, terms: &Terms) -> bool {
        self.number % 100 < terms.nack_percent
    }

    /// The first requests of a stream: of a new one for what comes first, of
    /// another for everything that is held.
    pub(super) fn open(&mut self, terms: &Terms, shared: &mut Shared) -> Vec<Bytes> {
        let again: Vec<_> = Family::ALL.into_iter().filter(|family| self.types[*family as usize].asked).collect();
        if terms.asks == Asks::Endpoints {
            let class = self.class;
            self.types[Family::Endpoint as usize].names.get_or_insert_with(|| shared.names_of(class, terms));
        }
        let first = match terms.asks {
            _ if !again.is_empty() => again,
            Asks::Endpoints => vec![Family::Endpoint],
            Asks::Clusters | Asks::Mesh => vec![Family::Cluster],
        };
        let node = self.node(terms);
        (0..).zip(first).map(|(turn, family)| self.ask(family, (turn == 0).then_some(&node), terms)).collect()
    }

    /// The first request for a type on a stream.
    fn ask(&mut self, family: Family, node: Option<&Bytes>, terms: &Terms) -> Bytes {
        let held = &mut self.types[family as usize];
        held.asked = true;
        let mut out = Writer::default();
        let names = held.names.as_deref().unwrap_or_default();
        match Variant::from(terms.variant) {
            Variant::Sotw => {
                out.bytes(1, &held.label);
                node.into_iter().for_each(|node| out.bytes(2, node));
                out.raw(names);
                out.string(4, family.type_url());
            }
            Variant::Delta => {
                node.into_iter().for_each(|node| out.bytes(1, node));
                out.string(2, family.type_url());
                out.raw(names);
                for (name, version) in held.pairs() {
                    out.message(5, |out| {
                        out.bytes(1, name);
                        out.bytes(2, version);
                    });
                }
            }
        }
        out.finish()
    }

    /// Takes a response at `now`, and tells what to answer.
    pub(super) fn receive(
        &mut self,
        message: &[u8],
        now: u64,
        terms: &Terms,
        shared: &mut Shared,
    ) -> Result<Answers, ScanError> {
        let head = Head::read(message)?;
        let family = std::str::from_utf8(head.type_url).ok().and_then(Family::of).ok_or(ScanError)?;
        let rejects = self.rejects(terms);
        let held = &mut self.types[family as usize];
        // What follows these asks for their names.
        let collect = terms.asks == Asks::Mesh && matches!(family, Family::Cluster | Family::Listener);
        head.resources(terms.variant.into(), |piece| held.take(piece, collect, terms.keep))?;
        held.received += head.resources;
        if Variant::from(terms.variant) == Variant::Sotw {
            held.label = head.label.into();
        }
        let tally = &mut shared.tally;
        let rejected = held.synced && rejects;
        tally.counts.responses += 1;
        tally.counts.resources += u64::from(head.resources);
        tally.counts.bytes += message.len() as u64;
        *(if rejected { &mut tally.counts.nacks } else { &mut tally.counts.acks }) += 1;
        if !held.synced && held.received >= terms.expected(family, self.class) {
            // What it is given first is no news.
            (held.synced, held.done) = (true, held.current);
            let follows = self.follow(family, terms, shared);
            let ack = self.answer(family, &head, false, terms);
            return Ok(Answers { ack, follows });
        }
        self.advance(family, now, terms, tally);
        Ok(Answers { ack: self.answer(family, &head, rejected, terms), follows: Vec::new() })
    }

    /// Takes what was written to a bare connection.
    pub(super) fn receive_raw(
        &mut self,
        head: &Head<'_>,
        now: u64,
        terms: &Terms,
        shared: &mut Shared,
    ) -> Result<(), ScanError> {
        let family = std::str::from_utf8(head.type_url).ok().and_then(Family::of).ok_or(ScanError)?;
        let held = &mut self.types[family as usize];
        held.synced = true;
        head.resources(Variant::Delta, |piece| held.take(piece, false, false))?;
        shared.tally.counts.responses += 1;
        shared.tally.counts.resources += u64::from(head.resources);
        self.advance(family, now, terms, &mut shared.tally);
        Ok(())
    }

    /// Counts the changes that it has now.
    fn advance(&mut self, family: Family, now: u64, terms: &Terms, tally: &mut Tally) {
        let held = &mut self.types[family as usize];
        if !held.synced || held.current <= held.done || held.seen < tally.parts(held.current, terms) {
            return;
        }
        if self.counts {
            tally.mark(family, held.done + 1..=held.current, self.class, now, terms);
        }
        held.done = held.current;
    }

    /// What it asks for now that a type has come.
    fn follow(&mut self, family: Family, terms: &Terms, shared: &mut Shared) -> Vec<Bytes> {
        let held = &mut self.types[family as usize];
        let collected = shared.names(std::mem::take(&mut held.collected));
        if terms.keep {
            held.base = Some(shared.pairs(std::mem::take(&mut held.pairs)));
        }
        let next = match (terms.asks, family) {
            (Asks::Mesh, Family::Cluster) => Family::Endpoint,
            (Asks::Mesh, Family::Endpoint) => return vec![self.ask(Family::Listener, None, terms)],
            // What routes are called says a listener itself, unless it is ours.
            (Asks::Mesh, Family::Listener) if terms.shape.is_some() => Family::Route,
            _ => {
                self.complete = true;
                return Vec::new();
            }
        };
        self.types[next as usize].names = Some(collected);
        vec![self.ask(next, None, terms)]
    }

    /// The ACK, or the NACK, of a response.
    fn answer(&self, family: Family, head: &Head<'_>, rejected: bool, terms: &Terms) -> Bytes {
        let held = &self.types[family as usize];
        let mut out = Writer::default();
        let error = |out: &mut Writer| {
            out.varint(1, crate::xds::code::INVALID_ARGUMENT as u64);
            out.string(2, "rejected by the benchmark");
        };
        match Variant::from(terms.variant) {
            Variant::Sotw => {
                out.bytes(1, head.label);
                out.raw(held.names.as_deref().unwrap_or_default());
                out.string(4, family.type_url());
                out.bytes(5, head.nonce);
                if rejected {
                    out.message(6, error);
                }
            }
            Variant::Delta => {
                out.string(2, family.type_url());
                out.bytes(6, head.nonce);
                if rejected {
                    out.message(7, error);
                }
            }
        }
        out.finish()
    }
}

/// Requests that a response leads to.
#[derive(Debug)]
pub(super) struct Answers {
    /// Sent when the response is applied.
    pub(super) ack: Bytes,
    /// Sent after it.
    pub(super) follows: Vec<Bytes>,
}

impl Held {
    fn take(&mut self, piece: Piece<'_>, collect: bool, keep: bool) {
        let seq = piece.seq.unwrap_or(0);
        if seq & OWN == 0 && seq > self.current {
            (self.current, self.seen) = (seq, 1);
        } else if seq & OWN == 0 {
            self.seen += u32::from(seq == self.current);
        }
        if collect && !self.synced && seq & OWN == 0 {
            let mut names = Writer::default();
            names.bytes(NAMES, piece.name);
            self.collected.extend_from_slice(&names.finish());
        }
        if !keep {
            return;
        }
        let pair = || (piece.name.into(), piece.version.into());
        match self.since.iter_mut().find(|(name, _)| **name == *piece.name) {
            _ if !self.synced => self.pairs.push(pair()),
            Some(known) => *known = pair(),
            None => self.since.push(pair()),
        }
    }

    /// What it holds.
    fn pairs(&self) -> impl Iterator<Item = &Pair> {
        let old = self.base.iter().flat_map(|base| base.iter());
        let old = old.filter(|(name, _)| !self.since.iter().any(|(newer, _)| newer == name));
        old.chain(&self.since)
    }
}
