"""A run as files that other programs use without this library: the prediction, the weights, and their facts."""

import json
from pathlib import Path

import jax
from jax import export as jax_export

from jaxlocal import checks
from jaxlocal.app.build import Built
from jaxlocal.app.folder import writing
from jaxlocal.app.prediction import class_names, meaning, prepared
from jaxlocal.app.runs import Learned, learned_by
from jaxlocal.app.settings import ConfigError
from jaxlocal.data.text import OF_ENCODING
from jaxlocal.files import write_whole
from jaxlocal.network import vocabulary
from jaxlocal.weights import save_weights

PLATFORMS = "cpu", "cuda", "rocm", "tpu"
FACTS, PROGRAM, WEIGHTS = "model.json", "predict.jax_export", "weights.safetensors"
FILES = sorted([FACTS, PROGRAM, WEIGHTS, *OF_ENCODING])


def export(folder: Path | str, out: Path | str | None = None, *, best: bool = False) -> Path:
    """Write a run's prediction as a program that needs JAX and flatbuffers alone, and its weights as safetensors.

    The folder gets predict.jax_export, which `jax.export.deserialize` reads. It takes any number of examples, as the
    data set gives them, and returns their scores. weights.safetensors holds all arrays of `jl.get_weights`. model.json
    says what goes in and what comes out, and which settings and versions made it. For texts there are tokenizer.json
    and text.json, too.

    Args:
      folder: the folder of the run, or the name of a trained network that comes with the library.
      out: where the files are written; by default the folder `export` of the run. Files of an earlier export are
        replaced.
      best: whether to take the best checkpoint instead of the last one.

    Returns:
      The folder with the files.

    Raises:
      ConfigError: the folder holds no run, `out` holds one or cannot be written to, or a library is missing.
    """
    _check_libraries()
    folder = checks.path("folder", folder)
    out = folder / "export" if out is None else checks.path("out", out)
    learned = learned_by(folder, best, own_data=False)
    if (out / "config.yaml").exists():
        raise ConfigError(f"--out={out}: holds a run; name another folder")
    program, encoding = _program(learned).serialize(), learned.built.encoding
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        if (out / PROGRAM).exists():  # an earlier export, perhaps of other texts or of none
            for name in OF_ENCODING:
                (out / name).unlink(missing_ok=True)
        if encoding:
            encoding.save(out)
        save_weights(out / WEIGHTS, learned.built.plain, learned.params)
        write_whole(out / FACTS, json.dumps(_facts(learned), indent=2) + "\n")
        write_whole(out / PROGRAM, bytes(program))
    return out


def _check_libraries() -> None:
    try:
        import flatbuffers  # noqa: F401
        import safetensors  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"the export needs {error.name}; install it with pip install 'jaxlocal[export]'") from None


def _program(learned: Learned) -> jax_export.Exported:
    """The prediction for batches of any size, with its weights inside."""
    built, params = learned.built, learned.params
    rule = prepared(built.plain, built.augmentation)
    (batch,) = jax_export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *params.shapes[0]), _dtype(built))
    return jax_export.export(jax.jit(lambda x: rule.predict(params, x)), platforms=PLATFORMS)(x)


def _dtype(built: Built) -> str:
    return "float32" if vocabulary(built.plain.net) is None else "int32"


def _facts(learned: Learned) -> dict[str, object]:
    """What a stranger must know to use the program."""
    built = learned.built
    return {
        "input": {"shape": ["batch", *learned.params.shapes[0]], "dtype": _dtype(built)},
        "output": meaning(learned.config, built),
        "members": built.plain.placement.members,
        "classes": class_names(built),
        **learned.made_by,
    }
