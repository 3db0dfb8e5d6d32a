#!/bin/sh
# One map per brain scan: sh /workspace/run_pixel_brain.sh /mnt/data /mnt/pred
PYTHONDONTWRITEBYTECODE=1 exec mendscan mood-predict --mode pixel -m "$(dirname "$0")/models/brain" -i "$1" -o "$2"
