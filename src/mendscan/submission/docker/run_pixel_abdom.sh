#!/bin/sh
# One map per abdominal scan: sh /workspace/run_pixel_abdom.sh /mnt/data /mnt/pred
PYTHONDONTWRITEBYTECODE=1 exec mendscan mood-predict --mode pixel -m "$(dirname "$0")/models/abdom" -i "$1" -o "$2"
