//! Crossed seeds and questions: the variance components of a score, and intervals that generalise to other seeds and
//! other questions alike.
//!
//! Every seed of a setting answers the same questions: score `y[s][q] = mean + seed[s] + question[q] + rest[s][q]`, all
//! independent (Miller 2024, sections 2 and 4; Madaan et al. 2024 measure the seeds' part). With the mean squares `MS` of
//! the two-way analysis of variance, the variances by the method of moments are (Searle, Casella & McCulloch 1992,
//! section 4.7): `rest = MS_rest`, `seed = (MS_seed - MS_rest) / questions`, `question = (MS_question - MS_rest) /
//! seeds`, none below 0.

use super::{Mean, StatsError};

/// Minimum number of seeds of one setting, or of paired seeds: with fewer, Satterthwaite's degrees of freedom rest on a
/// poorly estimated variance, and nominal 95 % intervals cover only 87 to 93 % (`simulations.rs`).
pub(super) const SEEDS: usize = 4;

/// Minimum number of seeds on each side of a difference: seeds of both sides contribute, so fewer suffice.
const SEEDS_OF_SIDE: usize = 3;

/// Minimum number of questions.
pub(super) const QUESTIONS: usize = 4;

/// The variance components of scores.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Components {
    /// Mean of all scores.
    pub mean: f64,
    /// Number of seeds.
    pub seeds: usize,
    /// Number of questions.
    pub questions: usize,
    /// Variance between seeds: how much all answers of one seed are better or worse than those of another.
    pub seed: f64,
    /// Variance between questions: how much a question is easier or harder for all seeds.
    pub question: f64,
    /// Residual variance of a single answer.
    pub rest: f64,
    squares: Squares,
}

/// Mean squares of the two-way analysis of variance, each divided by `seeds * questions`: parts of the variance of the
/// mean.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Squares {
    seed: Term,
    question: Term,
    rest: Term,
}

/// A mean square, scaled, with its degrees of freedom.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Term {
    square: f64,
    df: f64,
}

impl Components {
    /// Computes the components of a complete table: a row for each seed with a score for each question, all in the same order.
    ///
    /// For two settings whose seeds are paired, such as by data and initial weights, the table holds their [`differences`].
    ///
    /// # Errors
    /// If there are fewer than two seeds or questions, rows of different lengths, or a score that is not finite.
    pub fn of(table: &[Vec<f64>]) -> Result<Self, StatsError> {
        let (means, squares) = analyse(table)?;
        let (seeds, questions) = (table.len(), table[0].len());
        let (s, q) = (seeds as f64, questions as f64);
        let above_rest = |term: Term| (term.square - squares.rest.square).max(0.0);
        Ok(Self {
            mean: means.all,
            seeds,
            questions,
            seed: above_rest(squares.seed) * s,
            question: above_rest(squares.question) * q,
            rest: squares.rest.square * s * q,
            squares,
        })
    }

    /// The parts of the mean's variance due to seeds, questions and the residual, in this order.
    pub fn variance_of_mean(&self) -> [f64; 3] {
        self.variance_with(self.seeds, self.questions)
    }

    /// The same for other numbers of seeds and questions.
    pub fn variance_with(&self, seeds: usize, questions: usize) -> [f64; 3] {
        let (s, q) = (seeds as f64, questions as f64);
        [self.seed / s, self.question / q, self.rest / (s * q)]
    }

    /// The mean as an estimate for other seeds and other questions of the same kind, with the degrees of freedom of
    /// Satterthwaite (1946); `n` is the number of seeds.
    ///
    /// For these very questions, use [`Mean::of`] the seeds' means. Assumes that seeds and questions are draws from large
    /// populations; questions grouped in subjects are not, but subjects may be: then use each subject's mean as a question.
    ///
    /// # Errors
    /// If there are fewer than four seeds or questions, or nothing varies.
    pub fn mean(&self) -> Result<Mean, StatsError> {
        StatsError::require_at_least("variance by seeds and questions", "seeds", self.seeds, SEEDS)?;
        StatsError::require_at_least(
            "variance by seeds and questions",
            "questions",
            self.questions,
            QUESTIONS,
        )?;
        let Squares { seed, question, rest } = self.squares;
        satterthwaite(self.mean, self.seeds, &[seed], question, &[rest])
    }
}

