"""Curve files as they come from the field: spreadsheets, loggers, rate finders; and which way is better."""

import json
import math

import pytest

from superconv.errors import UserError
from superconv.rates.curve import Curve
from superconv.rates.direction import lower_is_better

RATES = [round(1e-3 * 1.5**i, 6) for i in range(16)]
VALUES = [round(0.3 + 0.04 * i, 3) for i in range(16)]
GERMAN = [(f"{lr:.6f}".replace(".", ","), f"{v:.3f}".replace(".", ",")) for lr, v in zip(RATES, VALUES, strict=True)]
PAIRS = list(zip(RATES, VALUES, strict=True))


def read(tmp_path, text: str, *, encoding: str = "utf-8", name: str = "c.csv", **options) -> Curve:
    path = tmp_path / name
    path.write_bytes(text.encode(encoding))
    return Curve.from_csv(path, **options)


def lines(header: str, rows, sep: str = ",") -> str:
    return "\n".join([header, *(sep.join(map(str, row)) for row in rows)]) + "\n"


# ---- spreadsheets


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("sep=;\n" + lines("lr;acc", GERMAN, ";"), "utf-8"),
        ('"sep=;"\r\n' + lines("lr;acc", GERMAN, ";").replace("\n", "\r\n"), "cp1252"),
        (lines("lr;acc", GERMAN, ";"), "cp1252"),
        (lines("lr;acc;Prüfer", [(*row, "Müller") for row in GERMAN], ";"), "cp1252"),
        (lines("lr\tacc", GERMAN, "\t"), "utf-8"),
        (lines("lr\tacc", GERMAN, "\t"), "utf-16"),
        (lines('"lr";"acc";"note, long, with commas"', GERMAN, ";"), "utf-8"),
        (lines("lr,acc", [(f'"{a}"', f'"{b}"') for a, b in GERMAN]), "utf-8"),
        (lines("lr|acc", PAIRS, "|"), "utf-8"),
        (lines("# lr,acc", PAIRS), "utf-8"),
        (lines("# lr acc", PAIRS, " "), "utf-8"),
        ("# made on Monday\n# seed 3\n" + lines("lr,acc", PAIRS) + "# the end\n", "utf-8"),
        (lines("lr,acc", [(f"{a:.6e}", b) for a, b in PAIRS]), "utf-8"),
        (lines("lr;acc", [(f"{a:.6e}".replace(".", ","), str(b).replace(".", ",")) for a, b in PAIRS], ";"), "utf-8"),
        (lines("lr,acc,note", [(a, b, "") for a, b in PAIRS]).replace("lr,acc,note", "lr,acc,"), "utf-8"),
        (lines("lr,acc,lr", [(a, b, a) for a, b in PAIRS]), "utf-8"),
    ],
)
def test_spreadsheets_of_any_country_give_the_same_curve(tmp_path, text, encoding):
    curve = read(tmp_path, text, encoding=encoding, metric="acc")
    assert list(curve.lr) == pytest.approx(RATES)
    assert list(curve.validation_metric) == pytest.approx(VALUES)


def test_percentages_and_excels_errors_are_numbers_and_gaps(tmp_path):
    curve = read(tmp_path, lines("lr,acc", [(a, f"{100 * b:.1f} %") for a, b in PAIRS]) + "0.9,#N/A\n1.0,#NUM!\n")
    assert list(curve.validation_metric[:-1]) == pytest.approx([100 * v for v in VALUES])
    assert math.isnan(curve.validation_metric[-1])


