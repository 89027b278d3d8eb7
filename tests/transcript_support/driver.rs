//! What a transcript is replayed against.

use super::script::{Step, Wire};
use super::world::ControlPlane;
use bytes::Bytes;
use std::time::Duration;

/// What a sidecar sees of its stream.
#[derive(Clone, Debug)]
pub enum Event {
    Message(Bytes),
    End { code: i32, message: String },
}

/// How Outpost is made for one transcript.
#[derive(Clone, Debug)]
pub struct Setup {
    pub upstream: Wire,
    /// The transcript's `option` lines.
    pub options: Vec<Vec<String>>,
}

/// An Outpost with a control plane above it and sidecars below.
pub trait Driver {
    /// Opens a stream: aggregated, or on the service of one type.
    fn open(&mut self, stream: u32, wire: Wire, service: Option<&str>);
    fn send(&mut self, stream: u32, message: Bytes);
    fn close_send(&mut self, stream: u32);
    /// The sidecar's connection is gone.
    fn lose(&mut self, stream: u32);
    /// What came, if anything did; the clock stands.
    fn poll(&mut self, stream: u32) -> Option<Event>;
    /// The same, but as patient as a machine under load needs.
    fn poll_patiently(&mut self, stream: u32) -> Option<Event>;
    /// Moves the clock by `most` at most, less where something is due before.
    /// Returns how far.
    fn step(&mut self, most: Duration) -> Duration;
    /// Changes the control plane and sends what it then says.
    fn control_plane(&mut self, act: &mut dyn FnMut(&mut ControlPlane));
    fn reach(&mut self, up: bool);
    /// Lets what is on its way arrive; the clock stands.
    fn breathe(&mut self);
    /// Lets this much time pass.
    fn pass(&mut self, by: Duration);
    /// Was the last request counted so, as far as this can be told?
    fn heard(&mut self, stream: u32, kind: &str) -> Result<(), String>;
    fn stall(&mut self, stream: u32, on: bool);
    fn open_streams(&mut self) -> usize;
    /// Lines that mean something over a socket only.
    fn over_socket(&mut self, step: &Step) -> Result<(), String>;
}
