//! Transcripts: conversations in tests/transcripts, and what replays them.
//!
//! * [`script`], [`parse`]: the text as a value; [`library`]: all of them
//! * [`messages`], [`world`]: the other side of the wire, independent of the
//!   code under test
//! * [`run`], [`barrier`], [`compare`]: the interpreter
//! * [`driver`]: what it runs against; [`pure`] without sockets

pub mod barrier;
pub mod compare;
pub mod driver;
pub mod library;
pub mod messages;
pub mod parse;
pub mod pure;
pub mod raw;
pub mod run;
pub mod script;
pub mod socket;
pub mod upstream;
pub mod world;
