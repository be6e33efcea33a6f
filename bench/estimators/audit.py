"""Audit a verifier by hand: draw completions to label, then estimate its error rates and the accuracy without them.

sample = stratified_sample(verdicts, 200, rng)                 # completions to label by hand
audit = audit_verifier(verdicts, sample.prompts, sample.columns, labels)
"""

import math
from typing import Any, NamedTuple

import numpy as np

from bench.estimators.arrays import as_equal_floats, as_floats, as_generator, as_outcomes, check_same_shape, tail_of
from bench.estimators.distributions import normal_quantile, t_quantile


class Sample(NamedTuple):
    """Completions to label by hand."""

    prompts: np.ndarray  # [n] row of the pool
    columns: np.ndarray  # [n]
    weights: np.ndarray  # [n] how many completions of its stratum each stands for


class Rate(NamedTuple):
    """A share with its interval."""

    share: float
    low: float
    high: float

    def size(self, level: float = 0.95) -> float:
        """Return how many independent labels have a Wilson interval that ends here; the fewer of both ends."""
        ends = [end for end in (self.low, self.high) if end != self.share]
        return min((_z(level) ** 2 * end * (1 - end) / (end - self.share) ** 2 for end in ends), default=math.inf)


class VerifierAudit(NamedTuple):
    """A verifier's error rates on a pool, and the pool's accuracy as hand labels would have it."""

    apparent: float  # share of verdicts "correct", mean over prompts
    accuracy: Rate  # of hand labels, for new prompts
    sensitivity: Rate  # share of correct completions that the verifier accepts
    specificity: Rate  # share of wrong completions that it rejects
    labels: int


def agreement_table(a: Any, b: Any) -> np.ndarray:
    """Return counts [2, 2]: rows a = 0, 1; columns b = 0, 1. a, b: [M, N] of 0 and 1; NaN in either is left out.

    >>> agreement_table([[1, 1, 0, 0]], [[1, 0, 0, 0]]).tolist()
    [[2, 0], [1, 1]]
    """
    a, b = as_outcomes("a", a), as_outcomes("b", b)
    check_same_shape(a=a, b=b)
    both = ~np.isnan(a + b)
    return np.bincount((2 * a[both] + b[both]).astype(int), minlength=4).reshape(2, 2)


