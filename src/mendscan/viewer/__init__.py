"""A local page to look at results: the scan, its anomaly map and its restoration, in three planes and in 3-D.

`pages` says what the page is told, `access` who may ask, `guard` applies it to every request, `server` maps addresses
to answers, `serving` runs it; the page itself is in ``static``.
"""
