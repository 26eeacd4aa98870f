"""The example for the Spiking Heidelberg Digits: its reader against a dense reference, and that one can interrupt it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from types import ModuleType

import pytest
import torch

from .packages import find

pytestmark = pytest.mark.needs("bench", "h5py")

EXAMPLES = Path(__file__).parent.parent / "examples"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")

h5py, np = find("h5py"), find("numpy")


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    return find("heidelberg_digits")


def write(
    path: Path, words: list[tuple[list[float], list[int]]], labels: list[int] | None = None, dtype="int16"
) -> Path:
    """A file of words, each its times and its units."""
    with h5py.File(path, "w") as file:
        file["labels"] = np.array(range(len(words)) if labels is None else labels, "int16")
        file["extra/speaker"] = np.zeros(len(words), "uint16")
        times = file.create_dataset("spikes/times", len(words), h5py.vlen_dtype(np.float16))
        units = file.create_dataset("spikes/units", len(words), h5py.vlen_dtype(np.dtype(dtype)))
        for n, (at, unit) in enumerate(words):
            times[n], units[n] = np.array(at, np.float16), np.array(unit, dtype)
    return path


def read(example: ModuleType, path: Path, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
    words = example.Words(path)
    return example.Bins(steps)([words[n] for n in range(len(words))])


def reference(path: Path, steps: int) -> torch.Tensor:
    """Spike by spike, in exact fractions."""
    with h5py.File(path) as file:
        x = torch.zeros(steps, len(file["labels"]), 700)
        for word, (times, units) in enumerate(zip(file["spikes/times"], file["spikes/units"])):
            for time, unit in zip(times.tolist(), units.tolist()):
                step = Fraction(time) * steps // Fraction(7, 5)
                if step < steps:
                    x[step, word, unit] += 1
    return x


@pytest.mark.parametrize("dtype", ["int16", "uint16"])
@pytest.mark.parametrize("steps", [1, 7, 64, 100, 1400])
def test_bins_are_those_of_exact_arithmetic(example, tmp_path, steps, dtype):
    generator = np.random.default_rng(0)
    words = [
        (generator.uniform(0, 1.5, count).astype(np.float16), generator.integers(700, size=count))
        for count in (300, 0, 1, 50)
    ]
    path = write(tmp_path / "words.h5", words, dtype=dtype)
    x, labels = read(example, path, steps)
    torch.testing.assert_close(x, reference(path, steps), rtol=0, atol=0)
    assert x.shape == (steps, 4, 700)
    assert x[:, 1].count_nonzero() == 0
    assert x[:, 0].sum() > 250
    assert labels.tolist() == [0, 1, 2, 3]


def test_a_spike_on_an_edge_belongs_to_the_later_step(example, tmp_path):
    # Steps of 1/40 s; 0.5 is a float16.
    path = write(tmp_path / "words.h5", [([0.5, float(np.nextafter(np.float16(0.5), np.float16(0)))], [3, 3])])
    x, _ = read(example, path, 56)
    assert x[:, 0, 3].nonzero().flatten().tolist() == [19, 20]


def test_the_last_step_ends_with_the_duration(example, tmp_path):
    before, after = 1433 / 1024, 1434 / 1024  # neighbours among float16
    assert before < 1.4 < after
    path = write(tmp_path / "words.h5", [([0.0, before, after, 60000.0], [0, 699, 699, 5])])
    x, _ = read(example, path, 100)
    assert x.nonzero().tolist() == [[0, 0, 0], [99, 0, 699]]


def test_spikes_of_a_step_are_counted(example, tmp_path):
    path = write(tmp_path / "words.h5", [([0.1, 0.1, 0.1], [8, 8, 9])])
    x, _ = read(example, path, 10)
    assert x[0, 0, 7:10].tolist() == [0, 2, 1]


def test_words_without_spikes_alone(example, tmp_path):
    x, labels = read(example, write(tmp_path / "words.h5", [([], []), ([], [])]), 5)
    assert x.shape == (5, 2, 700)
    assert not x.any()
    assert labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("word", "label", "problem"),
    [
        (([0.1, 0.2], [1, 700]), 0, "the unit 700, expected 0 to 699"),
        (([0.1, 0.2], [-1, 5]), 0, "the unit -1, expected 0 to 699"),
        (([0.1, -0.5], [1, 5]), 0, "the time -0.5, expected seconds from 0"),
        (([0.1, float("nan")], [1, 5]), 0, "the time nan, expected seconds from 0"),
        (([0.1, 0.2], [1]), 0, "2 times and 1 units, expected as many of each"),
        (([0.1], [1]), 20, "the label 20, expected 0 to 19"),
    ],
)
def test_values_out_of_range(example, tmp_path, word, label, problem):
    path = write(tmp_path / "wrong.h5", [([0.1], [1]), word], [0, label])
    words = example.Words(path)
    assert len(words[0][0]) == 1
    with pytest.raises(ValueError, match=re.escape(f"got {path}, whose word 1 has {problem}")):
        words[1]


def test_other_files(example, tmp_path):
    path = tmp_path / "other.h5"
    with pytest.raises(ValueError, match=re.escape(f"got {path}, in which HDF5 finds no")):
        example.Words(path)
    path.write_text("no HDF5")
    with pytest.raises(ValueError, match=re.escape(f"got {path}, in which HDF5 finds no")):
        example.Words(path)
    with h5py.File(path, "w") as file:
        file["labels"] = np.zeros(2)
    with pytest.raises(ValueError, match=re.escape(f"got {path}, in which HDF5 finds no")):
        example.Words(path)
    with pytest.raises(ValueError, match="2 rows of times, 2 of units and 1 labels"):
        example.Words(write(path, [([0.1], [1])] * 2, [0]))


def test_words_stay_in_the_file(example, tmp_path):
    words = example.Words(write(tmp_path / "words.h5", [([0.1], [1])]))
    assert isinstance(words.times, h5py.Dataset)
    assert isinstance(words.units, h5py.Dataset)


def test_made_words(example, tmp_path):
    first, second, other = (tmp_path / name for name in "abc")
    example.make(first, words=20, seed=2)
    example.make(second, words=20, seed=2)
    example.make(other, words=20, seed=3)
    x, labels = read(example, first, 100)
    again, same = read(example, second, 100)
    different, _ = read(example, other, 100)
    assert torch.equal(x, again)
    assert torch.equal(labels, same)
    assert not torch.equal(x, different)
    with h5py.File(first) as file:
        assert h5py.check_vlen_dtype(file["spikes/times"].dtype) == np.float16
        assert h5py.check_vlen_dtype(file["spikes/units"].dtype) == np.uint16
        assert len(file["extra/speaker"]) == 20
        assert all((np.diff(times) >= 0).all() for times in file["spikes/times"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few words in two files, of 3 and 1 batches."""
    path = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXAMPLES))
        example = find("heidelberg_digits")
    example.make(path / "shd_train.h5", words=150, seed=2)
    example.make(path / "shd_test.h5", words=40, seed=3)
    return path


