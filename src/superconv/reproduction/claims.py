"""The paper's claims as data: what is said, by which numbers, and what of ours decides it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from superconv.reproduction import author
from superconv.reproduction import evidence as by
from superconv.reproduction.balance import ADAPTIVE
from superconv.reproduction.evidence import Evidence, Measure, NotRunError
from superconv.reproduction.scales import Scale

FLAT_AND_BOTTLENECK = ("range3Iter20kFig2b", "lrRange3SS520kClip2Fig12a")  # the author's range tests


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A statement, and the number that has to lie above a bound for it to hold."""

    name: str
    statement: str
    unit: str
    """Of the number."""
    measure: Measure
    above: float = 0.0
    paper: str | None = None
    """The paper's number; none where it is not known or not the paper's."""
    log: str | None = None
    """The same from the author's logs."""

    def judge(self, evidence: Evidence) -> dict[str, Any]:
        """The claim's entry in `claims.json`."""
        entry = {"claim": self.name, "statement": self.statement, "paper": self.paper, "author_log": self.log}
        try:
            measured = self.measure(evidence)
        except NotRunError as error:
            return {**entry, "ours": None, "verdict": "not run", "why": str(error)}
        verdict, why = by.decide(measured, self.above)
        ours = {"mean": measured.mean, "low": measured.low, "high": measured.high, "values": list(measured.values)}
        return {**entry, "ours": {**ours, "unit": self.unit, "above": self.above}, "verdict": verdict, "why": why}


def claims(scale: Scale) -> tuple[Claim, ...]:
    """All claims, about the arms that a scale has."""
    return (*_headline(scale), *_gains(scale), *_networks(scale), *_balance(scale), *_sweeps(scale), *_others(scale))


def judge(scale: Scale, evidence: Evidence) -> list[dict[str, Any]]:
    """What `claims.json` holds."""
    return [claim.judge(evidence) for claim in claims(scale)]


def _headline(scale: Scale) -> Sequence[Claim]:
    cycle, piecewise = ("fig1a", "cycle"), ("fig1a", "piecewise")
    ratio = scale.headline.piecewise / scale.headline.cycle
    cycles = {n: ("fig1b", f"cycle{n}") for n in scale.lengths}
    return (
        _points(
            "one-cycle-is-better",
            f"One cycle ends higher than a piecewise-constant rate does in {ratio:g} times the updates",
            by.difference(cycle, piecewise),
            paper="+1.2 (92.4 against 91.2, an eighth of the updates)",
            log=_gain("clr3SS5kFig1a", "lr35Fig1a"),
        ),
        Claim(
            name="fewer-updates",
            statement="One cycle reaches the piecewise-constant rate's accuracy in fewer updates",
            unit="times fewer",
            measure=by.updates_saved(cycles, (scale.rest.piecewise, ("fig1b", "piecewise"))),
            above=1.0,
            paper="8 to 13 (10,000 updates reach 92.4, 6,000 reach 92.1, of the baseline's 80,000: 91.2)",
        ),
        _points(
            "longer-cycles",
            "Longer cycles end higher",
            by.difference(cycles[scale.lengths[-1]], cycles[scale.lengths[0]]),
            paper="+3.0 (2,000 updates 89.7, 20,000 updates 92.7)",
        ),
        *(
            _points(
                f"against-{schedule}",
                f"One cycle ends higher than {schedule} of the same length, whose rate was chosen",
                by.difference(("baseline", "cycle"), ("baseline", schedule)),
            )
            for schedule in ("cosine", "piecewise")
        ),
    )


