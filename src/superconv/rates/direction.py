"""Whether a metric is better when lower, by its name: those of scikit-learn, torchmetrics, Keras and the field."""

import re

_INSIDE = (
    *("loss", "error", "entropy", "perplexit", "divergence", "distance", "deviance", "dissimilarity", "discrepancy"),
    *("disparity", "distortion_index", "misclassif", "mean_rank", "median_rank", "total_variation", "davies_bouldin"),
    *("perceptual_path", "perceptual_image_patch", "texture_similarity", "spectral_angle", "edit_rate", "info_lost"),
    *("miss_rate", "fall_out", "bits_per", "ranked_prob", "log_cosh", "min_dcf", "interval_score", "winkler"),
)
"""Parts of names, wherever they stand, of what is better when lower."""
_NAMED = """
ade aic bce ber bic bier bler bpb bpc bpd brier brisque ce cer chamfer cost costs crossentropy crps dcf delay
der dist dists ece eed eer emd epe ergas err errs fallout false far fde fdr fid fnr fomr fpr frr gap hamming
hausdorff hd hinge hter huber jsd kid kl kld latency levenshtein logcosh lpips mae mape mase mce mdape mer mfid
minkowski mmd mpjpe mse msle nats nelbo niqe nll nlpd nmse nrmse penalty pinball poisson ppl procrustes rae rase
regret residual residuals risk rmse rmsle rrse rse smape surprisal ter tweedie violation violations wape
wasserstein wer wil wmape xent
"""
_WORDS = frozenset(_NAMED.split())
"""Words of names of what is better when lower."""
_HIGHER = frozenset({"accuracy", "acc", "corr", "correlation", "gain", "improvement", "reduction", "savings"})
"""Last words that make better when higher, whatever stands before them: a correlation of distances."""
_WHOLE = frozenset({"negative_predictive_value", "hamming_score"})
_GOOD = ("likelihood", "log_prob", "logp", "elbo", "evidence")
"""Parts of what is better when higher and usually minimised with its sign turned."""
_SPLIT = re.compile(r"^((train|training|val|valid|validation|test|eval|dev)_)+")
_TURNED = re.compile(r"(neg|negative|one_minus|1_minus)_(?=.)")


def lower_is_better(name: str) -> bool:
    """Whether a metric's name reads as that of one which is better when lower.

    A sign that the name says is turned counts: scikit-learn's ``neg_log_loss`` is better when higher,
    ``neg_log_likelihood`` when lower. Of ``recall_at_fpr`` the part before "at" counts.

    >>> [lower_is_better(name) for name in ("val_loss", "top1_err", "MeanSquaredError", "accuracy", "neg_log_loss")]
    [True, True, True, False, False]
    """
    name = re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name.strip())
    name = re.sub(r"[^a-z0-9@]+", "_", name.lower()).strip("_")
    return _lower(re.split(r"(?<=.)(?:_at_|@)", _SPLIT.sub("", name))[0])


def _lower(name: str) -> bool:
    words = re.findall("[a-z]+", name)
    if name in _WHOLE:
        return False
    if turned := _TURNED.match(name):
        rest = name[turned.end() :]
        if turned[1].endswith("minus"):
            return not _lower(rest)
        return not _lower(rest) and any(part in rest for part in _GOOD)
    if name.startswith("d2_") or "skill" in words or not _HIGHER.isdisjoint(words[-1:]):
        return False  # d2: the share of a deviance that is explained
    return any(part in name for part in _INSIDE) or not _WORDS.isdisjoint(words)
