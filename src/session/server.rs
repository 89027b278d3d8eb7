//! One sidecar's stream, as a value.