/// The difference of two settings, `a - b`, as an estimate for other seeds and other questions of the same kind. Takes
/// tables as for [`Components::of`], with the same questions in the same order and independent seeds.
///
/// The questions' part is the variance of the per-question differences of means, so that difficulty common to both cancels
/// (Miller 2024, section 3); `n` is the number of seeds of both.
///
/// # Errors
/// If there are fewer than three seeds on a side or four questions, different numbers of questions, a score that is not
/// finite, or nothing varies.
pub fn crossed_difference(a: &[Vec<f64>], b: &[Vec<f64>]) -> Result<Mean, StatsError> {
    let method = "a difference by seeds and questions";
    StatsError::require_at_least(method, "seeds", a.len().min(b.len()), SEEDS_OF_SIDE)?;
    StatsError::require_at_least(method, "questions", a[0].len(), QUESTIONS)?;
    StatsError::require_equal_length("the questions of b", b[0].len(), a[0].len())?;
    let ((means_a, of_a), (means_b, of_b)) = (analyse(a)?, analyse(b)?);
    let differences: Vec<f64> =
        means_a.questions.iter().zip(&means_b.questions).map(|(a, b)| a - b).collect();
    let (value, variance) = super::mean::moments(&differences);
    let q = differences.len() as f64;
    let question = Term { square: variance / q, df: q - 1.0 };
    satterthwaite(value, a.len() + b.len(), &[of_a.seed, of_b.seed], question, &[of_a.rest, of_b.rest])
}

/// Subtracts two tables, seed by seed and question by question.
///
/// # Errors
/// If their sizes differ.
pub fn differences(a: &[Vec<f64>], b: &[Vec<f64>]) -> Result<Vec<Vec<f64>>, StatsError> {
    StatsError::require_equal_length("the seeds of b", b.len(), a.len())?;
    let row = |(a, b): (&Vec<f64>, &Vec<f64>)| -> Result<Vec<f64>, StatsError> {
        StatsError::require_equal_length("the questions of b", b.len(), a.len())?;
        Ok(a.iter().zip(b).map(|(a, b)| a - b).collect())
    };
    a.iter().zip(b).map(row).collect()
}

/// A mean whose variance is the sum of the seeds' squares and the excess of the question's square over the rests'.
///
/// Without such an excess, the seeds' squares alone contain all variation: that of seeds and rest. The degrees of freedom
/// are never fewer than the smallest of a single term, as holds for Satterthwaite's formula for sums.
fn satterthwaite(
    value: f64,
    n: usize,
    seeds: &[Term],
    question: Term,
    rests: &[Term],
) -> Result<Mean, StatsError> {
    let sum = |terms: &[Term]| terms.iter().map(|term| term.square).sum::<f64>();
    let spread = |terms: &[Term]| terms.iter().map(|term| term.square.powi(2) / term.df).sum::<f64>();
    let above = question.square - sum(rests);
    let mut variance = sum(seeds);
    let mut denominator = spread(seeds);
    if above > 0.0 {
        variance += above;
        denominator += spread(&[question]) + spread(rests);
    }
    if variance <= (1e-9 * value).powi(2) {
        return Err(StatsError::NoVariance);
    }
    let least = seeds.iter().map(|term| term.df).fold(question.df, f64::min);
    let df = (variance.powi(2) / denominator).max(least);
    Ok(Mean { value, error: variance.sqrt(), df, n })
}

/// Means of a table: of all scores, and by question.
struct Means {
    all: f64,
    questions: Vec<f64>,
}

