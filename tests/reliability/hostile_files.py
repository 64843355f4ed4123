"""What a hostile file is, and which commands are given it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_MEMORY = "--index in/index-exact.h5 --residuals in/residuals.h5"
_POINT = "-k 5 --sigma 1 -T 1.4 -o out.h5"

# Command lines by what of theirs the file BAD is.
ARRAYS = (
    "import BAD -o out.h5",
    "index BAD -o out.h5",
    "residualize BAD -o out.h5",
    f"predict BAD {_MEMORY} -k 5 -o out.h5",
    f"tune BAD --index in/index-exact.h5 --train in/train.h5 {_POINT}",
    f"tune --leave-one-out --index in/index-exact.h5 --train BAD {_POINT}",
    "update --index in/index-exact.h5 --add BAD --index-output out.h5",
    "run BAD -o out",
    "embed in/digits.safetensors BAD --arch in.train_digits:make_network -o out.h5",
)
ANY_ARTIFACT = ("info BAD", "info BAD --json", "verify BAD", "export BAD -o out.npz", "export BAD -o out.csv")
EMBEDDINGS = ARRAYS[1:7]
RESIDUALS = (
    "predict in/test.h5 --index in/index-exact.h5 --residuals BAD -k 5 -o out.h5",
    "update --residuals BAD --add in/test.h5 --residuals-output out.h5",
)
INDEX = (
    "predict in/test.h5 --index BAD --residuals in/residuals.h5 -k 5 -o out.h5",
    f"tune in/test.h5 --index BAD --train in/train.h5 {_POINT}",
    "update --index BAD --add in/test.h5 --index-output out.h5",
)
TUNING = (
    f"predict in/test.h5 {_MEMORY} --tuning BAD -o out.h5",
    "residualize in/train.h5 --tuning BAD -o out.h5",
    "analyze in/predictions-exact.h5 --tuning BAD -o out.h5",
)
PREDICTIONS = (
    "analyze BAD -o out.h5",
    "analyze BAD in/predictions-ivf.h5 --where --influence --html out.html",
    "analyze BAD --explain 0 --json",
)
REPORT = ("export BAD -o out.json", "export BAD -o out.csv")
CHECKPOINT = (
    "embed BAD in/digits_test.npz --arch in.train_digits:make_network -o out.h5",
    "embed BAD in/digits_test.npz -o out.h5",
)
INPUTS = ARRAYS[-1:]
TOKENIZER = (
    "embed in/digits.safetensors in/train_digits.py --tokenizer BAD --window 8 "
    "--arch in.train_digits:make_network -o out.h5",
)
GROUPS = ("analyze in/predictions-exact.h5 --groups BAD -o out.h5",)
REMOVE = ("update --index in/index-exact.h5 --remove BAD --index-output out.h5",)
CLASS_WEIGHTS = (
    f"tune in/test.h5 --index in/index-exact.h5 --train in/train.h5 --class-weights BAD {_POINT}",
)


@dataclass(frozen=True)
class Hostile:
    """A file made to harm.

    Attributes
    ----------
    name : str
        Its name, or its folder's.
    make : callable
        Writes it, given its path, the canary's and the folder of the workload's inputs.
    refused : tuple of str
        Command lines that have to refuse it.
    may : tuple of str
        Command lines that may also do their work: the harm is in what they do not read, or it is only size.
    statuses : tuple of int
        Of a refusal.
    opens_canary : callable, optional
        Reads the file at a path as a program without the tool's care does, which touches the canary.
    """

    name: str
    make: Callable[[Path, Path, Path], None]
    refused: tuple[str, ...]
    may: tuple[str, ...]
    statuses: tuple[int, ...]
    opens_canary: Callable[[str], None] | None


Maker = Callable[[Path, Path, Path], None]


class Collection(dict[str, Hostile]):
    """Hostile files by what tells them from the others; functions are put in by a decorator."""

    def __call__(
        self,
        name: str,
        *refused: str,
        may: tuple[str, ...] = (),
        statuses: tuple[int, ...] = (65,),
        opens_canary: Callable[[str], None] | None = None,
    ) -> Callable[[Maker], Maker]:
        """Register a function that makes one; see `Hostile`."""

        def register(make: Maker) -> Maker:
            key = make.__name__ if ":" in make.__name__ else make.__name__.replace("_", " ")
            assert key not in self, key
            self[key] = Hostile(name, make, refused, may, statuses, opens_canary)
            return make

        return register
