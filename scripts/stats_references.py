"""Reference values of stats/src by SciPy and statsmodels (pip install scipy statsmodels).

Run from the repository's root; writes stats/src/references.json, which the tests of that crate read.
"""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import scipy
import statsmodels
import statsmodels.api as sm
from scipy import stats
from statsmodels.formula.api import ols
from statsmodels.stats import power as power_tests
from statsmodels.stats import proportion, weightstats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.multitest import multipletests

OUT = Path("stats/src/references.json")

# Five seeds of each of two settings, and shorter and longer samples.
A = [0.312, 0.298, 0.331, 0.305, 0.322]
B = [0.301, 0.297, 0.309, 0.299, 0.315]
THREE = [2.31, 2.28, 2.35]
SEVEN = [2.40, 2.33, 2.51, 2.37, 2.44, 2.36, 2.47]
LONG = [1.2, -0.4, 0.9, 1.7, 0.3, -0.2, 1.1, 0.6, 2.0, 0.1]


def shares():
    counts = [(0, 20), (1, 3), (5, 5), (81, 263), (316, 1346), (351, 1346), (1346, 1346)]
    for name, method in [("wilson", "wilson"), ("clopper_pearson", "beta")]:
        rows = []
        for (k, n), level in [(c, l) for c in counts for l in (0.9, 0.95)]:
            low, high = proportion.proportion_confint(k, n, 1 - level, method)
            rows.append(dict(correct=k, n=n, level=level, low=max(low, 0.0), high=min(high, 1.0)))
        yield name, rows
    pairs = [(56, 70, 48, 80), (9, 10, 3, 10), (10, 10, 0, 20), (316, 1346, 351, 1346)]
    rows = []
    for k, n, j, m in pairs:
        low, high = proportion.confint_proportions_2indep(k, n, j, m, method="newcomb", compare="diff")
        rows.append(dict(a=k, n_a=n, b=j, n_b=m, low=low, high=high))
    yield "newcombe", rows
    rows = []
    for k, n, j, m in pairs:
        h = proportion.proportion_effectsize(k / n, j / m)
        half = stats.norm.ppf(0.975) * np.sqrt(1 / n + 1 / m)
        rows.append(dict(a=k, n_a=n, b=j, n_b=m, value=h, low=h - half, high=h + half))
    yield "cohens_h", rows
    cases = [(316, 1346, 0.25), (344, 1346, 0.25), (351, 1346, 0.25), (400, 1346, 0.25), (7, 8, 0.5), (0, 30, 0.2)]
    yield "binomial", [dict(correct=k, n=n, p0=p, p=stats.binomtest(k, n, p).pvalue) for k, n, p in cases]
    rows = []
    for b, c in [(15, 5), (5, 15), (0, 0), (1, 0), (40, 41), (90, 30)]:
        p = mcnemar([[100, b], [c, 100]], exact=True).pvalue if b + c else 1.0
        rows.append(dict(only_a=b, only_b=c, p=min(p, 1.0)))
    yield "mcnemar", rows


def t_family():
    def row(found, **case):
        low, high = found.confidence_interval(0.95)
        return case | dict(t=found.statistic, df=found.df, p=found.pvalue, low=low, high=high)

    one = [(A, 0.25), (THREE, 2.3), (LONG, 0.0), ([1.0, 3.0], 0.5)]
    rows = []
    for values, null in one:
        rows.append(row(stats.ttest_1samp(values, null), values=values, null=null))
    yield "one_sample_t", rows
    yield "paired_t", [row(stats.ttest_rel(a, b), a=a, b=b) for a, b in [(A, B), (A[:2], B[:2]), (LONG, LONG[::-1])]]
    samples = [(A, B), (THREE, SEVEN), (A[:2], B[:2]), (LONG, THREE)]
    yield "welch_t", [row(stats.ttest_ind(a, b, equal_var=False), a=a, b=b) for a, b in samples]
    rows = []
    for a, b, paired, margin in [(A, B, True, 0.02), (A, B, False, 0.03), (THREE, SEVEN, False, 0.05)]:
        if paired:
            p, low, high = weightstats.ttost_paired(np.array(a), np.array(b), -margin, margin)
        else:
            p, low, high = weightstats.ttost_ind(a, b, -margin, margin, usevar="unequal")
        rows.append(dict(a=a, b=b, paired=paired, margin=margin, p=p, t_above=low[0], p_above=low[1], t_below=high[0],
                         p_below=high[1]))
    yield "tost", rows
    # statsmodels' small-sample factor is G / (G - 1) * (N - 1) / (N - K); for a mean, K is 1.
    random = np.random.default_rng(3)
    rows = []
    for sizes in ([5, 5, 5, 5], [3, 9, 6, 2, 7, 8], list(random.integers(8, 30, 52))):
        clusters = np.repeat(np.arange(len(sizes)), sizes)
        values = (random.random(len(clusters)) < 0.25 + 0.2 * random.standard_normal(len(sizes))[clusters]).astype(float)
        fit = sm.OLS(values, np.ones_like(values)).fit(
            cov_type="cluster", cov_kwds=dict(groups=clusters, use_correction=True, df_correction=True), use_t=True)
        low, high = fit.conf_int(0.05)[0]
        rows.append(dict(values=list(values), clusters=clusters.tolist(), value=fit.params[0], error=fit.bse[0], low=low,
                         high=high))
    yield "clustered_mean", rows