@pytest.fixture
def run(example: ModuleType, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the example and returns its checkpoint."""

    def run(checkpoint: Path, *options: str) -> dict:
        picture = checkpoint.with_suffix(".png")
        where = ("--data", folder, "--steps", "20", "--checkpoint", checkpoint, "--output", picture)
        monkeypatch.setattr(sys, "argv", ["heidelberg_digits.py", *map(str, where), *options])
        example.main()
        assert picture.exists()
        return torch.load(checkpoint, weights_only=True)

    return run


def assert_equal(a: dict, b: dict) -> None:
    torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_resumed_is_as_uninterrupted(run, tmp_path):
    whole = run(tmp_path / "whole.pt", "--epochs", "3")
    early = run(tmp_path / "folder" / "parts.pt", "--epochs", "1")
    parts = run(tmp_path / "folder" / "parts.pt", "--epochs", "3")
    assert_equal(parts, whole)
    assert len(whole["losses"]) == 9
    assert len(whole["accuracies"]) == 4
    assert whole["losses"][:3] == early["losses"]
    assert not torch.equal(whole["network"]["hidden.input_weights"], early["network"]["hidden.input_weights"])
    # Nothing is left to do.
    assert_equal(run(tmp_path / "whole.pt", "--epochs", "3"), whole)


def test_interrupted_in_an_epoch(example, run, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole.pt", "--epochs", "2")
    losses = []

    def loss(*arguments):
        losses.append(arguments)
        if len(losses) == 5:
            raise KeyboardInterrupt
        return torch.nn.functional.cross_entropy(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(example, "cross_entropy", loss)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "parts.pt", "--epochs", "2")
    assert len(torch.load(tmp_path / "parts.pt", weights_only=True)["losses"]) == 3
    torch.rand(5)
    assert_equal(run(tmp_path / "parts.pt", "--epochs", "2"), whole)


def test_a_checkpoint_of_other_options(run, tmp_path):
    run(tmp_path / "20.pt", "--epochs", "0")
    with pytest.raises(SystemExit, match=r"^--checkpoint: got .*20\.pt of .*'steps': 20.* expected .*'steps': 21"):
        run(tmp_path / "20.pt", "--epochs", "1", "--steps", "21")


@pytest.mark.needs("norse")
def test_norse_learns_the_same(run, tmp_path):
    ours = run(tmp_path / "ours.pt", "--epochs", "1")
    theirs = run(tmp_path / "theirs.pt", "--epochs", "1", "--norse")
    # Later, rounding has made spikes differ.
    assert theirs["losses"][0] == pytest.approx(ours["losses"][0], rel=1e-4)
    assert theirs["losses"][-1] == pytest.approx(ours["losses"][-1], rel=0.05)


def test_norse_is_left_alone(example, run, tmp_path, monkeypatch):
    monkeypatch.setattr(example, "import_norse", lambda: pytest.fail("imported"))
    run(tmp_path / "ours.pt", "--epochs", "0")


def test_two_processes(run, folder, tmp_path):
    """Their batches are halves of those of one process, so at first they learn the same."""
    start = run(tmp_path / "one.pt", "--epochs", "0")
    one = run(tmp_path / "one.pt", "--epochs", "1")
    where = ("--data", folder, "--steps", "20", "--checkpoint", tmp_path / "two.pt", "--output", tmp_path / "two.png")
    done = subprocess.run(
        [sys.executable, *TORCHRUN, EXAMPLES / "heidelberg_digits.py", "--epochs", "1", *where],
        env=os.environ | {"PYTHONWARNINGS": "error", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("picture: ") == 1
    two = torch.load(tmp_path / "two.pt", weights_only=True)
    assert two["accuracies"][0] == one["accuracies"][0]
    assert len(two["losses"]) == len(one["losses"])
    for name, weights in one["network"].items():
        learned = weights - start["network"][name]
        assert (two["network"][name] - weights).norm() < 0.1 * learned.norm()
