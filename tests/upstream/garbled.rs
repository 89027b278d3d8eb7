//! A control plane behind something that spoils compression: who offers it gets
//! what cannot be read.

use super::server::Response;
use bytes::{BufMut, Bytes, BytesMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

#[derive(Clone, Copy, Debug)]
pub enum Spoils {
    /// Messages that are no gzip though they say so.
    Messages,
    /// The encoding: to one that nobody offered.
    Encoding,
}

pub struct Garbled {
    pub port: u16,
    spoiled: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Garbled {
    /// Everybody else is answered `response` once, by delta.
    pub async fn start(spoils: Spoils, response: Response) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let spoiled = Arc::new(AtomicUsize::new(0));
        let (mut tasks, counter, message) = (JoinSet::new(), spoiled.clone(), response.message());
        tasks.spawn(async move {
            let mut standing = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                standing.spawn(serve(socket, spoils, message.clone(), counter.clone()));
            }
        });
        Self { port, spoiled, _tasks: tasks }
    }

    /// Streams that offered compression.
    pub fn spoiled(&self) -> usize {
        self.spoiled.load(Ordering::Relaxed)
    }
}

async fn serve(socket: TcpStream, spoils: Spoils, message: Bytes, spoiled: Arc<AtomicUsize>) {
    let mut connection = h2::server::handshake(socket).await.unwrap();
    let mut standing = Vec::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let offered = request.headers().contains_key("grpc-accept-encoding");
        let head = http::Response::builder().header("content-type", "application/grpc");
        let (head, flag, body) = match spoils {
            _ if !offered => (head, 0, message.clone()),
            Spoils::Messages => (head.header("grpc-encoding", "gzip"), 1, Bytes::from_static(b"no gzip")),
            Spoils::Encoding => (head.header("grpc-encoding", "br"), 1, Bytes::from_static(b"br")),
        };
        spoiled.fetch_add(usize::from(offered), Ordering::Relaxed);
        let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
        let mut frame = BytesMut::new();
        frame.put_u8(flag);
        frame.put_u32(body.len() as u32);
        frame.put_slice(&body);
        stream.send_data(frame.freeze(), false).unwrap();
        standing.push((request, stream));
    }
}