/// Two-way analysis of variance without replication.
fn analyse(table: &[Vec<f64>]) -> Result<(Means, Squares), StatsError> {
    let method = "an analysis by seeds and questions";
    StatsError::require_at_least(method, "seeds", table.len(), 2)?;
    StatsError::require_at_least(method, "questions", table[0].len(), 2)?;
    let (seeds, questions) = (table.len(), table[0].len());
    for row in table {
        StatsError::require_equal_length("a seed's answers", row.len(), questions)?;
        StatsError::require_finite("a score", row)?;
    }
    let (s, q) = (seeds as f64, questions as f64);
    let of_seeds: Vec<f64> = table.iter().map(|row| row.iter().sum::<f64>() / q).collect();
    let of_questions: Vec<f64> =
        (0..questions).map(|i| table.iter().map(|row| row[i]).sum::<f64>() / s).collect();
    let all = of_seeds.iter().sum::<f64>() / s;
    let square = |means: &[f64]| means.iter().map(|mean| (mean - all).powi(2)).sum::<f64>();
    let rest = |(row, seed): (&Vec<f64>, &f64)| -> f64 {
        row.iter().zip(&of_questions).map(|(y, question)| (y - seed - question + all).powi(2)).sum()
    };
    let rests: f64 = table.iter().zip(&of_seeds).map(rest).sum();
    let (ds, dq) = (s - 1.0, q - 1.0);
    let squares = Squares {
        seed: Term { square: square(&of_seeds) / ds / s, df: ds },
        question: Term { square: square(&of_questions) / dq / q, df: dq },
        rest: Term { square: rests / (ds * dq) / (s * q), df: ds * dq },
    };
    Ok((Means { all, questions: of_questions }, squares))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::references::{cases, check, numbers};
    use super::*;

    fn table(value: &serde_json::Value) -> Vec<Vec<f64>> {
        value.as_array().unwrap().iter().map(numbers).collect()
    }

    #[test]
    fn components_agree_with_statsmodels() {
        for case in cases("components") {
            let found = Components::of(&table(&case["table"])).unwrap();
            let mean = found.mean().unwrap();
            let numbers = [found.mean, found.seed, found.question, found.rest, mean.error, mean.df];
            check(&case, &["mean", "seed", "question", "rest", "error", "df"], &numbers, 1e-9);
        }
    }

    #[test]
    fn differences_agree_with_statsmodels() {
        for case in cases("crossed_difference") {
            let found = crossed_difference(&table(&case["a"]), &table(&case["b"])).unwrap();
            check(&case, &["value", "error", "df"], &[found.value, found.error, found.df], 1e-9);
        }
    }

    #[test]
    fn a_table_by_hand_has_its_components() {
        // Rows 1 3 / 2 6: means of seeds 2 and 4, of questions 1.5 and 4.5, residuals of 0.5.
        let found = Components::of(&[vec![1.0, 3.0], vec![2.0, 6.0]]).unwrap();
        // MS_seed = 2 * 2 = 4, MS_question = 2 * 4.5 = 9, MS_rest = 4 * 0.25 = 1.
        assert_eq!((found.mean, found.seed, found.question, found.rest), (3.0, 1.5, 4.0, 1.0));
        assert_eq!(found.variance_of_mean(), [0.75, 2.0, 0.25]);
        assert_eq!(found.variance_with(3, 8), [0.5, 0.5, 1.0 / 24.0]);
    }

    #[test]
    fn equal_seeds_leave_the_questions() {
        let row = vec![0.0, 1.0, 1.0, 0.0, 1.0, 1.0];
        let mean = Components::of(&vec![row.clone(); 4]).unwrap().mean().unwrap();
        let expected = Mean::of(&row).unwrap();
        assert!((mean.error - expected.error).abs() < 1e-12 && (mean.df - expected.df).abs() < 1e-9);
    }

    #[test]
    fn too_few_are_refused() {
        let three = vec![vec![0.0, 1.0, 0.5, 0.2]; 3];
        let refused = Components::of(&three).unwrap().mean().unwrap_err();
        assert_eq!(refused.to_string(), "too few seeds: n=3, variance by seeds and questions needs 4");
        assert!(crossed_difference(&three[..2], &three).is_err());
        assert_eq!(crossed_difference(&three, &three), Err(StatsError::NoVariance));
        assert!(Components::of(&[vec![1.0, 2.0], vec![1.0]]).is_err());
        assert!(Components::of(&[]).is_err() && crossed_difference(&[], &[]).is_err());
        assert!(differences(&three, &three[..2]).is_err());
    }
}
