//! An emulator of a WAN in a process, of either form.

use super::{Order, PartError, Reply, Talk, say, unfit};
use crate::bench::link::Stalls;
use crate::bench::part::Hello;
use crate::bench::tun::{self, Rough, Tun};
use crate::bench::wan::{Link, Outage, Traffic, Wan};
use crate::clock::Clock;
use std::net::SocketAddr;
use std::time::Duration;

/// What either form can do.
enum Road {
    Wan(Wan),
    Tun(Tun),
}

impl Road {
    fn cut(&self, outage: Outage) -> Result<(), String> {
        match self {
            Self::Wan(wan) => wan.cut(outage),
            Self::Tun(tun) if outage == Outage::Silence => tun.cut(),
            Self::Tun(_) => return Err("packets can be lost, but connections not be reset".into()),
        }
        Ok(())
    }

    fn heal(&self) {
        match self {
            Self::Wan(wan) => wan.heal(),
            Self::Tun(tun) => tun.heal(),
        }
    }

    fn stall(&self, span: Duration) {
        match self {
            Self::Wan(wan) => wan.stall(span),
            Self::Tun(tun) => tun.stall(span),
        }
    }

    /// What its sockets still have to say would go to some other network later.
    async fn empty(&self) {
        let Self::Tun(tun) = self else { return };
        tun.clear();
        for _ in 0..100 {
            if tun.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn traffic(&self) -> Result<Traffic, String> {
        match self {
            Self::Wan(wan) => Ok(wan.traffic()),
            Self::Tun(tun) => tun.failed().map_or_else(|| Ok(tun.traffic()), Err),
        }
    }
}

pub(super) async fn run(
    target: SocketAddr,
    link: Link,
    stalls: Option<Stalls>,
    listen: SocketAddr,
) -> Result<(), PartError> {
    let wan = Wan::start_at(listen, target, link, Clock::system()).await?;
    let address = wan.address();
    follow(&Road::Wan(wan), address, stalls).await
}

pub(super) async fn run_tun(number: u8, link: Link, rough: Rough, stalls: Option<Stalls>) -> Result<(), PartError> {
    let tun = Tun::start(number, &link, &rough).map_err(|error| PartError::Begin(error.to_string()))?;
    follow(&Road::Tun(tun), tun::beyond(number), stalls).await
}

async fn follow(road: &Road, address: SocketAddr, stalls: Option<Stalls>) -> Result<(), PartError> {
    let mut talk = Talk::begin(&Hello { address, admin: None });
    let mut next = stalls.map(|stalls| tokio::time::interval(Duration::from_micros(stalls.every)));
    loop {
        let stall = async {
            match &mut next {
                Some(next) => next.tick().await,
                None => std::future::pending().await,
            }
        };
        let order = tokio::select! {
            order = talk.next() => order,
            _ = stall => {
                stalls.iter().for_each(|stalls| road.stall(Duration::from_micros(stalls.span)));
                continue;
            }
        };
        let Some(order) = order else { break };
        let done = match order {
            Order::Cut(outage) => road.cut(outage).map(|()| Reply::Done),
            Order::Heal => {
                road.heal();
                Ok(Reply::Done)
            }
            Order::Stall { span } => {
                road.stall(Duration::from_micros(span));
                Ok(Reply::Done)
            }
            Order::Empty => {
                road.empty().await;
                Ok(Reply::Done)
            }
            Order::Traffic => road.traffic().map(Reply::Traffic),
            other => {
                unfit(&other);
                continue;
            }
        };
        say(&done.unwrap_or_else(Reply::Failed));
    }
    Ok(())
}
