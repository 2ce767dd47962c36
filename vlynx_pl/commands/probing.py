"""``vlynx probe``: asks a tuned run's questions again, as arguments of ``vlynx test``."""

import json
from pathlib import Path
from typing import Any

import yaml

from vlynx_pl.io.errors import PARSE_ERRORS, UserError
from vlynx_pl.runs.run_folder import plain_data


def probe(run: Path) -> list[str]:
    """Return the arguments of an evaluation into ``RUN/probe``.

    Args:
        run: folder that ``vlynx tune`` or ``vlynx eval`` has written. Of the former, the val
            questions are asked; of the latter, the same ones again.

    Raises:
        UserError: it is not such a folder, or the run reads the video alone.
    """
    path = run / "config.yaml"
    try:
        saved = plain_data(path)
        model: dict[str, Any] = saved["model"]["init_args"]
        task, streams = model["task"], model["streams"] or {"init_args": {}}
        settings: dict[str, Any] = streams["init_args"] or {}
        callbacks = saved["trainer"]["callbacks"] or []
    except (*PARSE_ERRORS, yaml.YAMLError) as error:
        raise UserError(
            f"{path} is not the configuration of a tuned run ({error!r}); give a folder that "
            "vlynx tune or vlynx eval has written"
        ) from error
    if not settings.get("modalities") and "side" not in settings:
        raise UserError(
            f"{run} reads the video alone, so there is nothing to mute; give a run with "
            "model.streams.modalities"
        )
    arguments = ["test", f"--config={path}", f"--run={run / 'probe'}"]
    # Without its AnswerScores, which may have switched the probe off, the usual one is added.
    others = [one for one in callbacks if not one["class_path"].endswith("AnswerScores")]
    if others != callbacks:
        arguments.append(f"--trainer.callbacks={json.dumps(others)}")
    adapter = run / "adapters" / f"llm-{task}"
    if adapter.is_dir():
        arguments += [f"--model.llm_adapter={adapter}", "--data.test_split=val"]
    elif not model.get("llm_adapter"):
        raise UserError(
            f"{adapter} does not exist: {run} was not tuned to its end. Finish it, or give another "
            "run"
        )
    return arguments
