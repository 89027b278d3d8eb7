//! One call, before anybody answered it.

use super::{Identity, Peer};
use crate::breaks;
use crate::transport::frame::{Budget, Decoder, Encoding, Limit};
use crate::transport::status::{GRPC_ACCEPT_ENCODING, GRPC_ENCODING, trailers};
use crate::transport::stream::{Messages, Sender};
use crate::xds::{Status, code};
use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use std::sync::Arc;

/// A call that came in.
#[derive(Debug)]
pub struct Call {
    pub request: Request<RecvStream>,
    pub respond: SendResponse<Bytes>,
    pub peer: Arc<Peer>,
    /// Who calls: what the connection's certificate and the call's token prove.
    pub identity: Option<Identity>,
}

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

impl Call {
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Begins to answer: headers go out, messages may go both ways.
    ///
    /// `None`: this was no gRPC call, or one whose compression we do not know;
    /// it has been refused.
    pub fn accept(self, limit: Limit, budget: &Arc<Budget>) -> Option<(Messages, Sender)> {
        let encoding = match self.check() {
            Ok(encoding) => encoding,
            Err(Refusal::Http(status)) => {
                self.refuse_http(status);
                return None;
            }
            Err(Refusal::Encoding(status)) => {
                self.refuse(&status);
                return None;
            }
        };
        let mut respond = self.respond;
        let mut head = Response::new(());
        head.headers_mut().insert(header::CONTENT_TYPE, GRPC);
        head.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
        // An error means that the peer is gone already.
        let stream = respond.send_response(head, false).ok()?;
        let decoder = Decoder::new(limit, encoding).within(budget);
        Some((Messages::new(self.request.into_body(), decoder), Sender::new(stream)))
    }

    /// Ends the call with `status` alone.
    pub fn refuse(mut self, status: &Status) {
        let mut head = Response::new(());
        *head.headers_mut() = trailers(status);
        head.headers_mut().insert(header::CONTENT_TYPE, GRPC);
        if status.code == code::UNIMPLEMENTED {
            head.headers_mut().insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity,gzip"));
        }
        let _ = self.respond.send_response(head, true);
    }

    fn refuse_http(mut self, status: StatusCode) {
        let mut head = Response::new(());
        *head.status_mut() = status;
        let _ = self.respond.send_response(head, true);
    }

    fn check(&self) -> Result<Encoding, Refusal> {
        if self.request.method() != Method::POST {
            return Err(Refusal::Http(StatusCode::METHOD_NOT_ALLOWED));
        }
        let headers = self.request.headers();
        if headers.contains_key("x-nobody-knows") && breaks::on("C-176") {
            return Err(Refusal::Http(StatusCode::BAD_REQUEST));
        }
        let content_type = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
        if !content_type.starts_with(GRPC.as_bytes()) {
            return Err(Refusal::Http(StatusCode::UNSUPPORTED_MEDIA_TYPE));
        }
        match headers.get(GRPC_ENCODING).map(HeaderValue::as_bytes) {
            None | Some(b"" | b"identity") => Ok(Encoding::Identity),
            Some(b"gzip") => Ok(Encoding::Gzip),
            Some(other) => {
                let name = String::from_utf8_lossy(other);
                let message = format!("messages compressed by {name:?} cannot be read; use gzip or none");
                Err(Refusal::Encoding(Status::new(code::UNIMPLEMENTED, message)))
            }
        }
    }
}

enum Refusal {
    Http(StatusCode),
    Encoding(Status),
}
