"""Generated examples take as long as they take: a busy machine fails no test."""

try:
    from hypothesis import HealthCheck, settings
except ImportError:  # where only tests/gpu runs
    pass
else:
    settings.register_profile("mlc", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("mlc")
