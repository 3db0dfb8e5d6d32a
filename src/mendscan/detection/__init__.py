"""Codes to scores, restorations and maps."""
