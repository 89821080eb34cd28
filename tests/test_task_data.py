"""A task from what people have: loaders, data sets, arrays; batches and outputs of any structure."""

from collections import OrderedDict, UserDict
from dataclasses import dataclass

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_tasks import PLAN
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import superconv
from superconv.data import DatasetSource, TensorSource, as_source
from superconv.errors import UserError
from superconv.recipe import Recipe
from superconv.training.estimation import EstimateHook, Estimation
from superconv.training.loop import train
from superconv.training.plan import ExecutionPlan
from superconv.training.task import Task

SAMPLES = 400
GENERATOR = torch.Generator().manual_seed(0)
FEATURES = torch.randn(SAMPLES, 6, generator=GENERATOR)
LABELS = (FEATURES[:, 0] + FEATURES[:, 1] > 0).long()


class Encoded(UserDict):
    """As transformers' BatchEncoding: a mapping that is no dict."""

    def to(self, device):
        self.data = {name: tensor.to(device) for name, tensor in self.data.items()}
        return self


@dataclass
class ModelOutput(OrderedDict):
    """As transformers': a data class and a mapping, without the entries that are None."""

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    hidden: tuple[torch.Tensor, ...] | None = None

    def __post_init__(self):
        if isinstance(self.loss, dict):
            given, self.loss = self.loss, None
            for name, value in given.items():
                setattr(self, name, value)
        for name in ("loss", "logits", "hidden"):
            if getattr(self, name) is not None:
                self[name] = getattr(self, name)

    def __setattr__(self, name, value):
        if name in self and value is not None:
            super().__setitem__(name, value)
        super().__setattr__(name, value)

    def __reduce__(self):
        made, _, *rest = super().__reduce__()
        return made, (self.loss, self.logits, self.hidden), *rest


class Samples(Dataset):
    """Samples as dicts."""

    def __init__(self, first=0, last=SAMPLES):
        self.first, self.last = first, last

    def __len__(self):
        return self.last - self.first

    def __getitem__(self, index):
        return {"features": FEATURES[self.first + index], "labels": int(LABELS[self.first + index])}


class Named(nn.Module):
    """Takes its inputs by name, and returns a dict."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 2))

    def forward(self, features):
        return {"logits": self.layers(features), "auxiliary": features.mean(1)}


class Transformer(Named):
    """As transformers' models: computes its loss if it is given the labels."""

    def forward(self, features, labels=None):
        logits = self.layers(features)
        loss = None if labels is None else F.cross_entropy(logits, labels)
        return ModelOutput(loss=loss, logits=logits, hidden=(features, logits))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, left, right):
        return self.layer(torch.cat([left, right], 1)), left


def encoded(samples):
    features = torch.stack([sample["features"] for sample in samples])
    return Encoded({"features": features, "labels": torch.tensor([sample["labels"] for sample in samples])})


def task(model, train, validation, **options):
    return Task(name="small", model=model, train=train, validation=validation, test=validation, **options)


TASKS = {
    "a loader of dicts and a model that returns a dict": lambda: task(
        Named, DataLoader(Samples(0, 300), batch_size=7, shuffle=True), DataLoader(Samples(300))
    ),
    "an encoded batch and a model output with its own loss": lambda: task(
        Transformer,
        DataLoader(Samples(0, 300), collate_fn=encoded, shuffle=True),
        DataLoader(Samples(300), collate_fn=encoded),
    ),
    "a loss on a model output": lambda: task(
        Transformer, Samples(0, 300), Samples(300), loss=lambda output, target: output.loss
    ),
    "a tuple of arrays": lambda: task(
        lambda: nn.Linear(6, 2),
        (FEATURES[:300].double().numpy(), LABELS[:300].numpy().astype(np.int32)),
        (FEATURES[300:].numpy(), LABELS[300:].numpy()),
    ),
    "a tuple of inputs": lambda: task(
        Pair,
        ((FEATURES[:300, :2], FEATURES[:300, 2:]), LABELS[:300]),
        ((FEATURES[300:, :2], FEATURES[300:, 2:]), LABELS[300:]),
    ),
}


