//! Scaling of rotary positions for contexts longer than those of training.

use clap::Args;
use model::{Backend, RopeScaling, Transformer};

/// Scaling of rotary positions.
#[derive(Debug, Clone, Copy, Args)]
pub struct RopeArgs {
    /// Extend the context by a factor F by scaling the rotary positions: linear:F, ntk:F or yarn:F
    #[arg(long, value_name = "SCALING", default_value_t = RopeScaling::Unscaled)]
    rope_scaling: RopeScaling,
    /// Context length in tokens that the model was trained with; unset: its max_seq_len
    #[arg(long, value_name = "N", requires = "rope_scaling", value_parser = clap::value_parser!(u32).range(1..))]
    trained: Option<u32>,
}

impl RopeArgs {
    /// Applies the scaling to a model.
    pub fn apply<B: Backend>(&self, model: Transformer<B>) -> Transformer<B> {
        let trained = self.trained.map_or(model.config.max_seq_len, |trained| trained as usize);
        model.with_rope_scaling(self.rope_scaling, trained)
    }
}
