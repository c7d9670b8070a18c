//! Training data, from files to batches: file readers, the tokenizer, the token store, and batches.
//!
//! Files, the built-in world and probes provide [`Row`]s, which are tokenized once into a memory-mapped store; batches
//! are cut from the store. *Invariant:* a batch is a function of store, options, seed and position alone.

pub mod batches;
mod bpe;
pub mod chat;
mod control;
pub mod files;
pub mod generation;
pub mod loss;
pub mod prepare;
pub mod probes;
pub mod read;
pub mod row;
pub mod store;
pub mod stream;
pub mod tokenizer;
pub mod turns;
pub mod world;

pub use batches::{
    BatchOptions, Batches, Dropped, Pair, Position, PreferenceBatches, RowSize, TrainRow, sequential,
};
pub use loss::RowLoss;
pub use row::{Kind, Message, Row};
pub use store::Store;
pub use tokenizer::{Answer, Conversation, SpecialText, Tokenizer};
