//! Feeds bytes to one reader: the one named by the environment variable `READER`, or selected by the first byte.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mindscale_fuzz::{feed, readers::READERS};

fuzz_target!(|bytes: &[u8]| {
    match (std::env::var("READER"), bytes) {
        (Ok(name), bytes) => feed(&name, bytes),
        (Err(_), [first, rest @ ..]) => feed(READERS[usize::from(*first) % READERS.len()].name, rest),
        (Err(_), []) => {}
    }
});
