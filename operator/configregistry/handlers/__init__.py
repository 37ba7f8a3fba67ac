"""kopf, and nothing else: a handler names an object and hands it on. No reading, no deciding, no writing."""
