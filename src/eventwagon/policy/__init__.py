"""Decides what happens next: pure functions of the known state. No await, no clock, no I/O."""