def stratified_sample(strata: Any, size: int, rng: np.random.Generator) -> Sample:
    """Draw completions to label by hand, equally many of each stratum; a stratum with fewer gives all of its own.

    Strata by verdict, or by verdict and a label that came along, put labels where errors are: a simple random sample
    of a pool with few correct completions holds few of them. `Sample.weights` make up for it. Neyman 1934, §III.
    strata: [M, N], any number per stratum, NaN for completions that are never drawn. Raises ValueError for size < 1.

    >>> verdicts = np.array([[0, 0, 0, 0, 1], [0, 0, 0, 0, np.nan]])
    >>> stratified_sample(verdicts, 4, np.random.default_rng(0)).weights.round(2).tolist()  # 1 of 1, 3 of 8
    [1.0, 2.67, 2.67, 2.67]
    """
    strata, rng = as_floats("strata", strata, "[M, N]"), as_generator(rng)
    if size < 1:
        raise ValueError(f"size={size} is not allowed; at least 1 completion is expected")
    groups = [np.flatnonzero(strata == value) for value in np.unique(strata[~np.isnan(strata)])]
    drawn: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    left = size
    for place, members in enumerate(sorted(groups, key=len)):  # what a small stratum lacks, larger ones get
        count = min(len(members), left // (len(groups) - place))
        left -= count
        drawn.append(rng.choice(members, count, replace=False))
        weights.append(np.full(count, len(members) / max(count, 1)))
    flat, weight = np.concatenate(drawn), np.concatenate(weights)
    order = np.argsort(flat, kind="stable")
    prompts, columns = np.divmod(flat[order], strata.shape[1])
    return Sample(prompts, columns, weight[order])


def audit_verifier(
    verdicts: Any, prompts: Any, columns: Any, labels: Any, *, strata: Any = None, level: float = 0.95
) -> VerifierAudit:
    """Return a verifier's sensitivity and specificity, and the accuracy without its errors, from some hand labels.

    Accuracy is Σ_h W_h p_h, with W_h the share of the pool's completions in stratum h (mean over prompts) and p_h the
    share of correct ones by hand. It equals Rogan and Gladen's (1978) (apparent + specificity − 1) / (sensitivity +
    specificity − 1), as sensitivity and specificity are weighted by the same W_h. This form also holds where no error
    was found: 100 right labels of rejected completions leave room for many missed ones where most are rejected.

    The interval carries the uncertainty of both error rates and of the prompts. Each p_h has a Wilson interval (Wilson
    1927) at its effective number of labels, which is smaller where labels of one prompt agree (design effect, Kish
    1965) and without width where the whole stratum is labelled. Distances to the ends are combined as the root of the
    sum of their squares (Zou and Donner 2008; Yan and Su 2010 for strata). The prompts' part is t(M − 1) · SE, where
    the errors within a prompt are taken to occur together, as under a wrong reference answer: conservative otherwise.

    verdicts: [M, N] of 0 and 1, NaN for none. prompts, columns: [n] places of the labelled completions, drawn within
    strata at random. labels: [n] of 0 and 1, NaN for a completion left unlabelled.
    strata: [M, N] those of `stratified_sample`, each of one verdict; by default the verdicts. Raises ValueError for
    other values, places outside the pool, a completion without a stratum, or a stratum without labels.

    >>> verdicts = np.tile([1, 1, 0, 0, 0], (40, 1))
    >>> prompts, columns = np.repeat(np.arange(40), 2), np.tile([0, 2], 40)  # one accepted, one rejected of each prompt
    >>> labels = np.where(columns == 0, prompts % 10 > 0, prompts % 20 == 0)  # 10 % of accepted are wrong, 5 % missed
    >>> audit = audit_verifier(verdicts, prompts, columns, labels)
    >>> f"{audit.apparent:.2f}; {audit.accuracy.share:.2f} [{audit.accuracy.low:.2f}, {audit.accuracy.high:.2f}]"
    '0.40; 0.39 [0.30, 0.49]'
    """
    verdicts = as_outcomes("verdicts", verdicts)
    strata = verdicts if strata is None else np.where(np.isnan(verdicts), np.nan, as_floats("strata", strata, "[M, N]"))
    check_same_shape(verdicts=verdicts, strata=strata)
    judged = ~np.isnan(verdicts)
    if np.isnan(strata[judged]).any():
        raise ValueError(
            f"strata {list(strata.shape)} has none for {np.isnan(strata[judged]).sum()} judged completions"
        )
    rows, places = (np.asarray(index).astype(int) for index in (prompts, columns))
    labels = as_outcomes("labels", labels, "[n]")
    check_same_shape(labels=labels, prompts=rows, columns=places)
    if not ((rows >= 0) & (rows < len(verdicts)) & (places >= 0) & (places < verdicts.shape[1])).all():
        raise ValueError(f"prompts and columns [n] must be places of verdicts {list(verdicts.shape)}")
    known = ~np.isnan(labels) & judged[rows, places]
    rows, places, labels = rows[known], places[known], labels[known]
    counts = judged.sum(axis=1)
    names = np.unique(strata[judged])
    shares = np.stack([(strata == name).sum(axis=1) for name in names], axis=1)[counts > 0] / counts[counts > 0, None]
    weight, accepted, rates = shares.mean(axis=0), np.zeros(len(names), bool), []
    for place, name in enumerate(names):
        inside, here = strata == name, strata[rows, places] == name
        if not here.any() or len(np.unique(verdicts[inside])) > 1:
            raise ValueError(f"stratum {name:g} must have completions of one verdict, and at least one label by hand")
        accepted[place] = verdicts[inside][0] == 1
        rates.append(_stratum_rate(labels[here], 1 / counts[rows[here]], rows[here], here.sum() / inside.sum(), level))
    right = np.array(rates)  # [H, 3]
    wrong = 1 - right[:, [0, 2, 1]]
    share, low, high = right.T  # [H] each
    accuracy = float(weight @ share)
    below, above = weight * (share - low), weight * (high - share)
    expected, between = shares @ share, share * (1 - share)
    of_prompts = (expected.var(ddof=1) + weight @ between) / len(shares) if len(shares) > 1 else math.nan
    margin = t_quantile(1 - tail_of(level), max(len(shares) - 1, 1)) ** 2 * of_prompts
    ends = (accuracy - math.sqrt((below**2).sum() + margin), accuracy + math.sqrt((above**2).sum() + margin))
    return VerifierAudit(
        apparent=float(weight[accepted].sum()),
        accuracy=Rate(accuracy, max(ends[0], 0.0), min(ends[1], 1.0)),
        sensitivity=_share_of(*(_mass(weight[some], right[some]) for some in (accepted, ~accepted))),
        specificity=_share_of(*(_mass(weight[some], wrong[some]) for some in (~accepted, accepted))),
        labels=len(labels),
    )


def rogan_gladen(
    apparent: float,
    size: float,
    sensitivity: float,
    positives: float,
    specificity: float,
    negatives: float,
    level: float = 0.95,
) -> Rate:
    """Return the accuracy of a pool whose verifier has known error rates, estimated on other completions.

    (apparent + specificity − 1) / (sensitivity + specificity − 1), within 0 .. 1 (Rogan and Gladen 1978). The interval
    carries the uncertainties of all three: Lang and Reiczigel 2014, §2. It assumes that the error rates hold for this
    pool too; other models make other errors, so that `audit_verifier` on the pool itself is safer.

    apparent: share of verdicts "correct". size: number of independent verdicts behind it; for M prompts with a standard
    error over prompts, apparent · (1 − apparent) / error². sensitivity, specificity: shares among `positives` correct
    and `negatives` wrong completions labelled by hand (`Rate.size` of an audit).
    Raises ValueError for shares outside 0 .. 1, sizes of 0 or less, or sensitivity + specificity ≤ 1.

    >>> rate = rogan_gladen(0.40, 500, sensitivity=0.95, positives=100, specificity=0.90, negatives=100)
    >>> f"{rate.share:.3f} [{rate.low:.3f}, {rate.high:.3f}]"
    '0.353 [0.276, 0.420]'
    """
    shares, sizes = np.array([apparent, sensitivity, specificity]), np.array([size, positives, negatives])
    if not ((shares >= 0) & (shares <= 1)).all() or not (sizes > 0).all():
        raise ValueError("apparent, sensitivity and specificity must lie in 0 .. 1, and the three sizes above 0")
    z = _z(level)
    added = np.array([z**2, 2.0, 2.0])
    total = sizes + added
    p, se, sp = (sizes * shares + added / 2) / total
    if min(sensitivity + specificity, se + sp) <= 1:
        raise ValueError(
            f"sensitivity={sensitivity:.3g} and specificity={specificity:.3g} sum to at most 1: such verdicts tell "
            "nothing of correctness, and no accuracy follows from them"
        )
    share = (apparent + specificity - 1) / (sensitivity + specificity - 1)
    centre = (p + sp - 1) / (se + sp - 1)
    of_p, of_se, of_sp = np.array([p, se, sp]) * (1 - np.array([p, se, sp])) / total
    shift = 2 * z**2 * (centre * of_se - (1 - centre) * of_sp)
    half = z * math.sqrt(of_p + centre**2 * of_se + (1 - centre) ** 2 * of_sp) / (se + sp - 1)
    return Rate(*(float(min(max(end, 0.0), 1.0)) for end in (share, centre + shift - half, centre + shift + half)))


def wilson_interval(share: float, size: float, level: float = 0.95, *, quantile: float | None = None) -> Rate:
    """Return a share of `size` independent outcomes with its score interval (Wilson 1927, eq. 1).

    For outcomes that are not independent, size is share · (1 − share)/error², the number that would have this standard
    error (Kott and Carr 1997). quantile: of Student's t, where that error was estimated from few; by default normal.

    >>> round(wilson_interval(0.0, 100).high, 3)
    0.037
    """
    (share,) = as_equal_floats("[1]", share=[share])[0]
    z = _z(level) if quantile is None else quantile
    centre = (share + z**2 / (2 * size)) / (1 + z**2 / size)
    half = z * math.sqrt(share * (1 - share) / size + z**2 / (4 * size**2)) / (1 + z**2 / size)
    low, high = max(centre - half, 0.0) if share > 0 else 0.0, min(centre + half, 1.0) if share < 1 else 1.0
    return Rate(float(share), float(low), float(high))


def _stratum_rate(labels: np.ndarray, weights: np.ndarray, prompts: np.ndarray, labelled: float, level: float) -> Rate:
    """Return the share of correct labels [n] of a stratum; labelled: the share of its completions that have a label."""
    share = float(np.average(labels, weights=weights))
    size = weights.sum() ** 2 / (weights**2).sum()
    residual = weights * (labels - share)
    if residual.any():
        _, group = np.unique(prompts, return_inverse=True)
        size /= max(1.0, (np.bincount(group, residual) ** 2).sum() / (residual**2).sum())
    _, low, high = wilson_interval(share, size, level)
    narrower = math.sqrt(1 - labelled)  # the finite population correction
    return Rate(share, share - narrower * (share - low), share + narrower * (high - share))


def _mass(weight: np.ndarray, rates: np.ndarray) -> Rate:
    """Return Σ W p over some strata, with its interval. rates: [H, 3], each stratum's p and its ends."""
    share, low, high = rates.T
    mass = float(weight @ share)
    below, above = (math.sqrt(((weight * ends) ** 2).sum()) for ends in (share - low, high - share))
    return Rate(mass, max(mass - below, 0.0), mass + above)


def _share_of(one: Rate, other: Rate) -> Rate:
    """Return one / (one + other) with its interval: distances to the ends, of each in turn, combined by squares."""

    def ratio(a: float, b: float) -> float:
        return a / (a + b) if a + b > 0 else math.nan

    share = ratio(one.share, other.share)
    below = math.hypot(share - ratio(one.low, other.share), share - ratio(one.share, other.high))
    above = math.hypot(ratio(one.high, other.share) - share, ratio(one.share, other.low) - share)
    return Rate(share, max(share - below, 0.0), min(share + above, 1.0))


def _z(level: float) -> float:
    return float(normal_quantile(1 - tail_of(level)))
