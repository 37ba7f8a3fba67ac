"""What is told of the program: logs and metrics. May be imported by all, and imports none of them."""
