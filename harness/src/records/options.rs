//! What the texts of options score, and how those of unlike texts are compared.

use clap::ValueEnum;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The text of an option as the answer.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptionScore {
    /// Its log-probability behind the question: the sum over its tokens.
    pub log_prob: f64,
    /// The same behind an empty question.
    pub unconditional: f64,
    /// Its tokens behind the question.
    pub tokens: u32,
    /// Its bytes in UTF-8.
    pub bytes: u32,
}

/// How the log-likelihoods of the texts of options are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema, ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Norm {
    /// As they are.
    Raw,
    /// Over the option's tokens.
    Token,
    /// Over its bytes in UTF-8.
    Byte,
    /// Minus that of the option as the answer to an empty question (Brown et al. 2020, section 2.4).
    Pmi,
}

impl Norm {
    /// Every norm with its name, in the order of columns.
    pub const ALL: [(Self, &str); 4] =
        [(Self::Raw, "raw"), (Self::Token, "token"), (Self::Byte, "byte"), (Self::Pmi, "pmi")];

    /// What an option scores by this norm. Bytes do not depend on how many tokens a tokenizer makes of a word; minus the
    /// unconditional log-likelihood it is the pointwise mutual information with the question (Brown et al. 2020, section
    /// 2.4; Holtzman et al. 2021).
    pub fn score(self, option: &OptionScore) -> f64 {
        let OptionScore { log_prob, unconditional, tokens, bytes } = *option;
        match self {
            Self::Raw => log_prob,
            Self::Token => log_prob / f64::from(tokens),
            Self::Byte => log_prob / f64::from(bytes),
            Self::Pmi => log_prob - unconditional,
        }
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
