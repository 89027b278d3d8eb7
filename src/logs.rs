//! Sets up logs: to stderr, as text or JSON, one event per line.

mod levels;

pub use levels::{LevelError, Levels, Now};

use crate::config::{self, Log, LogFormat};
use std::io::IsTerminal;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, reload};

/// Once per process; a second call changes nothing. The levels can be changed
/// by what it returns.
pub fn start(log: &Log) -> Levels {
    // `Config::check` has read the filter before.
    let filter = config::levels(&log.filter).unwrap_or_default();
    let (filter, handle) = reload::Layer::new(filter);
    let layer = fmt::layer().with_writer(std::io::stderr);
    let layer = match log.format {
        LogFormat::Text => layer.with_ansi(std::io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed(),
    };
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
    Levels::new(&log.filter, move |filter| {
        // It fails only where another subscriber was there before.
        let _ = handle.reload(filter);
    })
}
