"""What is said of an object before it is stored: refusals, and warnings of what is legal but likely wrong."""
