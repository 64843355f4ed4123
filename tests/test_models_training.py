"""Training of image classifiers and language models: recipes, batches, repeatable runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from resmem_cli.errors import DataError, UsageError
from resmem_cli.types import ImageLayout

torch = pytest.importorskip("torch", reason="needs the torch extra")

from resmem_cli.models.architectures.base import make_network  # noqa: E402
from resmem_cli.models.inputs import ImagePreprocessing, as_inputs  # noqa: E402
from resmem_cli.models.training.documents import NO_TARGET, Documents  # noqa: E402
from resmem_cli.models.training.image_batches import augmented, preprocessing_of, scaled  # noqa: E402
from resmem_cli.models.training.images import (  # noqa: E402
    ClassifierTraining,
    classifier_accuracy,
    train_classifier,
)
from resmem_cli.models.training.recipes import ImageRecipe, TokenRecipe  # noqa: E402
from resmem_cli.models.training.tokens import (  # noqa: E402
    LanguageModelTraining,
    language_model_loss,
    train_language_model,
)

IMAGE_RECIPE = ImageRecipe(
    epochs=4,
    batch_size=20,
    peak_learning_rate=0.05,
    warmup_epochs=1,
    drop_epochs=(3,),
    crop_padding=1,
)
TOKEN_RECIPE = TokenRecipe(
    steps=40,
    batch_size=8,
    window=8,
    peak_learning_rate=1e-2,
    warmup_steps=5,
)
LM = {"vocab_size": 7, "context": 8, "width": 16, "depth": 1, "heads": 2}


def colours(n_images: int = 70) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Noise in which one of three channels is brighter: the label."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, size=n_images).astype(np.uint8)
    images = generator.integers(0, 150, size=(n_images, 8, 8, 3)).astype(np.uint8)
    images[np.arange(n_images), :, :, labels] += 100
    return images, labels


def classifier(**arguments: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return make_network("cifar-resnet8", arch_args={"num_classes": 3, **arguments})


def cycles() -> Documents:
    """Documents that count 0, 1, ... 6, 0, 1, ..., from different numbers on."""
    lengths = np.array([30, 1, 25, 4, 60])
    tokens = np.concatenate([(np.arange(n) + n) % 7 for n in lengths])
    return Documents(tokens, np.cumsum(lengths) - lengths, lengths)


def language_model(**arguments: Any) -> torch.nn.Module:
    torch.manual_seed(1)
    return make_network("transformer-lm", arch_args=LM | arguments)


def same_weights(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


class TestRecipes:
    @pytest.mark.parametrize(
        ("epoch", "rate"),
        [
            (1 / 391, 0.4 / 15 / 391),
            (7.5, 0.2),
            (15, 0.4),
            (96, 0.4),
            (96 + 1 / 391, 0.04),
            (192, 0.04),
            (200, 0.004),
            (224, 0.004),
            (256, 0.0004),
        ],
    )
    def test_learning_rate_of_the_paper(self, epoch: float, rate: float) -> None:
        assert ImageRecipe().learning_rate(epoch) == pytest.approx(rate, rel=1e-12)

    def test_fewer_epochs_move_warm_up_and_drops_in_proportion(self) -> None:
        recipe = ImageRecipe(momentum=0.8).scaled_to(16)

        assert (recipe.epochs, recipe.warmup_epochs, recipe.drop_epochs) == (16, 15 / 16, (6, 12, 14))
        assert recipe.momentum == 0.8
        for epoch in (0.01, 0.9, 3, 6, 6.1, 13, 16):
            assert recipe.learning_rate(epoch) == pytest.approx(ImageRecipe().learning_rate(16 * epoch))

    def test_without_warm_up_the_rate_begins_at_its_peak(self) -> None:
        assert ImageRecipe(warmup_epochs=0).learning_rate(1e-3) == 0.4
        assert TokenRecipe(warmup_steps=0, steps=1000).learning_rate(1) == pytest.approx(2e-3, rel=1e-5)

    @pytest.mark.parametrize(("step", "share"), [(1, 0.5), (2, 1.0), (6, 0.55), (10, 0.1)])
    def test_cosine_falls_to_its_final_share(self, step: int, share: float) -> None:
        recipe = TokenRecipe(steps=10, warmup_steps=2, peak_learning_rate=3.0)

        assert recipe.learning_rate(step) == pytest.approx(3 * share, rel=1e-12)

    @pytest.mark.parametrize(
        ("recipe", "numbers"),
        [
            (ImageRecipe, {"epochs": 0}),
            (ImageRecipe, {"batch_size": -1}),
            (ImageRecipe, {"crop_padding": -4}),
            (TokenRecipe, {"steps": 0}),
            (TokenRecipe, {"window": 0}),
            (TokenRecipe, {"warmup_steps": -1}),
        ],
        ids=str,
    )
    def test_numbers_out_of_range_are_refused(self, recipe: Any, numbers: dict[str, int]) -> None:
        ((field, number),) = numbers.items()

        with pytest.raises(UsageError, match=rf"{field}: out of range .*found {number}"):
            recipe(**numbers)


class TestImageBatches:
    def test_mean_and_deviation_by_hand(self) -> None:
        images = np.zeros((1, 1, 2, 2), np.uint8)
        images[..., 0] = [[0, 255]]
        images[..., 1] = 51

        assert preprocessing_of(images) == ImagePreprocessing((0.5, 0.2), (0.5, 1.0), ImageLayout.NHWC)

    def test_mean_and_deviation_are_those_of_all_pixels(self) -> None:
        images, _ = colours()

        found = preprocessing_of(images)

        np.testing.assert_allclose(found.mean, (images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
        np.testing.assert_allclose(found.std, (images / 255).std(axis=(0, 1, 2)), rtol=1e-12)

    def test_training_sees_what_embed_feeds_to_the_bit(self) -> None:
        images, _ = colours()
        preprocessing = preprocessing_of(images)

        seen = scaled(torch.tensor(images), preprocessing).permute(0, 3, 1, 2)

        assert torch.equal(seen, as_inputs(images, preprocessing))

    def test_without_padding_and_flips_images_stay_as_they_are(self) -> None:
        images = torch.randn(5, 4, 6, 3)

        assert torch.equal(augment(images, padding=0, flips=False), images)

    def test_every_crop_and_flip_comes_and_nothing_else(self) -> None:
        image = torch.arange(1.0, 25.0).reshape(3, 4, 2)
        padded = torch.nn.functional.pad(image, (0, 0, 1, 1, 1, 1))
        crops = [padded[top : top + 3, left : left + 4] for top in range(3) for left in range(3)]
        expected = {tuple(x.flatten().tolist()) for crop in crops for x in (crop, crop.flip(1))}

        found = augment(image.expand(1000, 3, 4, 2), padding=1, flips=True)

        assert len(expected) == 18
        assert {tuple(x.flatten().tolist()) for x in found} == expected

    def test_each_image_keeps_its_own_pixels(self) -> None:
        images = torch.arange(1.0, 51.0).reshape(50, 1, 1, 1).expand(50, 6, 6, 1).contiguous()

        found = augment(images, padding=2, flips=True)

        # A crop of six pixels with two of padding always keeps the middle.
        assert torch.equal(found[:, 2:4, 2:4], images[:, 2:4, 2:4])


def augment(images: torch.Tensor, *, padding: int, flips: bool) -> torch.Tensor:
    return augmented(
        images.contiguous(), crop_padding=padding, flips=flips, generator=np.random.default_rng(0)
    )


class TestClassifier:
    def test_it_learns(self) -> None:
        images, labels = colours()
        network = classifier()

        trained = train_classifier(network, images, labels, IMAGE_RECIPE)

        assert [report.epoch for report in trained.epochs] == [1, 2, 3, 4]
        assert trained.epochs[-1].loss < 0.5 * trained.epochs[0].loss
        assert trained.epochs[-1].accuracy > 0.9
        assert not network.training
        assert trained.preprocessing == preprocessing_of(images)
        assert classifier_accuracy(network, images, labels, trained.preprocessing) > 0.9

    def test_a_seed_repeats_to_the_bit_and_another_does_not(self) -> None:
        images, labels = colours()
        networks = [classifier() for _ in range(3)]

        runs = [
            train_classifier(network, images, labels, IMAGE_RECIPE.scaled_to(2), seed=seed)
            for network, seed in zip(networks, (5, 5, 6), strict=True)
        ]

        assert runs[0] == runs[1] != runs[2]
        assert same_weights(networks[0], networks[1])
        assert not same_weights(networks[0], networks[2])

    def test_a_run_that_was_saved_and_continued_ends_with_the_same_bits(self, tmp_path: Path) -> None:
        images, labels = colours()
        whole, first, second = (classifier() for _ in range(3))
        trained = train_classifier(whole, images, labels, IMAGE_RECIPE, seed=2)

        run = ClassifierTraining(first, images, labels, IMAGE_RECIPE, seed=2)
        run.run_epoch()
        torch.save(run.state_dict(), tmp_path / "state.pt")
        run = ClassifierTraining(second, images, labels, IMAGE_RECIPE, seed=2)
        run.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        reports = [run.run_epoch() for _ in range(3)]

        assert run.epochs_done == 4
        assert reports == list(trained.epochs[1:])
        assert same_weights(whole, second)

    def test_each_epoch_takes_every_image_once_in_an_order_of_its_own(self) -> None:
        images, labels = colours()
        network, seen = classifier(), []
        network.register_forward_pre_hook(lambda _, args: seen.append(args[0]))

        recipe = ImageRecipe(epochs=2, batch_size=20, crop_padding=0, flips=False)
        trained = train_classifier(network, images, labels, recipe)

        inputs = as_inputs(images, trained.preprocessing).flatten(1)
        distances = (torch.cat(seen).flatten(1)[:, None] - inputs).abs().amax(dim=2)
        orders = distances.argmin(dim=1).split(70)
        assert distances.amin(dim=1).max() == 0
        assert all(torch.equal(order.sort().values, torch.arange(70)) for order in orders)
        assert len({tuple(order.tolist()) for order in (*orders, torch.arange(70))}) == 3

    def test_steps_take_the_rate_of_the_schedule(self) -> None:
        images, labels = colours(40)
        still = ImageRecipe(epochs=1, batch_size=20, warmup_epochs=0, drop_epochs=(0.5,), drop_factor=0)
        moved, half = classifier(), classifier()

        train_classifier(moved, images, labels, still)
        run = ClassifierTraining(half, images, labels, still)
        run.run_epoch(lambda blocks, description: blocks[:1])

        # The second of the two steps ends after the drop to zero, so only the first moves the weights.
        assert torch.equal(moved.head.weight, half.head.weight)
        assert not torch.equal(moved.head.weight, classifier().head.weight)

    def test_progress_is_handed_the_batches_of_each_epoch(self) -> None:
        images, labels = colours()
        seen: list[tuple[str, list[slice]]] = []

        def progress(blocks: Sequence[slice], description: str) -> Iterable[slice]:
            seen.append((description, list(blocks)))
            return blocks

        train_classifier(classifier(), images, labels, IMAGE_RECIPE.scaled_to(2), progress=progress)

        blocks = [slice(0, 20), slice(20, 40), slice(40, 60), slice(60, 70)]
        assert seen == [("epoch 1 of 2", blocks), ("epoch 2 of 2", blocks)]

    def test_what_a_network_drops_follows_the_seed_and_leaves_torchs_generator_alone(self) -> None:
        images, labels = colours()
        networks = []
        for other_draws in (0, 3):
            network = classifier()
            network.pool = torch.nn.Sequential(network.pool, torch.nn.Dropout(0.5))
            torch.rand(other_draws)
            before = torch.get_rng_state()
            train_classifier(network, images, labels, IMAGE_RECIPE.scaled_to(1))
            assert torch.equal(torch.get_rng_state(), before)
            networks.append(network)

        assert same_weights(*networks)

    def test_accuracy_by_hand(self) -> None:
        brightest = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        brightest.scale = torch.nn.Parameter(torch.ones(1))
        images, labels = colours()
        wrong = labels.copy()
        wrong[:7] = (labels[:7] + 1) % 3
        plain = ImagePreprocessing((0.0,) * 3, (1.0,) * 3, ImageLayout.NHWC)

        assert classifier_accuracy(brightest, images, labels, plain) == 1
        assert classifier_accuracy(brightest, images, wrong, plain) == 63 / 70

    @pytest.mark.parametrize(
        ("images", "labels", "words"),
        [
            (np.zeros((2, 8, 8, 3), np.float32), np.zeros(2, int), "images .*uint8.*float32"),
            (np.zeros((2, 8, 8), np.uint8), np.zeros(2, int), r"images .*\(2, 8, 8\)"),
            (np.zeros((0, 8, 8, 3), np.uint8), np.zeros(0, int), "images"),
            (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(3, int), r"labels .*\(2,\).*\(3,\)"),
            (np.zeros((2, 8, 8, 3), np.uint8), np.zeros(2), "labels .*integers.*float64"),
            (np.zeros((2, 8, 8, 3), np.uint8), np.array([0, -1]), "labels .*at least 0, found -1"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_other_types_and_shapes_are_refused(
        self, images: NDArray[Any], labels: NDArray[Any], words: str
    ) -> None:
        with pytest.raises(DataError, match=words):
            train_classifier(classifier(), images, labels, IMAGE_RECIPE)

    def test_a_run_that_diverges_ends_with_what_to_change(self) -> None:
        images, labels = colours()
        recipe = ImageRecipe(epochs=3, batch_size=20, peak_learning_rate=1e30, warmup_epochs=0)

        with pytest.raises(DataError, match=r"not finite any more after epoch \d; take a lower peak"):
            train_classifier(classifier(), images, labels, recipe)


class TestDocuments:
    def test_padding_has_no_target_whatever_the_type_of_the_tokens(self) -> None:
        for dtype in (np.uint8, np.uint16, np.uint32, np.int64):
            short = Documents(np.array([3, 4, 5], dtype), np.array([0]), np.array([3]))
            ids, targets = short.windows(np.array([0]), np.array([0]), 4)
            assert ids.tolist() == [[3, 4, 0, 0]]
            assert targets.tolist() == [[4, 5, NO_TARGET, NO_TARGET]]

    def test_windows_by_hand(self) -> None:
        documents = Documents(np.array([5, 6, 7, 8, 1, 2, 3]), np.array([0, 4, 5]), np.array([4, 1, 2]))

        which, offsets = documents.cut(2)
        ids, targets = documents.windows(which, offsets, 2)

        np.testing.assert_array_equal(which, [0, 0, 2])
        np.testing.assert_array_equal(offsets, [0, 2, 0])
        np.testing.assert_array_equal(ids, [[5, 6], [7, 0], [2, 0]])
        np.testing.assert_array_equal(targets, [[6, 7], [8, NO_TARGET], [3, NO_TARGET]])

    @pytest.mark.parametrize("window", [1, 3, 8, 100])
    def test_cut_windows_hold_every_token_that_has_a_next_one_once(self, window: int) -> None:
        documents = cycles()

        ids, targets = documents.windows(*documents.cut(window), window)

        held = targets != NO_TARGET
        expected = [
            documents.tokens[s : s + n] for s, n in zip(documents.starts, documents.lengths, strict=True)
        ]
        np.testing.assert_array_equal(ids[held], np.concatenate([tokens[:-1] for tokens in expected]))
        np.testing.assert_array_equal(targets[held], np.concatenate([tokens[1:] for tokens in expected]))
        assert not ids[~held].any()

    def test_drawn_windows_are_full_where_the_document_allows_and_begin_anywhere(self) -> None:
        documents = cycles()

        which, offsets = documents.draw(20_000, 8, np.random.default_rng(0))

        begins = {(int(i), int(offset)) for i, offset in zip(which, offsets, strict=True)}
        assert begins == {(i, o) for i, last in ((0, 21), (2, 16), (3, 0), (4, 51)) for o in range(last + 1)}
        shares = np.bincount(which, minlength=5) / len(which)
        np.testing.assert_allclose(shares, np.array([29, 0, 24, 3, 59]) / 115, atol=0.015)

    @pytest.mark.parametrize(
        ("tokens", "starts", "lengths", "words"),
        [
            ([0.5, 1.0], [0], [2], "tokens: .*float64"),
            ([[1, 2]], [0], [2], r"tokens: .*\(1, 2\)"),
            ([1, 2, 3], [0, 2], [2], "lengths: not as many as starts"),
            ([1, 2, 3], [0, 2], [2, 2], "starts: documents leave the tokens"),
            ([1, 2, 3], [-1], [2], "starts: documents leave the tokens"),
            ([1, 2, 3], [0, 1], [1, 1], "lengths: no document has two tokens"),
        ],
    )
    def test_documents_that_do_not_fit_are_refused(
        self, tokens: list[Any], starts: list[int], lengths: list[int], words: str
    ) -> None:
        with pytest.raises(DataError, match=words):
            Documents(np.array(tokens), np.array(starts), np.array(lengths))


class TestLanguageModel:
    def test_it_learns(self) -> None:
        network = language_model()

        losses = train_language_model(network, cycles(), TOKEN_RECIPE)

        assert len(losses) == 40
        assert losses[0] == pytest.approx(math.log(7), abs=0.1)
        assert losses[-1] < 0.5
        assert not network.training
        assert language_model_loss(network, cycles(), window=8) < 0.5

    def test_a_seed_repeats_to_the_bit_and_another_does_not(self) -> None:
        networks = [language_model(dropout=0.2) for _ in range(3)]
        recipe = TokenRecipe(steps=3, batch_size=4, window=8)

        losses = []
        for network, seed in zip(networks, (5, 5, 6), strict=True):
            torch.rand(1)
            losses.append(train_language_model(network, cycles(), recipe, seed=seed))

        assert losses[0] == losses[1] != losses[2]
        assert same_weights(networks[0], networks[1])
        assert not same_weights(networks[0], networks[2])

    def test_a_run_that_was_saved_and_continued_ends_with_the_same_bits(self, tmp_path: Path) -> None:
        recipe = TokenRecipe(steps=6, batch_size=4, window=8, warmup_steps=2)
        whole, first, second = (language_model(dropout=0.1) for _ in range(3))
        losses = train_language_model(whole, cycles(), recipe, seed=2)

        run = LanguageModelTraining(first, cycles(), recipe, seed=2)
        begun = [run.run_step() for _ in range(2)]
        torch.save(run.state_dict(), tmp_path / "state.pt")
        run = LanguageModelTraining(second, cycles(), recipe, seed=2)
        run.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
        continued = [run.run_step() for _ in range(4)]

        assert run.steps_done == 6
        assert begun + continued == losses
        assert same_weights(whole, second)

    def test_decay_is_of_matrices_only(self) -> None:
        network = language_model()
        with torch.no_grad():
            network.norm.bias.fill_(1)
            # Nothing reaches the blocks from a head of zeros, so only the decay moves them.
            network.head.weight = torch.nn.Parameter(torch.zeros(7, 16))
        recipe = TokenRecipe(steps=1, batch_size=1, window=4, warmup_steps=0, weight_decay=0.5)
        before = {name: weight.clone() for name, weight in network.state_dict().items()}

        train_language_model(network, cycles(), recipe)

        rate = recipe.learning_rate(1)
        after = network.state_dict()
        assert torch.equal(after["blocks.0.mlp.expand.bias"], before["blocks.0.mlp.expand.bias"])
        assert torch.equal(after["norm.bias"], before["norm.bias"])
        torch.testing.assert_close(
            after["blocks.0.mlp.expand.weight"], before["blocks.0.mlp.expand.weight"] * (1 - 0.5 * rate)
        )

    @pytest.mark.parametrize("batch_size", [1, 2, 100])
    def test_loss_is_the_mean_over_the_targets(self, batch_size: int) -> None:
        network = language_model()
        documents = cycles()
        expected = []
        with torch.inference_mode():
            for start, length in zip(documents.starts, documents.lengths, strict=True):
                for first in range(start, start + length - 1, 8):
                    ids = torch.from_numpy(documents.tokens[first : min(first + 9, start + length)])
                    logits = network.eval()(ids[None, :-1])[0].double()
                    expected += (-logits.log_softmax(dim=1)[range(len(logits)), ids[1:]]).tolist()

        found = language_model_loss(network, documents, window=8, batch_size=batch_size)

        assert found == pytest.approx(np.mean(expected), rel=1e-5)

    def test_progress_is_handed_the_steps(self) -> None:
        seen: list[tuple[str, int]] = []

        def progress(blocks: Sequence[slice], description: str) -> Iterable[slice]:
            seen.append((description, len(blocks)))
            return blocks

        train_language_model(language_model(), cycles(), TokenRecipe(steps=3, window=8), progress=progress)

        assert seen == [("training", 3)]

    def test_a_run_that_diverges_ends_with_what_to_change(self) -> None:
        network = language_model()
        with torch.no_grad():
            network.norm.weight.fill_(math.inf)

        with pytest.raises(DataError, match="not finite any more at step 1; take a lower peak"):
            train_language_model(network, cycles(), TOKEN_RECIPE)
