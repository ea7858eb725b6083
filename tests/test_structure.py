"""What design.md says of the structure, held as tests."""

import ast
import subprocess
import sys
from collections.abc import Container, Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "src" / "ringworld"
JAX_FREE = [
    "ringworld",
    "ringworld.core.clusters",
    "ringworld.core.config",
    "ringworld.core.files",
    "ringworld.core.origin",
    "ringworld.core.mesh_config",
    "ringworld.core.results",
    "ringworld.attention.config",
    "ringworld.attention.efficiency",
    "ringworld.attention.layouts",
    "ringworld.model.config",
    "ringworld.model.lora_config",
    "ringworld.model.sizes",
    "ringworld.text.chat",
    "ringworld.text.stream",
    "ringworld.text.templates",
    "ringworld.text.tokenizer",
    "ringworld.text.vocabulary",
    "ringworld.vision.config",
    "ringworld.vision.media",
    "ringworld.data.config",
    "ringworld.data.qa.config",
    "ringworld.data.qa.make",
    "ringworld.data.packing",
    "ringworld.data.find_sources",
    "ringworld.data.sources",
    "ringworld.data.splits",
    "ringworld.training.config",
    "ringworld.inference.config",
    "ringworld.planning.suggest",
    "ringworld.inference.engine.cache_size",
    "ringworld.inference.engine.pages",
    "ringworld.inference.engine.scheduler",
    "ringworld.inference.engine.sequence",
    "ringworld.serving.config",
    "ringworld.serving.decode_media",
    "ringworld.evaluation.config",
    "ringworld.evaluation.held_out",
    "ringworld.evaluation.needles",
    "ringworld.evaluation.runner",
    "ringworld.report.report",
    "ringworld.quickstart.config",
    "ringworld.quickstart.toy_world",
    "ringworld.bench.layouts",
    "ringworld.bench.lengths",
    "ringworld.presets",
    "ringworld.cli.main",
]


def test_areas_import_only_what_lies_below_them():
    assert lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True) == EXIT_STATUS_SUCCESS


def test_configuration_and_host_logic_do_not_import_jax():
    program = "import sys\nfor n in sys.argv[1:]: __import__(n); assert 'jax' not in sys.modules, n"
    ran = subprocess.run(
        [sys.executable, "-c", program, *JAX_FREE], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_every_configuration_module_is_in_the_list_above():
    found = {".".join(p.relative_to(SOURCE.parent).with_suffix("").parts) for p in SOURCE.glob("*/config.py")}
    assert found <= set(JAX_FREE)


def imports_of(tree: ast.AST, *, files: Container[str]) -> Iterator[str]:
    """Yield the modules that a file imports; of `from a import b` that is `a.b` if it is a file, else `a`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in files else node.module for name in inner)


def test_no_two_files_need_each_other_and_none_needs_what_is_private_to_jax():
    files = {
        ".".join(path.relative_to(SOURCE.parent).with_suffix("").parts).removesuffix(".__init__"): path
        for path in SOURCE.rglob("*.py")
    }
    named = {name: set(imports_of(ast.parse(path.read_text()), files=files)) for name, path in files.items()}
    assert not [name for name, found in named.items() if any(one.startswith("jax._src") for one in found)]
    TopologicalSorter({name: found & files.keys() - {name} for name, found in named.items()}).prepare()


def test_mesh_axis_names_stand_in_one_table():
    strategy = {SOURCE / "attention" / "config.py": {"ring"}}
    for path in SOURCE.rglob("*.py"):
        if path.name == "sharding.py" and path.parent.name == "core":
            continue
        names = {"fsdp", "ring", "ulysses", "tensor"} - strategy.get(path, set())
        strings = {
            node.value
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not strings & names, path


def test_meshes_and_their_partitions_are_made_in_core_alone():
    for path in SOURCE.rglob("*.py"):
        if path.parent.name != "core":
            assert not list(own_shardings(ast.parse(path.read_text()))), path


def own_shardings(tree: ast.AST) -> Iterator[str]:
    """Yield what makes a mesh without `core.mesh`, or a partition of axes that it names itself."""
    ours = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "ringworld.core.mesh"
        for alias in node.names
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.alias) and node.name == "AxisType":
            yield node.name
        if isinstance(node, ast.Attribute) and node.attr in {"AxisType", "make_mesh"}:
            yield ast.unparse(node)
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        if name.split(".")[-1] in {"Mesh", "AbstractMesh", "make_mesh", "create_device_mesh"} - ours:
            yield name
        if name.split(".")[-1] in {"P", "PartitionSpec"}:
            constants = (part.value for part in ast.walk(node) if isinstance(part, ast.Constant))
            yield from (value for value in constants if isinstance(value, str))


@pytest.mark.parametrize(
    "program",
    [
        'mesh = jax.make_mesh((2,), ("frames",), devices=jax.devices()[:2])',
        "from jax import make_mesh\nmesh = make_mesh((2,), axes)",
        "from jax.sharding import AxisType",
        "types = (jax.sharding.AxisType.Auto,)",
        "mesh = jax.sharding.Mesh(devices, axes)",
        'where = NamedSharding(mesh, PartitionSpec("frames"))',
        'where = P(("data", FSDP_AXIS), None)',
    ],
)
def test_no_way_to_make_a_mesh_or_a_partition_is_missed(program):
    assert list(own_shardings(ast.parse(program)))


def test_the_product_never_imports_the_parity_libraries():
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not {name.split(".")[0] for name in modules} & {
                "torch",
                "transformers",
                "diffusers",
                "peft",
            }, path


def test_no_module_is_two_things():
    long = {
        str(path.relative_to(SOURCE)): lines
        for path in SOURCE.rglob("*.py")
        if (lines := len(path.read_text().splitlines())) > 500
    }
    assert not long
