//! Who makes the changes: a control plane, and the barest sender there is.

use super::{Hello, Order, PartError, Reply, Talk, anywhere, listen, say, unfit};
use crate::bench::mesh::{Family, Version};
use crate::bench::now;
use crate::bench::plan::{Change, Plan};
use crate::bench::plane::Plane;
use crate::bench::stock::{Shape, Stock};
use crate::xds::wire::Writer;
use bytes::Bytes;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, LocalSet};

/// A thread that sleeps is late by less: the rest is waited for awake.
const AWAKE: u64 = 120;

pub(super) async fn plane(shape: Shape, address: SocketAddr, congestion: Option<String>) -> Result<(), PartError> {
    let stock = Arc::new(Stock::new(shape));
    let listener = listen(address)?;
    if let Some(name) = congestion {
        // What a listener has set, its connections inherit.
        let set = socket2::SockRef::from(&listener).set_tcp_congestion(name.as_bytes());
        set.map_err(|error| {
            PartError::Begin(format!("this kernel's TCP has no congestion control {name:?}: {error}"))
        })?;
    }
    let plane = Plane::on(listener, stock.clone())?;
    let talk = Talk::begin(&Hello { address: plane.address(), admin: None });
    let make = move |change: &Change| stock.make(change);
    follow(talk, Rc::new(make), || plane.streams()).await
}

/// Makes changes as it is told.
pub(super) async fn follow(
    mut talk: Talk,
    make: Rc<dyn Fn(&Change)>,
    streams: impl Fn() -> u64,
) -> Result<(), PartError> {
    let local = LocalSet::new();
    let mut under_way: Option<JoinHandle<(u64, u64)>> = None;
    local
        .run_until(async {
            while let Some(order) = talk.next().await {
                match order {
                    Order::Plan(plan) => {
                        under_way = Some(tokio::task::spawn_local(drive(plan, Rc::clone(&make))));
                        say(&Reply::Done);
                    }
                    Order::Made => {
                        let (late, awake) = match under_way.take() {
                            Some(driver) => driver.await.unwrap_or((u64::MAX, 0)),
                            None => (0, 0),
                        };
                        say(&Reply::Made { late, awake });
                    }
                    Order::Streams => say(&Reply::Streams(streams())),
                    other => unfit(&other),
                }
            }
        })
        .await;
    Ok(())
}

/// Makes each change when it is due, whatever becomes of those before. Returns
/// how late it was at most, and how long it stayed awake only to be in time.
async fn drive(plan: Plan, make: Rc<dyn Fn(&Change)>) -> (u64, u64) {
    let (mut late, mut awake) = (0, 0);
    for change in plan.changes() {
        let wait = change.at.saturating_sub(now::micros());
        if wait > AWAKE {
            // The runtime's own timer counts in whole milliseconds.
            let sleep = move || now::sleep(Duration::from_micros(wait - AWAKE));
            let _ = tokio::task::spawn_blocking(sleep).await;
        }
        let since = now::micros();
        while now::micros() < change.at {
            // Connections are served meanwhile.
            tokio::task::yield_now().await;
        }
        awake += now::micros().saturating_sub(since);
        late = late.max(now::micros().saturating_sub(change.at));
        make(&change);
        tokio::task::yield_now().await;
    }
    (late, awake)
}

/// One write of the same bytes to each of as many sockets: what no server can
/// do for less.
pub(super) async fn raw(shape: Shape) -> Result<(), PartError> {
    let listener = listen(anywhere())?;
    let talk = Talk::begin(&Hello { address: listener.local_addr()?, admin: None });
    let sockets: Rc<RefCell<Vec<Rc<TcpStream>>>> = Rc::default();
    let (stock, to) = (Stock::new(shape), Rc::clone(&sockets));
    let make = move |change: &Change| {
        stock.make(change);
        if let Some(message) = message(&stock, change) {
            write(&to.borrow(), &message);
        }
    };
    let accepting = async {
        loop {
            // Out of descriptors: the parent has seen to it that this is not so.
            if let Ok((socket, _)) = listener.accept().await
                && socket.set_nodelay(true).is_ok()
            {
                sockets.borrow_mut().push(Rc::new(socket));
            }
        }
    };
    tokio::select! {
        done = follow(talk, Rc::new(make), || sockets.borrow().len() as u64) => done,
        () = accepting => Ok(()),
    }
}

/// What an Outpost would send of a change, with the head of a gRPC message.
pub(super) fn message(stock: &Stock, change: &Change) -> Option<Bytes> {
    let version = stock.get(change.family, change.number?)?;
    Some(framed(change.seq, change.family, &[version]))
}

/// A delta response with the head of a gRPC message.
pub(super) fn framed(seq: u32, family: Family, versions: &[Arc<Version>]) -> Bytes {
    let size: usize = versions.iter().map(|version| version.resource.len() + 8).sum();
    let mut out = Writer::with_capacity(size + 128);
    out.string(1, &seq.to_string());
    versions.iter().for_each(|version| out.bytes(2, &version.resource));
    out.string(4, family.type_url());
    out.string(5, &seq.to_string());
    let message = out.finish();
    let mut framed = Writer::with_capacity(message.len() + 5);
    framed.raw(&[0]);
    framed.raw(&(message.len() as u32).to_be_bytes());
    framed.raw(&message);
    framed.finish()
}

fn write(sockets: &[Rc<TcpStream>], message: &Bytes) {
    for socket in sockets {
        let written = socket.try_write(message).unwrap_or(0);
        if written < message.len() {
            let (socket, rest) = (Rc::clone(socket), message.slice(written..));
            tokio::task::spawn_local(write_rest(socket, rest));
        }
    }
}

/// A socket that was full takes the rest when it is not.
async fn write_rest(socket: Rc<TcpStream>, mut rest: Bytes) {
    while !rest.is_empty() {
        if socket.writable().await.is_err() {
            return;
        }
        match socket.try_write(&rest) {
            Ok(written) => drop(rest.split_to(written)),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}
