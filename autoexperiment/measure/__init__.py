"""The sealed evaluation: a scorer that never runs the candidate's code, and a predictor that only runs it."""
