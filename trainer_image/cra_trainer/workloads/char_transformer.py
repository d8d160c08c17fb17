"""Text, character by character or by longer tokens: a small Transformer that predicts the next one.

    python -m cra_trainer.run -m cra_trainer.workloads.char_transformer

Parameters (``spec.workload.parameters``): ``path``, a text file or a folder of them (default: the licence
texts of the machine, else the topics of Python's own help); ``context`` (default 32), ``width`` (64),
``layers`` (2), ``heads`` (4); ``vocabulary``, a number of tokens: without it the tokens are characters, with
it they are made by byte-pair encoding of the text, on every rank the same. The last tenth of the text is held
out for the test. Accuracy and loss are per token, so only ``bits_per_byte`` compares vocabularies.
"""

from __future__ import annotations

import io
import math
import pydoc_data.topics
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import cra_trainer

LICENCES = Path("/usr/share/common-licenses")


def read(path: str | None) -> str:
    """The text of a file, or of all files of a folder in the order of their names."""
    if path is None and not LICENCES.is_dir():
        return "\n".join(text for _, text in sorted(pydoc_data.topics.topics.items()))
    place = Path(path) if path is not None else LICENCES
    files = [place]
    if place.is_dir():
        files = sorted(file for file in place.iterdir() if file.is_file() and not file.is_symlink())
    return "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)


def encode(text: str, vocabulary: int | None) -> tuple[Tensor, Tensor]:
    """The text as tokens [n], and the bytes that each token of the vocabulary stands for [tokens].

    Raises:
        ValueError: The text does not make a vocabulary of this size.
    """
    if vocabulary is None:
        alphabet = {character: i for i, character in enumerate(sorted(set(text)))}
        codes = torch.tensor([alphabet[character] for character in text])
        return codes, torch.tensor([len(character.encode()) for character in alphabet])
    # Imported here: most jobs have no use for it.
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    model = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(text[: len(text) - len(text) // 10].split("\n")),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocabulary,
            max_sentence_length=4 * len(text),
            # Nothing of the text is lost: line ends and spaces count, and a rare character is its bytes.
            user_defined_symbols=["\n"],
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            add_dummy_prefix=False,
            byte_fallback=True,
            bos_id=-1,
            eos_id=-1,
            num_threads=1,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ValueError(f"vocabulary={vocabulary}: does not fit this text: {error}") from None
    tokens = SentencePieceProcessor(model_proto=model.getvalue())
    lengths = [1 if tokens.is_byte(i) else len(_text_of(tokens.id_to_piece(i))) for i in range(len(tokens))]
    return torch.tensor(tokens.encode(text)), torch.tensor(lengths)


def _text_of(piece: str) -> bytes:
    """What a token stands for; SentencePiece writes a space as U+2581."""
    return piece.replace("\u2581", " ").encode()


def load(
    text: str, context: int, vocabulary: int | None = None
) -> tuple[TensorDataset, TensorDataset, Tensor]:
    """Windows of the text and what follows each token, both [n, context], and the bytes of each token."""
    codes, lengths = encode(text, vocabulary)
    # Consecutive windows: each token is predicted once per epoch.
    n = (len(codes) - 1) // context
    x, y = codes[: n * context].view(n, context), codes[1 : n * context + 1].view(n, context)
    cut = n - n // 10
    if cut == n:
        raise ValueError(f"path: expected at least {10 * context} tokens of text, got {len(codes)}")
    return TensorDataset(x[:cut], y[:cut]), TensorDataset(x[cut:], y[cut:]), lengths


class Block(nn.Module):
    """Causal self-attention and a feed-forward layer, normalised before each."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_feed = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        qkv = self.qkv(self.before_attention(x)).view(rows, length, 3, self.heads, -1)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).reshape(rows, length, width))
        fed: Tensor = self.feed(self.before_feed(x))
        return x + fed


class CharTransformer(nn.Module):
    """Tokens [rows, context] → logits of the next ones [rows, context, vocabulary]."""

    def __init__(self, *, vocabulary: int, context: int, width: int, layers: int, heads: int) -> None:
        super().__init__()
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(context, width)
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary)
        # torch's embeddings start with a deviation of 1, which buries what attention adds for many epochs.
        for embedding in (self.tokens, self.positions):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, x: Tensor) -> Tensor:
        positions = self.positions(torch.arange(x.shape[1], device=x.device))
        logits: Tensor = self.head(self.norm(self.blocks(self.tokens(x) + positions)))
        return logits


def main() -> None:
    session = cra_trainer.init()
    config = session.config
    context = config.number("context", 32)
    vocabulary = config.number("vocabulary", 1) if "vocabulary" in config.parameters else None
    train, test, lengths = load(read(config.parameters.get("path")), context, vocabulary)
    lengths = lengths.to(session.device)
    model: nn.Module = CharTransformer(
        vocabulary=len(lengths),
        context=context,
        width=config.number("width", 64),
        layers=config.number("layers", 2),
        heads=config.number("heads", 4),
    )
    optimizer = cra_trainer.make_optimizer(model.parameters(), config.training.optimizer)
    model, optimizer = session.prepare(model, optimizer)

    for _ in session.epochs():
        model.train()
        for x, y in session.batches(train):
            session.backward(functional.cross_entropy(model(x).flatten(0, 1), y.flatten()))
            session.step()

        model.eval()
        correct, loss_sum, count, byte_count = 0.0, 0.0, 0, 0.0
        with torch.no_grad():
            for x, y in session.shard(test):
                logits = model(x).flatten(0, 1)
                correct += float((logits.argmax(dim=1) == y.flatten()).sum())
                loss_sum += float(functional.cross_entropy(logits, y.flatten(), reduction="sum"))
                count += y.numel()
                byte_count += float(lengths[y].sum())
        session.report(
            accuracy=(correct, count),
            test_loss=(loss_sum, count),
            bits_per_byte=(loss_sum / math.log(2), byte_count),
        )

    session.finish()


if __name__ == "__main__":
    main()
