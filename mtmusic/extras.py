"""Optional packages, and the command that installs each of them."""

import importlib
import sys
from types import ModuleType
from typing import NamedTuple

from mtmusic.errors import UserError


class Extra(NamedTuple):
    """An optional package."""

    name: str
    command: str
    """Installs the packages of the extra in setup.cfg. `pip install mtmusic[extra]` fails, because mtmusic is not on a
    package index."""

    newest_python: tuple[int, int] | None = None
    """The last Python version that it supports, or None if it supports all."""


# tensorflow is named so that pip keeps versions that fit it
_ONNX = Extra("tf2onnx and ONNX Runtime", 'pip install tensorflow "tf2onnx>=1.17" "onnx!=1.19.0" onnxruntime')

EXTRAS = {
    "ai_edge_litert": Extra("ai-edge-litert", "pip install tensorflow ai-edge-litert"),
    "distributed": Extra("dask.distributed", "pip install distributed"),
    "gradio": Extra("Gradio", "pip install gradio"),
    "pyarrow": Extra("PyArrow", "pip install pyarrow"),
    "onnxruntime": _ONNX,
    "tensorboard": Extra("TensorBoard", "pip install tensorboard"),
    # uv finds versions that fit each other in seconds, pip in many minutes
    "tensorflow_data_validation": Extra(
        "TensorFlow Data Validation",
        'pip install uv, then python -m uv pip install tensorflow-data-validation==1.16.1 dill "setuptools<81"',
        (3, 11),
    ),
    "tf2onnx": _ONNX,
}
"""The optional packages by module name."""


def require(module: str, purpose: str) -> ModuleType:
    """Imports a module of EXTRAS.

    Args:
        module: The module's name.
        purpose: The feature that needs the module. The error message begins with it.

    Returns:
        The module.

    Raises:
        UserError: The module cannot be imported. The message gives the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name, command, newest = EXTRAS[module]
        if newest and sys.version_info[:2] > newest:
            last, this = (".".join(map(str, version)) for version in (newest, sys.version_info[:2]))
            raise UserError(f"{purpose} needs {name}, which supports Python up to {last}; this is {this}") from error
        raise UserError(f"{purpose} needs {name} ({error}): {command}") from error
