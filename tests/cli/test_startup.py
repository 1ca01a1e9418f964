import os
import subprocess
import sys

import pytest

from tests.cli.command_line import run_process


def test_failing_command_writes_one_line_and_nothing_else(tmp_path):
    done = run_process("predict", tmp_path / "nowhere", "image.jpg")
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: `path` must be a directory with model.keras")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("fails", [False, True])
def test_what_tensorflow_writes_is_shown_only_if_it_cannot_be_imported(tmp_path, fails):
    (tmp_path / "tensorflow.py").write_text(
        "import os\n"
        "os.write(2, b'library not found\\n')\n"
        f"assert not {fails}\n"
        "class config:\n"
        "    list_physical_devices = staticmethod(lambda: [])\n"
    )
    code = "from keras_sgdr_cli.startup import import_tensorflow; import_tensorflow(); print('imported')"
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert ("library not found" in done.stderr) == fails
    assert ("AssertionError" in done.stderr) == fails
    assert ("imported" in done.stdout) != fails


@pytest.mark.parametrize(("given", "used"), [(None, "1"), ("0", "0")])
def test_onednn_is_switched_on_unless_the_user_has_chosen(given, used):
    code = "import os, keras_sgdr_cli.main; print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TF_")}
    environment = kept | ({} if given is None else {"TF_ENABLE_ONEDNN_OPTS": given})
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == used
