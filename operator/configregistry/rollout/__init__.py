"""What decides, pure: `decide(status, observation) -> Decision`. No I/O, no clock, no randomness."""
