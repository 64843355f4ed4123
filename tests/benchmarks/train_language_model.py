"""Train a small language model on a folder of texts and save it, for `resmem embed`.

Every 20th text is held out. The folder of results gets `tokenizer.json` (byte-level pairs, learnt from the
other texts), `lm.safetensors` (the weights of a `transformer-lm`) and `lm.json` (its arguments, the losses
and the recipe). Python's own source is a good example: give the folder that `python -c "import sysconfig;
print(sysconfig.get_path('stdlib'))"` prints, and `--exclude site-packages --exclude test`.

With the default network of 1.2 million weights, 1,000 steps take about 10 minutes on one core.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from resmem_cli.models.architectures.base import make_network
from resmem_cli.models.training.documents import Documents
from resmem_cli.models.training.recipes import TokenRecipe
from resmem_cli.models.training.tokens import LanguageModelTraining, language_model_loss

HELD_OUT = 20


def read_texts(folder: Path, pattern: str, exclude: Sequence[str]) -> list[str]:
    """Read the files that match, in the order of their names, but those below an excluded folder."""
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    kept = [path for path in paths if not set(path.relative_to(folder).parts) & set(exclude)]
    if len(kept) < HELD_OUT:
        raise SystemExit(f"{folder}: {len(kept)} texts match, and at least {HELD_OUT} are needed")
    return [path.read_text(encoding="utf-8", errors="replace") for path in kept]


def train_tokenizer(texts: Sequence[str], vocab_size: int) -> Tokenizer:
    """Learn byte pairs; every text can be written with them, for all 256 bytes are among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encoded(tokenizer: Tokenizer, texts: Sequence[str]) -> Documents:
    """Put the token ids of all texts one after another."""
    documents = [np.array(encoding.ids, dtype=np.int32) for encoding in tokenizer.encode_batch_fast(texts)]
    lengths = np.array([len(ids) for ids in documents])
    return Documents(np.concatenate(documents), np.cumsum(lengths) - lengths, lengths)


def main() -> None:
    """Train, printing a line every hundred steps, and write the three files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--glob", default="**/*.txt")
    parser.add_argument("--exclude", action="append", default=[], metavar="NAME", help="a folder's name")
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=3)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=TokenRecipe.batch_size)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder of the results")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)

    texts = read_texts(given.texts, given.glob, given.exclude)
    held_out = texts[HELD_OUT - 1 :: HELD_OUT]
    del texts[HELD_OUT - 1 :: HELD_OUT]
    tokenizer = train_tokenizer(texts, given.vocab)
    tokenizer.save(str(given.output / "tokenizer.json"))
    train, validation = encoded(tokenizer, texts), encoded(tokenizer, held_out)
    print(f"{len(texts)} texts of {len(train.tokens):,} tokens, {len(held_out)} held out")

    arch_args = {
        "vocab_size": tokenizer.get_vocab_size(),
        "context": given.context,
        "width": given.width,
        "depth": given.depth,
        "heads": given.heads,
    }
    recipe = TokenRecipe(steps=given.steps, batch_size=given.batch_size, window=given.context)
    torch.manual_seed(given.seed)
    network = make_network("transformer-lm", arch_args=arch_args)
    training = LanguageModelTraining(network, train, recipe, seed=given.seed, device=given.device)
    print(f"{'step':>6}  {'rate':>7}  {'loss':>6}  {'time':>7}")
    start = time.perf_counter()
    losses: list[float] = []
    for step in range(1, recipe.steps + 1):
        losses.append(training.run_step())
        if step % 100 == 0 or step == recipe.steps:
            seconds = time.perf_counter() - start
            mean = float(np.mean(losses[-100:]))
            print(
                f"{step:>6}  {recipe.learning_rate(step):>7.5f}  {mean:>6.3f}  {seconds:>5.0f} s", flush=True
            )
    loss = language_model_loss(network, validation, window=given.context)
    print(f"held out: {loss:.3f} nats a token")
    # Tied weights are one tensor, which save_file refuses to write twice.
    save_model(network, str(given.output / "lm.safetensors"))
    described = {
        "arch": "transformer-lm",
        "arch_args": arch_args,
        "train_loss": mean,
        "validation_loss": loss,
        "seed": given.seed,
        "recipe": asdict(recipe),
    }
    (given.output / "lm.json").write_text(json.dumps(described, indent=2) + "\n")


if __name__ == "__main__":
    main()
