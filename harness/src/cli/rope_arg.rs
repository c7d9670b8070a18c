//! Scaling of rotary positions for contexts longer than those of training.

use clap::Args;
use model::{Backend, RopeScaling, Transformer};

/// Scaling of rotary positions.
#[derive(Debug, Clone, Copy, Args)]
pub struct RopeArgs {
    /// Extend the context by a factor F by scaling the rotary positions: linear:F, ntk:F or yarn:F
    #[arg(long, value_name = "SCALING", default_value_t = RopeScaling::Unscaled)]
    rope_scaling: RopeScaling,
    #[command(flatten)]
    trained: TrainedArg,
}

/// Trained context length.
#[derive(Debug, Clone, Copy, Args)]
pub struct TrainedArg {
    /// Context length in tokens that the model was trained with; unset: its max_seq_len
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    trained: Option<u32>,
}

impl TrainedArg {
    /// Returns the trained length, for a model with this `max_seq_len`.
    pub fn positions(&self, max_seq_len: usize) -> usize {
        self.trained.map_or(max_seq_len, |trained| trained as usize)
    }
}

impl RopeArgs {
    /// Applies the scaling to a model.
    pub fn apply<B: Backend>(&self, model: Transformer<B>) -> Transformer<B> {
        let trained = self.trained.positions(model.config.max_seq_len);
        model.with_rope_scaling(self.rope_scaling, trained)
    }
}