def test_thousands_are_understood_where_the_file_says_how_it_writes_them(tmp_path):
    rows = [(f"{1000 * (i + 1):,}", lr, v) for i, (lr, v) in enumerate(PAIRS)]
    curve = read(tmp_path, lines("step;lr;acc", rows, ";"), metric="acc")
    assert curve.step == tuple(1000 * (i + 1) for i in range(16))
    german = [(f"{1000 * (i + 1):,}".replace(",", "."), *row) for i, row in enumerate(GERMAN)]
    assert read(tmp_path, lines("step;lr;acc", german, ";"), metric="acc").step == curve.step
    spaced = [(f"{1000 * (i + 1):,}".replace(",", "\u202f"), *row) for i, row in enumerate(GERMAN)]
    assert read(tmp_path, lines("step;lr;acc", spaced, ";"), metric="acc").step == curve.step


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([("1", f"{i + 1},250") for i in range(16)], "may be a number of thousands or have a decimal comma"),
        ([("0,5", "0.5")] * 16, "has a decimal comma and .* a decimal point"),
        ([("0.1", "1,00,000.5")] * 16, "is not a number"),
        ([("0.1", "12 apples")] * 16, "'12 apples' is not a number"),
    ],
)
def test_numbers_of_which_nobody_can_tell_how_they_are_meant_are_refused(tmp_path, rows, says):
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path, lines("lr;acc", rows, ";"), metric="acc")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (lines("lr,acc", GERMAN), "line 2: 4 cells under 2 names"),  # not quoted: 0,001 and 0,3
        (lines("lr,acc", [(i, *row) for i, row in enumerate(PAIRS)]), "3 cells under 2 names"),  # R's names of rows
        (lines("lr,acc", [(*PAIRS[0], "fast, but noisy"), *PAIRS[1:]]), "line 2: 4 cells under 2 names"),
        (lines("lr;acc", [(i + 1, f"{i + 1}.250") for i in range(16)], ";"), "may be a number of thousands"),
        (lines("lr,acc", [*((a, f"{100 * b} %") for a, b in PAIRS), (9, 0.9)]), "line 2.*'30.0 %' is a percentage"),
        (lines("lr,acc", [(f"{a} %", b) for a, b in PAIRS]), "column 'lr': '0.001 %' is a percentage"),
        (lines("lr_decay,acc", PAIRS), "no column 'lr'"),
        (
            lines("lr-AdamW/pg1,lr-AdamW/pg2,acc", [(a, 2 * a, b) for a, b in PAIRS]),
            "'lr_adamw/pg1' and 'lr_adamw/pg2' could both be meant",
        ),
    ],
)
def test_what_would_be_misread_in_silence_is_refused(tmp_path, text, says):
    with pytest.raises(UserError, match=says) as error:
        read(tmp_path, text, metric="acc")
    assert "\n" not in str(error.value)


def test_three_decimals_between_commas_are_decimals(tmp_path):
    curve = read(tmp_path, lines("lr,acc", [(i + 1, f"{i + 1}.250") for i in range(16)]), metric="acc")
    assert curve.validation_metric[0] == 1.25


# ---- loggers


def lightning(rate: str = "lr-SGD", metric: str = "train_loss_step") -> str:
    """Rate and metric in rows of their own, as CSVLogger writes them."""
    rows = [row for i, (lr, v) in enumerate(PAIRS) for row in (("", lr, i, ""), ("", "", i, 3 - v))]
    return lines(f"epoch,{rate},step,{metric}", rows)


@pytest.mark.parametrize("rate", ["lr-SGD", "lr-AdamW/pg1", "lr_scheduler", "train/learning_rate"])
def test_lightnings_metrics_are_joined_by_their_step(tmp_path, rate):
    curve = read(tmp_path, lightning(rate), name="metrics.csv", metric="train_loss_step")
    assert list(curve.lr) == pytest.approx(RATES)
    assert list(curve.train_loss) == pytest.approx([3 - v for v in VALUES])
    assert read(tmp_path, lightning(rate), name="metrics.csv").column == "train_loss"


def test_a_metric_between_two_rates_has_the_last_one(tmp_path):
    rows = [row for i, (lr, v) in enumerate(PAIRS) for row in ((10 * i, lr, ""), (10 * i + 9, "", v))]
    assert list(read(tmp_path, lines("step,lr-Adam,val_acc", rows), metric="val_acc").lr) == pytest.approx(RATES)


def test_the_momentum_beside_lightnings_rate_is_not_the_rate(tmp_path):
    text = lines("lr-SGD-momentum,lr-SGD,step,acc", [(0.9, lr, i, v) for i, (lr, v) in enumerate(PAIRS)])
    assert list(read(tmp_path, text).lr) == pytest.approx(RATES)


def test_weights_and_biases_puts_the_runs_name_before_the_metrics(tmp_path):
    header = "Step,run-7 - train/lr,run-7 - train/lr__MIN,run-7 - train/lr__MAX,run-7 - val_acc,run-7 - val_acc__MIN"
    text = lines(header, [(i, lr, 0, 9, v, 0) for i, (lr, v) in enumerate(PAIRS)])
    for metric in (None, "val_acc"):
        curve = read(tmp_path, text, metric=metric)
        assert list(curve.lr) == pytest.approx(RATES)
        assert list(curve.validation_metric) == pytest.approx(VALUES)
    two = lines("Step,a - lr,b - lr,a - acc", [(i, lr, 2 * lr, v) for i, (lr, v) in enumerate(PAIRS)])
    with pytest.raises(UserError, match="'a___lr' and 'b___lr' could both be meant; keep one"):
        read(tmp_path, two, metric="acc")


def test_tensorboards_file_of_one_tag_is_refused_with_what_to_do(tmp_path):
    with pytest.raises(UserError, match="TensorBoard writes one tag into a file, without a rate; join"):
        read(tmp_path, lines("Wall time,Step,Value", [(1.6e9 + i, i, v) for i, v in enumerate(VALUES)]))


