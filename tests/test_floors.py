"""The order of the floors: a module imports from floors below its own, so that each can be read without those above."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

# From the ground up. A package that is named whole is one room; its own modules are free to import each other.
FLOORS = [
    {"colnorm.sharding", "colnorm.hosts"},
    {"colnorm.crf", "colnorm.recurrent", "colnorm.normalization", "colnorm.convolution", "colnorm.optimizers", "colnorm.files"},
    {"colnorm.training", "colnorm.data", "colnorm.resnet", "colnorm.characters"},
    {"colnorm.checkpoint", "colnorm.metrics", "colnorm.parallel", "colnorm.tagger"},
    {"colnorm", "colnorm.run_history", "colnorm.convert", "colnorm.nnx", "colnorm.spelling"},
    {"colnorm.run_directory"},
    {"colnorm.temperature", "colnorm.process", "colnorm.posteriors", "colnorm.tagger_file"},
    {"colnorm.programs"},
    {"colnorm.predict"},
    {"colnorm.model_file", "colnorm.tagged"},
    {"colnorm.tasks", "colnorm.server"},
    {"colnorm.cli"},
    {"colnorm.spacy"},
    {
        "experiments.configs",
        "experiments.plotting",
        "experiments.significance",
        "experiments.correctness",
        "experiments.mistakes",
        "experiments.whitening",
    },
    {"experiments.images", "experiments.presets", "experiments.pool"},
    {"experiments.task", "experiments.study", "experiments.published"},
    {"experiments.train", "experiments.evaluate", "experiments.summary"},
    {"experiments.compare", "experiments.job"},
    {"experiments.demo", "experiments.gather", "experiments.differences", "experiments.seeds"},
    {"experiments.benchmarks"},
    {"experiments.page"},
    {"experiments.reproduce"},
    {"experiments.queue", "experiments.accelerator"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for folder in ("colnorm", "experiments")
    for path in (ROOT / folder).rglob("*.py")
}


def room_of(module):
    """The room that a module is or stands in; None where it has no floor yet."""
    name = ".".join(module.split(".")[:2])
    return name if name in FLOOR else None


def imported(path):
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            while name and name not in MODULES:
                name = name.rpartition(".")[0]
            if name:
                yield name


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_from_the_floors_below(module):
    room = room_of(module)
    if module == "experiments":
        assert not list(imported(MODULES[module]))
        return
    assert room is not None, f"{module} has no floor yet"
    for other in imported(MODULES[module]):
        if room_of(other) != room:
            assert FLOOR[room_of(other)] < FLOOR[room], f"{module} imports {other}"


@pytest.mark.parametrize("room", ["colnorm.crf", "colnorm.recurrent", "colnorm.normalization"])
def test_the_layers_need_nothing_of_ours_but_themselves(room):
    for module, path in MODULES.items():
        if room_of(module) == room:
            assert {room_of(other) for other in imported(path)} <= {room, "colnorm.sharding"}, module
