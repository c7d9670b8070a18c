//! How a model is rotated over texts that are longer than those it was trained with.

use clap::Args;
use model::{Backend, RopeScaling, Transformer};

/// Longer texts than the trained ones.
#[derive(Debug, Clone, Copy, Args)]
pub struct RopeArgs {
    /// Write longer texts than were trained by a factor F: linear:F, ntk:F or yarn:F scales the rotary positions
    #[arg(long, value_name = "SCALING", default_value_t = RopeScaling::Unscaled)]
    rope_scaling: RopeScaling,
    #[command(flatten)]
    trained: TrainedArg,
}

/// How long the trained texts were.
#[derive(Debug, Clone, Copy, Args)]
pub struct TrainedArg {
    /// Positions that the model was trained with; unset: its max_seq_len
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trained: Option<u32>,
}

impl TrainedArg {
    /// The positions, of a model with this `max_seq_len`.
    pub fn positions(&self, max_seq_len: usize) -> usize {
        self.trained.map_or(max_seq_len, |trained| trained as usize)
    }
}

impl RopeArgs {
    /// The model as it is asked for.
    pub fn apply<B: Backend>(&self, model: Transformer<B>) -> Transformer<B> {
        let trained = self.trained.positions(model.config.max_seq_len);
        model.with_rope_scaling(self.rope_scaling, trained)
    }
}
