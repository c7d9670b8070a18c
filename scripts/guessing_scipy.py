"""p-values of the randomisation test of guessing by scipy.stats.permutation_test (pip install scipy).

`p_agrees_with_scipy` in stats/src/guessing.rs compares Mindscale with this output. SciPy evaluates every
permutation of the eight letters of the first key, and a million random permutations of the second.
"""

import numpy as np
from scipy.stats import permutation_test

CASES = {
    "eight": ("ABCDABCA", ["ABCDBBCB", "ABCCBBAB"]),
    "forty": (
        "CADBBACDDBCAABDCCDABDACBBCDAACBDDBACCABD",
        [
            "DDDCBBBDBAABBACBCBBBBDBDBBBBCCBDBBBAABAB",
            "CBDBBBBBABAACBDBBADBAABBBBBAABBCDBABCBCC",
            "BBBBBCDBBCBABDDCBBDBCBBBCBDBBDBCBBBADCCB",
        ],
    ),
}


def p_of_guessing(key, models):
    key = np.array(list(key))
    models = np.array([list(answers) for answers in models])
    letters = "ABCD"
    expected = sum((models == letter).sum() * (key == letter).mean() for letter in letters)

    def distance(key):
        return abs((models == key).sum() - expected)

    found = permutation_test(
        (key,),
        distance,
        permutation_type="pairings",
        n_resamples=1_000_000,
        alternative="greater",
        rng=np.random.default_rng(1),
    )
    return (models == key).sum(), expected, found.pvalue, len(found.null_distribution)


for name, case in CASES.items():
    right, expected, p, n = p_of_guessing(*case)
    print(f"{name}: {right} right, {expected:.3f} expected, p = {p:.6f} of {n} keys")
