"""What all tests share."""

pytest_plugins = ("brokers", "tracing")
