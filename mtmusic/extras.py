"""Packages that not every install has, and the command that installs each of them."""

import importlib
import sys
from types import ModuleType
from typing import NamedTuple

from mtmusic.errors import UserError


class Extra(NamedTuple):
    """A package that not every install has."""

    name: str
    command: str
    """Installs what the extra in setup.cfg names. pip takes no mtmusic[extra], since mtmusic is on no package index."""

    newest_python: tuple[int, int] | None = None
    """The last Python that it supports; None where that is no limit."""


# tensorflow is named so that pip keeps what it needs
_ONNX = Extra("tf2onnx and ONNX Runtime", 'pip install tensorflow "tf2onnx>=1.17" "onnx!=1.19.0" onnxruntime')

EXTRAS = {
    "ai_edge_litert": Extra("ai-edge-litert", "pip install tensorflow ai-edge-litert"),
    "distributed": Extra("dask.distributed", "pip install distributed"),
    "gradio": Extra("Gradio", "pip install gradio"),
    "pyarrow": Extra("PyArrow", "pip install pyarrow"),
    "onnxruntime": _ONNX,
    "tensorboard": Extra("TensorBoard", "pip install tensorboard"),
    # pip searches for many minutes for versions that fit each other, uv for seconds
    "tensorflow_data_validation": Extra(
        "TensorFlow Data Validation",
        'pip install uv, then python -m uv pip install tensorflow-data-validation==1.16.1 dill "setuptools<81"',
        (3, 11),
    ),
    "tf2onnx": _ONNX,
}
"""By module."""


def require(module: str, purpose: str) -> ModuleType:
    """Imports a module of EXTRAS.

    Args:
        module: its name.
        purpose: what needs it. The message begins with it.

    Returns:
        The module.

    Raises:
        UserError: it cannot be imported. The message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name, command, newest = EXTRAS[module]
        if newest and sys.version_info[:2] > newest:
            last, this = (".".join(map(str, version)) for version in (newest, sys.version_info[:2]))
            raise UserError(f"{purpose} needs {name}, which supports Python up to {last}; this is {this}") from error
        raise UserError(f"{purpose} needs {name} ({error}): {command}") from error