def randomisations():
    rows = []
    for d in (np.array(A) - np.array(B), np.array(LONG), np.array([1.0, 2.0, 3.0, 2.5, 1.5, 0.1])):
        found = stats.permutation_test((d,), np.mean, permutation_type="samples", n_resamples=np.inf)
        rows.append(dict(differences=list(d), statistic=found.statistic, p=found.pvalue))
    yield "sign_flip", rows
    rows = []
    for a, b in [(A, B), (THREE, SEVEN), (A[:2], B)]:
        found = stats.permutation_test((a, b), lambda x, y: abs(np.mean(x) - np.mean(y)), n_resamples=np.inf,
                                       alternative="greater")
        rows.append(dict(a=a, b=b, statistic=np.mean(a) - np.mean(b), p=found.pvalue))
    yield "permutation", rows


def corrections():
    families = [[0.01, 0.04, 0.03], [0.9, 0.8], [0.001, 0.008, 0.039, 0.041, 0.042, 0.06, 0.074, 0.205, 0.212, 0.216],
                [0.02, 0.02, 0.5]]
    rows = [dict(p=p) | {m: list(multipletests(p, method=m)[1]) for m in ("holm", "fdr_bh")} for p in families]
    yield "corrections", rows


def noncentral_t(t, df, delta):
    """Noncentral t as the mean of Phi(t S - delta) over S, since scipy.stats.nct.cdf loses digits in the tails."""
    chi = stats.chi(df)
    found, _ = scipy.integrate.quad(
        lambda s: stats.norm.cdf(t * s / np.sqrt(df) - delta) * chi.pdf(s), *chi.ppf([1e-16, 1 - 1e-16]), limit=500,
        epsabs=1e-13, epsrel=1e-12, points=[p for p in [delta / t * np.sqrt(df)] if 0 < p < chi.ppf(1 - 1e-16)] if t else None)
    return found


def noncentrality(t, df, p):
    return scipy.optimize.brentq(lambda delta: noncentral_t(t, df, delta) - p, t - 20 - abs(t), t + 20 + abs(t), xtol=1e-11)


def effects():
    rows = []
    for t, df, delta in [(2.0, 4, 1.0), (-1.0, 4, 1.0), (0.0, 8, 0.5), (12.7, 1, 3.0), (3.0, 1, -1.0), (2.2, 9.4, 2.8),
                         (1.96, 1000, 2.8), (40.0, 2, 20.0), (2.78, 4, 3.6), (5.0, 30, 5.5)]:
        # SciPy's own function agrees where it is accurate.
        own, found = stats.nct.cdf(t, df, delta), noncentral_t(t, df, delta)
        assert abs(own - found) < 1e-7, (t, df, delta, own, found)
        rows.append(dict(t=t, df=df, delta=delta, cdf=found))
    yield "noncentral_t", rows

    def g(mean, sd, df, share, **case):
        unit = np.sqrt(share)
        j = np.exp(scipy.special.gammaln(df / 2) - scipy.special.gammaln((df - 1) / 2)) / np.sqrt(df / 2)
        t = mean / sd / unit
        low, high = (j * unit * noncentrality(t, df, p) for p in (0.975, 0.025))
        return case | dict(value=j * mean / sd, low=low, high=high)

    rows = []
    for a, b in [(A, B), (THREE, SEVEN), (A[:2], B[:2])]:
        df = len(a) + len(b) - 2
        sd = np.sqrt(((len(a) - 1) * np.var(a, ddof=1) + (len(b) - 1) * np.var(b, ddof=1)) / df)
        rows.append(g(np.mean(a) - np.mean(b), sd, df, 1 / len(a) + 1 / len(b), a=a, b=b))
    yield "hedges_g", rows
    rows = []
    for d in (np.array(A) - np.array(B), np.array(LONG), np.array(THREE)):
        rows.append(g(np.mean(d), np.std(d, ddof=1), len(d) - 1, 1 / len(d), differences=list(d)))
    yield "hedges_g_of_pairs", rows


