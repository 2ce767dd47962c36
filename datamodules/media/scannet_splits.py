"""Which ScanNet scenes there are, and which are held out.

A root is a folder of scenes, a folder with ``scans/`` in it, or one scene.
"""

from pathlib import Path
from typing import Final, get_args

from datamodules.media.paths import check_folder, inside
from datamodules.samples import BadSample, Split

_SPLITS: Final[tuple[Split, ...]] = get_args(Split)
_LONGEST_NAME = 255  # bytes, of file systems


def find_scenes(root: Path) -> list[Path]:
    """The folders under ``root`` that hold color/, depth/ or pose/, by name.

    Raises:
        BadSample: the root is missing, or holds no scene.
    """
    check_folder(root, "Give the folder that holds the scenes, or export them there")
    if _is_scene(root):
        return [root]
    scenes = [path for path in sorted(scenes_folder(root).iterdir()) if _is_scene(path)]
    if not scenes:
        raise BadSample(
            root,
            "holds no scene (<scene>/color, depth, pose)",
            "Give the folder with the scenes or with scans/ in it, or export them there",
        )
    return scenes


def listed_scenes(root: Path) -> dict[Split, list[Path]]:
    """The scene folders listed in ``scannetv2_{train,val,test}.txt``; empty without lists.

    A listed scene may be missing on disk.

    Raises:
        BadSample: train or val is missing beside another list, a scene is listed twice, or a name
            leads out of the folder of scenes.
    """
    paths = {split: root / f"scannetv2_{split}.txt" for split in _SPLITS}
    present = {split: path for split, path in paths.items() if path.is_file()}
    if not present:
        return {}
    seen: dict[str, Path] = {}
    splits: dict[Split, list[Path]] = {split: [] for split in _SPLITS}
    for split, path in paths.items():
        if split not in present:
            if split != "test":
                raise BadSample(
                    path,
                    f"is missing beside {', '.join(p.name for p in present.values())}",
                    "Add it, or remove all scannetv2_*.txt to hold out the last 20 % of the scenes",
                )
            continue
        for name in _names(path):
            if name in seen:
                raise BadSample(
                    path,
                    f"lists {name}, which is already in {seen[name].name}",
                    "Keep every scene in one list, once; a test scene must not be trained on",
                )
            seen[name] = path
            splits[split].append(inside(scenes_folder(root), name, path))
    return splits


def scenes_folder(root: Path) -> Path:
    """``root/scans`` if it exists, else ``root``."""
    scans = root / "scans"
    return scans if scans.is_dir() else root


def _is_scene(path: Path) -> bool:
    if path.name.startswith("."):
        return False
    return any((path / stream).is_dir() for stream in ("color", "depth", "pose"))


def _names(path: Path) -> list[str]:
    try:
        names = path.read_text().split()
    except (OSError, UnicodeDecodeError) as error:
        raise BadSample(path, f"cannot be read ({error})", "Download the list again") from error
    for name in names:
        if Path(name).name != name or len(name.encode()) > _LONGEST_NAME:
            reason = f"lists {name!r:.60}, which is not the name of a folder"
            raise BadSample(path, reason, "Download the list again, or correct it")
    return names
