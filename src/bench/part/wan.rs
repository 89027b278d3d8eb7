//! The emulator in a process.

use super::{Order, PartError, Reply, Talk, say, unfit};
use crate::bench::part::Hello;
use crate::bench::wan::{Link, Wan};
use crate::clock::Clock;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) async fn run(target: SocketAddr, link: Link, listen: SocketAddr) -> Result<(), PartError> {
    let wan = Wan::start_at(listen, target, link, Clock::system()).await?;
    let mut talk = Talk::begin(&Hello { address: wan.address(), admin: None });
    while let Some(order) = talk.next().await {
        match order {
            Order::Cut(outage) => wan.cut(outage),
            Order::Heal => wan.heal(),
            Order::Stall { span } => wan.stall(Duration::from_micros(span)),
            Order::Traffic => {
                say(&Reply::Traffic(wan.traffic()));
                continue;
            }
            other => {
                unfit(&other);
                continue;
            }
        }
        say(&Reply::Done);
    }
    Ok(())
}