SEARCHED = "a tuple of inputs"  # whose batches cost nothing; the peak of the others is given


@pytest.mark.parametrize("kind", TASKS)
def test_fit_trains_a_task_from(kind, tmp_path):
    made = TASKS[kind]()
    peak = None if kind == SEARCHED else 0.2
    options = {"steps": 60, "batch_size": 16, "max_lr": peak, "plan": PLAN, "progress": False, "evaluations": 2}
    found = superconv.fit(made, tmp_path / "run", **options)
    assert found.scores["test_accuracy"] > 0.85
    again = superconv.fit(made, tmp_path / "run", **options)
    assert again.finished_before


@pytest.mark.parametrize("kind", TASKS)
def test_mixed_precision_bears(kind):
    plan = ExecutionPlan(precision="bf16-mixed", threads=1)
    ended = train(TASKS[kind](), Recipe(steps=40, batch_size=16, max_lr=0.2), plan=plan)
    assert ended.scores["test_accuracy"] > 0.8


def test_label_smoothing_is_refused_where_the_model_computes_its_loss():
    made = TASKS["an encoded batch and a model output with its own loss"]()
    with pytest.raises(UserError, match="computes its loss itself"):
        train(made, Recipe(steps=20, batch_size=16, max_lr=0.1, label_smoothing=0.1), plan=PLAN)
    parts = train(made, Recipe(steps=20, batch_size=16, max_lr=0.1, accumulate=2), plan=PLAN)
    assert len(parts.notes) == 1


def test_a_sampler_that_is_not_used_is_named():
    class Backwards(Sampler):
        def __len__(self):
            return SAMPLES

        def __iter__(self):
            return iter(reversed(range(SAMPLES)))

    with pytest.warns(UserWarning, match="Backwards is not used"):
        task(lambda: nn.Linear(6, 2), DataLoader(TensorDataset(FEATURES, LABELS), sampler=Backwards()), None)


def test_a_range_test_recalibrates_batch_norm_with_batches_that_are_mappings():
    recipe = Recipe(steps=20, batch_size=16, max_lr=1.0)
    curve = superconv.sweep_rates(
        TASKS["an encoded batch and a model output with its own loss"](),
        recipe,
        steps=20,
        evaluate_every=5,
        recalibrate_batch_norm=3,
        plan=PLAN,
    )
    assert sum(value is not None for value in curve.validation_metric) >= 2


def test_each_form_of_the_same_data_trains_the_same_network():
    forms = [
        (FEATURES, LABELS),
        TensorSource(FEATURES, LABELS),
        TensorDataset(FEATURES, LABELS),
        DatasetSource(TensorDataset(FEATURES, LABELS)),
        DataLoader(TensorDataset(FEATURES, LABELS), batch_size=5, shuffle=True, num_workers=1),
        [(FEATURES[i], int(LABELS[i])) for i in range(SAMPLES)],
    ]
    weights = []
    for form in forms:
        made = task(lambda: nn.Linear(6, 2), form, None)
        weights.append(train(made, Recipe(steps=20, batch_size=32, max_lr=0.1), plan=PLAN).model.weight.detach())
    assert all(torch.equal(weight, weights[0]) for weight in weights)


def test_precision_memory_and_curvature_bear_nested_batches():
    images = torch.randn(64, 3, 6, 6, generator=GENERATOR)

    class Seeing(nn.Module):
        def __init__(self):
            super().__init__()
            self.see, self.rest = nn.Conv2d(3, 4, 3), nn.Linear(64 + 6, 2)
            self.formats = set()

        def forward(self, pixels, facts):
            self.formats.add(pixels.is_contiguous(memory_format=torch.channels_last))
            seen = self.see(pixels).flatten(1)
            return {"logits": self.rest(torch.cat([seen, facts], 1))}

    nets = []

    def made():
        nets.append(Seeing())
        return nets[-1]

    data = {"pixels": images, "facts": FEATURES[:64]}, LABELS[:64]
    hook = EstimateHook(Estimation(forms={"estimate": {}}, every=5, probe_every=10))
    recipe = Recipe(steps=20, batch_size=16, max_lr=0.1, accumulate=2)
    ended = train(task(made, data, data), recipe, plan=ExecutionPlan(precision="64-true", threads=1), hooks=[hook])
    assert ended.scores["test_loss"] < 0.7
    assert nets[0].formats == {True}
    assert any(row.get("eigenvalue") for row in hook.rows)


