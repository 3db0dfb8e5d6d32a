"""Entering the Medical Out-of-Distribution challenge (MOOD): predicting, building a container, checking it."""
