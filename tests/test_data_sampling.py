import pytest
import torch

from superconv.data import Order, in_order
from superconv.data.randomness import Stream, coin, field, random_bits


def draws(order: Order, steps: int) -> list[tuple[int, int]]:
    parts = [order.draw(step) for step in range(steps)]
    return [(e, i) for epochs, indices in parts for e, i in zip(epochs.tolist(), indices.tolist(), strict=True)]


def test_every_epoch_visits_every_sample_once_although_batches_span_epochs():
    stream = draws(Order(10, 4, seed=0), 15)
    for epoch in range(6):
        assert sorted(i for e, i in stream if e == epoch) == list(range(10))


def test_epochs_and_seeds_have_different_orders():
    first, second = draws(Order(50, 50, seed=0), 2)[:50], draws(Order(50, 50, seed=0), 2)[50:]
    other = draws(Order(50, 50, seed=1), 1)
    assert len({tuple(i for _, i in part) for part in (first, second, other, [(0, i) for i in range(50)])}) == 4


def test_a_batch_larger_than_the_set_takes_several_epochs():
    epochs, indices = Order(3, 8, seed=5).draw(1)
    assert epochs.tolist() == [2, 3, 3, 3, 4, 4, 4, 5]
    assert sorted(indices[1:4].tolist()) == [0, 1, 2]
    assert sorted(indices[4:7].tolist()) == [0, 1, 2]


def test_a_draw_depends_on_its_step_alone():
    used = Order(37, 8, seed=3)
    draws(used, 40)
    for step in (0, 39, 4, 17):
        fresh = Order(37, 8, seed=3).draw(step)
        assert all(torch.equal(a, b) for a, b in zip(used.draw(step), fresh, strict=True))


def test_slices_of_the_ranks_make_up_the_global_batch():
    whole = Order(10, 6, seed=2)
    ranks = [Order(10, 6, seed=2, rank=rank, world=3) for rank in range(3)]
    for step in range(7):
        for part in range(2):
            assert torch.equal(whole.draw(step)[part], torch.cat([r.draw(step)[part] for r in ranks]))


def test_without_shuffling_the_samples_come_in_their_own_order():
    assert draws(Order(3, 2, seed=0, shuffle=False), 3) == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]


def test_no_global_generator_is_touched():
    before = torch.get_rng_state()
    draws(Order(100, 10, seed=0), 30)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "arguments",
    [
        {"n": 0, "batch_size": 1},
        {"n": 1, "batch_size": 0},
        {"n": 9, "batch_size": 3, "world": 2},
        {"n": 9, "batch_size": 4, "rank": 2, "world": 2},
    ],
)
def test_impossible_orders_are_refused(arguments):
    with pytest.raises(ValueError, match=r"\d"):
        Order(seed=0, **arguments)


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="count from 0"):
        Order(3, 1, seed=0).draw(-1)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_an_evaluation_sees_each_sample_once_over_all_ranks(world):
    seen = [list(in_order(10, 4, rank=rank, world=world)) for rank in range(world)]
    indices = torch.cat([indices for rank in seen for _, indices in rank])
    assert sorted(indices.tolist()) == list(range(10))
    assert all(len(indices) > 0 for rank in seen for _, indices in rank)
    if world == 1:
        assert [len(indices) for _, indices in seen[0]] == [4, 4, 2]


def test_random_bits_match_a_plain_integer_implementation():
    mask = (1 << 64) - 1

    def mix(x: int) -> int:
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & mask
        return x ^ (x >> 31)

    golden = 0x9E3779B97F4A7C15
    seed, epoch = 12345678901234567890, 7
    key = mix((seed * 64 + Stream.CROP + golden) & mask)
    expected = [mix((i * golden + mix((epoch * golden + key) & mask)) & mask) for i in range(100)]
    bits = random_bits(seed, Stream.CROP, epoch, torch.arange(100))
    assert [b & mask for b in bits.tolist()] == expected


def test_fields_and_coins_are_uniform():
    bits = random_bits(0, Stream.AUGMENTATION, 3, torch.arange(90_000))
    for position in range(4):
        counts = torch.bincount(field(bits, position, 9), minlength=9)
        assert (counts - 10_000).abs().max() < 500  # five standard deviations
    assert abs(coin(bits).sum().item() - 45_000) < 750
