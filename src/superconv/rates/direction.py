"""Whether a metric is better when lower, by its name."""

import re

_WORDS = """
loss losses logloss cost risk regret penalty error errors err misclassification wer cer mer ter der eer hter
mpjpe epe ade fde mse rmse mae mape smape wape mase mdape msle rmsle rse rrse rae nrmse nmse residual residuals
deviance perplexity ppl entropy crossentropy xent ce bce nll bpc bpb bpd divergence kl kld jsd mmd distance dist
wasserstein emd hausdorff hd chamfer discrepancy fid kid lpips dists niqe brisque brier hinge huber logcosh
hamming poisson tweedie pinball fpr fnr far frr fdr fomr ece mce aic bic latency delay
"""
_LOWER = frozenset(_WORDS.split())
"""Words in the name of what is better when lower; those that also stand inside longer words are in `_INSIDE`."""
_INSIDE = ("loss", "error", "entropy", "perplexity", "divergence")
_HIGHER = ("d2_", "neg_", "negative_")
"""Beginnings of scikit-learn's scores: the share of a deviance that is explained, losses whose sign is turned."""
_LIKELIHOOD = re.compile(r"neg(ative)?_log_?(likelihood|prob)")
_RATES = re.compile(r"false_?(positive|negative|alarm|accept|reject|discovery|omission)")


def lower_is_better(name: str) -> bool:
    """Whether a metric's name reads as that of one which is better when lower.

    >>> [lower_is_better(name) for name in ("val_loss", "top1_err", "accuracy", "neg_log_loss")]
    [True, True, False, False]
    """
    name = re.sub(r"[^a-z0-9]+", "_", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.strip()).lower()).strip("_")
    name = re.sub(r"^((train|training|val|valid|validation|test|eval|dev)_)+", "", name)
    if _LIKELIHOOD.search(name) or _RATES.search(name):
        return True
    if name.startswith(_HIGHER):
        return False
    return any(word in name for word in _INSIDE) or not _LOWER.isdisjoint(re.findall("[a-z]+", name))
