"""The first hour of somebody with a folder of photographs, typed at a terminal: five commands, and what they answer."""

import csv
import io
import json
import os
import re
import sys
from pathlib import Path

import numpy as np
import pexpect
import pytest
import skimage.data
from PIL import Image

PROMPT = "ready> "
CLASSES = {"Chat roux": "chelsea", "café crème": "coffee", "Astronautin 🚀": "astronaut"}
FORMATS = ("jpg", "JPEG", "png", "webp", "bmp", "gif")


def cut(name: str, random: np.random.Generator) -> Image.Image:
    """A part of one of scikit-image's photographs, of any size, place and brightness."""
    image = Image.fromarray(getattr(skimage.data, name)())
    width, height = (int(side * random.uniform(0.4, 0.8)) for side in image.size)
    left, top = (int(random.uniform(0, whole - part)) for whole, part in zip(image.size, (width, height), strict=True))
    brightness = random.uniform(0.7, 1)
    return image.crop((left, top, left + width, top + height)).point(lambda value: value * brightness)


@pytest.fixture
def photographs(tmp_path):
    """A folder as it comes from a telephone and a download: no splits, all formats, and files that are no images."""
    random = np.random.default_rng(0)
    for folder, name in CLASSES.items():
        (tmp_path / "my photos" / folder).mkdir(parents=True)
        for i in range(18):
            suffix = FORMATS[i % len(FORMATS)]
            cut(name, random).save(tmp_path / "my photos" / folder / f"{name} nº {i} – août.{suffix}")
    (tmp_path / "my photos" / "Chat roux" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
    (tmp_path / "my photos" / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
    (tmp_path / "new").mkdir()
    for name in CLASSES.values():
        cut(name, random).save(tmp_path / "new" / f"{name} neu.jpg")
    return tmp_path


class Terminal:
    """A shell at a terminal, into which lines are typed."""

    def __init__(self, directory: Path) -> None:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "TERM": "xterm", "PS1": PROMPT, "LANG": "C.UTF-8"}
        size = (40, 250)
        self.shell = pexpect.spawn(
            "bash",
            ["--norc", "--noediting"],
            cwd=directory,
            env=environment,
            encoding="utf-8",
            timeout=600,
            dimensions=size,
        )
        self.shell.expect_exact(PROMPT)

    def type(self, line: str) -> str:
        """Types a command, waits for the next prompt, and returns what was printed; the command must end well."""
        self.shell.sendline(line)
        self.shell.expect_exact(PROMPT)
        printed = self.shell.before.partition("\n")[2]
        self.shell.sendline("echo =$?=")
        self.shell.expect(r"=(\d+)=\r\n")
        assert self.shell.match[1] == "0", printed
        self.shell.expect_exact(PROMPT)
        return printed


@pytest.mark.slow
def test_from_a_folder_of_photographs_to_an_answer_of_a_server(photographs):
    terminal = Terminal(photographs)

    printed = terminal.type("keras-sgdr check 'my photos'")
    assert "54 images" in printed
    assert all(name in printed for name in CLASSES)

    printed = terminal.type("keras-sgdr train 'my photos' -o 'a run' --image-size 64 --cycle-len 1 --tta off")
    assert "step 8" in printed
    assert "Traceback" not in printed
    assert "Warning" not in printed
    stages = json.loads((photographs / "a run" / "run.json").read_text())["stages"]
    assert stages["evaluate"]["accuracy"] > 0.9

    printed = terminal.type("keras-sgdr report 'a run' -o page.html")
    assert printed.strip() == "page.html"
    page = (photographs / "page.html").read_text()
    assert all(name in page for name in CLASSES)

    printed = terminal.type("keras-sgdr predict 'a run' new")
    rows = list(csv.DictReader(io.StringIO(printed.replace("\r\n", "\n"))))
    known = {f"new/{name} neu.jpg": folder for folder, name in CLASSES.items()}
    assert {row["path"]: row["predicted_class"] for row in rows} == known

    terminal.shell.sendline("keras-sgdr serve 'a run' --port 0")
    terminal.shell.expect(r"and (http://127\.0\.0\.1:\d+/v1/models/\S+); Ctrl-C ends it")
    another = Terminal(photographs)
    printed = another.type(f"keras-sgdr predict --url '{terminal.shell.match[1]}' 'new/chelsea neu.jpg'")
    (row,) = csv.DictReader(io.StringIO(printed.replace("\r\n", "\n")))
    assert row["predicted_class"] == "Chat roux"
    terminal.shell.sendintr()
    terminal.shell.expect_exact(PROMPT)
    assert not re.search("Traceback|Error", terminal.shell.before)
    for each in (terminal, another):
        each.shell.sendline("exit")
        each.shell.expect(pexpect.EOF)
        each.shell.close()
