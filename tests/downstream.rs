//! The side towards sidecars over real sockets, against tonic's stock client and
//! clients that misbehave. What the upstream would say is said to the exchange.

mod downstream {
    mod bad_input;
    mod descriptors;
    mod identity;
    mod pace;
    mod private;
    mod serving;
    mod stack;
    mod status;
}