def _gains(scale: Scale) -> Sequence[Claim]:
    few, many = scale.sizes[-1].images, scale.sizes[0].images
    shallow, deep = scale.depths[0], scale.depths[-1]
    small, large = scale.batch_sizes[0], scale.batch_sizes[-1]
    batches = ("batch", f"batch{small}"), ("batch", f"batch{large}")
    return (
        _points(
            "gain-grows-as-images-shrink",
            f"The gain of one cycle is larger with {few:,} images than with {many:,}",
            _gain_difference("table1", few, many),
            paper="+8.0 (gain of 9.2 with 10,000 images, 1.2 with 50,000)",
            log="+7.3 (gains of 9.4 and 2.1)",
        ),
        _points(
            "gain-by-depth",
            f"The gain of one cycle is larger with {shallow} layers than with {deep}",
            _gain_difference("depth", shallow, deep),
            paper="shallower networks gain more, say its summaries",
            log="+0.6 (20 layers against 110; the gains are 1.8, 2.1 and 1.2 for 20, 56 and 110)",
        ),
        *(
            _points(
                f"gain-at-{layers}-layers",
                f"One cycle gains with {layers} layers",
                by.difference(("depth", f"cycle{layers}"), ("depth", f"piecewise{layers}")),
                log={20: "+1.8", 56: "+2.1", 110: "+1.2"}.get(layers),
            )
            for layers in scale.depths
        ),
        _points(
            "larger-batches",
            f"Batches of {large:,} end higher than batches of {small:,}, after as many updates",
            by.difference(batches[1], batches[0]),
            paper="larger batches end higher (Figure 6a; numbers not known)",
        ),
        _points(
            "gap-by-batch",
            f"The gap between training and test is smaller with batches of {large:,} than of {small:,}",
            by.combination((1, batches[0]), (-1, batches[1]), of=by.gap),
            paper="the gap is smaller with larger batches (Figure 6b; numbers not known)",
        ),
    )


def _networks(scale: Scale) -> Sequence[Claim]:
    *_, longest = scale.wide_steps[:-1]
    lengths = scale.mnist_epochs if scale.exact else scale.mnist_epochs[:-1]
    texts = {12: "+0.25 (99.25)", 25: "+0.28 (99.28)", 50: "+0.27 (99.27)", 85: "+0.35 (99.35)"}
    return (
        _points(
            "wide",
            "One cycle gains on the wide ResNet",
            by.difference(("wide", f"cycle{longest}"), ("wide", "piecewise")),
            paper="+1.6 (91.9 in 100 passes, 90.3 in 800)",
        ),
        *_dense(scale),
        *(
            _points(
                f"mnist-{epochs:g}",
                f"LeNet ends higher after {epochs:g} cycled passes than after {scale.mnist_epochs[-1]:g} uncycled",
                by.difference(("mnist", f"cycle{epochs:g}"), ("mnist", "piecewise")),
                paper=texts.get(int(epochs)),
            )
            for epochs in lengths
        ),
    )


def _dense(scale: Scale) -> Sequence[Claim]:
    trained = by.difference(("densenet", "cycle150"), ("densenet", "piecewise"))
    whole = _points(
        "densenet",
        "One cycle of 150 passes loses no more than half a point against 400 of the baseline on DenseNet",
        trained if scale.dense_trains else _not_here("DenseNet is only swept at this scale"),
        above=-0.5,
        paper="+0.1 (92.8 against 92.7)",
    )
    swept = Claim(
        name="densenet-range",
        statement="DenseNet keeps four fifths of its best accuracy up to a rate of 4",
        unit="share",
        measure=by.retained(("densenet", "range")),
        above=0.8,
        paper="its cycles go up to 4",
    )
    return (whole,) if scale.dense_trains else (whole, swept)


