//! gRPC streams on h2, as much of it as a load generator needs: no TLS, no
//! compression, bytes in and out.
//!
//! Dropping a [`Stream`] or the future of [`serve`] closes its connections.

use bytes::{BufMut, Bytes, BytesMut};
use h2::{RecvStream, SendStream, client, server};
use http::{HeaderMap, HeaderValue, Request, Response};
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Flow control: no stream of a benchmark waits for a window.
const WINDOW: u32 = 16 << 20;
const HEADER: usize = 5;
/// The largest message taken.
const MESSAGE: usize = 64 << 20;

/// Why a stream ended, other than by its peer's OK.
#[derive(Debug, thiserror::Error)]
pub enum RpcError {
    #[error("cannot connect to {address}: {source}")]
    Connect { address: SocketAddr, source: std::io::Error },
    #[error("the HTTP/2 connection ended: {0}")]
    Http(#[from] h2::Error),
    #[error("the peer closed the stream while a message was being sent")]
    Closed,
    #[error("HTTP status {0} in answer to a gRPC call")]
    Refused(http::StatusCode),
    #[error("gRPC status {code}: {message}")]
    Status { code: String, message: String },
    #[error("malformed gRPC message: {0}")]
    Frame(&'static str),
}

/// Cuts the bytes of a stream into messages.
#[derive(Debug, Default)]
struct Deframer {
    buffer: BytesMut,
}

impl Deframer {
    fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        let Some((&[compressed, a, b, c, d], _)) = self.buffer.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Err(RpcError::Frame("compressed, which was not offered"));
        }
        if length > MESSAGE {
            return Err(RpcError::Frame("longer than 64 MiB"));
        }
        if self.buffer.len() < HEADER + length {
            return Ok(None);
        }
        Ok(Some(self.buffer.split_to(HEADER + length).freeze().slice(HEADER..)))
    }
}

/// The sending half of a stream.
#[derive(Debug)]
pub struct Sender {
    stream: SendStream<Bytes>,
}

impl Sender {
    /// Returns once the transport has taken the whole message.
    pub async fn send(&mut self, message: &[u8]) -> Result<(), RpcError> {
        let mut frame = BytesMut::with_capacity(HEADER + message.len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(message.len()).map_err(|_| RpcError::Frame("longer than 4 GiB"))?);
        frame.put_slice(message);
        self.send_framed(frame.freeze()).await
    }

    /// The same of a message that has its head already; its bytes are not copied.
    pub async fn send_framed(&mut self, mut rest: Bytes) -> Result<(), RpcError> {
        while !rest.is_empty() {
            self.stream.reserve_capacity(rest.len());
            if self.stream.capacity() == 0 {
                poll_fn(|cx| self.stream.poll_capacity(cx)).await.ok_or(RpcError::Closed)??;
            }
            let part = rest.split_to(rest.len().min(self.stream.capacity()));
            if !part.is_empty() {
                self.stream.send_data(part, false)?;
            }
        }
        Ok(())
    }

    /// Ends a server's stream with a gRPC status.
    pub fn finish(mut self, code: i32) -> Result<(), RpcError> {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from(code));
        Ok(self.stream.send_trailers(trailers)?)
    }
}

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Receiver {
    head: Option<client::ResponseFuture>,
    body: Option<RecvStream>,
    deframer: Deframer,
}

impl Receiver {
    /// The next message; `None` after a clean end. Cancel safe.
    pub async fn message(&mut self) -> Result<Option<Bytes>, RpcError> {
        if let Some(head) = &mut self.head {
            let response = Pin::new(head).await?;
            self.head = None;
            if response.status() != http::StatusCode::OK {
                return Err(RpcError::Refused(response.status()));
            }
            check(response.headers())?;
            self.body = Some(response.into_body());
        }
        let Some(body) = &mut self.body else { return Ok(None) };
        loop {
            if let Some(message) = self.deframer.next()? {
                return Ok(Some(message));
            }
            let Some(chunk) = body.data().await else { break };
            let chunk = chunk?;
            body.flow_control().release_capacity(chunk.len())?;
            self.deframer.buffer.extend_from_slice(&chunk);
        }
        if let Some(trailers) = body.trailers().await? {
            check(&trailers)?;
        }
        Ok(None)
    }
}

