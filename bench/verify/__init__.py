"""The O-arm verification measured: accuracy and refusals on simulated scans of known truth, and its speed."""