def _balance(scale: Scale) -> Sequence[Claim]:
    constants = [("momentum", f"constant{value}") for value in (0.8, 0.85, 0.9, 0.95)]
    return (
        _points(
            "too-much-decay",
            "A decay of 1e-3 loses more than 10 points against 1e-4",
            by.difference(("weight-decay", "decay0.0001"), ("weight-decay", "decay0.001")),
            above=10.0,
            paper="too much decay keeps a network from super-converging",
            log=_gain("clr3SS5kFig1a", "clr3SS5kWD-3Fig11"),
        ),
        _points(
            "less-decay-larger-rates",
            "In range tests, rates of 2 to 3 leave more accuracy with a decay of 1e-5 than of 1e-3",
            by.between(("decay-range", "decay1e-05"), ("decay-range", "decay0.001"), 2.0, 3.0),
            paper="less decay permits larger rates",
        ),
        _points(
            "cycled-momentum",
            "Momentum that moves against the rate loses no more than half a point against the best constant one",
            by.over_best(("momentum", "down"), constants),
            above=-0.5,
            paper="-0.1 (92.0 against 92.1; 1803.09820)",
        ),
        _points(
            "momentum-against-the-rate",
            "Momentum should move against the rate, not with it",
            by.difference(("momentum", "down"), ("momentum", "up")),
            paper="+0.6 (92.0 against 91.4; 1803.09820)",
        ),
        *(claim for name in ADAPTIVE for claim in _adaptive(scale, name)),
        _points(
            "nesterov",
            f"One cycle gains with Nesterov's momentum over a piecewise-constant rate {_updates(scale)}",
            by.difference(("adaptive", "Nesterov-cycle"), ("adaptive", "Nesterov-piecewise")),
            log=_gain("clr3SS5kNestFig9", "lr35NestFig9"),
        ),
        _points(
            "dropout-in-range-test",
            "Dropout of 0.2 raises the range test at rates of 0.5 to 1.5",
            by.between(("dropout-range", "with"), ("dropout-range", "without"), 0.5, 1.5),
            log=_dropout(),
        ),
    )


def _adaptive(scale: Scale, name: str) -> Sequence[Claim]:
    cycle, own = ("adaptive", "cycle"), (("adaptive", f"{name}-cycle"), ("adaptive", f"{name}-piecewise"))
    log = {"Adam": "lr35AdamFig9", "Adagrad": "lr35AdaGradFig9", "Adadelta": "lr35AdaDeltaFig9"}.get(name)
    paper = None if name == "AdamW" else "adaptive optimizers do not super-converge"
    return (
        _points(
            f"sgd-above-{name.lower()}",
            f"SGD's cycle ends above {name}, be it with the cycle or piecewise constant {_updates(scale)}",
            by.over_best(cycle, own),
            paper=paper,
            log=_gain("clr3SS5kFig1a", log) if log else None,
        ),
        _points(
            f"no-gain-with-{name.lower()}",
            f"{name} does not gain by the cycle: a piecewise-constant rate {_updates(scale)} ends higher",
            by.difference(own[1], own[0]),
            paper=paper,
        ),
    )


def _updates(scale: Scale) -> str:
    ratio = scale.adaptive_steps / scale.side
    return "over as many updates" if ratio == 1 else f"over {ratio:g} times the updates"


