"""The networks, in plain torch; they know no scan."""
