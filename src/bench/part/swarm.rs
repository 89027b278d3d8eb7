//! A fleet of sidecars in a process.

use super::{Hello, Order, PartError, Reply, Report, Talk, say, unfit};
use crate::bench::fleet::{Fleet, Target, Terms};
use tokio::task::LocalSet;

pub(super) async fn run(terms: Terms, target: Target, first: u32) -> Result<(), PartError> {
    LocalSet::new().run_until(follow(terms, target, first)).await
}

async fn follow(terms: Terms, target: Target, first: u32) -> Result<(), PartError> {
    let mut fleet = Fleet::new(terms, target, first).map_err(|error| PartError::Begin(error.to_string()))?;
    let mut talk = Talk::begin(&Hello::NOWHERE);
    while let Some(order) = talk.next().await {
        match order {
            Order::Plan(plan) => fleet.expect(&plan),
            Order::Add { count, over, counts } => fleet.add(count, over, counts),
            Order::Slow { rate } => fleet.slow(rate),
            Order::Complete { count, patience } => {
                say(&Reply::Came(fleet.complete(count, patience).await));
                continue;
            }
            Order::Delivered { seq, patience } => {
                say(&Reply::Came(fleet.delivered(seq, patience).await));
                continue;
            }
            Order::Report { from } => {
                say(&Reply::Report(Box::new(Report {
                    counts: fleet.counts(),
                    outcome: fleet.outcome(from),
                    joins: fleet.joins(),
                    trouble: fleet.trouble(),
                })));
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