def _sweeps(scale: Scale) -> Sequence[Claim]:
    flat, shallow = ("fig2b", f"range{scale.ranges[1]}"), ("shallow", "cycle")
    kept, lost = (by.retention(author.log(name).readings) for name in FLAT_AND_BOTTLENECK)
    gains = ((1, ("fig1b", f"cycle{scale.rest.cycle}")), (-1, ("fig1b", "piecewise")))
    clipped = {("bottleneck", 2): f"{kept - lost:+.2f} ({kept:.2f} against {lost:.2f})"}
    return (
        Claim(
            name="flat-range-test",
            statement="A network that super-converges keeps four fifths of its best accuracy up to a rate of 3",
            unit="share",
            measure=by.retained(flat),
            above=0.8,
            log=f"{kept:.2f}",
        ),
        *(
            Claim(
                name=f"{net}-peaks-{clip:g}",
                statement=f"A {words} keeps less of its accuracy up to a rate of 3, "
                + (f"clipped at {clip:g}" if clip else "not clipped"),
                unit="share",
                measure=by.retained(flat, less=("bottleneck", f"{net}-{clip:g}")),
                paper="neither super-converges, clipped or not",
                log=clipped.get((net, clip)),
            )
            for net, words in (("bottleneck", "bottleneck ResNet"), ("resnext", "ResNeXt"))
            for clip in (0, 2)
        ),
        Claim(
            name="shallow-peaks",
            statement="The range test of a shallow network peaks: more than a fifth of its best accuracy is lost",
            unit="share",
            measure=by.lost(("fig2a", "shallow")),
            above=0.2,
            paper="Figure 2a, from arXiv 1506.01186",
        ),
        _points(
            "shallow-gains-nothing",
            "One cycle gains no more than half a point on that shallow network",
            by.difference(("shallow", "piecewise"), shallow),
            above=-0.5,
        ),
        _points(
            "flat-predicts-gain",
            "One cycle gains more where the range test is flat than on that shallow network",
            by.combination(*gains, (-1, shallow), (1, ("shallow", "piecewise"))),
        ),
        Claim(
            name="estimate-is-large",
            statement="Curvature allows a larger multiple of the rate in use where the range test is flat than on that "
            "shallow network",
            unit="times",
            measure=by.estimate_ratio(("fig5", "first"), ("fig5", "shallow")),
            above=1.0,
            paper="estimates of 2 to 6 for ResNet-56 (Caffe's batch-norm sums counted), 10 to 60 times its rate",
        ),
    )


def _others(scale: Scale) -> Sequence[Claim]:
    return (
        _points(
            "cifar100",
            "One cycle gains on CIFAR-100",
            by.difference(("cifar100", "cycle"), ("cifar100", "piecewise")),
            paper="+8.8 (68.6 against 59.8)",
            log=_gain("clr3SS5kCifar100Fig8", "lr35Cifar100Fig8"),
        ),
        _points(
            "imagenet-resnet50",
            "One cycle of 20 passes gains on ImageNet with ResNet-50",
            by.difference(("imagenet", "resnet50-cycle"), ("imagenet", "resnet50-piecewise")),
            paper="+3.9 (67.6 against 63.7)",
        ),
        _points(
            "imagenet-inception",
            "One cycle of 20 passes gains on ImageNet with Inception-ResNet-v2",
            by.difference(("imagenet", "inception-cycle"), ("imagenet", "inception-piecewise")),
            paper="+6.4 (74.0 against 67.6)",
        ),
    )


def _points(
    name: str,
    statement: str,
    measure: Measure,
    *,
    above: float = 0.0,
    paper: str | None = None,
    log: str | None = None,
) -> Claim:
    return Claim(name=name, statement=statement, unit="points", measure=measure, above=above, paper=paper, log=log)


def _gain_difference(experiment: str, first: int, second: int) -> Measure:
    """The gain of one cycle in the first setting less that in the second."""
    terms = ((1, "cycle", first), (-1, "piecewise", first), (-1, "cycle", second), (1, "piecewise", second))
    return by.combination(*((weight, (experiment, f"{arm}{of}")) for weight, arm, of in terms))


def _not_here(reason: str) -> Measure:
    def measure(evidence: Evidence) -> by.Measured:
        raise NotRunError(reason)

    return measure


def _gain(first: str, second: str) -> str:
    a, b = 100 * author.log(first).final, 100 * author.log(second).final
    return f"{a - b:+.1f} ({a:.1f} against {b:.1f})"


def _dropout() -> str:
    means = []
    for name in ("lrRange3SS520kDropuoutFig10a", "range3Iter20kFig2b"):
        seen = [value for rate, value in author.log(name).readings if 0.5 <= rate <= 1.5]
        means.append(100 * sum(seen) / len(seen))
    return f"{means[0] - means[1]:+.1f} ({means[0]:.1f} against {means[1]:.1f})"
