"""Rows A10 and B3, the built-in workloads and optimizers: the data, and that a step of each learns."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from cra_trainer import config, make_optimizer
from cra_trainer.workloads import attention_28x28, char_transformer, digits_cnn, images, rnn_signal


def test_digits_are_split_without_overlap() -> None:
    train, test = images.digits(16)
    assert (len(train), len(test)) == (1437, 360)
    pictures, labels = train.tensors
    assert pictures.shape == (1437, 1, 16, 16)
    assert set(labels.tolist()) == set(range(10))
    rows = {tuple(picture.flatten().tolist()) for picture in pictures}
    assert not any(tuple(picture.flatten().tolist()) in rows for picture in test.tensors[0])


def test_augmentation_moves_an_image_and_keeps_what_it_shows() -> None:
    pictures = images.digits(16)[0].tensors[0][:64]
    torch.manual_seed(0)
    moved = digits_cnn.augment(pictures)
    assert moved.shape == pictures.shape
    assert not torch.allclose(moved, pictures, atol=0.1)
    similarity = functional.cosine_similarity(moved.flatten(1), pictures.flatten(1))
    assert similarity.mean() > 0.7


def descends(model: nn.Module, dataset: TensorDataset) -> bool:
    """Whether the loss on 64 samples falls by a third within 20 steps."""
    x, labels = (tensor[:64] for tensor in dataset.tensors)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = functional.cross_entropy(model(x), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses[-1] < 0.7 * losses[0]


def test_the_digits_network_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    assert descends(digits_cnn.make_model(8), images.digits(16)[0])


def test_the_attention_classifier_learns_what_it_is_shown() -> None:
    torch.manual_seed(0)
    assert descends(attention_28x28.make_model(8, "adaptive", 10), images.digits(28)[0])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_recurrent_networks_learn_what_they_are_shown(cell: str) -> None:
    torch.manual_seed(0)
    train, test, classes = rnn_signal.load(None)
    assert (train.tensors[0].shape, len(test), len(classes)) == ((1437, 8, 8), 360, 10)
    model = rnn_signal.SignalNetwork(cell=cell, values=8, width=32, layers=1, classes=10)
    assert descends(model, train)


def test_a_cell_that_is_not_known_is_named() -> None:
    with pytest.raises(config.ConfigError, match="cell='mlp': expected one of gru, lstm"):
        rnn_signal.SignalNetwork(cell="mlp", values=8, width=32, layers=1, classes=10)


def test_signals_are_read_as_the_ucr_archive_keeps_them(tmp_path: Path) -> None:
    (tmp_path / "Bell_TRAIN.tsv").write_text("-1\t0\t2\t4\n1\t4\t2\t0\n")
    (tmp_path / "Bell_TEST.tsv").write_text("1\t4\t2\t1\n")
    train, test, classes = rnn_signal.load(str(tmp_path))
    assert classes == ["-1", "1"]
    assert train.tensors[0].shape == (2, 3, 1)
    assert float(train.tensors[0].mean()) == pytest.approx(0)
    assert train.tensors[1].tolist() == [0, 1]
    assert test.tensors[1].tolist() == [1]
    (tmp_path / "Bell_TEST.tsv").unlink()
    with pytest.raises(ValueError, match="folder: expected one file"):
        rnn_signal.load(str(tmp_path))


def draw(folder: Path, name: str, grey: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (10, 6), grey).save(folder / name)


def test_images_are_read_from_a_folder_with_a_subfolder_for_each_class(tmp_path: Path) -> None:
    for i in range(5):
        draw(tmp_path / "dark", f"{i}.png", 0)
        draw(tmp_path / "light", f"{i}.png", 255)
    (tmp_path / "light" / "notes.txt").write_text("not an image")
    train, test, classes = images.load(str(tmp_path), 8)
    assert classes == ["dark", "light"]
    assert [len(part) for part in (train, test)] == [8, 2]
    for x, label in (train[i] for i in range(8)):
        assert x.shape == (1, 8, 8)
        assert float(x.mean()) == label

    for place in ("train/dark", "train/light", "test/dark"):
        draw(tmp_path / "parts" / place, "0.png", 9)
    with pytest.raises(ValueError, match="train has classes"):
        images.load(str(tmp_path / "parts"), 8)
    with pytest.raises(ValueError, match="folder: expected subfolders with images"):
        images.load(str(tmp_path / "dark"), 8)


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
    train, test, lengths = char_transformer.load(text, 10)
    assert lengths.tolist() == [1] * 26
    assert (len(train), len(test)) == (36, 4)
    x, y = train.tensors
    assert torch.equal((x + 1) % 26, y)
    assert x[1, 0] == y[0, -1]


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(ValueError, match="path: expected at least 320 tokens of text, got 5"):
        char_transformer.load("short", 32)


def test_tokens_of_a_text_are_fewer_than_its_characters_and_stand_for_all_of_its_bytes() -> None:
    text = char_transformer.read(None)[:50_000] + "  a\ttab,\r\n\n  an é, 漢"
    codes, lengths = char_transformer.encode(text, 512)
    assert len(lengths) == 512
    assert len(codes) < len(text) / 1.5
    assert int(lengths[codes].sum()) == len(text.encode())
    # Every rank makes them for itself.
    again, _ = char_transformer.encode(text, 512)
    assert torch.equal(again, codes)
    train, test, _ = char_transformer.load(text, 32, 512)
    assert len(train) + len(test) == (len(codes) - 1) // 32


@pytest.mark.parametrize("vocabulary", [3, 100_000])
def test_a_vocabulary_that_the_text_does_not_make_is_refused(vocabulary: int) -> None:
    with pytest.raises(ValueError, match=f"vocabulary={vocabulary}: does not fit this text"):
        char_transformer.load("to be or not to be\n" * 100, 8, vocabulary)


def test_the_transformer_sees_no_later_character() -> None:
    torch.manual_seed(0)
    model = char_transformer.CharTransformer(vocabulary=26, context=8, width=16, layers=2, heads=4).eval()
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


def test_weight_decay_of_adamw_is_decoupled_from_the_gradient() -> None:
    """Row B1: θ <- θ - ηλθ beside the step along the gradient, whatever that is scaled by."""
    settings = config.Optimizer(name="adamw", learning_rate=0.1, weight_decay=0.5)
    resting, moving = (torch.nn.Parameter(torch.tensor([2.0, -3.0])) for _ in range(2))
    plain = torch.nn.Parameter(moving.detach().clone())
    for weight, decay in ((resting, 0.5), (moving, 0.5), (plain, 0.0)):
        optimizer = make_optimizer([weight], dataclasses.replace(settings, weight_decay=decay))
        weight.grad = torch.zeros(2) if weight is resting else torch.tensor([4.0, 0.1])
        optimizer.step()
    assert torch.allclose(resting, torch.tensor([2.0, -3.0]) * (1 - 0.1 * 0.5))
    assert torch.allclose(moving - plain, torch.tensor([2.0, -3.0]) * -(0.1 * 0.5), atol=1e-6)


def test_an_optimizer_that_is_not_known_is_named() -> None:
    with pytest.raises(config.ConfigError, match="got 'lion'"):
        make_optimizer([torch.nn.Parameter(torch.ones(1))], config.Optimizer(name="lion"))
