import json
import os
import sys

import pytest
import torch

import norse_fast as nf
from norse_fast.benchmark.models import MODELS
from norse_fast.benchmark.networks import NETWORKS
from norse_fast.benchmark.timing import alone

pytestmark = pytest.mark.needs("bench")


def main(arguments):
    from norse_fast.benchmark.__main__ import main

    main(arguments)


def run(tmp_path, *arguments):
    main(["--quick", "--output", str(tmp_path), *arguments])
    assert (tmp_path / "benchmark.png").stat().st_size > 0
    return json.loads((tmp_path / "benchmark.json").read_text())


@pytest.mark.needs("norse")
def test_everything(tmp_path):
    results = run(tmp_path)
    checks = results["neurons"]["checks"]
    assert checks
    assert all(check["equal"] for check in checks)
    assert {time["part"] for time in results["neurons"]["times"]} == {"layer", "cell", "length"}
    assert {time["model"] for time in results["models"]["times"]} == set(MODELS)
    networks = results["networks"]
    assert {row["network"] for row in networks["times"]} == set(NETWORKS)
    assert max(check["float64_difference"] for check in networks["checks"]) < 1e-9
    assert {row["mode"] for row in networks["times"]} == {"inference", "training"}
    assert all(row["kept_bytes"] > 0 for row in networks["memory"])
    assert {row["contender"] for row in networks["memory"]} == {"norse_fast", "norse_fast, dense"}
    products = results["products"]["times"]
    assert {row["mode"] for row in products} == {"forward", "gradient"}
    assert all(row["difference"] < 1e-4 for row in products)
    for row in networks["profiles"]:
        assert (row["seconds"]["neurons"] > 0) == (row["contender"] != "Norse")
        assert row["seconds"]["matrix products"] > 0
        assert (row["seconds"]["convolutions"] > 0) == row["network"].startswith("conv")
    recurrent = results["recurrent"]
    assert all(check["equal"] and check["mean_output"] > 0 for check in recurrent["checks"])
    assert {time["part"] for time in recurrent["times"]} == {"rates", "long", "sizes"}
    assert {row["contender"] for row in recurrent["memory"]} >= {"norse_fast"}
    assert {"norse_fast", "Norse"} <= {row["contender"] for row in networks["times"]}
    assert "Norse" in {check["against"] for check in recurrent["checks"]}
    assert results["recall"][0]["check"]["equal"]
    compared = {time["model"] for time in results["models"]["times"] if time["contender"] == "Norse cell"}
    assert compared == {name for name, model in MODELS.items() if not model.no_norse}
    assert results["train"][0]["check"]["equal"]
    assert "Norse" in {check["against"] for check in checks}


def test_without_norse(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "norse", None)
    monkeypatch.setitem(sys.modules, "norse.torch", None)
    # Products never have Norse's side, and recall is train with another task.
    results = run(tmp_path, "--parts", "neurons", "models", "recurrent", "networks", "train")
    for part in ("neurons", "models"):
        assert {check["against"] for check in results[part]["checks"]} == {"pure PyTorch"}
    assert "Norse" not in {row["contender"] for row in results["networks"]["times"]}
    assert list(results["train"][0]["sides"]) == ["norse_fast"]
    assert {check["against"] for check in results["recurrent"]["checks"]} == {"stepped"}
    assert capsys.readouterr().out.count("Norse is not installed") == 1


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_dtype(tmp_path, dtype):
    results = run(tmp_path, "--parts", "neurons", "--dtypes", dtype, "--sizes", "5x2x3", "2x3")
    assert {tuple(check["size"]) for check in results["neurons"]["checks"]} >= {(5, 2, 3), (2, 3)}


def test_gpu_benchmark_runs_on_any_device(tmp_path):
    """How fast it is without a GPU is of no interest, but that it runs."""
    from norse_fast.benchmark import gpu

    gpu.main(["--quick", "--device", "cpu", "--output", str(tmp_path)])
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert (tmp_path / "gpu.png").stat().st_size > 0
    assert {row["part"] for row in results["rows"]} == set(gpu.PARTS) - {"graphs"}
    assert {row["contender"] for row in results["rows"] if row["part"] == "models"} == set(MODELS)
    assert all(row["median"] > 0 for row in results["rows"])
    assert results["versions"]["torch"]


def test_a_process_of_its_own():
    assert alone(os.getpid) != os.getpid()
    assert alone(torch.initial_seed) == 0


def test_wrong_size_names_it(capsys):
    with pytest.raises(SystemExit):
        main(["--sizes", "5"])
    assert "got '5', expected TxBxN for a layer or BxN for a cell" in capsys.readouterr().err


def test_every_layer_has_a_row():
    layers = {name for name, value in vars(nf).items() if isinstance(value, type) and issubclass(value, nf.SNN)}
    assert {model.layer for model in MODELS.values()} == layers - {"SNN"}


def test_parts_that_are_left_out_stay(tmp_path):
    from norse_fast.benchmark.__main__ import keep_other_parts

    path = tmp_path / "benchmark.json"
    for commit, part in (("a", "networks"), ("b", "models"), ("c", "networks")):
        results = {"machine": {"commit": commit}, part: f"of {commit}"}
        keep_other_parts(results, path)
        path.write_text(json.dumps(results))
    assert results == {
        "machine": {"commit": "c"},
        "machines": {"models": {"commit": "b"}},
        "networks": "of c",
        "models": "of b",
    }
