"""Strict numerics for every test: no implicit dtype or rank promotion, and four CPU devices, so that axes are real.

Warnings are errors in pyproject.toml. A test about promotion, or one that mixes dtypes in Flax's own layers, which
promote implicitly, enters ``jax.numpy_dtype_promotion("standard")``.
"""

import importlib.metadata
import os

# Read once, when the CPU client starts: before anything imports jax.
# Most programs here run once, on little data: compiled without optimization they take a third of the time in all. The older
# emitter compiles in a third of that; of later releases it is gone, and they abort at its flag.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0",
        "--xla_cpu_use_fusion_emitters=false" if importlib.metadata.version("jaxlib").startswith("0.10.") else "",
    ]
)

import hypothesis
import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.devices()  # Starts the client: a command that a test runs in this process must not prepare it for all that follow.

# No test may depend on the clock or on an earlier run: no deadline, no example database, the same examples every time.
hypothesis.settings.register_profile("deterministic", deadline=None, derandomize=True, database=None, max_examples=25)
hypothesis.settings.load_profile("deterministic")


@pytest.fixture
def x64():
    """Float64 for the length of one test."""
    with jax.enable_x64(True):
        yield


# Whole trainings, which share what they train and so stay in one process: begun last, they would leave the other core idle.
FIRST = ("test_tagging_runs", "test_image_runs", "test_reproduce", "test_docs", "test_page")


def pytest_collection_modifyitems(items):
    """The longest files first."""
    items.sort(key=lambda item: FIRST.index(item.module.__name__) if item.module.__name__ in FIRST else len(FIRST))
