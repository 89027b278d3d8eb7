//! When a stream ends with its connection.

use crate::transport::server::{Cause, Ending};
use crate::xds::time::earliest;
use crate::xds::{Moment, Status, code};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;

/// The end of a stream, once its connection is to end.
pub(in crate::downstream) struct Ends {
    /// It stays registered for as long as the stream lives.
    ending: WatchStream<Option<Ending>>,
    planned: Option<Planned>,
    /// The token that proved who calls ends soon after.
    token: Option<Moment>,
}

#[derive(Clone, Copy)]
struct Planned {
    /// From here on, if the client had an answer …
    at: Moment,
    /// … and from here on in any case.
    last: Moment,
    cause: Cause,
}

impl Ends {
    pub(in crate::downstream) fn new(ending: watch::Receiver<Option<Ending>>, token: Option<Moment>) -> Self {
        Self { ending: WatchStream::new(ending), planned: None, token }
    }

    /// Ready when the end is announced, once for each announcement.
    pub(in crate::downstream) fn poll_announced(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(seen) = ready!(Pin::new(&mut self.ending).poll_next(cx)) else { return Poll::Pending };
            if let Some(ending) = seen
                && self.planned.is_none_or(|planned| ending.by < planned.last)
            {
                let at = ending.at(rand::random_range(0.0..0.9));
                self.planned = Some(Planned { at, last: ending.at(1.0), cause: ending.cause });
                return Poll::Ready(());
            }
        }
    }

    pub(in crate::downstream) fn due(&self, answered: bool) -> Option<Moment> {
        let planned = self.planned.map(|planned| if answered { planned.at } else { planned.last });
        earliest(planned, self.token)
    }

    /// How to end now, if it is time.
    pub(in crate::downstream) fn now(&self, now: Moment, answered: bool) -> Option<(&'static str, Status)> {
        if self.due(answered)? > now {
            return None;
        }
        if self.token.is_some_and(|at| at <= now) {
            let text = "the client's bearer token expires; open a stream with a new one";
            return Some(("expired", Status::new(code::UNAUTHENTICATED, text)));
        }
        let planned = self.planned?;
        Some(match planned.cause {
            Cause::Expired => (
                "expired",
                Status::new(code::UNAUTHENTICATED, "the client's certificate expires; connect with a new one"),
            ),
            // A client without any answer is to try elsewhere (C-127).
            cause if !answered => (label(cause), Status::new(code::UNAVAILABLE, "this server is about to stop")),
            cause => (label(cause), Status::new(code::OK, "")),
        })
    }
}

fn label(cause: Cause) -> &'static str {
    match cause {
        Cause::Drain => "drain",
        Cause::Age => "age",
        Cause::Expired => "expired",
    }
}
