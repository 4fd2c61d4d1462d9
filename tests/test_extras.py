"""A package that is missing is named in one line, with the command that installs it."""

import configparser
import re
import sys

import pytest

from mtmusic import extras
from mtmusic.errors import UserError
from mtmusic.extras import EXTRAS, require
from tests.folders import PROJECT


def test_a_module_that_is_there_is_imported(monkeypatch):
    monkeypatch.setitem(EXTRAS, "json", extras.Extra("JSON", "pip install json"))
    assert require("json", "This").loads("[1]") == [1]


@pytest.mark.parametrize("module", EXTRAS)
def test_a_module_that_is_missing_is_named_with_its_command(monkeypatch, module):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys, "version_info", (3, 11, 7))
    with pytest.raises(UserError) as caught:
        require(module, "`flag`")
    name, command, _ = EXTRAS[module]
    assert re.fullmatch(rf"`flag` needs {name} \(.*{module}.*\): {re.escape(command)}", str(caught.value))


def test_a_python_that_is_too_new_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_data_validation", None)
    monkeypatch.setattr(sys, "version_info", (3, 13, 0))
    with pytest.raises(UserError, match=r"Data Validation, which supports Python up to 3\.11; this is 3\.13$"):
        require("tensorflow_data_validation", "`schema`")


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        ("distributed", "cluster"),
        ("gradio", "web"),
        ("pyarrow", "library"),
        ("tensorboard", "tensorboard"),
        ("tensorflow_data_validation", "validation"),
    ],
)
def test_a_command_installs_what_the_extra_names(module, extra):
    setup = configparser.ConfigParser()
    setup.read(PROJECT / "setup.cfg")
    declared = [line.partition(";")[0] for line in setup["options.extras_require"][extra].split("\n") if line]
    packages = EXTRAS[module].command.rpartition("pip install ")[2].split()
    assert [package.strip('"') for package in packages] == declared
