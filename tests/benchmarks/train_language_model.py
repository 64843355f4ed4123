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

from resmem_cli.arrays.byte_pairs import train_byte_pairs
from resmem_cli.arrays.corpus import find_corpus
from resmem_cli.arrays.tokenizing import TextTokenizer
from resmem_cli.models.training.documents import Documents
from resmem_cli.models.training.language_run import LanguageModelRun
from resmem_cli.models.training.recipes import TokenRecipe

HELD_OUT = 20


def encoded(tokenizer: TextTokenizer, texts: Sequence[str]) -> Documents:
    """Put the token ids of all texts one after another."""
    documents = tokenizer.encode(texts)
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

    corpus = find_corpus(given.texts, glob=given.glob, exclude=given.exclude)
    if len(corpus.names) < HELD_OUT:
        raise SystemExit(
            f"{given.texts}: {len(corpus.names)} texts match, and at least {HELD_OUT} are needed"
        )
    texts = list(corpus.texts(corpus.names))
    held_out = texts[HELD_OUT - 1 :: HELD_OUT]
    del texts[HELD_OUT - 1 :: HELD_OUT]
    path = given.output / "tokenizer.json"
    path.write_bytes(train_byte_pairs(texts, vocabulary=given.vocab))
    tokenizer = TextTokenizer(path)
    train, validation = encoded(tokenizer, texts), encoded(tokenizer, held_out)
    print(f"{len(texts)} texts of {len(train.tokens):,} tokens, {len(held_out)} held out")

    arch_args = {
        "vocab_size": tokenizer.vocabulary,
        "context": given.context,
        "width": given.width,
        "depth": given.depth,
        "heads": given.heads,
    }
    recipe = TokenRecipe(steps=given.steps, batch_size=given.batch_size, window=given.context)
    run = LanguageModelRun("transformer-lm", arch_args, train, recipe, seed=given.seed, device=given.device)
    print(f"{'step':>6}  {'rate':>7}  {'loss':>6}  {'time':>7}")
    start = time.perf_counter()
    losses: list[float] = []
    for step in range(1, recipe.steps + 1):
        losses.append(run.run_step())
        if step % 100 == 0 or step == recipe.steps:
            seconds = time.perf_counter() - start
            mean = float(np.mean(losses[-100:]))
            print(
                f"{step:>6}  {recipe.learning_rate(step):>7.5f}  {mean:>6.3f}  {seconds:>5.0f} s", flush=True
            )
    loss = run.loss(validation)
    print(f"held out: {loss:.3f} nats a token")
    (given.output / "lm.safetensors").write_bytes(run.weights())
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
