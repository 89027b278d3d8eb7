//! The same content behind the HTTP/2 that Outpost uses, and nothing else: each
//! message is encoded once, and all streams send the same bytes. It knows no
//! subscription: whoever asks for anything gets all clusters, then what changes.

use super::{Hello, PartError, Talk, anywhere, listen, source};
use crate::bench::mesh::Family;
use crate::bench::plan::Change;
use crate::bench::plane::World;
use crate::bench::rpc::{self, Receiver, RpcError, Sender};
use crate::bench::stock::{Shape, Stock};
use bytes::Bytes;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

/// What streams send.
#[derive(Debug)]
struct Served {
    stock: Stock,
    /// Everything, and the number of the change after which it is that.
    whole: Mutex<(usize, Bytes)>,
    /// The newest change.
    news: watch::Sender<Bytes>,
    streams: AtomicU64,
}

impl Served {
    fn new(stock: Stock) -> Self {
        let this = Self {
            stock,
            whole: Mutex::new((usize::MAX, Bytes::new())),
            news: watch::Sender::default(),
            streams: AtomicU64::new(0),
        };
        this.whole();
        this
    }

    fn whole(&self) -> Bytes {
        let mut known = self.whole.lock().unwrap_or_else(PoisonError::into_inner);
        if known.0 != *self.stock.revision().borrow() {
            let all = self.stock.all(0, Family::Cluster);
            *known = (all.place, source::framed(all.place as u32, Family::Cluster, &all.changed));
        }
        known.1.clone()
    }
}

pub(super) async fn run(shape: Shape) -> Result<(), PartError> {
    let listener = listen(anywhere())?;
    let address = listener.local_addr()?;
    let served = Arc::new(Served::new(Stock::new(shape)));
    let to = Arc::clone(&served);
    tokio::spawn(rpc::serve(listener, move |_, sender, receiver| {
        let served = Arc::clone(&to);
        async move {
            served.streams.fetch_add(1, Relaxed);
            // How a client leaves does not matter: the stream is over.
            let _ = converse(&served, sender, receiver).await;
            served.streams.fetch_sub(1, Relaxed);
        }
    }));
    let talk = Talk::begin(&Hello { address, admin: None });
    let to = Arc::clone(&served);
    let make = move |change: &Change| {
        to.stock.make(change);
        if let Some(message) = source::message(&to.stock, change) {
            to.news.send_replace(message);
        }
    };
    source::follow(talk, Rc::new(make), || served.streams.load(Relaxed)).await
}

async fn converse(served: &Served, mut sender: Sender, mut receiver: Receiver) -> Result<(), RpcError> {
    if receiver.message().await?.is_none() {
        return sender.finish(0);
    }
    let mut news = served.news.subscribe();
    sender.send_framed(served.whole()).await?;
    loop {
        tokio::select! {
            // ACKs are read, as every server reads them.
            request = receiver.message() => {
                if request?.is_none() {
                    return sender.finish(0);
                }
            }
            moved = news.changed() => {
                if moved.is_err() {
                    return sender.finish(crate::xds::code::UNAVAILABLE);
                }
                let message = news.borrow_and_update().clone();
                sender.send_framed(message).await?;
            }
        }
    }
}
