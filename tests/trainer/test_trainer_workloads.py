"""The built-in workloads: their data, and that a step of each learns."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from cra_trainer import config, make_optimizer
from cra_trainer.workloads import char_transformer, digits_cnn


def test_digits_are_split_without_overlap() -> None:
    train, test = digits_cnn.load()
    assert (len(train), len(test)) == (1437, 360)
    images, labels = train.tensors
    assert images.shape == (1437, 1, 16, 16)
    assert set(labels.tolist()) == set(range(10))
    rows = {tuple(image.flatten().tolist()) for image in images}
    assert not any(tuple(image.flatten().tolist()) in rows for image in test.tensors[0])


def test_augmentation_moves_an_image_and_keeps_what_it_shows() -> None:
    images = digits_cnn.load()[0].tensors[0][:64]
    torch.manual_seed(0)
    moved = digits_cnn.augment(images)
    assert moved.shape == images.shape
    assert not torch.allclose(moved, images, atol=0.1)
    similarity = functional.cosine_similarity(moved.flatten(1), images.flatten(1))
    assert similarity.mean() > 0.7


def test_the_digits_network_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    images, labels = (tensor[:64] for tensor in digits_cnn.load()[0].tensors)
    model = digits_cnn.make_model(8)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]


def test_a_text_is_read_from_a_file_a_folder_or_the_machine(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first")
    assert char_transformer.read(str(tmp_path / "b.txt")) == "second"
    assert char_transformer.read(str(tmp_path)) == "first\nsecond"
    assert len(char_transformer.read(None)) > 100_000


def test_without_licence_texts_pythons_own_help_is_the_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(char_transformer, "LICENCES", tmp_path / "missing")
    assert "assert" in char_transformer.read(None)
    assert len(char_transformer.read(None)) > 100_000


def test_windows_follow_each_other_and_predict_the_next_character() -> None:
    text = "".join(chr(97 + i % 26) for i in range(401))
    train, test, alphabet = char_transformer.load(text, 10)
    assert alphabet == 26
    assert (len(train), len(test)) == (36, 4)
    x, y = train.tensors
    assert torch.equal((x + 1) % 26, y)
    assert x[1, 0] == y[0, -1]


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="path: expected at least 320 characters of text, got 5"):
        char_transformer.load("short", 32)


def test_the_transformer_sees_no_later_character() -> None:
    torch.manual_seed(0)
    model = char_transformer.CharTransformer(alphabet=26, context=8, width=16, layers=2, heads=4).eval()
    x = torch.randint(26, (1, 8))
    changed = x.clone()
    changed[0, 5:] = (changed[0, 5:] + 1) % 26
    one, two = model(x), model(changed)
    assert torch.allclose(one[0, :5], two[0, :5], atol=1e-6)
    assert not torch.allclose(one[0, 5:], two[0, 5:], atol=1e-3)


@pytest.mark.parametrize("name", config.OPTIMIZERS)
def test_every_optimizer_of_the_spec_descends(name: str) -> None:
    weight = torch.nn.Parameter(torch.tensor([2.0, -3.0]))
    settings = config.Optimizer(name=name, learning_rate=0.1, weight_decay=0.01)
    optimizer = make_optimizer([weight], settings)
    assert optimizer.param_groups[0]["weight_decay"] == 0.01
    before = float((weight**2).sum())
    for _ in range(5):
        (weight**2).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
    assert float((weight**2).sum()) < before


def test_an_optimizer_that_is_not_known_is_named() -> None:
    with pytest.raises(config.ConfigError, match="got 'lion'"):
        make_optimizer([torch.nn.Parameter(torch.ones(1))], config.Optimizer(name="lion"))
