//! WANs that have a name.

use super::wan::Link;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// How far away the control plane is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Preset {
    /// 0.5 ms round trip, 10 Gbit/s
    Lan,
    /// 20 ms, 1 Gbit/s
    Region,
    /// 80 ms, 300 Mbit/s
    Continent,
    /// 160 ms, 100 Mbit/s
    Intercontinental,
    /// 600 ms, 20 Mbit/s
    Satellite,
    /// 120 ms, 10 Mbit/s, 40 ms of jitter, a stall of 300 ms every 5 s; by TUN 1 % lost, 0.5 % overtaken
    Bad,
}

/// A link that stands still now and then, in µs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stalls {
    pub every: u64,
    pub span: u64,
}

impl Preset {
    pub fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Region => "region",
            Self::Continent => "continent",
            Self::Intercontinental => "intercontinental",
            Self::Satellite => "satellite",
            Self::Bad => "bad",
        }
    }

    /// Round trip in µs.
    pub fn round_trip(self) -> u64 {
        match self {
            Self::Lan => 500,
            Self::Region => 20_000,
            Self::Continent => 80_000,
            Self::Intercontinental => 160_000,
            Self::Satellite => 600_000,
            Self::Bad => 120_000,
        }
    }

    pub fn stalls(self) -> Option<Stalls> {
        (self == Self::Bad).then_some(Stalls { every: 5_000_000, span: 300_000 })
    }

    /// Of a million packets: lost, and overtaken.
    pub fn rough(self) -> (u32, u32) {
        if self == Self::Bad { (10_000, 5000) } else { (0, 0) }
    }

    pub fn link(self, seed: u64) -> Link {
        let megabits: u64 = match self {
            Self::Lan => 10_000,
            Self::Region => 1000,
            Self::Continent => 300,
            Self::Intercontinental => 100,
            Self::Satellite => 20,
            Self::Bad => 10,
        };
        let jitter = if self == Self::Bad { Duration::from_millis(40) } else { Duration::ZERO };
        Link {
            jitter,
            bytes_per_second: Some(megabits * 125_000),
            seed,
            ..Link::with_delay(Duration::from_micros(self.round_trip() / 2))
        }
    }
}