def test_keras_logs_the_trainings_loss_as_loss(tmp_path):
    rows = [(i, v, 3 - v, lr, v - 0.1) for i, (lr, v) in enumerate(PAIRS)]
    text = lines("epoch,accuracy,loss,learning_rate,val_accuracy", rows)
    curve = read(tmp_path, text, metric="loss")
    assert (curve.column, curve.rising_is_better) == ("train_loss", False)
    assert read(tmp_path, text, metric="val_accuracy").column == "validation_metric"
    with pytest.raises(UserError, match="no column 'test_accuracy'; the columns are epoch, accuracy"):
        read(tmp_path, text)


@pytest.mark.parametrize(
    "value",
    [
        {"lr": RATES, "loss": [3 - v for v in VALUES]},
        [{"lr": lr, "loss": 3 - v} for lr, v in PAIRS],
        {"lrs": RATES, "losses": [3 - v for v in VALUES]},
    ],
)
def test_the_history_of_a_rate_finder_is_a_training_loss(tmp_path, value):
    curve = read(tmp_path, json.dumps(value), name="history.json")
    assert list(curve.lr) == pytest.approx(RATES)
    assert (curve.column, curve.metric) == ("train_loss", "loss")
    names = list(value) if isinstance(value, dict) else ["lr", "loss"]
    assert read(tmp_path, lines(",".join(names), [(lr, 3 - v) for lr, v in PAIRS])) == curve


def test_rows_of_json_may_have_a_line_each(tmp_path):
    text = "\n".join(json.dumps({"lr": lr, "loss": 3 - v}) for lr, v in PAIRS)
    assert list(read(tmp_path, text, name="history.jsonl").lr) == RATES
    assert list(read(tmp_path, text, name="history.json").lr) == RATES


def test_columns_of_json_belong_to_the_same_rates(tmp_path):
    with pytest.raises(UserError, match=r"columns of unequal length \(lr 16, loss 15\)"):
        read(tmp_path, json.dumps({"lr": RATES, "loss": VALUES[:-1]}), name="h.json")


@pytest.mark.parametrize(
    ("metric", "column", "label"),
    [
        ("val/loss", "validation_loss", "validation loss"),
        ("loss/val", "validation_loss", "validation loss"),
        ("loss/train", "train_loss", "training loss"),
        ("training_loss", "train_loss", "training loss"),
        ("acc/train", "train_metric", "training acc"),
        ("run 7 - train_acc", "train_metric", "training acc"),
        ("epoch_test_acc", "validation_metric", "validation epoch_test_acc"),
    ],
)
def test_the_name_says_what_it_was_measured_on(tmp_path, metric, column, label):
    curve = read(tmp_path, lines(f"lr,{metric}", PAIRS), metric=metric)
    assert (curve.column, curve.label, curve.rising_is_better) == (column, label, "loss" not in metric)


def test_keras_names_the_trainings_measures_plainly(tmp_path):
    text = lines("accuracy,learning_rate,val_accuracy", [(v, lr, 1 - v) for lr, v in PAIRS])
    assert read(tmp_path, text, metric="accuracy").column == "train_metric"
    assert read(tmp_path, text, metric="val_accuracy").column == "validation_metric"


@pytest.mark.parametrize("text", ["{", "[1, 2]", '{"lr": 3}', "[]"])
def test_json_that_is_no_table_is_refused(tmp_path, text):
    with pytest.raises(UserError, match=r"JSON|no table"):
        read(tmp_path, text, name="c.json")


def test_a_step_that_counts_down_is_the_order_of_the_file(tmp_path):
    text = lines("step,lr,acc", [(16 - i, lr, v) for i, (lr, v) in enumerate(PAIRS)])
    curve = read(tmp_path, text, metric="acc")
    assert list(curve.lr) == pytest.approx(RATES)
    newest_first = lines("step,lr,acc", [(i, lr, v) for i, (lr, v) in reversed(list(enumerate(PAIRS)))])
    assert list(read(tmp_path, newest_first, metric="acc").lr) == pytest.approx(RATES)
    with pytest.raises(UserError, match="does not rise"):
        read(tmp_path, lines("lr,acc", reversed(PAIRS)))


# ---- which way is better

