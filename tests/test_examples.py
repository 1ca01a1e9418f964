"""Each file in examples/ runs, as a user runs it."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run_example(name: str, *arguments: object, directory: Path) -> str:
    """What a program prints that is run in a directory."""
    command = [sys.executable, str(EXAMPLES / name), *map(str, arguments)]
    environment = os.environ | {"KERAS_SGDR_CACHE": "off"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=directory, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def circles_and_stripes(tmp_path):
    """A folder with train/ and valid/ of two classes that are told apart at a glance, in any colour."""
    random = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :48]
    for split, count in (("train", 12), ("valid", 6)):
        for name in ("circle", "stripes"):
            (tmp_path / "shapes" / split / name).mkdir(parents=True)
            for i in range(count):
                x, y = random.uniform(18, 30, size=2)
                inside = (rows - y) ** 2 + (columns - x) ** 2 < 14**2 if name == "circle" else (rows + int(x)) % 12 < 6
                front, back = random.integers(150, 256, 3), random.integers(0, 100, 3)
                image = np.where(inside[:, :, None], front, back).astype("uint8")
                Image.fromarray(image).save(tmp_path / "shapes" / split / name / f"{i}.png")
    return tmp_path / "shapes"


def test_all_examples_have_a_test():
    tested = set(re.findall(r'run_example\("(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


@pytest.mark.slow
def test_callbacks_in_your_own_fit_learn_the_digits(tmp_path):
    printed = run_example("callbacks_in_your_own_fit.py", directory=tmp_path)
    rate = float(re.search(r"suggested rate: (\S+)", printed)[1])
    assert 1e-4 < rate < 1
    assert float(re.findall(r"val_accuracy: ([\d.]+)", printed)[-1]) > 0.8


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.stem)
def test_examples_import_what_is_there_and_are_short(path):
    # In this process, for the whole of some takes minutes on a busy machine.
    assert callable(runpy.run_path(str(path))["main"])
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 86


@pytest.mark.slow
def test_an_export_is_served_and_asked(trained_run, digits_folder, tmp_path):
    image = next((digits_folder / "seven").iterdir())
    printed = run_example("serve_and_query.py", trained_run, image, directory=tmp_path).splitlines()
    assert printed[0] == "state: AVAILABLE"
    shares = [float(line.split()[0]) for line in printed[1:]]
    assert sum(shares) == pytest.approx(1, abs=1e-3)
    assert {line.split()[1] for line in printed[1:]} == {"one", "seven", "zero"}


@pytest.mark.slow
def test_rates_are_found_by_rule_by_order_and_by_group(tmp_path):
    printed = run_example("find_a_rate.py", directory=tmp_path)
    rates = {rule: float(rate) for rule, rate in re.findall(r"^ *(\w+): (\d\S+)$", printed, re.MULTILINE)}
    assert set(rates) == {"valley", "slide", "steep", "minimum", "inflection", "divergence"}
    assert rates["valley"] < rates["divergence"]
    orders, median = re.search(r"^five orders: (.+) -> (\S+)$", printed, re.MULTILINE).groups()
    assert float(median) == np.median([float(rate) for rate in orders.split(", ")])
    assert len(re.search(r"^early layers and head: (.+)$", printed, re.MULTILINE)[1].split(", ")) == 2
    assert {"curve.png", "curve.csv"} <= {path.name for path in tmp_path.iterdir()}


@pytest.mark.slow
def test_layers_with_lower_rates_forget_less(tmp_path):
    printed = run_example("rates_per_group.py", directory=tmp_path)
    scores = re.findall(r"accuracy ([\d.]+) on the new digits, ([\d.]+) on the old ones", printed)
    (new, old), (new_by_group, old_by_group) = [tuple(map(float, pair)) for pair in scores]
    assert old < old_by_group
    assert min(new, new_by_group) > 0.8  # of five classes


@pytest.mark.slow
def test_views_and_mistakes_are_looked_at(trained_run, digits_folder, tmp_path):
    printed = run_example("tta_and_mistakes.py", trained_run, digits_folder, directory=tmp_path)
    assert len(re.findall(r"^(?:plain|drawn|flip): accuracy [\d.]+, log-loss [\d.]+", printed, re.MULTILINE)) == 3
    assert len(re.findall(r"^loss [\d.]+: .+\.png, a \w+, is taken for a \w+$", printed, re.MULTILINE)) == 3


@pytest.mark.slow
def test_texts_and_tables_are_learnt(tmp_path):
    printed = run_example("text_and_tables.py", directory=tmp_path)
    text, table = map(float, re.findall(r"^accuracy ([\d.]+)$", printed, re.MULTILINE))
    assert text > 0.6  # of four packages, of which the largest has 0.31 of the rows
    assert table > 0.93


@pytest.mark.slow
def test_eight_steps_learn_two_shapes_and_export(tmp_path, circles_and_stripes):
    printed = run_example("eight_steps.py", circles_and_stripes, 32, 1, directory=tmp_path)
    rate = float(re.search(r"rate (\S+): ", printed)[1])
    assert 1e-6 < rate <= 1e-3  # the usual rate of the recipe, or less
    assert float(re.search(r"accuracy ([\d.]+); most confused", printed)[1]) > 0.7
    assert (tmp_path / "export" / "1" / "saved_model.pb").is_file()


@pytest.mark.slow
def test_two_machines_reach_what_one_reaches(tmp_path):
    from tests.distribution.cluster import run_workers

    alone = run_example("two_machines.py", directory=tmp_path)
    accuracy = float(re.search(r"validation images: (\S+)", alone)[1])
    assert accuracy > 0.8
    for printed in run_workers([[EXAMPLES / "two_machines.py"]] * 2, folder=tmp_path):
        # One image of the 359 may fall to the other side by a rounding error.
        assert float(re.search(r"validation images: (\S+)", printed)[1]) == pytest.approx(accuracy, abs=2 / 359)


def test_launchers_start_a_worker_each():
    launch = EXAMPLES / "launch"
    for name in ("two_workers.sh", "slurm.sbatch"):
        subprocess.run(["bash", "-n", launch / name], check=True)
    assert re.search(r"^srun .*keras-sgdr train .*--strategy multi_worker", (launch / "slurm.sbatch").read_text(), re.M)
    service, job = yaml.safe_load_all((launch / "kubernetes.yaml").read_text())
    assert service["spec"]["clusterIP"] == "None"
    assert service["metadata"]["name"] == job["spec"]["template"]["spec"]["subdomain"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    script = container["args"][0].replace("exec keras-sgdr", "printf '%s\\n' \"$TF_CONFIG\" # ")
    for index in range(job["spec"]["completions"]):
        environment = os.environ | {"JOB_COMPLETION_INDEX": str(index)}
        done = subprocess.run([*container["command"], script], capture_output=True, text=True, env=environment)
        config = json.loads(done.stdout)
        assert config["task"] == {"type": "worker", "index": index}
        name = job["metadata"]["name"]
        assert config["cluster"]["worker"][index] == f"{name}-{index}.{service['metadata']['name']}:2222"