def detectable():
    rows = []
    for n, sd, alpha, wanted, paired in [(5, 0.01, 0.05, 0.8, False), (3, 0.02, 0.05, 0.9, False), (2, 1.0, 0.05, 0.8, False),
                                         (5, 0.01, 0.05, 0.8, True), (2, 1.0, 0.05, 0.8, True), (52, 0.1, 0.01, 0.8, True)]:
        # statsmodels' root finding is imprecise; its power is checked against the noncentral t.
        df = n - 1 if paired else 2 * n - 2
        unit = sd * np.sqrt((1 if paired else 2) / n)
        t = stats.t.ppf(1 - alpha / 2, df)
        power = lambda delta: 1 - noncentral_t(t, df, delta) + noncentral_t(-t, df, delta)
        delta = scipy.optimize.brentq(lambda delta: power(delta) - wanted, 0.1, 200, xtol=1e-12)
        by = power_tests.TTestPower() if paired else power_tests.TTestIndPower()
        own = by.power(delta * unit / sd, n, alpha)
        assert abs(own - wanted) < 1e-6, own
        rows.append(dict(n=n, sd=sd, alpha=alpha, power=wanted, paired=paired, detectable=delta * unit))
    yield "power", rows


def parabolas():
    rows = []
    for size, loss in [([1e6, 2e6, 4e6, 8e6, 1.6e7], [3.21, 3.12, 3.10, 3.14, 3.27]),
                       ([3e5, 1e6, 2e6, 7e6], [4.02, 3.80, 3.79, 3.95])]:
        c, cov = np.polyfit(np.log(size), loss, 2, cov=True)
        lowest = -c[1] / (2 * c[0])
        by = np.array([c[1] / (2 * c[0] ** 2), -1 / (2 * c[0]), 0])
        half = stats.t.ppf(0.975, len(size) - 3) * np.sqrt(by @ cov @ by)
        rows.append(dict(size=size, loss=loss, lowest=np.exp(lowest), least=np.polyval(c, lowest), low=np.exp(lowest - half),
                         high=np.exp(lowest + half)))
    yield "parabola", rows


def laws():
    """Minimizes the Huber loss of ln L by Nelder-Mead, starting from the law that generated the losses."""
    random = np.random.default_rng(7)
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 3e8, 6), np.geomspace(2e7, 6e9, 5)))
    loss = np.round((1.9 + 300 / n**0.33 + 900 / d**0.34) * np.exp(0.006 * random.standard_t(3, len(n))), 4)
    n, d = np.round(n), np.round(d)

    def objective(p):
        r = np.abs(np.log(np.exp(p[0]) + np.exp(p[1] - p[2] * np.log(n)) + np.exp(p[3] - p[4] * np.log(d))) - np.log(loss))
        return 1e3 * np.where(r <= 1e-3, 0.5 * r**2, 1e-3 * (r - 5e-4)).sum()

    start = [np.log(1.9), np.log(300), 0.33, np.log(900), 0.34]
    for _ in range(5):
        found = scipy.optimize.minimize(objective, start, method="Nelder-Mead",
                                        options=dict(maxiter=1e5, maxfev=1e5, xatol=1e-12, fatol=1e-15))
        start = found.x
    e, a, alpha, b, beta = found.x
    yield "law", [dict(n=list(n), d=list(d), loss=list(loss), E=np.exp(e), A=np.exp(a), alpha=alpha, B=np.exp(b), beta=beta,
                       objective=found.fun / 1e3)]


def satterthwaite(seeds, question, rests):
    """Returns the standard error and Satterthwaite's degrees of freedom. The variance is the sum of the mean squares of seeds
    plus the excess of the question's over the residual ones; each mean square comes with its degrees of freedom."""
    above = question[0] - sum(v for v, _ in rests)
    terms = seeds + ([question] + rests if above > 0 else [])
    variance = sum(v for v, _ in seeds) + max(above, 0)
    df = variance**2 / sum(v**2 / df for v, df in terms)
    return np.sqrt(variance), max(df, min(df for _, df in seeds + [question]))


