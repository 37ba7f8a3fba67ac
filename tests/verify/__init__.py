"""`python -m tests.verify [--write]`: the generated parts of the repository say what the code says."""
