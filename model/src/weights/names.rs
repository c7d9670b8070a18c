//! Names and layouts of all parameters in the files of other programs: one table, which exports read from left to right and
//! imports from right to left.
//!
//! The first column contains our names, which are MiniMind's; `.weight` is appended to every name. The first `{}` stands for
//! the index of a layer, a second one for that of an expert, except in GGUF, where one tensor holds all experts of a layer.

use crate::layout::Param;

/// Layout of the values of a parameter in other formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ValueLayout {
    /// Same layout as ours.
    Same,
    /// Rows of heads to which rotary positions apply, in the order that [`Convention::halves`] defines.
    Rotary,
    /// Output matrix of the shared experts, multiplied by [`Convention::shared_expert`].
    SharedExpert,
}

/// A row of the table.
#[derive(Debug)]
pub struct Name {
    ours: &'static str,
    hugging_face: &'static str,
    gguf: &'static str,
    layout: ValueLayout,
}

const fn row(
    ours: &'static str,
    hugging_face: &'static str,
    gguf: &'static str,
    layout: ValueLayout,
) -> Name {
    Name { ours, hugging_face, gguf, layout }
}

use ValueLayout::{Rotary, Same, SharedExpert};

/// Every parameter of every variant of the architecture.
#[rustfmt::skip]
const NAMES: [Name; 21] = [
    row("tok_embeddings", "model.embed_tokens", "token_embd", Same),
    row("layers.{}.attention_norm", "model.layers.{}.input_layernorm", "blk.{}.attn_norm", Same),
    row("layers.{}.attention.wq", "model.layers.{}.self_attn.q_proj", "blk.{}.attn_q", Rotary),
    row("layers.{}.attention.wk", "model.layers.{}.self_attn.k_proj", "blk.{}.attn_k", Rotary),
    row("layers.{}.attention.wv", "model.layers.{}.self_attn.v_proj", "blk.{}.attn_v", Same),
    row("layers.{}.attention.wo", "model.layers.{}.self_attn.o_proj", "blk.{}.attn_output", Same),
    row("layers.{}.attention.q_norm", "model.layers.{}.self_attn.q_norm", "blk.{}.attn_q_norm", Rotary),
    row("layers.{}.attention.k_norm", "model.layers.{}.self_attn.k_norm", "blk.{}.attn_k_norm", Rotary),
    row("layers.{}.ffn_norm", "model.layers.{}.post_attention_layernorm", "blk.{}.ffn_norm", Same),
    row("layers.{}.feed_forward.w1", "model.layers.{}.mlp.gate_proj", "blk.{}.ffn_gate", Same),
    row("layers.{}.feed_forward.w3", "model.layers.{}.mlp.up_proj", "blk.{}.ffn_up", Same),
    row("layers.{}.feed_forward.w2", "model.layers.{}.mlp.down_proj", "blk.{}.ffn_down", Same),
    row("layers.{}.feed_forward.gate", "model.layers.{}.mlp.gate", "blk.{}.ffn_gate_inp", Same),
    row("layers.{}.feed_forward.experts.{}.w1", "model.layers.{}.mlp.experts.{}.gate_proj", "blk.{}.ffn_gate_exps", Same),
    row("layers.{}.feed_forward.experts.{}.w3", "model.layers.{}.mlp.experts.{}.up_proj", "blk.{}.ffn_up_exps", Same),
    row("layers.{}.feed_forward.experts.{}.w2", "model.layers.{}.mlp.experts.{}.down_proj", "blk.{}.ffn_down_exps", Same),
    row("layers.{}.feed_forward.shared_experts.w1", "model.layers.{}.mlp.shared_expert.gate_proj", "blk.{}.ffn_gate_shexp", Same),
    row("layers.{}.feed_forward.shared_experts.w3", "model.layers.{}.mlp.shared_expert.up_proj", "blk.{}.ffn_up_shexp", Same),
    row("layers.{}.feed_forward.shared_experts.w2", "model.layers.{}.mlp.shared_expert.down_proj", "blk.{}.ffn_down_shexp", SharedExpert),
    row("norm", "model.norm", "output_norm", Same),
    row("output", "lm_head", "output", Same),
];

/// Returns the row of one of our names, and the indices in the name.
fn find(ours: &str) -> (&'static Name, Vec<&str>) {
    let parts = ours.strip_suffix(".weight").unwrap_or(ours).split('.');
    let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    let pattern: Vec<&str> = parts.clone().map(|part| if is_number(part) { "{}" } else { part }).collect();
    let (pattern, numbers) = (pattern.join("."), parts.filter(|part| is_number(part)).collect());
    let name = NAMES.iter().find(|name| name.ours == pattern);
    (name.expect("a row for every parameter that the specification lists"), numbers)
}

