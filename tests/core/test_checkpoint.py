"""A checkpoint comes back whole, in part, or not at all."""

import gc
import shutil
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from ringworld.core.checkpoint import Checkpoints, Restored
from ringworld.core.errors import InputError
from ringworld.core.mesh import make_mesh
from ringworld.core.mesh_config import MeshConfig
from ringworld.core.sharding import spec
from tests.core.full_disk import room_in_a_file

WEIGHTS = 2**18
DEVICE = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def abstract(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=DEVICE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    tree = {name: jnp.asarray(random.normal(size=WEIGHTS), jnp.float32) for name in ("weights", "moments")}
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(3, tree, {"loader": [1]})
    return tmp_path


def restore(folder: Path, **leaves: Any) -> Any:
    with closing(Checkpoints(folder)) as checkpoints:
        return checkpoints.restore(leaves)


def test_what_was_saved_comes_back(folder):
    restored = restore(folder, weights=abstract(WEIGHTS), moments=abstract(WEIGHTS))
    expected = np.random.default_rng(0).normal(size=WEIGHTS).astype(np.float32)
    assert (restored.step, restored.meta) == (3, {"loader": [1]})
    np.testing.assert_array_equal(restored.tree["weights"], expected)


def test_the_state_that_was_saved_is_written_while_the_next_steps_take_over_its_memory(tmp_path):
    step = jax.jit(lambda weights: weights * 2, donate_argnums=0)
    weights = jnp.arange(2**22, dtype=jnp.float32)
    with closing(Checkpoints(tmp_path)) as checkpoints:
        checkpoints.save(1, {"weights": weights}, {})
        whole = (tmp_path / "1").exists()
        for _ in range(8):
            weights = step(weights)
        checkpoints.wait()
        restored = checkpoints.restore({"weights": abstract(2**22)})
    assert not whole, "it was written before the steps began"
    np.testing.assert_array_equal(restored.tree["weights"], np.arange(2**22, dtype=np.float32))


@pytest.mark.parametrize("found_by", ["check", "wait", "save", "close"])
def test_a_full_disk_is_one_sentence_after_the_save_and_what_was_saved_stays(folder, capfd, found_by):
    draw = np.random.default_rng(1)  # of many arrays, some are being written when one fails
    more = {name: jnp.asarray(draw.random(WEIGHTS), jnp.float32) for name in "abcdefghijkl"}
    checkpoints = Checkpoints(folder)
    with room_in_a_file(2**16):
        checkpoints.save(4, more, {})
        with pytest.raises(InputError) as refusal:
            if found_by == "save":
                checkpoints.save(5, more, {})
            elif found_by == "wait":
                checkpoints.wait()
            while found_by == "check":
                checkpoints.check()
                time.sleep(0.01)
            checkpoints.close()
    assert refusal.value.path == folder / "4"
    checkpoints.close()
    assert capfd.readouterr().err == ""
    assert not (folder / "4").exists()
    assert restore(folder, weights=abstract(WEIGHTS), moments=abstract(WEIGHTS)).step == 3


def test_what_a_killed_run_did_not_finish_is_cleared_away(folder):
    unfinished = folder / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    assert restore(folder, weights=abstract(WEIGHTS), moments=abstract(WEIGHTS)).step == 3
    assert not unfinished.exists()


@pytest.mark.parametrize(
    "leaves",
    [
        {"weights": abstract(WEIGHTS)},
        {"weights": abstract(WEIGHTS), "moments": abstract(WEIGHTS), "more": abstract(1)},
    ],
)
def test_another_tree_is_refused(folder, leaves):
    with pytest.raises(InputError) as refusal:
        restore(folder, **leaves)
    assert refusal.value.path == folder / "3"


def test_a_checkpoint_comes_back_on_a_mesh_of_another_shape(tmp_path):
    values = jnp.arange(32.0).reshape(8, 4)
    ring8 = NamedSharding(make_mesh(MeshConfig(ring=8)), spec("weight", "embed"))
    data8 = NamedSharding(make_mesh(MeshConfig(tensor=2, fsdp=4)), spec("weight", "mlp"))
    saved = Checkpoints(tmp_path / "c")
    for step in (1, 2, 3):
        saved.save(step, {"w": jax.device_put(values + step, ring8)}, {"loader": {"next": step}})
    saved.close()
    again = Checkpoints(tmp_path / "c")
    restored = again.restore({"w": jax.ShapeDtypeStruct((8, 4), jnp.float32, sharding=data8)})
    assert restored is not None
    assert (restored.step, restored.meta) == (3, {"loader": {"next": 3}})
    assert restored.tree["w"].sharding == data8
    assert (restored.tree["w"] == values + 3).all()
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["2", "3"]
    again.close()


@pytest.mark.parametrize("part", ["tree", "meta", "tree/_METADATA", "tree/manifest.ocdbt"])
def test_a_damaged_checkpoint_is_named_in_one_sentence(folder, part):
    gone = folder / "3" / part
    shutil.rmtree(gone) if gone.is_dir() else gone.write_bytes(b"\0")
    with pytest.raises(InputError) as refusal:
        restore(folder, weights=abstract(WEIGHTS), moments=abstract(WEIGHTS))
    assert refusal.value.path == folder / "3"
    assert len(str(refusal.value)) < 400 + len(str(folder))


KINDS = {
    "what is saved beside the arrays": "meta/metadata",
    "the tree": "tree/_METADATA",
    "the manifest": "tree/manifest.ocdbt",
    "the index": "tree/d/*",
    "the values": "tree/ocdbt.process_0/d/*",
}


# A read that fails leaves others behind, which complain when they are collected.
@pytest.mark.filterwarnings("ignore:(?s)Exception ignored in.*_read_array_index")
@pytest.mark.parametrize("harm", ["cut", "flipped"])
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_of_two_checkpoints_the_one_before_a_damaged_newest_comes_back(tmp_path, capsys, kind, harm):
    """A bit that flips within the values is read without an error by Orbax."""
    folder, values = tmp_path / "checkpoints", np.arange(WEIGHTS, dtype=np.float32)
    with closing(Checkpoints(folder)) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, {"weights": jnp.asarray(values + step)}, {"next": step})
    file = max((folder / "4").glob(kind), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    file.write_bytes(content if harm == "flipped" else content[: len(content) // 2])
    with closing(Checkpoints(folder)) as checkpoints:
        restored = checkpoints.restore({"weights": abstract(WEIGHTS)})
        assert (restored.step, restored.meta) == (3, {"next": 3})
        np.testing.assert_array_equal(restored.tree["weights"], values + 3)
        (aside,) = (tmp_path / "checkpoints-damaged").iterdir()
        assert str(aside) in capsys.readouterr().err
        checkpoints.save(4, {"weights": jnp.asarray(values)}, {"next": 5})
    assert restore(folder, weights=abstract(WEIGHTS)).meta == {"next": 5}
    gc.collect()


def test_a_checkpoint_that_its_reader_refuses_is_damaged_and_a_folder_without_a_whole_one_stays(tmp_path):
    folder = tmp_path / "checkpoints"

    def only_old(restored: Restored) -> int:
        if restored.step > 3:
            raise InputError("of another version")
        return restored.step

    with closing(Checkpoints(folder)) as checkpoints:
        for step in (3, 4):
            checkpoints.save(step, {"weights": jnp.zeros(4)}, {})
        with pytest.raises(InputError) as refusal:
            checkpoints.restore({"weights": abstract(5)})
        assert refusal.value.path == folder / "4"
        assert not (tmp_path / "checkpoints-damaged").exists()
        assert checkpoints.restore({"weights": abstract(4)}, read=only_old) == 3
        assert checkpoints.latest_step == 3


def test_an_empty_folder_holds_nothing(tmp_path):
    assert restore(tmp_path, weights=abstract(1)) is None
