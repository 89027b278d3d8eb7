//! The emulator in a process.

use super::{Order, PartError, Reply, Talk, say, unfit};
use crate::bench::link::Stalls;
use crate::bench::part::Hello;
use crate::bench::wan::{Link, Wan};
use crate::clock::Clock;
use std::net::SocketAddr;
use std::time::Duration;

pub(super) async fn run(
    target: SocketAddr,
    link: Link,
    stalls: Option<Stalls>,
    listen: SocketAddr,
) -> Result<(), PartError> {
    let wan = Wan::start_at(listen, target, link, Clock::system()).await?;
    let mut talk = Talk::begin(&Hello { address: wan.address(), admin: None });
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
                stalls.iter().for_each(|stalls| wan.stall(Duration::from_micros(stalls.span)));
                continue;
            }
        };
        let Some(order) = order else { break };
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
