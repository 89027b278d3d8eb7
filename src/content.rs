//! Configuration as content: blobs, entries, trees, what a group serves, and
//! the frames that carry differences. Pure.
//!
//! * [`entry`]: a name with what it stands for
//! * [`tree`]: the entries of one type
//! * [`store`]: holds each blob, entry and set of names once
//! * [`frame`]: response bodies, encoded once per content
//! * [`snapshot`]: one group's trees at one moment, and the refs that move
//! * [`served`]: what a group serves now

pub mod entry;
pub mod frame;
pub mod names;
pub mod served;
pub mod snapshot;
pub mod store;
pub mod tree;

pub use entry::{Blob, Body, Entry, EntryId};
pub use frame::{Encoding, Frame, Frames, Parts};
pub use names::NameSet;
pub use served::{Reach, Served, ServedType};
pub use snapshot::{Refs, Snapshot, view};
pub use store::Store;
pub use tree::{Changed, Diff, Edit, Tree};
