"""From healthy scans to training data."""
