//! Configuration as content: blobs, entries, trees, what a group serves, and
//! the frames that carry differences. Pure.
//!
//! * [`entry`]: a name with what it stands for
//! * [`tree`]: the entries of one type; `trie` is what it is made of
//! * [`store`]: holds each blob, entry, node and set of names once (`intern`),
//!   remembers which entries it made ([`history`]), and works out diffs and
//!   frames once (`recall`, `memo`)
//! * [`piece`]: what a tree is made of, for who writes it elsewhere
//! * [`names`]: sets of names
//! * [`frame`]: response bodies, encoded once per content
//! * [`snapshot`]: one group's trees at one moment, and the refs that move
//! * [`served`]: what a group serves now; [`sight`]: without what is hidden from one

pub mod entry;
pub mod frame;
pub mod history;
mod intern;
mod memo;
pub mod names;
pub mod piece;
mod recall;
pub mod served;
pub mod sight;
pub mod snapshot;
pub mod store;
pub mod tree;
mod trie;

#[cfg(test)]
mod tests;

pub use entry::{Attributes, Blob, Body, Entry, EntryId};
pub use frame::{Encoding, Frame, Frames, Parts};
pub use names::NameSet;
pub use served::{Reach, Served, ServedType};
pub use sight::Sight;
pub use snapshot::{Refs, Snapshot, view};
pub use store::{Stats, Store};
pub use tree::{Changed, Diff, Edit, Tree};
