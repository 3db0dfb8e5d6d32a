#!/bin/sh
# One score per brain scan: sh /workspace/run_sample_brain.sh /mnt/data /mnt/pred
PYTHONDONTWRITEBYTECODE=1 exec mendscan mood-predict --mode sample -m "$(dirname "$0")/models/brain" -i "$1" -o "$2"
