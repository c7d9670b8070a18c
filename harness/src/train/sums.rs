//! Sums over the rows of an optimizer step or of a validation.

use model::RouterStats;

/// Sums over one optimizer step or one validation.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Sum of the loss over all counted positions or pairs.
    pub loss: f64,
    /// Number of positions, or of pairs, that the loss is averaged over.
    pub counted: f64,
    /// Number of target tokens.
    pub tokens: u64,
    /// Number of positions that went through the model.
    pub positions: u64,
    /// Sum of the squared lengths of the documents.
    pub squares: u64,
    /// Sum of the reward margins, and number of pairs with a positive one; `None` unless pairs are compared.
    pub rewards: Option<(f64, f64)>,
    /// Router statistics of each layer; empty for dense models.
    pub router: Vec<RouterStats>,
    /// [`Self::loss`] and [`Self::counted`] of each source, by its number; only in training, and only if sources have names.
    pub sources: Vec<(f64, f64)>,
}

impl Sums {
    /// Adds the sums of another part of the step or validation.
    pub fn add(&mut self, other: &Self) {
        self.loss += other.loss;
        self.counted += other.counted;
        self.tokens += other.tokens;
        self.positions += other.positions;
        self.squares += other.squares;
        if let Some((margin, right)) = other.rewards {
            let (sum, count) = self.rewards.get_or_insert((0.0, 0.0));
            *sum += margin;
            *count += right;
        }
        self.router.resize(self.router.len().max(other.router.len()), RouterStats::default());
        for (mine, theirs) in self.router.iter_mut().zip(&other.router) {
            mine.merge(theirs);
        }
        self.sources.resize(self.sources.len().max(other.sources.len()), (0.0, 0.0));
        for (mine, theirs) in self.sources.iter_mut().zip(&other.sources) {
            (mine.0, mine.1) = (mine.0 + theirs.0, mine.1 + theirs.1);
        }
    }

    /// The mean loss.
    pub fn mean(&self) -> f64 {
        self.loss / self.counted.max(1.0)
    }

    /// The objective's own columns of a row of metrics.
    pub fn extras(&self) -> Vec<(String, f64)> {
        let mut extras = vec![];
        if let Some((margin, right)) = self.rewards {
            extras.push(("reward_margin".into(), margin / self.counted.max(1.0)));
            extras.push(("reward_accuracy".into(), right / self.counted.max(1.0)));
        }
        if !self.router.is_empty() {
            extras.push(("aux_loss".into(), self.router.iter().map(|r| r.aux_loss).sum()));
            let tokens: u64 = self.router.iter().map(|r| r.tokens).sum();
            let entropy: f64 = self.router.iter().map(|r| r.entropy_sum).sum();
            extras.push(("router_entropy".into(), entropy / tokens.max(1) as f64));
            // Within each layer: expert 0 of one layer is unrelated to expert 0 of another.
            let largest = |r: &RouterStats| {
                let all = r.load.iter().sum::<u64>().max(1) as f64;
                r.load.iter().max().map_or(0.0, |&most| most as f64 / all)
            };
            let largest = self.router.iter().map(largest).sum::<f64>() / self.router.len() as f64;
            let dead = self.router.iter().flat_map(|r| &r.load).filter(|load| **load == 0).count();
            extras.push(("max_expert_load".into(), largest));
            extras.push(("dead_experts".into(), dead as f64));
            let total: u64 = self.router.iter().flat_map(|r| &r.load).sum();
            for expert in 0..self.router[0].load.len() {
                let load: u64 = self.router.iter().map(|r| r.load[expert]).sum();
                extras.push((format!("expert_load_{expert}"), load as f64 / total.max(1) as f64));
            }
        }
        extras
    }
}
