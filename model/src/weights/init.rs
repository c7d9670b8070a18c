//! Initial weights, which depend only on configuration and seed. The factors of parametrizations are in
//! [`crate::parametrization`].

use crate::config::{Init, ModelConfig};
use crate::layout::Layout;
use crate::random::{self, Purpose};
use crate::spec::Role;
use crate::trainer::Rule;
use rand_distr::{Distribution, Normal, Uniform};

/// Draws every weight in the order of the layout.
pub fn draw(config: &ModelConfig, layout: &Layout, seed: u64) -> Vec<f32> {
    let mut rng = random::stream(seed, Purpose::Weights, 0);
    let mut flat = vec![0.0f32; layout.len()];
    for param in &layout.params {
        let values = &mut flat[param.range.clone()];
        // The update rule does not affect the factor of initial weights.
        let times = (multiplier(config, param.role) * config.scales(param.role, Rule::AdamW).init) as f32;
        if param.role.is_norm() {
            values.fill(times);
            continue;
        }
        match spread(config, param.role) {
            Spread::Normal(deviation) => {
                let normal = Normal::new(0.0f32, deviation as f32).expect("a finite deviation");
                values.iter_mut().for_each(|v| *v = times * normal.sample(&mut rng));
            }
            Spread::Uniform(bound) => {
                let uniform = Uniform::new(-bound as f32, bound as f32).expect("a positive bound");
                values.iter_mut().for_each(|v| *v = times * uniform.sample(&mut rng));
            }
        }
    }
    flat
}

/// Returns the configured multiplier of the initial weights of a role.
fn multiplier(config: &ModelConfig, role: Role) -> f64 {
    match role {
        Role::Embedding => config.embedding_init,
        Role::Head => config.head_init,
        role if role.is_norm() => 1.0,
        _ => config.hidden_init,
    }
}

enum Spread {
    Normal(f64),
    Uniform(f64),
}

fn spread(config: &ModelConfig, role: Role) -> Spread {
    let (d_model, n_layers) = config.init_shape();
    let depth = (2.0 * n_layers as f64).sqrt();
    let width = 1.0 / (d_model as f64).sqrt();
    match (config.init, role) {
        // Quirk of v1: the residual scaling goes to the up projection w3 instead of w2.
        (Init::Minimind, Role::AttentionOutput | Role::Up) => Spread::Normal(0.02 / depth),
        // Kaiming-uniform with a = sqrt 5, PyTorch's default for a bare linear weight.
        (Init::Minimind, Role::Router) => Spread::Uniform(width),
        (Init::Minimind, _) => Spread::Normal(0.02),
        (Init::Width, Role::AttentionOutput | Role::Down) => Spread::Normal(width / depth),
        (Init::Width, _) => Spread::Normal(width),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deviations(config: &ModelConfig) -> impl Fn(&str) -> f64 + use<> {
        let layout = Layout::new(config);
        let flat = draw(config, &layout, 3);
        move |name| {
            let param = layout.find(name).expect("a parameter of the layout");
            let values = &flat[param.range.clone()];
            (values.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / values.len() as f64).sqrt()
        }
    }

    #[test]
    fn minimind_scales_the_output_and_up_projections() {
        let config = ModelConfig { init: Init::Minimind, n_experts: 4, n_layers: 8, ..Default::default() };
        let deviation = deviations(&config);
        for (name, want) in [
            ("tok_embeddings.weight", 0.02),
            ("layers.0.attention.wq.weight", 0.02),
            ("layers.7.attention.wo.weight", 0.005),
            ("layers.3.feed_forward.experts.2.w3.weight", 0.005),
            ("layers.3.feed_forward.shared_experts.w2.weight", 0.02),
            ("layers.3.feed_forward.gate.weight", (1.0f64 / 128.0 / 3.0).sqrt()),
        ] {
            let got = deviation(name);
            assert!((got / want - 1.0).abs() < 0.08, "{name}: {got} instead of {want}");
        }
    }

    #[test]
    fn width_scales_by_the_model() {
        let deviation = deviations(&ModelConfig { init: Init::Width, ..Default::default() });
        let width = 1.0 / 128f64.sqrt();
        assert!((deviation("layers.0.attention.wk.weight") / width - 1.0).abs() < 0.05);
        assert!((deviation("layers.0.feed_forward.w2.weight") / (width / 8f64.sqrt()) - 1.0).abs() < 0.05);
    }

    #[test]
    fn groups_are_multiplied() {
        let plain = ModelConfig { tie_embeddings: false, n_experts: 2, ..Default::default() };
        let scaled = ModelConfig { embedding_init: 4.0, hidden_init: 0.5, head_init: 0.0, ..plain.clone() };
        let layout = Layout::new(&plain);
        let (plain, scaled) = (draw(&plain, &layout, 3), draw(&scaled, &layout, 3));
        for param in &layout.params {
            let times = match param.role {
                Role::Embedding => 4.0,
                Role::Head => 0.0,
                role if role.is_norm() => 1.0,
                _ => 0.5,
            };
            for (plain, scaled) in plain[param.range.clone()].iter().zip(&scaled[param.range.clone()]) {
                assert!((plain * times - scaled).abs() < 1e-6, "{}: {plain} {scaled}", param.name);
            }
        }
    }

    #[test]
    fn the_seed_decides() {
        let config = ModelConfig::default();
        let layout = Layout::new(&config);
        assert_eq!(draw(&config, &layout, 1), draw(&config, &layout, 1));
        assert_ne!(draw(&config, &layout, 1), draw(&config, &layout, 2));
    }
}
