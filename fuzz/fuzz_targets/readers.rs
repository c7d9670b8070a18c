//! Feeds bytes to one reader, named by the variable `READER`, or to the one that the first byte chooses.
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
