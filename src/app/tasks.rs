//! The parts that run as long as the process does.
//!
//! Each has a name, so that the end of one can be told. None may end by itself:
//! whoever started the process should start it again rather than be left with
//! one that serves no news.

use futures_util::future::pending;
use std::any::Any;
use std::collections::HashMap;
use tokio::task::{Id, JoinSet};

/// A part ended by itself: a defect of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{part} {how}, so that this process cannot go on; start it again, and report this with the log")]
pub struct Broken {
    pub part: &'static str,
    /// That it ended, or what it panicked with.
    pub how: String,
}

/// Dropping it ends them all.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    set: JoinSet<()>,
    names: HashMap<Id, &'static str>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, part: &'static str, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.set.spawn(work);
        self.names.insert(task.id(), part);
    }

    /// Returns when one ended.
    pub(super) async fn broke(&mut self) -> Broken {
        let Some(ended) = self.set.join_next_with_id().await else { return pending().await };
        let (id, how) = match ended {
            Ok((id, ())) => (id, "ended".to_owned()),
            Err(error) => (error.id(), error.try_into_panic().map_or("was ended".into(), |panic| said(&*panic))),
        };
        Broken { part: self.names.remove(&id).unwrap_or("a part of the program"), how }
    }

    pub(super) async fn shutdown(&mut self) {
        self.set.shutdown().await;
    }
}

fn said(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("panicked: {}", text.unwrap_or("without a text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_end_of_a_part_is_told_by_its_name() {
        let mut tasks = Tasks::default();
        tasks.spawn("the good", pending());
        tasks.spawn("the bad", async { panic!("no {}", 7) });
        assert_eq!(tasks.broke().await, Broken { part: "the bad", how: "panicked: no 7".into() });
        tasks.spawn("the short", async {});
        assert_eq!(tasks.broke().await, Broken { part: "the short", how: "ended".into() });
    }
}
