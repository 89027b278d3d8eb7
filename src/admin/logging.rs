//! `GET /logging` shows the levels of the log; `POST /logging?level=FILTER&for=10m`
//! lays others over them for some time, `POST /logging?reset` ends that.
//!
//! Whoever reaches the admin endpoint may: keep it on loopback. A page in a
//! browser on the same machine may not, so what states an `Origin` is refused.

use super::Shared;
use super::report::{Levels, Seconds};
use crate::config::span;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use serde::Deserialize;
use std::net::SocketAddr;
use std::time::Duration;

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Show,
    Lay { filter: String, span: Duration },
    Reset,
}

/// Without `for`.
const SPAN: Duration = Duration::from_secs(600);

#[derive(Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Asked {
    level: Option<String>,
    r#for: Option<String>,
    reset: Option<String>,
}

pub(super) async fn show(state: Shared, Query(asked): Query<Asked>) -> Response {
    if asked != Asked::default() {
        let text = "GET shows the levels and changes none: use POST /logging?level=FILTER, or ?reset\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    }
    change(&state, Change::Show)
}

pub(super) async fn set(
    state: Shared,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Response {
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "not for pages in a browser; use outpost log-level\n").into_response();
    }
    let wanted = match wanted(asked) {
        Ok(wanted) => wanted,
        Err(text) => return (StatusCode::BAD_REQUEST, text + "\n").into_response(),
    };
    // First, for it may be the last line that is written.
    tracing::warn!(%peer, change = ?wanted, "an operator asks for other log levels");
    change(&state, wanted)
}

fn wanted(asked: Asked) -> Result<Change, String> {
    match (asked.level, asked.reset) {
        (Some(filter), None) => {
            let given = |text: String| span(&text).map_err(|what| format!("for={text}: it {what}"));
            Ok(Change::Lay { filter, span: asked.r#for.map_or(Ok(SPAN), given)? })
        }
        (None, Some(_)) if asked.r#for.is_none() => Ok(Change::Reset),
        _ => Err("say either level=FILTER, with for=10m where it should be another time, or reset".into()),
    }
}

fn change(State(sources): &Shared, change: Change) -> Response {
    match (sources.levels)(change) {
        Ok(levels) => Json(levels).into_response(),
        Err(text) => (StatusCode::BAD_REQUEST, text + "\n").into_response(),
    }
}

impl Levels {
    /// `laid` is laid over what is configured, for some time.
    pub fn new(configured: String, laid: Option<(String, Duration)>) -> Self {
        let (temporary, remaining) = laid.map(|(filter, left)| (filter, Seconds::from(left))).unzip();
        Self {
            api_version: super::report::API_VERSION.into(),
            kind: "Levels".into(),
            configured,
            temporary,
            remaining_seconds: remaining,
        }
    }
}