LOWER = """
ppl top1_err val_mape kl_divergence fid eer cost val_sparse_categorical_crossentropy val_loss log_loss
brier_score brier hamming_loss wer CER val/rmse mean_squared_error MeanAbsoluteError logcosh hinge poisson nll
negative_log_likelihood neg_log_likelihood bits_per_byte_loss bpb word_error_rate KLDivergence hausdorff95
hd95 false_positive_rate falseNegatives expected_calibration_error ece regret max_error
d_distance cross_entropy xent binary_crossentropy lpips kernel_inception_distance kid deviance
mean_pinball_loss wasserstein_distance smape aic test_perplexity
"""
HIGHER = """
accuracy val_acc f1 auc roc_auc average_precision r2 explained_variance mean_iou dice psnr ssim bleu rouge
neg_log_loss neg_mean_squared_error neg_root_mean_squared_error neg_brier_score negative_mean_absolute_error
neg_mean_poisson_deviance d2_absolute_error_score d2_log_loss_score cosine_similarity recall top5_accuracy certainty
likelihood log_likelihood ndcg map per_class_accuracy inception_score true_positives matthews_corrcoef reward
placement interface faces center
"""


LIBRARIES_LOWER = """
top5_error hamming mse rmsle distance NegLogLikelihood nelbo neg_elbo bits_per_byte bpd MSELoss test-perplexity
fpr_at_95_tpr fpr95 mean_rank minDCF min_dcf der mpjpe crps one_minus_auc loss/train val_loss_epoch log-loss
duality_gap ce brier_score_loss coverage_error davies_bouldin_score hinge_loss label_ranking_loss
mean_absolute_error mean_absolute_percentage_error mean_gamma_deviance mean_poisson_deviance mean_squared_log_error
mean_tweedie_deviance median_absolute_error zero_one_loss negative_likelihood_ratio CalibrationError BinaryEER
HammingDistance HingeLoss MultilabelCoverageError MultilabelRankingLoss LogCoshError MinkowskiDistance
RelativeSquaredError SymmetricMeanAbsolutePercentageError TweedieDevianceScore JensenShannonDivergence
ContinuousRankedProbabilityScore FrechetInceptionDistance KernelInceptionDistance
LearnedPerceptualImagePatchSimilarity DeepImageStructureAndTextureSimilarity SpectralAngleMapper
ErrorRelativeGlobalDimensionlessSynthesis RelativeAverageSpectralError SpectralDistortionIndex
SpatialDistortionIndex TotalVariation PerceptualPathLength WordErrorRate CharErrorRate MatchErrorRate WordInfoLost
TranslationEditRate ExtendedEditDistance EditDistance Perplexity ProcrustesDisparity HausdorffDistance
DaviesBouldinScore RetrievalFallOut BinaryCrossentropy SparseCategoricalCrossentropy kullback_leibler_divergence
Hinge FalsePositives huber
"""
LIBRARIES_HIGHER = """
mIoU mrr elbo recall_at_fpr tpr@fpr=0.01 recall@5 distance_correlation brier_skill_score error_reduction power
hamming_score neg_accuracy true_negative_rate one_minus_error kl_acc neg_max_error neg_mean_gamma_deviance
neg_negative_likelihood_ratio positive_likelihood_ratio d2_pinball_score d2_tweedie_score roc_auc_ovr
v_measure_score calinski_harabasz_score ndcg_score label_ranking_average_precision_score NegativePredictiveValue
LogAUC FBetaScore ConcordanceCorrCoef InceptionScore PeakSignalNoiseRatio StructuralSimilarityIndexMeasure
VisualInformationFidelity QualityWithNoReference ScaleInvariantSignalDistortionRatio SignalDistortionRatio
SourceAggregatedSignalDistortionRatio WordInfoPreserved CLIPScore TruePositives true_negatives
SensitivityAtSpecificity
"""


@pytest.mark.parametrize("split", ["", "val_", "Test ", "train/"])
def test_the_names_of_scikit_learn_torchmetrics_and_keras_have_their_direction(split):
    assert [name for name in LIBRARIES_LOWER.split() if not lower_is_better(split + name)] == []
    assert [name for name in LIBRARIES_HIGHER.split() if lower_is_better(split + name)] == []


@pytest.mark.parametrize("name", LOWER.split())
def test_better_when_lower(name):
    assert lower_is_better(name)
    assert lower_is_better(f"val_{name}")


@pytest.mark.parametrize("name", HIGHER.split())
def test_better_when_higher(name):
    assert not lower_is_better(name)


@pytest.mark.parametrize(("name", "higher"), [("neg_log_loss", True), ("val_ppl", False), ("d2_log_loss_score", True)])
def test_a_curve_is_judged_in_the_direction_of_its_name(tmp_path, name, higher):
    curve = read(tmp_path, lines(f"lr,{name}", PAIRS))
    assert curve.rising_is_better is higher
    assert read(tmp_path, lines(f"lr,{name}", PAIRS), higher_is_better=not higher).rising_is_better is not higher
