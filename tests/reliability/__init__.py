"""The reliability programme: nothing lost, no one let in. See README, "Reliability"."""
