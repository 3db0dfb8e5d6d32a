"""What a submission folder says of itself: how to build, check, run, save and submit it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import mendscan
from mendscan.submission.challenge import Anatomy

__all__ = ["submission_readme"]


def submission_readme(
    scripts: Sequence[str], absent: Sequence[Anatomy], model_hashes: Mapping[Anatomy, str], wheel: str
) -> str:
    """Return the README as Markdown; it names no file, person or machine."""
    models = "\n".join(f"| {anatomy} | `models/{anatomy}` | {digest} |" for anatomy, digest in model_hashes.items())
    runs = "\n".join(_run(name) for name in scripts)
    left_out = "".join(
        f"\n**There is no model for {anatomy}**: `run_sample_{anatomy}.sh` and `run_pixel_{anatomy}.sh` are left out.\n"
        for anatomy in absent
    )
    return f"""# A container for the Medical Out-of-Distribution challenge

**Research use only.  Not a medical device, not for diagnosis.**  Written by mendscan {mendscan.__version__}.

| anatomy | model | model hash |
|---|---|---|
{models}
{left_out}
`Dockerfile` installs `{wheel}` with the versions of `constraints.txt` and adds scripts and models.  `manifest.json` has
the SHA-256 of every file.

## Check
In the folder above, with the challenge's toy cases (`TOY/brain/toy`, `TOY/brain/toy_label`, `TOY/abdom/…`):

    mendscan mood-check FOLDER -i TOY

## Build
For the CPU, then for GPUs; only building needs a network:

    docker build -t mendscan-mood .
    docker build -t mendscan-mood --build-arg TORCH_INDEX=https://pypi.org/simple .

## Run
With `--gpus all` where there are GPUs and the image was built for them:

{runs}

Every scan gets a prediction; one that cannot be read is predicted 0, with a warning, and the command still succeeds.

## Save and submit

    docker save mendscan-mood | gzip > mendscan-mood.tar.gz
    docker tag mendscan-mood docker.synapse.org/PROJECT/mendscan-mood:1
    docker push docker.synapse.org/PROJECT/mendscan-mood:1
"""


def _run(script: str) -> str:
    anatomy = script.removesuffix(".sh").rpartition("_")[2]
    return (
        f"    docker run --rm --read-only --network none -v /data/{anatomy}/toy:/mnt/data:ro "
        f"-v /predictions/{anatomy}:/mnt/pred \\\n"
        f"      mendscan-mood sh /workspace/{script} /mnt/data /mnt/pred"
    )