/// Fills indices into a name pattern; surplus indices are ignored.
fn fill(pattern: &str, numbers: &[&str]) -> String {
    let filled = numbers.iter().fold(pattern.to_owned(), |name, number| name.replacen("{}", number, 1));
    filled + ".weight"
}

/// Returns transformers' name for one of our names.
pub fn hugging_face(ours: &str) -> String {
    let (name, numbers) = find(ours);
    fill(name.hugging_face, &numbers)
}

/// Returns llama.cpp's name for one of our names; the experts of a layer share one name.
pub fn gguf(ours: &str) -> String {
    let (name, numbers) = find(ours);
    fill(name.gguf, &numbers)
}

/// Differences between the layout of another program and ours.
#[derive(Debug, Clone, Copy)]
pub struct Convention {
    /// Whether rotary positions pair element `i` of a head with element `i + head_dim / 2` instead of its neighbour: the first
    /// elements of all our pairs come first, then all second elements.
    pub halves: bool,
    /// Factor of the output matrix of the shared experts, which compensates for a different weighting of their output; a power
    /// of two, so that nothing is rounded.
    pub shared_expert: f32,
    /// Width of a head.
    pub head_dim: usize,
}

impl Convention {
    /// Converts values from our layout to theirs.
    pub fn to_theirs(self, param: &Param, values: &[f32]) -> Vec<f32> {
        self.convert(param, values, self.shared_expert, |i| {
            let half = self.head_dim / 2;
            2 * (i % half) + i / half
        })
    }

    /// Converts values from their layout to ours; the inverse of [`Convention::to_theirs`].
    pub fn to_ours(self, param: &Param, values: &[f32]) -> Vec<f32> {
        let half = self.head_dim / 2;
        self.convert(param, values, 1.0 / self.shared_expert, |i| i / 2 + i % 2 * half)
    }

    /// Converts values; `source` maps the index of a row of a head after conversion to its index before.
    fn convert(
        self,
        param: &Param,
        values: &[f32],
        factor: f32,
        source: impl Fn(usize) -> usize,
    ) -> Vec<f32> {
        match find(&param.name).0.layout {
            Rotary if self.halves => {
                let width: usize = param.shape[1..].iter().product(); // width of a row; 1 for a norm
                let heads = values.chunks_exact(self.head_dim * width);
                let row = |head: &[f32], i: usize| head[source(i) * width..][..width].to_vec();
                heads.flat_map(|head| (0..self.head_dim).flat_map(move |i| row(head, i))).collect()
            }
            SharedExpert => values.iter().map(|value| value * factor).collect(),
            Same | Rotary => values.to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelConfig;
    use crate::layout::Layout;

    #[test]
    fn every_parameter_has_a_row() {
        let dense = ModelConfig { qk_norm: true, tie_embeddings: false, ..ModelConfig::default() };
        let moe = ModelConfig { n_experts: 12, ..dense.clone() };
        for config in [dense, moe] {
            for param in Layout::new(&config).params {
                find(&param.name);
            }
        }
        let name = "layers.3.feed_forward.experts.11.w2.weight";
        assert_eq!(hugging_face(name), "model.layers.3.mlp.experts.11.down_proj.weight");
        assert_eq!(gguf(name), "blk.3.ffn_down_exps.weight");
        assert_eq!(
            [hugging_face("output.weight"), gguf("norm.weight")],
            ["lm_head.weight", "output_norm.weight"]
        );
    }

    #[test]
    fn neighbours_become_halves_within_each_head() {
        let config = ModelConfig {
            d_model: 2,
            n_heads: 2,
            n_kv_heads: 1,
            head_dim: Some(6),
            ..ModelConfig::default()
        };
        let layout = Layout::new(&config);
        let wq = layout.find("layers.0.attention.wq.weight").cloned().into_iter().next();
        let wq = wq.expect("a matrix of every model"); // (12, 2)
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let convention = Convention { halves: true, shared_expert: 2.0, head_dim: 6 };
        let theirs = convention.to_theirs(&wq, &values);
        let rows: Vec<f32> = theirs.iter().step_by(2).map(|first| first / 2.0).collect();
        assert_eq!(rows, [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]);
        assert_eq!(convention.to_ours(&wq, &theirs), values);
    }
}
