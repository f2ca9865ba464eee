"""Every Python block of the README runs, in order, in one namespace; every command in it is one that exists."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from pyrovae import board, cli

README = (Path(__file__).parents[1] / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def commands():
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    found = [part.strip() for line in lines for part in line.split("&&") if part.strip().startswith("pyrovae ")]
    assert len(found) >= 4
    return found


def test_python_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = {}
    found = blocks("python")
    assert len(found) >= 5
    for block in found:
        exec(compile(block, "README.md", "exec"), namespace)
    assert (tmp_path / "digits.safetensors").is_file()
    assert namespace["value"].shape == (10,)
    assert namespace["draws"].shape == (100, 5, 13)
    assert len(namespace["history"]) == 20


@pytest.mark.parametrize("command", commands())
def test_commands_parse(command):
    tyro.cli(cli.Command, args=shlex.split(command)[1:], config=(tyro.conf.OmitArgPrefixes,))


def test_the_table_of_pieces_is_complete():
    families = board.board()
    for family in ("priors", "likelihoods", "posteriors", "encoders", "elbos"):
        for name in families[family]:
            assert f"`{name}`" in README, f"{name} of {family} is not in the README"


def test_the_two_commands_come_first():
    assert blocks("bash")[0].splitlines() == ["pip install . && pyrovae fit digits", "pip install '.[test]' && pytest"]


def test_links_to_files_hold():
    for target in re.findall(r"\]\(((?!https?:)[^)]+)\)", README):
        assert (Path(__file__).parents[1] / target).exists(), target
