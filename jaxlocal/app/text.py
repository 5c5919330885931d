"""What the command line prints about runs: a heading, where training resumes, timings and tables."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from jaxlocal.app.folder import Summary
from jaxlocal.app.prediction import Numbers, Prediction
from jaxlocal.app.rule_names import short
from jaxlocal.app.settings import Config
from jaxlocal.data import SPLITS, Encoding
from jaxlocal.diagnostics import ParameterCounts
from jaxlocal.statistics import Difference
from jaxlocal.text import aligned, difference, effect, measurement, plural
from jaxlocal.training import Result, State


def heading(config: Config, counts: ParameterCounts, components: int, folder: Path) -> str:
    """The rule, the data, the size of the network and the folder of a run."""
    parameters = counts.effective + counts.affiliated
    return (
        f"{short(config.rule)} on {config.data}: {config.model}, {plural(components, 'component')}, "
        f"{parameters // config.seeds:,} parameters, {100 * counts.effective / parameters:.0f} % used in prediction"
        f"{f', {config.seeds} seeds' if config.seeds > 1 else ''}"
        f"{f', {config.devices} devices' if config.devices > 1 else ''} → {folder}"
    )


def encoding(found: Encoding) -> str:
    """How the texts of a run are encoded."""
    return (
        f"texts: {plural(len(found.classes), 'class', 'classes')}, {found.tokenizer.size:,} known tokens, the first "
        f"{plural(found.length, 'token')} of each text"
    )


def resuming(step: int | None, steps: int) -> str:
    """Where a run resumes after this step, None without a checkpoint; an epoch has `steps` steps."""
    if step is None:
        return "no checkpoint to resume from; starting from the beginning"
    epoch, batch = divmod(step, steps)
    return f"resuming after epoch {epoch}" + (f" and {plural(batch, 'batch', 'batches')}" if batch else "")


def timing(result: Result, start: State | None, seconds: float) -> str:
    """How long the training from `start` on took, and how much of that passed before its first step."""
    epochs = len(result.state.history) - (len(start.history) if start else 0)
    steps = result.state.step - (start.step if start else 0)
    compiling = result.seconds_to_first_step
    ended = " (stopped early)" if result.stopped else ""
    rate = steps / max(seconds - compiling, 1e-9)
    return (
        f"{plural(epochs, 'epoch')}{ended} in {seconds:.1f} s ({compiling:.1f} s compiling), {rate:,.0f} steps a second"
    )


def table(summaries: Mapping[str, Summary]) -> str:
    """The accuracies of runs in per cent, or the losses if there are no classes, with mean ± std over the seeds."""
    rows = [["", *SPLITS]]
    for name, summary in summaries.items():
        for measured in summary.measured:
            label = f"{name} {measured.name} (epoch {measured.epoch})".strip()
            rows.append([label, *(measurement(measured.parts[part]) for part in SPLITS)])
    return aligned(rows, left=1, rule=False)


def differences(against: Mapping[str, Difference], title: str, form: str) -> str:
    """The differences from a baseline with their 95 % intervals and effect sizes."""
    rows = [[title, "[95 % interval]", "effect size"]]
    rows += [[name, difference(found, form), effect(found)] for name, found in against.items()]
    known = any(found.low is not None for found in against.values())
    remedy = "" if known else "\none seed has no interval; compare several with --seeds 5"
    return aligned(rows, left=1, rule=False) + remedy


def prediction(predicted: Prediction | Numbers, as_json: bool) -> str:
    """The class and its probability, or the predicted numbers, separated by tabs; or all that is known as JSON."""
    if as_json:
        return json.dumps(predicted._asdict(), ensure_ascii=False)
    if isinstance(predicted, Numbers):
        return "\t".join(f"{value:.6g}" for value in predicted.values)
    return f"{predicted.label}\t{predicted.probability:.4f}"


def log_flag(log: Sequence[object]) -> str:
    """The flag by which a command that resumes gets the same loggers; those that are functions have no name there.

    Example:
      >>> from jaxlocal.app.text import log_flag
      >>> log_flag(["wandb", print, "mlflow"]), log_flag([])
      (' --log wandb mlflow', '')
    """
    names = [name for name in log if isinstance(name, str)]
    return f" --log {' '.join(names)}" if names else ""
