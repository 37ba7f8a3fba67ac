"""Fixtures that several suites share; each server is started once per test process and ended with it."""

from __future__ import annotations
