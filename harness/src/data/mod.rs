//! From files to batches: readers of every layout, the tokenizer, the token store, rows of a batch.
//!
//! Files or the built-in world flow in as [`Row`]s; they are tokenized once into a memory-mapped store, from which
//! batches are cut. *Invariant:* a batch is a function of store, options, seed and position alone.

pub mod batches;
mod bpe;
pub mod chat;
mod control;
pub mod files;
pub mod loss;
pub mod prepare;
pub mod probes;
pub mod read;
pub mod row;
pub mod store;
pub mod stream;
pub mod together;
pub mod tokenizer;
pub mod turns;
pub mod world;

pub use batches::{
    BatchOptions, Batches, Lost, Pair, Position, PreferenceBatches, RowSize, TrainRow, sequential,
};
pub use loss::RowLoss;
pub use row::{Kind, Message, Row};
pub use store::Store;
pub use tokenizer::{Answer, Conversation, SpecialText, Tokenizer};
