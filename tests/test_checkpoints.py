"""Checkpoints: they come back bit for bit; damaged ones are skipped; the last and the best are kept."""

import errno
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import same

from jaxlocal.training.checkpoints import Checkpoints, MismatchError

FACTS = {"history": [{"epoch": 1, "loss": 0.1}], "sums": []}


def make(number):
    """A tree with all that is hard to keep: random keys, -0, NaN, few bits, no axis."""
    return {
        "weights": jnp.full((40, 30), number, jnp.float32),
        "odd": jnp.asarray([-0.0, jnp.nan, jnp.inf, 1e-40], jnp.float32),
        "short": jnp.asarray([1.5, number], jnp.bfloat16),
        "counts": (jnp.asarray(number, jnp.int32),),
        "keys": jax.random.split(jax.random.key(number), 2),
    }


def bits(tree):
    """The leaves as bytes, for NaN is not even itself."""
    leaves = jax.tree.leaves(tree)
    arrays = [jax.random.key_data(a) if jnp.issubdtype(a.dtype, jax.dtypes.prng_key) else a for a in leaves]
    return [(a.shape, str(a.dtype), np.asarray(a).tobytes()) for a in arrays]


def written(folder, *steps, keep=2, scores=()):
    with Checkpoints(folder, keep) as checkpoints:
        for step, score in zip(steps, [*scores, *[None] * len(steps)], strict=False):
            checkpoints.save(step, make(step), FACTS, score)
    return folder


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_comes_back_bit_for_bit(tmp_path):
    folder = written(tmp_path / "a", 7)
    with Checkpoints(folder) as checkpoints:
        step, params, facts = checkpoints.latest(make(0))
    assert (step, facts) == (7, FACTS)
    assert bits(params) == bits(make(7))
    assert same(params["keys"], make(7)["keys"])


def test_a_new_folder_has_no_checkpoint(tmp_path):
    with Checkpoints(tmp_path / "new") as checkpoints:
        assert checkpoints.latest(make(0)) is None and checkpoints.best(make(0)) is None


def test_the_last_and_the_best_are_kept(tmp_path):
    folder = written(tmp_path, 1, 2, 3, 4, 5, scores=(0.5, 0.9, float("nan"), 0.7))
    assert names(folder) == ["2", "4", "5"]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest(make(0)).step == 5
        assert checkpoints.best(make(0)).step == 2
        checkpoints.save(6, make(6), FACTS, 0.95)
        checkpoints.wait()
        assert checkpoints.best(make(0)).step == 6
    assert names(folder) == ["5", "6"]


def test_training_may_overwrite_what_is_saved(tmp_path):
    weights = {"w": np.ones(10**6, np.float32)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, weights, {})
        weights["w"][:] = 0
        checkpoints.wait()
        assert float(checkpoints.latest(weights).params["w"].min()) == 1


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.filterwarnings("ignore:checkpoint .* is damaged")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of TensorStore's threads
@pytest.mark.parametrize("damage", [flip, truncate, Path.unlink])
def test_whatever_file_is_damaged_only_what_was_saved_comes_back(damage, tmp_path):
    whole = written(tmp_path / "whole", 1, 2)
    files = [path.relative_to(whole) for path in (whole / "2").rglob("*") if path.is_file() and path.stat().st_size]
    skipped = 0
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(whole, folder)
        damage(folder / file)
        with Checkpoints(folder) as checkpoints:
            found = checkpoints.latest(make(0))
        assert found.step in (1, 2) and found.facts == FACTS, file
        assert bits(found.params) == bits(make(found.step)), file
        skipped += found.step == 1
    assert skipped >= 3  # the arrays, their index and the facts at least


def test_a_damaged_checkpoint_is_named_and_put_aside(tmp_path):
    folder = written(tmp_path, 1, 2)
    shutil.rmtree(folder / "2" / "params")
    with Checkpoints(folder) as checkpoints:
        with pytest.warns(UserWarning, match=r"^checkpoint .*/2 is damaged \(.+\): it is skipped, and moved to "):
            assert checkpoints.latest(make(0)).step == 1
        assert names(folder) == ["1", "damaged"]
        checkpoints.save(2, make(2), FACTS)  # the place is free again
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest(make(0)).step == 2


def test_after_an_error_of_the_machine_a_checkpoint_stays(tmp_path, monkeypatch):
    folder = written(tmp_path, 1, 2)

    def fail(*_):
        raise OSError(errno.EMFILE, "Too many open files")

    with Checkpoints(folder) as checkpoints:
        monkeypatch.setattr(checkpoints, "_read", fail)
        with pytest.raises(OSError, match="Too many open files"):
            checkpoints.latest(make(0))
    assert names(folder) == ["1", "2"]


def test_if_all_are_damaged_none_is_used(tmp_path):
    folder = written(tmp_path, 1, 2)
    for step in "12":
        shutil.rmtree(folder / step / "params")
    with Checkpoints(folder) as checkpoints, pytest.warns(UserWarning, match="is damaged") as warned:
        assert checkpoints.latest(make(0)) is None
    assert len(warned) == 2


def test_a_checkpoint_of_another_network_is_an_error(tmp_path):
    folder = written(tmp_path, 1)
    with Checkpoints(folder) as checkpoints, pytest.raises(MismatchError, match="/1 has parameters of other shapes"):
        checkpoints.latest({**make(0), "weights": jnp.zeros((2, 2))})
    assert names(folder) == ["1"]


def test_a_reader_changes_nothing(tmp_path):
    folder = written(tmp_path, 1, 2)
    shutil.rmtree(folder / "2" / "params")
    (folder / "3.orbax-checkpoint-tmp").mkdir()  # what the process that trains is writing
    with Checkpoints(folder, read_only=True) as checkpoints, pytest.warns(UserWarning, match="it is skipped$"):
        assert checkpoints.latest(make(0)).step == 1
    assert names(folder) == ["1", "2", "3.orbax-checkpoint-tmp"]
    with Checkpoints(tmp_path / "nothing", read_only=True) as checkpoints:
        assert checkpoints.latest(make(0)) is None
    assert not (tmp_path / "nothing").exists()


def test_a_half_written_checkpoint_is_removed(tmp_path):
    folder = written(tmp_path, 1)
    (folder / "2.orbax-checkpoint-tmp").mkdir()
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest(make(0)).step == 1
    assert names(folder) == ["1"]


def test_a_full_disk_is_an_error_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with Checkpoints(tmp_path) as checkpoints, pytest.raises(OSError, match="No space left"):
        checkpoints.save(1, make(1), FACTS)
    assert names(tmp_path) == []


def test_the_first_error_is_raised(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(checkpoints, "close", lambda: 1 / 0)
    with pytest.raises(KeyError), checkpoints:
        raise KeyError
    with pytest.raises(ZeroDivisionError), checkpoints:
        pass
