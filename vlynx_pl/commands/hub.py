"""``vlynx push`` and ``vlynx pull``: a run's adapters on the Hugging Face hub.

A repository has the layout of a run's folder, so that what is pulled can be given as a run:
``adapters/<name>/`` with weights, settings and card, and the main adapter's card at the top.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from huggingface_hub import CommitOperationAdd, HfApi, get_token, snapshot_download
from rich.console import Console
from rich.table import Table

from vlynx_pl.commands.asking import read_configuration
from vlynx_pl.io.errors import UserError
from vlynx_pl.io.files import atomic_folder
from vlynx_pl.runs.cards import CARD, card
from vlynx_pl.runs.run_folder import is_finished
from vlynx_pl.saved_adapters import saved_config
from vlynx_pl.stream_reduction import USUAL

_SHARED: Final = re.compile(
    rf"README\.md|adapters/({re.escape(USUAL)}|[\w-]+/[\w-]+\.(safetensors|json|md))"
)
"""What is pulled; names without dots cannot lead out of the folder."""


def push(run: Path, repository: str, public: bool = False, licence: str | None = None) -> None:
    """Upload the adapters of a finished run with their cards, and the vision adapters that it read.

    Nothing else of the run is uploaded.

    Args:
        run: its folder.
        repository: ``namespace/name``; it is created if it does not exist.
        public: create it for everybody, not for its owner alone.
        licence: of the adapters, by its name on the hub.

    Raises:
        UserError: the run is not finished, an adapter cannot be used, there is no token, or the hub
            refuses.
    """
    if not is_finished(run):
        raise UserError(f"{run} has no results for a card; give the folder of a finished run")
    if get_token() is None:
        raise UserError(
            "there is no token of the Hugging Face hub; run hf auth login with one that may write, "
            "or set HF_TOKEN"
        )
    adapters = _adapters(run)
    files: dict[str, Path | bytes] = {}
    for name, folder in adapters.items():
        for path in sorted(folder.iterdir()):
            if path.suffix in {".json", ".safetensors"}:
                files[f"adapters/{name}/{path.name}"] = path
        if (folder / "adapter_config.json").exists():  # PAVE's patch has no card
            trained_by = folder.parent.parent
            files[f"adapters/{name}/{CARD}"] = card(folder, trained_by, licence=licence).encode()
    if (usual := run / "adapters" / USUAL).exists():
        files[f"adapters/{USUAL}"] = usual
    files[CARD] = files[f"adapters/{min(adapters)}/{CARD}"]  # llm- comes before vision-
    operations = [
        CommitOperationAdd(name, content if isinstance(content, bytes) else str(content))
        for name, content in files.items()
    ]
    with _explained(repository):
        url = HfApi().create_repo(repository, private=not public, exist_ok=True)
        HfApi().create_commit(repository, operations, commit_message=f"Adapters of {run.name}")
    Console().print(f"{len(files)} files are at {url}", markup=False, soft_wrap=True)


def _adapters(run: Path) -> dict[str, Path]:
    """Name in the repository → folder; raises UserError for one that cannot be used."""
    folders = {path.name: path for path in sorted(run.glob("adapters/[!.]*")) if path.is_dir()}
    if any(name.startswith("llm-") for name in folders):
        streams = read_configuration(run)["model"]["init_args"]["streams"]["init_args"]
        for name, folder in (streams.get("modalities") or {}).items():
            if folder != "base":
                folders.setdefault(f"vision-{name}", Path(folder))
    if not folders:
        raise UserError(f"{run} has no adapters; give the folder of an alignment or a tuned run")
    for name, folder in folders.items():
        if not name.startswith("patch-"):
            saved_config(folder)
    return folders


def pull(repository: str, folder: Path) -> None:
    """Download adapters and cards, and nothing else that the repository has, into a new folder.

    Adapters are checked when they are loaded: their fingerprint against the backbone, their weights
    against their settings.

    Args:
        repository: ``namespace/name``.
        folder: to make.

    Raises:
        UserError: the folder exists, the repository cannot be read, has no adapter, or has one that
            cannot be used.
    """
    if folder.exists():
        raise UserError(f"{folder} exists; give a new folder")
    rows = Table("adapter", "of the backbone", "fingerprint")
    with atomic_folder(folder) as unfinished:
        with _explained(repository):
            found = HfApi().model_info(repository)
            names = [each.rfilename for each in found.siblings or ()]
            wanted = [name for name in names if _SHARED.fullmatch(name)]
            if not any(name.startswith("adapters/") for name in wanted):
                raise UserError(f"{repository} has no adapters/; give one that vlynx push has made")
            snapshot_download(
                repository, revision=found.sha, allow_patterns=wanted, local_dir=unfinished
            )
        shutil.rmtree(unfinished / ".cache", ignore_errors=True)  # huggingface_hub's notes
        for settings in sorted(unfinished.glob("adapters/*/adapter_config.json")):
            made_with = saved_config(settings.parent).made_with
            rows.add_row(
                settings.parent.name, *(str(made_with.get(n)) for n in ("backbone", "fingerprint"))
            )
    Console().print(rows)


@contextmanager
def _explained(repository: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # the hub, the network and the disk fail in many ways
        reason = str(error).strip().partition("\n")[0]
        raise UserError(
            f"{repository}: {reason or type(error).__name__}; check the name, your token "
            "(hf auth whoami) and the network"
        ) from error
