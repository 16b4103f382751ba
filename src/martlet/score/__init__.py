"""How good replies are beside those that the rows hold: metrics, intervals, flips, the report."""
