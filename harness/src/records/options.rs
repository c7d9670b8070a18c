//! Scores of the texts of options, and how options with different texts are compared.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Scores of an option's text as the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptionScore {
    /// Log-probability of the text after the question, in nats: the sum over its tokens.
    pub log_prob: f64,
    /// The same after an empty question.
    pub unconditional: f64,
    /// Number of its tokens after the question.
    pub tokens: u32,
    /// Number of its bytes in UTF-8.
    pub bytes: u32,
}

/// The largest entry of a record's probabilities.
pub(super) const LARGEST: f64 = 1e300;

/// How the log-likelihoods of the texts of options are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// The plain log-likelihood.
    Raw,
    /// Divided by the number of tokens of the option.
    Token,
    /// Divided by the number of bytes of the option in UTF-8.
    Byte,
    /// Minus the log-likelihood of the option as the answer to an empty question (Brown et al. 2020, section 2.4).
    Pmi,
}

impl Norm {
    /// Every norm with its name, in the order of the columns of questions.csv.
    pub const ALL: [(Self, &str); 4] =
        [(Self::Raw, "raw"), (Self::Token, "token"), (Self::Byte, "byte"), (Self::Pmi, "pmi")];

    /// The score of an option by this norm. A score per byte does not depend on how a tokenizer splits words; minus the
    /// unconditional log-likelihood, the score is the pointwise mutual information with the question (Brown et al. 2020,
    /// section 2.4; Holtzman et al. 2021).
    pub fn score(self, option: &OptionScore) -> f64 {
        let OptionScore { log_prob, unconditional, tokens, bytes } = *option;
        match self {
            Self::Raw => log_prob,
            Self::Token => log_prob / f64::from(tokens),
            Self::Byte => log_prob / f64::from(bytes),
            Self::Pmi => log_prob - unconditional,
        }
    }

    /// The exponential of the score, as records hold it: 0 if it underflows, at most 1e300, as JSON has no infinity.
    pub fn probability(self, option: &OptionScore) -> f64 {
        self.score(option).exp().min(LARGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_have_the_names_of_their_keys_and_score_by_them() {
        let option = OptionScore { log_prob: -6.0, unconditional: -4.0, tokens: 2, bytes: 12 };
        let scores = Norm::ALL.map(|(norm, name)| {
            assert_eq!(serde_json::to_value(norm).ok(), Some(name.into()));
            norm.score(&option)
        });
        assert_eq!(scores, [-6.0, -3.0, -0.5, -2.0]);
        assert_eq!(Norm::ALL.map(|(norm, _)| norm), Norm::value_variants());
    }
}