def anova(table):
    """Returns mean squares by statsmodels' two-way analysis of variance: seed, question, residual, with degrees of freedom."""
    s, q = table.shape
    frame = pd.DataFrame(dict(y=table.ravel(), seed=np.repeat(np.arange(s), q), question=np.tile(np.arange(q), s)))
    found = sm.stats.anova_lm(ols("y ~ C(seed) + C(question)", frame).fit())
    return [(found["sum_sq"].iloc[i] / found["df"].iloc[i], found["df"].iloc[i]) for i in range(3)]


def scores(random, seeds, questions, sd_seed, sd_question):
    """Draws right and wrong answers, (seeds, questions)."""
    at = 0.4 + sd_seed * random.standard_normal(seeds)[:, None] + sd_question * random.standard_normal(questions)
    return (random.random((seeds, questions)) < at).astype(float)


def crossed():
    random = np.random.default_rng(5)
    rows = []
    for s, q, sd_seed, sd_question in [(4, 12, 0.05, 0.3), (5, 30, 0.1, 0.2), (6, 8, 0.0, 0.0)]:
        table = scores(random, s, q, sd_seed, sd_question)
        (ms, ds), (mq, dq), (me, de) = anova(table)
        error, df = satterthwaite([(ms / (s * q), ds)], (mq / (s * q), dq), [(me / (s * q), de)])
        rows.append(dict(table=table.tolist(), mean=table.mean(), seed=max(ms - me, 0) / q, question=max(mq - me, 0) / s,
                         rest=me, error=error, df=df))
    yield "components", rows
    rows = []
    for s, t, q in [(3, 3, 20), (5, 4, 25)]:
        a, b = scores(random, s, q, 0.05, 0.3), scores(random, t, q, 0.05, 0.2)
        (sa, dsa), _, (ea, dea) = anova(a)
        (sb, dsb), _, (eb, deb) = anova(b)
        d = a.mean(axis=0) - b.mean(axis=0)
        error, df = satterthwaite([(sa / (s * q), dsa), (sb / (t * q), dsb)], (np.var(d, ddof=1) / q, q - 1),
                                  [(ea / (s * q), dea), (eb / (t * q), deb)])
        rows.append(dict(a=a.tolist(), b=b.tolist(), value=d.mean(), error=error, df=df))
    yield "crossed_difference", rows


def choices():
    random = np.random.default_rng(11)
    rows = []
    for n, same in [(5, 0.5), (60, 0.3), (300, 0.8)]:
        a = random.integers(0, 4, n)
        b = np.where(random.random(n) < same, a, random.integers(0, 4, n))
        table = np.zeros((4, 4))
        np.add.at(table, (a, b), 1)
        letters = lambda answers: "".join("ABCD"[i] for i in answers)
        rows.append(dict(a=letters(a), b=letters(b), equal=np.mean(a == b), kappa=cohens_kappa(table, return_results=False)))
    yield "cohens_kappa", rows
    rows = []
    for n, bins in [(7, 10), (200, 10), (200, 15)]:
        confidences = random.random(n)
        right = random.random(n) < confidences**2
        bin_of = np.digitize(confidences, np.linspace(0, 1, bins + 1)[1:-1], right=True)
        inside = [bin_of == i for i in range(bins) if np.any(bin_of == i)]
        mean = lambda values: [values[where].mean() for where in inside]
        confidence, accuracy, count = mean(confidences), mean(right), [where.sum() for where in inside]
        ece = np.average(np.abs(np.array(accuracy) - confidence), weights=count)
        rows.append(dict(confidences=list(confidences), right=[int(r) for r in right], bins=bins, ece=ece,
                         confidence=confidence, accuracy=accuracy, n=count))
    yield "calibration", rows


def main():
    found = {"made_by": f"scripts/stats_references.py with SciPy {scipy.__version__}, statsmodels {statsmodels.__version__}"}
    for part in (shares, t_family, randomisations, corrections, effects, detectable, parabolas, laws, crossed, choices):
        found |= dict(part())
    plain = lambda x: x.item() if isinstance(x, np.generic) else str(x)
    lines = []
    for name, rows in found.items():
        if isinstance(rows, str):
            lines.append(f"{json.dumps(name)}: {json.dumps(rows)}")
        else:
            inner = ",\n  ".join(json.dumps(row, default=plain) for row in rows)
            lines.append(f"{json.dumps(name)}: [\n  {inner}\n]")
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


main()
