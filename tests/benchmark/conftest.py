"""The methods of a benchmark are small, and many are trained."""

from staying_here import no_worker_processes  # noqa: F401
