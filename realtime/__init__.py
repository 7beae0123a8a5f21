"""Real-time credit decisions: orders in over HTTP, decided exactly once, explained."""
