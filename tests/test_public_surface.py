import ast
import subprocess
import sys
from pathlib import Path

import pytest

import keras_sgdr


@pytest.mark.parametrize("name", keras_sgdr.__all__)
def test_public_name_is_there_and_documented(name):
    value = getattr(keras_sgdr, name)
    assert value.__doc__
    assert value.__module__.startswith("keras_sgdr.")


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        keras_sgdr.nothing  # noqa: B018


def test_dir_lists_the_public_names():
    assert set(keras_sgdr.__all__) <= set(dir(keras_sgdr))


def test_import_registers_classes_and_leaves_kerascv_for_later():
    code = (
        "import sys, keras, keras_sgdr\n"
        "assert 'keras_cv' not in sys.modules\n"
        "assert keras.saving.get_registered_object('keras_sgdr>DifferentialLR') is keras_sgdr.DifferentialLR\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_is_in_the_program_that_type_checkers_read():
    tree = ast.parse((Path(__file__).parent / "typed_user_program.py").read_text(encoding="utf-8"))
    imported = {each.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for each in node.names}
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert set(keras_sgdr.__all__) <= imported & used
    assert (Path(keras_sgdr.__file__).parent / "py.typed").is_file()  # without it they read no types of an installation
