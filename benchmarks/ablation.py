"""What each part of the method is worth, on validation scans and kinds of anomalies that no result is reported on.

A fifth of the scans is kept apart by the hash of their bytes; anomalies and artefacts of the kinds kept for choosing
settings are put into copies of them.  Networks are trained on the others: as `auto` has them, and with one thing
changed.  What they say of each scan is computed once; maps and scores are then made of it in every way.  Figures are
with intervals over scans, and paired differences to the first row of each table.

    python benchmarks/ablation.py --healthy runs/hippocampus/healthy --output runs/ablation --steps 9000

Give it the scans that another benchmark learns from, so that its test scans stay unseen.  A stopped run goes on where
it was.  Steps, not minutes: it may share the processor.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np
import torch

from mendscan.cohort.preparing import Prepared, prepare
from mendscan.cohort.selection_artefacts import SELECTION_ARTEFACTS
from mendscan.cohort.selection_kinds import SELECTION_KINDS
from mendscan.cohort.suite import write_suite
from mendscan.config import DetectionSettings
from mendscan.console_progress import ConsoleProgress
from mendscan.detection.acquisition import DEPARTURE, GENERATIONS, AcquisitionReference, weights_of
from mendscan.detection.calibration import CodeThresholds
from mendscan.detection.detector import map_and_findings
from mendscan.detection.encoded_scan import EncodedScan, scan_generator
from mendscan.detection.evidence import KINDS, Evidence
from mendscan.detection.networks import Networks
from mendscan.detection.restoration import draw_uniforms
from mendscan.detection.saved_model import calibration_of
from mendscan.detection.scan_score import ScanCalibration, top_mean
from mendscan.detection.standardising import HealthyReference, leave_one_out, to_unit_interval
from mendscan.detection.taken import as_taken
from mendscan.detection.voxel_calibration import TailTable, calibrate_voxels, left_out_nats
from mendscan.evaluation.bootstrap import Difference
from mendscan.evaluation.folders import compare, evaluate_folder
from mendscan.evaluation.metrics import Evaluation
from mendscan.models.bundle import load_bundle
from mendscan.shapes import MapSHW
from mendscan.training.trainer import train
from mendscan.volumes.finding import find_scans
from mendscan.volumes.maps import write_map
from mendscan.volumes.reading import case_name, read_volume
from mendscan.volumes.tables import write_csv
from mendscan.volumes.volume import Volume
from mendscan.volumes.writing import make_folder, write_text

NETWORKS = {
    "auto": [],
    "no slices a gap away": ["prior.context_slices=0"],
    "one plane": ["preparation.planes=1"],
    "scans not restyled": ["discriminator.restyled=0"],
    "one member of the discriminator": ["discriminator.members=1"],
    "no revival": ["codebook.revive_below=0"],
    "the paper's codebook": [
        "codebook.update=gradient", "codebook.commitment=1", "codebook.revive_below=0",
        "codebook.unquantised_fraction=0",
    ],
    "one code per 8×8 pixels": ["vqvae.channels=64,64,64", "preparation.shape_XYZ={multiple_of_8}"],
    "one code per 2×2 pixels": ["vqvae.channels=64"],
}  # fmt: skip
RESTORATIONS = (1, 5, 15)
PERCENTILES = (80.0, 90.0, 95.0, 98.0)
NLL_SIGMAS, LOGIT_SIGMAS = (1.0, 2.0, 2.5, 3.0, 4.0), (0.0, 0.7, 1.5)
TOP_SHARES = (0.001, 0.003, 0.01, 0.03)
DEPARTURES = (0.03, 1.0, 3.0)
FIGURES = ("voxel_ap", "voxel_auroc", "best_dice", "lesion_froc")
SCAN_FIGURES = ("sample_auroc", "sample_auroc_local", "sample_auroc_whole")
VALIDATION_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class Seen:
    """A scan, and how the networks see it."""

    name: str
    volume: Volume
    prepared: Prepared
    encoded: EncodedScan


@dataclass(frozen=True, eq=False)
class Pool:
    """The same kind of evidence of every calibration and every validation scan."""

    healthy: list[Evidence]
    cases: list[Evidence]


def main() -> None:
    arguments = parse_arguments()
    output = make_folder(arguments.output)
    with ConsoleProgress() as progress:
        split(find_scans(arguments.healthy), output)
        test = output / "test"
        if not (test / "cases.csv").exists():
            shutil.rmtree(test, ignore_errors=True)
            scans = find_scans(output / "validation")
            write_suite(
                scans, test, seed=0, kinds=tuple(SELECTION_KINDS), artefact_kinds=tuple(SELECTION_ARTEFACTS),
                progress=progress,
            )  # fmt: skip
        tables = {"networks": {}}
        for name, assignments in NETWORKS.items():
            if arguments.only and name not in arguments.only:
                continue
            model = output / "models" / name.replace(" ", "-").replace("×", "x").replace("'", "")
            if not (model / "manifest.json").exists():
                train(
                    output / "healthy",
                    model,
                    steps=arguments.steps,
                    seed=arguments.seed,
                    resume=(model / "work" / "plan.json").is_file(),
                    assignments=[*arguments.set, *filled(assignments, output)],
                    progress=progress,
                )
            networks = load_networks(model)
            bench = Ablation(networks, model, output, progress)
            first = next(iter(tables["networks"]), None)
            tables["networks"][name] = bench.evaluated(bench.maps(bench.pool()))
            for title in arguments.table if first is None else ():
                tables[title] = TABLES[title](bench)
                write_tables(tables, output)
            write_tables(tables, output)
    print((output / "README.md").read_text(encoding="utf-8"))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("runs/ablation"))
    parser.add_argument("--steps", type=int, default=9000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="a setting of every network; may be repeated")
    parser.add_argument("--only", action="append", help="a network; may be repeated; all by default")
    parser.add_argument(
        "--table", action="append", choices=[*TABLES, "none"], help="ways to read the first network; all by default"
    )
    arguments = parser.parse_args()
    arguments.table = [title for title in arguments.table or TABLES if title != "none"]
    return arguments


def split(scans: Sequence[Path], output: Path) -> None:
    """Link the scans into two folders by the hash of their bytes, as the benchmark does."""
    by_hash = sorted(scans, key=lambda path: hashlib.sha256(path.read_bytes()).hexdigest())
    apart = round(VALIDATION_SHARE * len(scans))
    for name, paths in (("validation", by_hash[:apart]), ("healthy", by_hash[apart:])):
        folder = make_folder(output / name)
        for path in paths:
            if not (folder / path.name).exists():
                (folder / path.name).symlink_to(path.resolve())


def filled(assignments: Sequence[str], output: Path) -> list[str]:
    """Put in a model grid like that of `auto`, with sides in plane that are multiples of 8."""
    if not any("{" in each for each in assignments):
        return list(assignments)
    preparation = load_bundle(output / "models" / "auto").settings.preparation
    sides = [
        n if axis == preparation.slice_axis else 8 * -(-n // 8)
        for n, axis in zip(preparation.shape_XYZ, "XYZ", strict=True)
    ]
    return [each.format(multiple_of_8=",".join(map(str, sides))) for each in assignments]


def load_networks(model: Path) -> Networks:
    bundle = load_bundle(model)
    return Networks.of(bundle.networks, bundle.settings, device=torch.device("cpu"))


# --- the ways to read the same networks ------------------------------------------------------------------------------


Rows = dict[str, Evaluation]
"""One table; its first row is what `auto` does, or nearest to it."""


def evidence_rows(bench: Ablation) -> Rows:
    """Kinds of evidence and their combinations."""
    pool, detection = bench.pool(), bench.detection
    of_residual, of_nll = (lambda e: e.residual_SHW), (lambda e: e.nll_SHW)
    return {
        "nll + discriminator (auto)": bench.evaluated(bench.maps(pool)),
        "the same, nll on 1 grid of codes": bench.evaluated(bench.maps(bench.pool(shifts=1))),
        "the same, nll on 9 grids": bench.evaluated(bench.maps(bench.pool(shifts=9))),
        "the paper's pooled residual": bench.evaluated(bench.maps(pool, with_(detection, voxel_map="residual"))),
        "residual, neither smoothed nor standardised": bench.evaluated(raw(pool, of_residual, 0.0)),
        "residual, smoothed only": bench.evaluated(raw(pool, of_residual, detection.residual_sigma)),
        "nll, neither smoothed nor standardised": bench.evaluated(raw(pool, of_nll, 0.0)),
        "nll, smoothed only": bench.evaluated(raw(pool, of_nll, detection.nll_sigma)),
        "discriminator, standardised too": bench.evaluated(
            alone(pool, lambda e: e.logits_SHW, detection.discriminator_sigma)
        ),
        **{
            " + ".join(kinds): bench.evaluated(bench.maps(pool, with_(detection, evidence=kinds)))
            for size in range(1, len(KINDS) + 1)
            for kinds in combinations(KINDS, size)
            if kinds != detection.evidence
        },
    }


def restoration_rows(bench: Ablation) -> Rows:
    """How many restorations, and whether they are weighed."""
    detection = with_(bench.detection, evidence=("residual", "nll"))
    ways = [("weighted", None), ("not weighted", 0.0)]
    pools = {
        f"{n}, {how}": bench.pool(restorations=n, temperature=temperature)
        for how, temperature in ways
        for n in reversed(RESTORATIONS)
        if n > 1 or temperature is None
    }
    both = {name: bench.evaluated(bench.maps(pool, detection)) for name, pool in pools.items()}
    return both | {
        f"{name}, residual alone": bench.evaluated(alone(pool, lambda e: e.residual_SHW, detection.residual_sigma))
        for name, pool in pools.items()
    }


def percentile_rows(bench: Ablation) -> Rows:
    """From which NLL on codes are resampled."""
    detection = with_(bench.detection, evidence=("residual", "nll"))
    return {
        f"resampled above p{p:g}": bench.evaluated(bench.maps(bench.pool(percentile=p), detection))
        for p in sorted(PERCENTILES, key=lambda p: (p != detection.restoration_percentile, p))
    }


def smoothing_rows(bench: Ablation) -> Rows:
    """Widths of the Gaussians of the two kinds that `auto` combines."""
    pool, detection = bench.pool(), bench.detection
    chosen = (detection.nll_sigma, detection.discriminator_sigma)
    sigmas = sorted(((n, d) for n in NLL_SIGMAS for d in LOGIT_SIGMAS), key=lambda pair: pair != chosen)
    return {
        f"σ = {n:g} nll, {d:g} discriminator": bench.evaluated(
            bench.maps(pool, with_(detection, nll_sigma=n, discriminator_sigma=d))
        )
        for n, d in sigmas
    }


def scan_score_rows(bench: Ablation) -> Rows:
    """Ways to score a scan; the maps are those of `auto` in every row."""
    pool, settings, acquisition = bench.pool(), bench.detection, bench.acquisition()
    voxels = calibrate_voxels(pool.healthy, settings)
    healthy, cases = list(left_out_nats(voxels, pool.healthy)), [voxels.nats_of(each) for each in pool.cases]

    def top(share: float) -> tuple[list[float], list[float]]:
        return tuple(
            [top_mean(nats[voxels.scored(e.foreground_SHW)], share) for nats, e in zip(each, part, strict=True)]
            for each, part in ((healthy, pool.healthy), (cases, pool.cases))
        )

    taken = [[bench.taken(acquisition, seen) for seen in part] for part in bench.both]
    distance = lengths(acquisition, taken)
    mean_nll = tuple([float(seen.encoded.nll_Shw.mean()) for seen in part] for part in bench.both)
    usual = float(np.median(mean_nll[0]))
    typicality = tuple([abs(value - usual) for value in part] for part in mean_nll)
    threshold = CodeThresholds.of(np.concatenate([s.encoded.nll_Shw.numpy().ravel() for s in bench.both[0]]), settings)
    paper = [seen.encoded.score(threshold.score) for seen in bench.both[1]]

    def largest(**parts: tuple[list[float], list[float]]) -> list[float]:
        known = ScanCalibration.fit({name: values[0] for name, values in parts.items()})
        return [
            known.score(dict(zip(parts, each, strict=True))).score
            for each in zip(*(v[1] for v in parts.values()), strict=True)
        ]

    local = top(settings.scan_top_share)
    ways = {
        "local, acquisition (auto)": largest(local=local, acquisition=distance),
        "the paper's sum of NLL": paper,
        **{f"local: top {100 * share:g} % alone": top(share)[1] for share in TOP_SHARES},
        "acquisition alone": distance[1],
        **{f"acquisition alone, {name}": lengths(other, taken)[1] for name, other in distances(acquisition).items()},
        "typicality alone: mean NLL, two-sided": typicality[1],
        "local, acquisition, typicality": largest(local=local, acquisition=distance, typicality=typicality),
    }
    return {name: bench.evaluated((voxels.as_map(nats) for nats in cases), scores) for name, scores in ways.items()}


def lengths(acquisition: AcquisitionReference, taken: Sequence[Sequence[np.ndarray]]) -> tuple[list[float], ...]:
    return tuple([acquisition.length(each) for each in part] for part in taken)


def distances(acquisition: AcquisitionReference) -> dict[str, AcquisitionReference]:
    """The same healthy scans, departures of other sizes, and only the first of the statistics."""
    covariance = covariance_of(acquisition)
    ways = {"Mahalanobis' distance": np.linalg.inv(covariance)}
    ways |= {f"τ² = {size:g}": weights_of(covariance, size) for size in DEPARTURES}
    for n in GENERATIONS[:-1]:
        # What is not compared has no weight.
        ways[f"the first {n} statistics"] = np.pad(weights_of(covariance[:n, :n]), (0, len(covariance) - n))
    return {name: replace(acquisition, precision=weights) for name, weights in ways.items()}


def covariance_of(acquisition: AcquisitionReference) -> np.ndarray:
    """C, from the weights 1/v - 1/(v + τ²) that its eigenvalues v have in the distance."""
    weights, directions = np.linalg.eigh(acquisition.precision)
    variances = (np.sqrt(DEPARTURE**2 + 4 * DEPARTURE / weights) - DEPARTURE) / 2
    return (directions * variances) @ directions.T


def with_(detection: DetectionSettings, **changes: object) -> DetectionSettings:
    return detection.model_copy(update=changes)


TABLES = {
    "evidence": evidence_rows,
    "scan score": scan_score_rows,
    "smoothing": smoothing_rows,
    "restorations (residual + nll)": restoration_rows,
    "restoration threshold (residual + nll)": percentile_rows,
}
"""Ways to read the first network."""


Pick = Callable[[Evidence], MapSHW]


def raw(pool: Pool, pick: Pick, sigma: float) -> Iterator[MapSHW]:
    """One kind of evidence, smoothed but not standardised: its healthy mean and spread are one number each."""
    flat = HealthyReference(np.zeros_like(pick(pool.healthy[0])), np.ones_like(pick(pool.healthy[0])), sigma)
    healthy = np.stack([flat.standardised(pick(each)) for each in pool.healthy])
    scale = max(float(np.quantile(healthy, 0.995)), 1e-6)
    for each in pool.cases:
        yield to_unit_interval(flat.standardised(pick(each)), scale)


def alone(pool: Pool, pick: Pick, sigma: float) -> Iterator[MapSHW]:
    """One kind of evidence, smoothed, standardised and as a healthy tail probability."""
    healthy_NSHW = np.stack([pick(each) for each in pool.healthy])
    reference = HealthyReference.fit(healthy_NSHW, sigma_voxels=sigma)
    standardised = leave_one_out(healthy_NSHW, sigma_voxels=sigma)
    tail = TailTable.of(standardised)
    scale = max(float(np.quantile(tail(standardised), 0.995)), 1e-6)
    for each in pool.cases:
        yield to_unit_interval(tail(reference.standardised(pick(each))), scale)


class Ablation:
    """Trained networks, and what they say of the calibration and validation scans."""

    def __init__(self, networks: Networks, model: Path, output: Path, progress: ConsoleProgress) -> None:
        self.networks, self._output, self._progress = networks, output, progress
        wanted = set(json.loads((model / "split.json").read_text(encoding="utf-8"))["calibration"])
        healthy = [(path, read_volume(path)) for path in find_scans(output / "healthy")]
        known = [self._see(path, volume) for path, volume in healthy if volume.content_hash in wanted]
        self._cases = [self._see(path, read_volume(path)) for path in find_scans(output / "test" / "scans")]
        self._healthy, self._model = known, model
        self._restored: dict[tuple[str, float], torch.Tensor] = {}
        self._pools: dict[tuple[int, float, float, int], Pool] = {}

    @property
    def detection(self) -> DetectionSettings:
        return self.networks.settings.detection

    def _see(self, path: Path, volume: Volume) -> Seen:
        prepared = prepare(volume, self.networks.settings.preparation)
        return Seen(case_name(path), volume, prepared, self.networks.encode(prepared))

    def pool(
        self,
        *,
        restorations: int | None = None,
        temperature: float | None = None,
        percentile: float | None = None,
        shifts: int | None = None,
    ) -> Pool:
        """The evidence of every scan, with the model's own settings where none are given."""
        settings = self.detection
        key = (
            settings.restorations if restorations is None else restorations,
            settings.temperature if temperature is None else temperature,
            settings.restoration_percentile if percentile is None else percentile,
            settings.nll_shifts if shifts is None else shifts,
        )
        if key not in self._pools:
            nll = np.concatenate([scan.encoded.nll_Shw.numpy().ravel() for scan in self._healthy])
            threshold = CodeThresholds.of(nll, settings.model_copy(update={"restoration_percentile": key[2]}))
            self._progress.begin(f"restore, p{key[2]:g}, {key[0]}×", len(self._healthy) + len(self._cases))
            seen = [[self._evidence(scan, key, threshold.restoration) for scan in part] for part in self.both]
            self._pools[key] = Pool(*seen)
        return self._pools[key]

    def acquisition(self) -> AcquisitionReference:
        """How the training scans were taken."""
        known = calibration_of(load_bundle(self._model)).scan
        assert known is not None
        return known.acquisition

    def taken(self, acquisition: AcquisitionReference, seen: Seen) -> np.ndarray:
        """How a scan was taken, against the training scans."""
        return as_taken(seen.volume, seen.prepared, self.networks, acquisition)

    @property
    def both(self) -> tuple[list[Seen], list[Seen]]:
        return self._healthy, self._cases

    def _evidence(self, scan: Seen, key: tuple[int, float, float, int], threshold_nats: float) -> Evidence:
        restorations, temperature, percentile, shifts = key
        if (scan.name, percentile) not in self._restored:
            slices, height, width = scan.encoded.codes_Shw.shape
            generator = scan_generator(scan.encoded.codes_hash, 0)
            uniforms = draw_uniforms(max(RESTORATIONS), slices, (height, width), generator=generator)
            codes = self.networks.restored_codes(scan.encoded, uniforms, threshold_nats=threshold_nats)
            self._restored[scan.name, percentile] = codes
        settings = self.networks.settings
        detection = settings.detection.model_copy(update={"temperature": temperature})
        networks = replace(self.networks, settings=settings.model_copy(update={"detection": detection}))
        restored = networks.weighed(scan.encoded, self._restored[scan.name, percentile][:restorations])
        self._progress.advance()
        return networks.evidence(scan.encoded, restored.residual_SHW, shifts=shifts)

    def maps(self, pool: Pool, settings: DetectionSettings | None = None) -> Iterator[MapSHW]:
        """The maps of every case as the product makes them."""
        settings = settings or self.detection
        voxels = calibrate_voxels(pool.healthy, settings)
        for each in pool.cases:
            yield voxels.map_of(each)

    def evaluated(self, maps: Iterator[MapSHW], scores: Sequence[float] | None = None) -> Evaluation:
        """Bring the maps home and compare them, and scan scores where there are any, with the labels."""
        folder = self._output / "maps"
        shutil.rmtree(folder, ignore_errors=True)
        make_folder(folder)
        for scan, map_SHW in zip(self._cases, maps, strict=True):
            map_XYZ, _ = map_and_findings(map_SHW, scan.volume, scan.prepared, at=scan.encoded.at, threshold=0.5)
            write_map(folder / f"{scan.name}.nii.gz", map_XYZ, scan.volume)
        if scores is not None:
            rows = [{"case": scan.name, "score": score} for scan, score in zip(self._cases, scores, strict=True)]
            write_csv(folder / "scores.csv", rows, ("case", "score"))
        return evaluate_folder(folder, self._output / "test", threshold=0.5, strata=False)


# --- the tables ------------------------------------------------------------------------------------------------------


def write_tables(tables: dict[str, Rows], output: Path) -> None:
    write_text(output / "README.md", "\n\n".join(table(title, rows) for title, rows in tables.items()) + "\n")


def table(title: str, rows: dict[str, Evaluation]) -> str:
    first, figures = next(iter(rows.values())), SCAN_FIGURES if title == "scan score" else FIGURES
    head = ["", *(worded(name) for name in figures)]
    lines = [[*head, f"difference in {worded(figures[0])}", "p"], ["---"] * (len(figures) + 3)]
    for name, evaluation in rows.items():
        cells = [f"{evaluation[figure]:.3f}" for figure in figures]
        apart = ("–", "–") if evaluation is first else difference_cells(compare(evaluation, first)[figures[0]])
        lines.append([name, *cells, *apart])
    return f"## {title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def worded(figure: str) -> str:
    return figure.replace("_", " ").replace("auroc", "AUROC").replace(" ap", " AP")


def difference_cells(one: Difference) -> tuple[str, str]:
    return f"{one.estimate:+.3f} [{one.low:+.3f}, {one.high:+.3f}]", f"{one.p_value:.3f}"


if __name__ == "__main__":
    main()
