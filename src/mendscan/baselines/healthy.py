"""The healthy scans that every method learns from: the same training, validation and calibration scans for all."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float

from mendscan.cohort.preparing import Prepared, prepare
from mendscan.cohort.store import SliceStore, Split, measure_cohort, prepare_cohort, reserve_array
from mendscan.config import PreparationSettings, Settings, parse_settings
from mendscan.detection.devices import choose_device
from mendscan.errors import CohortError, ModelError
from mendscan.models.folder import ModelFolder
from mendscan.parallel import all_in_processes
from mendscan.progress import Progress, Silent
from mendscan.training.network_training import slice_data
from mendscan.training.stages import SliceData
from mendscan.volumes.finding import find_scans
from mendscan.volumes.locking import locked
from mendscan.volumes.reading import read_volume
from mendscan.volumes.writing import make_folder, write_errors

__all__ = ["HealthyCohort"]


@dataclass(frozen=True, eq=False)
class HealthyCohort:
    """Healthy scans on the plan's model grid, split as the model's are.

    Attributes:
        settings: The plan: grid, intensity recipe, augmentation, optimiser, seed.
        split: Which scan serves what, by content hash.
        files: The file of each scan, by content hash.
        store: All scans, prepared, in half precision.
        foreground_NSHW: Where each of them shows something; memory-mapped, rows as in the store.
        device: Where networks are trained.
    """

    settings: Settings
    split: Split
    files: Mapping[str, Path]
    store: SliceStore
    foreground_NSHW: np.ndarray
    device: torch.device

    @classmethod
    def of_files(
        cls,
        files: Mapping[str, Path],
        settings: Settings,
        split: Split,
        work: str | Path,
        *,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> HealthyCohort:
        """Prepare scans into a folder, unless they are there already.

        Args:
            files: The file of each scan, by content hash; at least those of the split.
            settings: The plan.
            split: Which scan serves what.
            work: Folder of the prepared scans.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            progress: Told how far the work is.

        Raises:
            CohortError: If a scan of the split has no file.
            ScanError: If a scan cannot be prepared.
            SettingsError: If the device is not available.
            WriteError: If another run is at work in the folder (E_LOCKED), or it cannot be written.
        """
        hashes = sorted(split.train + split.validation + split.calibration)
        missing = [content for content in hashes if content not in files]
        if missing:
            raise CohortError(
                "scans of the split are missing",
                code="E_SPLIT_MISSING",
                found=f"{len(hashes) - len(missing)} of {len(hashes)}",
                remedy="give the folder of healthy scans that the model was trained on",
            )
        used = {content: files[content] for content in hashes}
        folder, told = make_folder(work), progress or Silent()
        with locked(folder, "preparation"):
            store = prepare_cohort(list(used.values()), hashes, settings, folder, told)
            foreground_NSHW = _prepared_foreground(used, settings, folder, told)
        return cls(settings, split, used, store, foreground_NSHW, choose_device(device))

    @classmethod
    def of_model(
        cls,
        model: str | Path,
        healthy: str | Path,
        work: str | Path,
        *,
        device: str = "auto",
        progress: Progress | None = None,
    ) -> HealthyCohort:
        """Take plan and split from a trained model, so that baselines see exactly the scans that it saw.

        Args:
            model: A model folder.
            healthy: The scans that it was trained on.
            work: Folder of the prepared scans.
            device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
            progress: Told how far the work is.

        Raises:
            ModelError: If the folder is no model, a file of it is not the one that was saved, or it was imported.
            CohortError: If a scan that the model was trained on is not in `healthy`.
        """
        folder, told = ModelFolder.open(Path(model)), progress or Silent()
        settings = parse_settings(folder.read_json("config.json")["settings"], where=folder.path / "config.json")
        parts = folder.read_json("split.json")
        if not parts.get("train"):
            raise ModelError(
                "it is not known which scans the model was trained on",
                where=model,
                remedy="give a model that mendscan train made: baselines learn from the same scans",
            )
        split = Split(**{part: tuple(hashes) for part, hashes in parts.items()})
        paths, facts = measure_cohort(find_scans(healthy), told)
        files = {fact.content_hash: path for fact, path in zip(facts, paths, strict=True)}
        return cls.of_files(files, settings, split, work, device=device, progress=told)

    def slices(self, hashes: Sequence[str]) -> SliceData:
        """Return the training slices of some scans."""
        return slice_data(self.store, hashes, self.settings, self.device)

    def foregrounds(self, hashes: Sequence[str]) -> SliceData:
        """Return where the slices of `slices` show something, as 0 and 1, by the same indices.

        Augmented by a generator in the same state as theirs, they are deformed exactly like them, and nothing else.
        """
        deforming = {"brightness": 0.0, "contrast": 0.0, "blur_sigma_pixels": 0.0, "noise": 0.0, "keep_zero": False}
        augmentation = self.settings.augmentation.model_copy(update=deforming)
        settings = self.settings.model_copy(update={"augmentation": augmentation})
        return slice_data(replace(self.store, slices_NSHW=self.foreground_NSHW), hashes, settings, self.device)

    def train_NSHW(self) -> Float[np.ndarray, "N S H W"]:
        """Return the training scans, prepared, in half precision."""
        return self.store.slices_NSHW[self.store.rows(self.split.train)]

    def calibration(self) -> Iterator[Prepared]:
        """Prepare the calibration scans one after the other, exactly as a new scan would be."""
        for content in self.split.calibration:
            yield prepare(read_volume(self.files[content]), self.settings.preparation)


def _prepared_foreground(files: Mapping[str, Path], settings: Settings, folder: Path, progress: Progress) -> np.ndarray:
    """Write the foreground of every scan into one memory-mapped array, unless it is there already."""
    key = hashlib.sha256((settings.preparation.model_dump_json() + "".join(files)).encode()).hexdigest()[:16]
    target = folder / f"foreground-{key}.npy"
    if not target.exists():
        unfinished = target.with_suffix(".part")
        try:
            reserve_array(unfinished, (len(files), settings.slices, *settings.slice_shape), np.dtype(bool))
            _fill_foreground(files, settings, unfinished, progress)
            with write_errors(target):
                unfinished.replace(target)
        finally:
            with suppress(OSError):
                unfinished.unlink(missing_ok=True)
    return np.load(target, mmap_mode="r")


def _fill_foreground(files: Mapping[str, Path], settings: Settings, target: Path, progress: Progress) -> None:
    progress.begin("foreground", len(files))
    jobs = [(path, settings.preparation, target, row) for row, path in enumerate(files.values())]
    all_in_processes(_foreground_into, jobs, after_each=progress.advance)


def _foreground_into(path: Path, settings: PreparationSettings, target: Path, row: int) -> None:
    foreground_NSHW = np.lib.format.open_memmap(target, mode="r+")
    foreground_NSHW[row] = prepare(read_volume(path), settings).foreground_SHW
    foreground_NSHW.flush()