def test_a_batch_is_split_as_the_task_says():
    samples = [(FEATURES[i], FEATURES[i, :1], int(LABELS[i])) for i in range(SAMPLES)]
    with pytest.raises(UserError, match=r"\(inputs, targets\).*not a list of 3.*Task\(batch="):
        train(task(lambda: nn.Linear(6, 2), samples, None), Recipe(steps=20, batch_size=32, max_lr=0.1), plan=PLAN)
    split = task(lambda: nn.Linear(6, 2), samples, None, batch=lambda batch: (batch[0], batch[2]))
    assert train(split, Recipe(steps=20, batch_size=32, max_lr=0.1), plan=PLAN).stopped is None
    unnamed = [{"a": FEATURES[i], "b": 1} for i in range(8)]
    with pytest.raises(UserError, match="not a mapping of a, b"):
        next(as_source(unnamed).batches([(torch.zeros(2).long(), torch.arange(2))], seed=0, augment=False))


def test_a_task_may_call_its_model_in_its_own_way():
    data = [{"image": FEATURES[i], "file": i, "label": int(LABELS[i])} for i in range(SAMPLES)]
    recipe = Recipe(steps=20, batch_size=32, max_lr=0.1)
    with pytest.raises(UserError, match="forward takes input, and a batch has image, file as well"):
        train(task(lambda: nn.Linear(6, 2), data, None), recipe, plan=PLAN)
    called = task(lambda: nn.Linear(6, 2), data, data, predict=lambda model, inputs: model(inputs["image"]))
    assert train(called, recipe, plan=PLAN).scores["test_accuracy"] > 0.7


class Endless(IterableDataset):
    def __iter__(self):
        return iter([(FEATURES[0], 0)])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Endless(), "one after another.*map-style"),
        (DataLoader(Endless()), "DataLoader reads an Endless one after another"),
        (DataLoader(Samples(), batch_size=None), "batch_size=None"),
        (DataLoader(Samples(), sampler=WeightedRandomSampler(LABELS + 1.0, 50)), "WeightedRandomSampler draws some"),
        ((FEATURES,), r"a tuple \(X, y\), not one of 1"),
        ((FEATURES, LABELS[:-1]), "400 inputs and 399 targets"),
        ((FEATURES.numpy(), np.array(["cat"] * SAMPLES)), "numbers, not <U3"),
        ((FEATURES, "labels"), "tensors or NumPy arrays, not a str"),
        (FEATURES, "not a Tensor"),
        ([FEATURES, LABELS], "not a list of arrays"),
        (None, "not None"),
        (iter([1]), "not a list_iterator"),
        ([], "no sample"),
    ],
)
def test_data_that_cannot_be_drawn_are_refused_in_one_line(data, message):
    with pytest.raises(UserError, match=message) as refused:
        task(lambda: nn.Linear(6, 2), data, None)
    assert "\n" not in str(refused.value)


def test_a_loader_that_draws_from_a_part_stands_for_that_part():
    source = as_source(DataLoader(Samples(), sampler=SubsetRandomSampler([3, 5, 8])))
    assert len(source) == 3
    ((inputs, targets),) = source.batches([(torch.zeros(3).long(), torch.arange(3))], seed=0, augment=False)
    assert torch.equal(inputs["features"], FEATURES[[3, 5, 8]])
    assert torch.equal(targets, LABELS[[3, 5, 8]])
