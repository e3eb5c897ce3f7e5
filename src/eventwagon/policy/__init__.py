"""What should happen next: pure functions of what is known. No await, no clock, no I/O."""
