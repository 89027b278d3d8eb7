//! Our stream on one control plane, as a value.
