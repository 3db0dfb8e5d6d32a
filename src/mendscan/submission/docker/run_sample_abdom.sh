#!/bin/sh
# One score per abdominal scan: sh /workspace/run_sample_abdom.sh /mnt/data /mnt/pred
PYTHONDONTWRITEBYTECODE=1 exec mendscan mood-predict --mode sample -m "$(dirname "$0")/models/abdom" -i "$1" -o "$2"
