"""Which run is meant: a run's folder, a checkpoint in it, or a sweep's folder, whose best run is taken."""

import re
from pathlib import Path
from typing import NamedTuple

from trainer.config.schema import is_larger_better
from trainer.disk.folder import read_result
from trainer.errors import UserError, nearest
from trainer.finished.read import no_run, run_folders

WORDS = ("best", "last")
AVERAGE = "average"


class Found(NamedTuple):
    """
    Args:
        folder: of the run.
        checkpoint: a file in its `checkpoints/`.
        note: how it was chosen, where that is not what was typed.
        is_average: the average of the weights is meant, which the checkpoint holds beside them.
        pack: the file that the folder was unpacked from, to a cache.
    """

    folder: Path
    checkpoint: Path
    note: str = ""
    is_average: bool = False
    pack: Path | None = None

    @property
    def name(self) -> str:
        """What it is called where it is shown: as it may be typed again."""
        return str(self.pack or self.folder)


def find(word: str, wanted: str | None = None) -> Found:
    """
    Args:
        word: a folder, seen from here or from `runs/`, a checkpoint, or a pack.
        wanted: best, last, a step, or average: in the checkpoint whose average `test/average/*` is of, or in the one
            that is typed. None for the checkpoint whose test `result.json` has.

    Raises:
        UserError: there is no run, or it has no such checkpoint.
    """
    is_average = wanted == AVERAGE
    path = Path(word).expanduser()
    if path.is_file() and path.suffix == ".pt":
        if wanted is not None and not is_average:
            raise UserError(f"checkpoint={wanted}: {word} is a checkpoint itself. Type the folder of its run instead.")
        folder = path.absolute().parent.parent
        if path.absolute().parent.name != "checkpoints" or not (folder / "config.yaml").is_file():
            raise UserError(
                f"{word}: lies in no run's folder, whose config.yaml says which model it is of. Type the folder of a "
                "run; or model.weights=<this file> to train from it."
            )
        return Found(_as_typed(path.parent.parent), path, is_average=is_average)
    if path.is_file() and path.suffix == ".zip":
        from trainer.disk.pack import unpacked

        return _found(unpacked(path), wanted)._replace(pack=path)
    for folder in (path, Path("runs", word)):
        if (folder / "config.yaml").is_file():
            return _found(folder, wanted)
    from trainer.sweep.compare import sweep_folder  # its imports are seldom needed

    sweep = sweep_folder(word)
    if sweep is None:
        raise no_whole_run(word)
    folder = best_of_sweep(sweep)
    return Found(folder, checkpoint_of(folder, wanted), f"{sweep}: its best run is {folder.name}", is_average)


def _found(folder: Path, wanted: str | None) -> Found:
    file, tested = checkpoint_of(folder, wanted), read_result(folder).get("tested", "last")
    is_another = wanted is None and file.stem != tested
    note = f"{folder}: its checkpoints/{tested}.pt is missing; {file.name} is taken"
    return Found(folder, file, note if is_another else "", wanted == AVERAGE)


def no_whole_run(word: str) -> UserError:
    """The line where there is nothing that a model can be taken from."""
    path = Path(word).expanduser()
    for folder in (path, Path("runs", word)):
        if folder.is_dir() and folder in run_folders(folder):
            return UserError(f"{folder}/config.yaml: is missing; it says which model the run has. Type another run.")
    if path.is_dir():
        below = [folder.as_posix() for folder in run_folders(path)]
        if below:
            return UserError(f"{word}: holds {len(below)} runs, and is no sweep. Type one of them, such as {below[0]}.")
        return UserError(f"{word}: holds no run (no config.yaml). train runs lists them.")
    return no_run(word)


def _as_typed(folder: Path) -> Path:
    return folder if str(folder) not in ("", ".") else Path.cwd()


def checkpoint_of(folder: Path, wanted: str | None) -> Path:
    """The file in `checkpoints/`.

    Raises:
        UserError: there is none of that name.
    """
    place = folder / "checkpoints"
    result = read_result(folder)
    if wanted == AVERAGE:  # of the last part there may be none yet in the best
        names = ["last"] if "test/average/loss" not in result else [str(result.get("tested", "last"))]
    else:
        names = [wanted] if wanted else [str(result.get("tested", "last")), "last", "best"]
    for name in names:
        file = place / (f"step_{int(name):08d}.pt" if re.fullmatch(r"\d{1,12}", name) else f"{name}.pt")
        if (name in WORDS or name.isdigit()) and file.is_file():
            return file
    steps = sorted(int(path.stem.removeprefix("step_")) for path in place.glob("step_*.pt") if path.stem[5:].isdigit())
    there = [*(word for word in WORDS if (place / f"{word}.pt").is_file()), *map(str, steps)]
    if not there:
        raise UserError(f"{folder}: has no checkpoint yet; nothing can be made of it. train show {folder} says more.")
    there += [AVERAGE] if any("/average/" in tag for tag in result) else []
    hint = nearest(str(wanted), there) or f" Type checkpoint={there[0]}."
    raise UserError(f"checkpoint={wanted}: is not there; {folder} has {', '.join(there)}.{hint}")


def best_of_sweep(folder: Path) -> Path:
    """The folder of the job that the sweep ranks first; of a setting with several seeds, its best seed.

    Raises:
        UserError: none has ended well, or `results.json` can't be read.
    """
    from trainer.sweep.compare import read_rows, told_metric
    from trainer.sweep.results import configs_of, metric_of, settings

    rows = read_rows(folder)
    tag = metric_of(rows, told_metric(folder))
    sign = 1 if is_larger_better(tag, *configs_of(rows)) else -1
    for setting in settings(rows, tag):
        ended = {r.job.name: r.result[tag] for r in setting.rows if r.status == "finished" and tag in r.result}
        if ended:
            name = max(ended, key=lambda name: sign * ended[name])
            run = folder / name
            if folder.resolve() not in run.resolve().parents or not (run / "config.yaml").is_file():
                raise UserError(f"{folder}/results.json: {name}: is no run in it. Type the folder of a run.")
            return run
    raise UserError(f"{folder}: none of its runs has ended well. train compare {folder} says why.")
