//! One question to the admin endpoint of a running Outpost.

use super::Failure;
use crate::admin::report::List;
use http::{Method, Request};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

/// The items that `path` answers with.
pub(super) async fn list<T: DeserializeOwned>(address: &str, path: &str) -> Result<Vec<T>, Failure> {
    let list: List<T> = one(address, path).await?;
    Ok(list.items)
}

/// What `path` answers with.
pub(super) async fn one<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, Failure> {
    read(address, Method::GET, path).await
}

/// What is so after `path` was posted to.
pub(super) async fn post<T: DeserializeOwned>(address: &str, path: &str) -> Result<T, Failure> {
    read(address, Method::POST, path).await
}

async fn read<T: DeserializeOwned>(address: &str, method: Method, path: &str) -> Result<T, Failure> {
    let address = plain(address);
    let answer = async {
        let mut answer = Answer::open(address, method, path).await?;
        let mut body = Vec::new();
        while let Some(part) = answer.next().await? {
            body.extend_from_slice(&part);
        }
        Ok(body)
    };
    let body = tokio::time::timeout(PATIENCE, answer).await.map_err(|_| Failure::Timeout(address.into()))??;
    serde_json::from_slice(&body)
        .map_err(|error| unreachable(address, format!("it is no Outpost, or one of another version: {error}")))
}

/// Without what some write around it.
fn plain(address: &str) -> &str {
    address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/')
}

fn unreachable(address: &str, reason: String) -> Failure {
    Failure::Unreachable { address: address.into(), reason }
}

/// An answer as it comes in.
pub(super) struct Answer {
    address: String,
    body: Incoming,
    connection: tokio::task::JoinHandle<Result<(), hyper::Error>>,
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    /// What `path` answers with, as it comes.
    pub(super) async fn ask(address: &str, path: &str) -> Result<Self, Failure> {
        let address = plain(address);
        let opened = tokio::time::timeout(PATIENCE, Self::open(address, Method::GET, path)).await;
        opened.map_err(|_| Failure::Timeout(address.into()))?
    }

    /// Whose status is good.
    async fn open(address: &str, method: Method, path: &str) -> Result<Self, Failure> {
        let mut answer = Self::begin(address, method, path).await.map_err(|e| unreachable(address, root(&*e)))?;
        let (status, body) = (answer.0, &mut answer.1);
        if status == 200 {
            return Ok(answer.1);
        }
        let mut said = Vec::new();
        while let Some(part) = body.next().await? {
            said.extend_from_slice(&part);
        }
        let text = String::from_utf8_lossy(&said).trim().to_owned();
        let told = unreachable(address, format!("HTTP {status}: {text}"));
        Err(if status == 400 { Failure::Usage(text) } else { told })
    }

    async fn begin(address: &str, method: Method, path: &str) -> Result<(u16, Self), BoxError> {
        let stream = TcpStream::connect(address).await?;
        // An address is always answered; the name by which we came to it may not be.
        let host = stream.peer_addr()?.to_string();
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = tokio::spawn(connection);
        let request = Request::builder().method(method).uri(path).header(http::header::HOST, host);
        let response = sender.send_request(request.body(Empty::<Bytes>::new())?).await?;
        let status = response.status().as_u16();
        Ok((status, Self { address: address.into(), body: response.into_body(), connection }))
    }

    /// The next part; `None` at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(error)) => return Err(unreachable(&self.address, root(&error))),
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// What is at the bottom of an error: the part that says what happened.
fn root(mut error: &(dyn std::error::Error + 'static)) -> String {
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// `text` as one part of a query.
pub(super) fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}
