//! Services written for tonic, served on our own connections.
//!
//! Health and reflection are small, and tonic has them; this carries HTTP bodies
//! to and from h2. xDS streams never come here.

use super::server::Call;
use super::stream::Sender;
use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use tonic::body::Body as TonicBody;
use tower_service::Service;

/// Answers `call` by `service`, until it ends or the peer goes.
pub async fn serve<S>(mut service: S, call: Call)
where
    S: Service<Request<TonicBody>, Response = Response<TonicBody>, Error = Infallible>,
{
    let Call { request, mut respond, peer, .. } = call;
    let mut request = request.map(|stream| TonicBody::new(RequestBody { stream, data_over: false }));
    request.extensions_mut().insert(peer);
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
    let answered = service.call(request);
    let response = tokio::select! {
        response = answered => response,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => return,
    };
    let (head, body) = match response {
        Ok(response) => response.into_parts(),
    };
    let ended = body.is_end_stream();
    let Ok(stream) = respond.send_response(Response::from_parts(head, ()), ended) else { return };
    if !ended {
        // An error means that the peer is gone: nobody is left to tell.
        let _ = answer(Sender::new(stream), body).await;
    }
}

async fn answer(mut sender: Sender, body: TonicBody) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        // A frame is asked for when the one before has gone.
        sender.flush().await?;
        let next = poll_fn(|cx| match body.as_mut().poll_frame(cx) {
            Poll::Pending => sender.poll_reset(cx).map(|_| None),
            Poll::Ready(next) => Poll::Ready(Some(next)),
        });
        match next.await {
            None => return Ok(()),
            Some(None) => return sender.half_close(),
            Some(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => sender.push_framed(data),
                Err(frame) => return sender.end(frame.into_trailers().unwrap_or_else(|_| HeaderMap::new())),
            },
            Some(Some(Err(status))) => {
                return sender
                    .end(super::status::trailers(&crate::xds::Status::new(status.code().into(), status.message())));
            }
        }
    }
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