/// An error where `headers` state a gRPC status other than OK.
fn check(headers: &HeaderMap) -> Result<(), RpcError> {
    let text = |name| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
    match text("grpc-status") {
        Some(code) if code != "0" => Err(RpcError::Status { code, message: text("grpc-message").unwrap_or_default() }),
        _ => Ok(()),
    }
}

/// A client's stream on a connection of its own.
#[derive(Debug)]
pub struct Stream {
    pub sender: Sender,
    pub receiver: Receiver,
    /// Ends the connection when dropped.
    _driver: JoinSet<()>,
}

/// Connects and calls `path`.
pub async fn open(address: SocketAddr, path: &str) -> Result<Stream, RpcError> {
    let connect = |source| RpcError::Connect { address, source };
    let socket = TcpStream::connect(address).await.map_err(connect)?;
    socket.set_nodelay(true).map_err(connect)?;
    let (calls, connection) = client::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(socket)
        .await?;
    let mut driver = JoinSet::new();
    driver.spawn(async move {
        // Its error reaches the stream too, which reports it.
        let _ = connection.await;
    });
    let request = Request::post(format!("http://{address}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .map_err(|_| RpcError::Frame("the method is no valid path"))?;
    let (head, stream) = calls.ready().await?.send_request(request, false)?;
    let receiver = Receiver { head: Some(head), body: None, deframer: Deframer::default() };
    Ok(Stream { sender: Sender { stream }, receiver, _driver: driver })
}

/// Serves every connection of `listener` until dropped: one call of `handler`
/// for each stream, with the method's path.
pub async fn serve<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(String, Sender, Receiver) -> F + Clone + Send + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(serve_connection(socket, handler.clone()));
                }
                // Out of descriptors: others must end first.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(50)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_connection<H, F>(socket: TcpStream, handler: H)
where
    H: Fn(String, Sender, Receiver) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let _ = socket.set_nodelay(true);
    let handshake = server::Builder::new()
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .handshake::<_, Bytes>(socket);
    let Ok(mut connection) = handshake.await else { return };
    let mut streams = JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        while streams.try_join_next().is_some() {}
        let path = request.uri().path().to_owned();
        let head = Response::builder().header("content-type", "application/grpc").body(());
        let Ok(Ok(stream)) = head.map(|head| respond.send_response(head, false)) else { continue };
        let receiver = Receiver { head: None, body: Some(request.into_body()), deframer: Deframer::default() };
        streams.spawn(handler(path, Sender { stream }, receiver));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn echoes_messages_of_every_size() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = JoinSet::new();
        server.spawn(serve(listener, |path, mut sender: Sender, mut receiver: Receiver| async move {
            sender.send(path.as_bytes()).await.unwrap();
            while let Ok(Some(message)) = receiver.message().await {
                if message.is_empty() {
                    sender.finish(14).unwrap();
                    return;
                }
                sender.send(&message).await.unwrap();
            }
        }));
        let mut stream = open(address, "/a/b").await.unwrap();
        assert_eq!(stream.receiver.message().await.unwrap().unwrap(), "/a/b");
        for size in [1, 16_384, 3_000_000] {
            let message = vec![7; size];
            stream.sender.send(&message).await.unwrap();
            assert_eq!(stream.receiver.message().await.unwrap().unwrap(), message);
        }
        stream.sender.send(&[]).await.unwrap();
        let ended = stream.receiver.message().await.unwrap_err();
        assert_eq!(ended.to_string(), "gRPC status 14: ");
    }

    #[test]
    fn cuts_messages_wherever_the_chunks_end() {
        let mut deframer = Deframer::default();
        let mut found = Vec::new();
        for byte in [0, 0, 0, 0, 2, 8, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 5] {
            deframer.buffer.put_u8(byte);
            found.extend(deframer.next().unwrap());
        }
        assert_eq!(found, [vec![8, 9], vec![], vec![5]]);
        deframer.buffer.extend_from_slice(&[1, 0, 0, 0, 0]);
        assert!(deframer.next().is_err());
    }
}
