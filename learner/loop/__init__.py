"""What the loop stands on: who is called when, checks, modes, interrupts."""
