"""Lower precision with a stated accuracy: calibration data, observers, metrics, the search under a bound, the frontier."""
