//! Services written for tonic, served on our own connections.
//!
//! Health and reflection are small, and tonic has them; this carries HTTP bodies
//! to and from h2. xDS streams never come here.
//!
//! Promise: a caller that takes nothing of its answer loses it in time ([`Pace`]),
//! what the answer occupies ([`Kept`]) is given back when it has gone, and an answer
//! that goes on is ended where its connection is, by a status.

use super::server::Call;
use super::status::trailers;
use super::stream::Sender;
use crate::clock::Clock;
use crate::xds::{Status, code};
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use http::{HeaderMap, HeaderValue, Request, Response, header};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tonic::body::Body as TonicBody;
use tower_service::Service;

/// How long a caller may take nothing of what is sent to it.
#[derive(Clone, Debug)]
pub struct Pace {
    pub clock: Clock,
    pub stall: Duration,
}

/// An extension of a response: it is dropped when the answer has gone or is given up.
#[derive(Clone)]
pub struct Kept(#[allow(dead_code, reason = "it is there to be dropped")] Arc<dyn Send + Sync>);

impl Kept {
    pub fn new(kept: impl Send + Sync + 'static) -> Self {
        Self(Arc::new(kept))
    }
}

/// Answers `call` by `service`, until it ends, the peer goes or takes nothing, or
/// `over` says how it ends.
pub async fn serve<S>(mut service: S, call: Call, pace: Pace, over: impl Future<Output = Status>)
where
    S: Service<Request<TonicBody>, Response = Response<TonicBody>, Error = Infallible>,
{
    let Call { request, mut respond, peer, .. } = call;
    let mut request = request.map(|stream| TonicBody::new(RequestBody { stream, data_over: false }));
    request.extensions_mut().insert(peer);
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
    let answered = service.call(request);
    let mut over = pin!(over.fuse());
    let response = tokio::select! {
        // What is ready is said, however late it is.
        biased;
        response = answered => response,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
        status = &mut over => return end_unanswered(respond, status),
    };
    let (mut head, body) = match response {
        Ok(response) => response.into_parts(),
    };
    let _kept = head.extensions.remove::<Kept>();
    let ended = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended) else { return };
    if !ended {
        // An error means that the peer is gone: nobody is left to tell.
        let _ = answer(Sender::new(stream), body, &pace, over).await;
    }
}

/// Nothing was said yet: that all is well would be no answer.
fn end_unanswered(mut respond: SendResponse<Bytes>, status: Status) {
    let status = match status.code {
        code::OK => Status::new(code::UNAVAILABLE, "this server is about to stop"),
        _ => status,
    };
    let mut head = Response::new(());
    *head.headers_mut() = trailers(&status);
    head.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let _ = respond.send_response(head, true);
}

/// What comes next in an answer.
enum Next {
    Frame(Option<Result<Frame<Bytes>, tonic::Status>>),
    PeerWent,
    Over(Status),
}

async fn answer(
    mut sender: Sender,
    body: TonicBody,
    pace: &Pace,
    mut over: impl FusedFuture<Output = Status> + Unpin,
) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        // A frame is asked for when the one before has gone.
        flush(&mut sender, pace).await?;
        let next = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Pending => sender.poll_reset(cx).map(|_| Next::PeerWent),
            Poll::Ready(next) => Poll::Ready(Next::Frame(next)),
        });
        let next = tokio::select! {
            biased;
            next = next => next,
            status = &mut over => Next::Over(status),
        };
        match next {
            Next::PeerWent => return Ok(()),
            Next::Over(status) => return sender.end(trailers(&status)),
            Next::Frame(None) => return sender.half_close(),
            Next::Frame(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => sender.push_framed(data),
                Err(frame) => return sender.end(frame.into_trailers().unwrap_or_else(|_| HeaderMap::new())),
            },
            Next::Frame(Some(Err(status))) => {
                return sender.end(trailers(&Status::new(status.code().into(), status.message())));
            }
        }
    }
}

/// Resets the call when a whole span passes in which the peer took no byte.
async fn flush(sender: &mut Sender, pace: &Pace) -> Result<(), h2::Error> {
    while sender.waiting() > 0 {
        let before = sender.accepted();
        let until = pace.clock.now() + pace.stall;
        tokio::select! {
            flushed = sender.flush() => return flushed,
            () = pace.clock.sleep_until(until) => {}
        }
        if sender.accepted() == before {
            sender.reset(Reason::CANCEL);
            return Err(Reason::CANCEL.into());
        }
    }
    Ok(())
}

/// What the peer sends, as tonic reads it.
struct RequestBody {
    stream: RecvStream,
    data_over: bool,
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_over {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    self.stream.flow_control().release_capacity(data.len())?;
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_over = true,
            }
        }
        Poll::Ready(ready!(self.stream.poll_trailers(cx)).transpose().map(|trailers| trailers.map(Frame::trailers)))
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    #[tokio::test]
    async fn a_peer_that_takes_nothing_loses_its_answer() {
        let (ours, theirs) = tokio::io::duplex(1 << 20);
        let client = tokio::spawn(async move {
            let (mut send, connection) = h2::client::handshake(theirs).await.unwrap();
            tokio::spawn(connection);
            let (response, _) = send.send_request(Request::new(()), true).unwrap();
            // Of its body nothing is taken.
            (send, response.await.unwrap().into_body())
        });
        let mut server = h2::server::handshake(ours).await.unwrap();
        let (_, mut respond) = server.accept().await.unwrap().unwrap();
        let stream = respond.send_response(Response::new(()), false).unwrap();
        tokio::spawn(async move { while server.accept().await.is_some() {} });
        let clock = Clock::manual();
        let pace = Pace { clock: clock.clone(), stall: Duration::from_secs(30) };
        let body = TonicBody::new(Full::new(Bytes::from(vec![7; 1 << 20])));
        let answered =
            tokio::spawn(async move { answer(Sender::new(stream), body, &pace, std::future::pending().fuse()).await });
        let (_send, mut body) = client.await.unwrap();
        assert!(!answered.is_finished(), "it waits for the peer");
        while !answered.is_finished() {
            clock.advance(Duration::from_secs(30));
            tokio::task::yield_now().await;
        }
        assert_eq!(answered.await.unwrap().unwrap_err().reason(), Some(Reason::CANCEL));
        let mut taken = 0;
        let end = loop {
            match body.data().await {
                Some(Ok(data)) => taken += data.len(),
                end => break end,
            }
        };
        assert!(taken < 1 << 20 && end.is_none_or(|end| end.unwrap_err().is_reset()), "{taken}");
    }
}
