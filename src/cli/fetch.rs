//! One question to the admin endpoint of a running Outpost.

use super::Failure;
use crate::admin::report::List;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(10);

/// The items that `path` answers with.
pub(super) async fn list<T: DeserializeOwned>(address: &str, path: &str) -> Result<Vec<T>, Failure> {
    let address = address.strip_prefix("http://").unwrap_or(address).trim_end_matches('/');
    let unreachable = |reason: String| Failure::Unreachable { address: address.into(), reason };
    let (status, body) = tokio::time::timeout(PATIENCE, get(address, path))
        .await
        .map_err(|_| Failure::Timeout(address.into()))?
        .map_err(|error| unreachable(root(&*error)))?;
    if status != 200 {
        let text = String::from_utf8_lossy(&body).trim().to_owned();
        return Err(if status == 400 { Failure::Usage(text) } else { unreachable(format!("HTTP {status}: {text}")) });
    }
    let list: List<T> = serde_json::from_slice(&body)
        .map_err(|error| unreachable(format!("it is no Outpost, or one of another version: {error}")))?;
    Ok(list.items)
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn get(address: &str, path: &str) -> Result<(u16, Bytes), BoxError> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let connection = tokio::spawn(connection);
    let request = http::Request::get(path).header(http::header::HOST, address).body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await?;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await?.to_bytes();
    connection.abort();
    Ok((status, body))
}

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
