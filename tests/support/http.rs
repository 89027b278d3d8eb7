//! A small HTTP/1.1 client: admin pages, and the requests of the load.

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::net::TcpStream;

/// No answer of anything in these tests takes this long.
pub const LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

/// One connection, kept alive.
#[derive(Debug)]
pub struct Connection(SendRequest<Empty<Bytes>>);

impl Connection {
    pub async fn open(port: u16) -> Result<Self, String> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.map_err(|e| format!("connect to {port}: {e}"))?;
        stream.set_nodelay(true).map_err(|e| e.to_string())?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        tokio::spawn(driver);
        Ok(Self(sender))
    }

    /// The peer has not closed it, as far as is known.
    pub fn usable(&self) -> bool {
        self.0.is_ready()
    }

    pub async fn get(&mut self, host: &str, path: &str) -> Result<Answer, String> {
        self.0.ready().await.map_err(|e| format!("connection: {e}"))?;
        let request = hyper::Request::get(path).header("host", host).body(Empty::new()).map_err(|e| e.to_string())?;
        let response = self.0.send_request(request).await.map_err(|e| format!("request: {e}"))?;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.map_err(|e| format!("body: {e}"))?.to_bytes();
        Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
    }
}

/// A POST without a body, on a connection of its own.
pub async fn post(port: u16, path: &str) -> Result<Answer, String> {
    let mut connection = Connection::open(port).await?;
    let request = hyper::Request::post(path).header("host", "admin").body(Empty::new()).map_err(|e| e.to_string())?;
    let response = connection.0.send_request(request).await.map_err(|e| format!("request: {e}"))?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|e| format!("body: {e}"))?.to_bytes();
    Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
}

/// One request on a connection of its own.
pub async fn get(port: u16, host: &str, path: &str) -> Result<Answer, String> {
    let once = async { Connection::open(port).await?.get(host, path).await };
    tokio::time::timeout(LIMIT, once).await.unwrap_or_else(|_| Err(format!("no answer to {path} in {LIMIT:?}")))
}
